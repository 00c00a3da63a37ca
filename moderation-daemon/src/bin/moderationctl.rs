//! The operator's tool. See [`moderation_daemon::ctl`].

fn main() -> std::process::ExitCode {
    moderation_daemon::ctl::main()
}
