//! The daemon. See [`moderation_daemon::daemon`].

fn main() -> std::process::ExitCode {
    moderation_daemon::daemon::main()
}
