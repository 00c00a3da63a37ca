//! A machine under qemu, without hardware's help: Debian's own kernel on two emulated
//! processors. What it writes is kept beside its disk, which stays as it was made. An
//! agent in it runs what is asked over a virtio port; see xtask/src/debian/agent.sh.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Luggage, Outcome};
use crate::process::{self, Process, Spawner};
use crate::{interrupt, name, sweep, wait};

/// From nothing to an agent that answers: half a minute alone, more beside other work.
const PATIENCE: Duration = Duration::from_secs(600);
/// After which a question is asked again of a machine that may have been rebooting.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How often somebody who waits for an answer looks up.
const LOOK_UP: Duration = Duration::from_millis(200);

const MEMORY_MB: &str = "1024";

/// See the module.
#[derive(Debug)]
pub(super) struct Qemu {
    // In this order: it dies before its files go.
    process: Process,
    port: BufReader<UnixStream>,
    /// The part of an answer that has come so far.
    line: Vec<u8>,
    /// Of the last question.
    number: u64,
    folder: tempfile::TempDir,
}

impl Qemu {
    pub(super) fn start(system: &Path, luggage: &Luggage) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", name::fresh()?))
            .tempdir_in(sweep::TEMPORARY)
            .context("cannot make a temporary folder")?;
        let disk = folder.path().join("luggage");
        luggage.disk(&disk)?;
        let mut process = spawn(system, folder.path())?;
        let socket = folder.path().join("port");
        let stream = wait::until("qemu to listen", PATIENCE, || {
            if let Some(status) = process.exited()? {
                let complaint = fs::read_to_string(folder.path().join("qemu.log"))?;
                bail!("qemu ended with {status}: {}", complaint.trim());
            }
            Ok(UnixStream::connect(&socket).ok())
        })?;
        stream.set_read_timeout(Some(LOOK_UP))?;
        let port = BufReader::new(stream);
        let mut qemu = Self { process, port, line: Vec::new(), number: 0, folder };
        qemu.await_boot("")?;
        Ok(qemu)
    }

    pub(super) fn run(&mut self, script: &str, patience: Duration) -> Result<Outcome> {
        let number = self.ask(script)?;
        let outcome = self.answer(number, patience)?;
        outcome.with_context(|| format!("no answer within {patience:?}"))
    }

    pub(super) fn reboot(&mut self) -> Result<()> {
        let before = self.run("cat /proc/sys/kernel/random/boot_id", PATIENCE)?.stdout;
        // Its answer may or may not come.
        self.ask("systemctl reboot --no-block")?;
        self.await_boot(&before)
    }

    /// Waits for an answer out of another boot than one that is known.
    fn await_boot(&mut self, before: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let number = self.ask("cat /proc/sys/kernel/random/boot_id")?;
            let answer = self.answer(number, ASK_AGAIN)?;
            if answer.is_some_and(|answer| answer.code == 0 && answer.stdout != before) {
                return Ok(());
            }
        }
        bail!("no answer from a new boot within {PATIENCE:?}:\n{}", self.console())
    }

    fn ask(&mut self, script: &str) -> Result<u64> {
        self.number += 1;
        let line = format!("{} {}\n", self.number, STANDARD.encode(script));
        self.port.get_mut().write_all(line.as_bytes()).context("qemu is gone")?;
        Ok(self.number)
    }

    /// The answer to a question, if it comes in time; what answers earlier ones is
    /// passed over.
    fn answer(&mut self, number: u64, patience: Duration) -> Result<Option<Outcome>> {
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            interrupt::check()?;
            match self.port.read_until(b'\n', &mut self.line) {
                Ok(0) => bail!("qemu is gone, {:?}:\n{}", self.process.exited()?, self.console()),
                Ok(_) if self.line.ends_with(b"\n") => {
                    let line = String::from_utf8_lossy(&self.line).into_owned();
                    self.line.clear();
                    if let Some(outcome) = parse(&line, number)? {
                        return Ok(Some(outcome));
                    }
                }
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => return Err(error).context("cannot read from qemu"),
            }
        }
        Ok(None)
    }

    pub(super) fn console(&self) -> String {
        let text = fs::read(self.folder.path().join("console")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Line by line: each is a script of its own.
    pub(super) fn shell(&mut self) -> Result<()> {
        let mut lines = std::io::stdin().lines();
        loop {
            eprint!("machine# ");
            let Some(line) = lines.next().transpose()? else { return Ok(()) };
            let outcome = self.run(&line, PATIENCE)?;
            eprint!("{}{}", outcome.stdout, outcome.stderr);
        }
    }
}

fn spawn(system: &Path, folder: &Path) -> Result<Process> {
    let path = |name: &str| -> PathBuf { folder.join(name) };
    let mut command = process::command("qemu-system-x86_64");
    // For what the machine writes to its disk.
    command.env("TMPDIR", folder);
    command.args(["-nodefaults", "-no-user-config", "-machine", "q35", "-display", "none"]);
    // Without cmpxchg16b: qemu 7.2 computes the flags after it from what an instruction before
    // left, and 6.12 falls in kmem_cache_alloc, which has it inlined.
    command.args(["-accel", "tcg,thread=multi", "-cpu", "max,-cx16", "-smp", "2", "-m", MEMORY_MB]);
    command.arg("-kernel").arg(system.join("vmlinuz")).arg("-initrd").arg(system.join("initrd"));
    // Panics end the machine's silence, and mitigations cost time against nobody.
    command
        .args(["-append", "root=/dev/vda rw console=ttyS0 panic=5 mitigations=off net.ifnames=0"]);
    for (disk, mode) in [(system.join("disk"), "snapshot=on"), (path("luggage"), "readonly=on")] {
        let disk = disk.display();
        command.arg("-drive").arg(format!("file={disk},if=virtio,format=raw,{mode}"));
    }
    command.arg("-serial").arg(format!("file:{}", path("console").display()));
    command.arg("-chardev");
    command.arg(format!("socket,id=port,path={},server=on,wait=off", path("port").display()));
    command.args(["-device", "virtio-serial-pci", "-device"]);
    command.args(["virtserialport,chardev=port,name=moderation", "-device", "virtio-rng-pci"]);
    let log = File::create(path("qemu.log"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Spawner::here()?.spawn(command)
}

/// The agent's answer, if it is to that question.
fn parse(line: &str, number: u64) -> Result<Option<Outcome>> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [told, code, out, err] = fields[..] else { return Ok(None) };
    if told.parse() != Ok(number) {
        return Ok(None);
    }
    let text = |field: &str| -> Result<String> {
        let bytes = STANDARD.decode(field.trim_start_matches('-')).context("not base64")?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let code = code.parse().context("an exit code")?;
    Ok(Some(Outcome { code, stdout: text(out)?, stderr: text(err)? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_another_question_is_passed_over() {
        let line = "6 0 -YQ== -\n";
        assert!(parse(line, 7).expect("it is well formed").is_none());
        let outcome = parse(line, 6).expect("it is well formed").expect("it is the answer");
        assert_eq!((outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str()), (0, "a", ""));
    }

    #[test]
    fn the_rest_of_a_line_that_a_reboot_cut_is_no_answer() {
        assert!(parse("YQ== -\n", 1).expect("it is passed over").is_none());
    }
}
