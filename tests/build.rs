//! Hands the path of the benchmarks' driver, which the daemon's build script has
//! built, to the library as `DRIVER_OBJECT`. It builds nothing itself.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    match std::env::var("DEP_MODERATION_KERNEL_DRIVER_OBJECT") {
        Ok(object) => println!("cargo::rustc-env=DRIVER_OBJECT={object}"),
        Err(_) => println!("cargo::error=the daemon's build script named no DRIVER_OBJECT"),
    }
}
