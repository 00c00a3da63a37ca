//! Running child programs, and saying on standard error what is being done and how
//! long it took. Standard output is left to the programs whose output it is.

use std::fmt::Display;
use std::io;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

/// Prints the heading of a step that is about to run.
pub(crate) fn heading(text: impl Display) {
    eprintln!("==> {text}");
}

/// Runs `action` and returns its outcome with the time that it took.
pub(crate) fn timed<T>(action: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let outcome = action();
    (outcome, start.elapsed())
}

/// A duration as people say it: `0.3 s`, `42 s`, `2 min 51 s`.
pub(crate) fn spoken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// Runs `command`, streaming what it prints, and tells whether it succeeded.
///
/// # Errors
///
/// When the program cannot be started.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    let line = command_line(command);
    let status =
        command.stdin(Stdio::null()).status().with_context(|| format!("cannot start `{line}`"))?;
    Ok(status.success())
}

/// Runs `command`, which reads what the user types, and tells whether it succeeded.
///
/// # Errors
///
/// When the program cannot be started.
pub(crate) fn converses(command: &mut Command) -> Result<bool> {
    let line = command_line(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    Ok(status.success())
}

/// Runs `command` with all that it prints on standard error.
///
/// # Errors
///
/// When the program cannot be started or fails.
pub(crate) fn run_quietly_on_stdout(command: &mut Command) -> Result<()> {
    let line = command_line(command);
    let succeeded = succeeds(command.stdout(io::stderr()))?;
    ensure!(succeeded, "`{line}` failed");
    Ok(())
}

/// Runs `command` and returns what it printed on standard output.
///
/// # Errors
///
/// When the program cannot be started, fails, or prints what is not UTF-8.
pub(crate) fn output_of(command: &mut Command) -> Result<String> {
    let line = command_line(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{line}`"))?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{line}` failed: {}", complaint.trim());
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed what is not UTF-8"))
}

/// The program and its arguments as one line, for messages.
pub(crate) fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_as_precise_as_they_are_useful() {
        assert_eq!(spoken(Duration::from_millis(340)), "0.3 s");
        assert_eq!(spoken(Duration::from_millis(42_900)), "42 s");
        assert_eq!(spoken(Duration::from_secs(171)), "2 min 51 s");
    }

    #[test]
    fn the_error_of_a_failed_program_names_it_and_its_complaint() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such thing >&2; exit 3"]);
        let error = output_of(&mut command).expect_err("the program fails");
        assert!(error.to_string().contains("sh -c"), "{error}");
        assert!(error.to_string().ends_with("failed: no such thing"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = succeeds(&mut Command::new("no-such-program")).expect_err("it does not exist");
        assert!(error.to_string().contains("no-such-program"), "{error}");
    }
}
