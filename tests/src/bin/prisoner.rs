//! Run inside the sandbox of a unit, and outside: tries to get out and prints, as one JSON
//! object, what worked. It undoes what it did, and judges nothing.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aya::Ebpf;
use aya::programs::Xdp;
use clap::Parser;
use moderation_daemon::network::KERNEL_OBJECT;
use moderation_tests::attempt::{self, Tried};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// With a packet that is dropped without a word.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Parser)]
struct Arguments {
    /// Write a file into this folder
    #[arg(long)]
    write: Vec<PathBuf>,
    /// Open a TCP connection there
    #[arg(long)]
    connect: Vec<SocketAddr>,
    /// Gain capabilities by this copy of cat, which is root's and set-user-id
    #[arg(long)]
    rise: PathBuf,
}

fn main() -> Result<()> {
    attempt::print(attempts(&Arguments::parse()))
}

fn attempts(arguments: &Arguments) -> Tried {
    let writing = arguments.write.iter().map(|at| (format!("write {}", at.display()), write(at)));
    let connecting = arguments.connect.iter().map(|to| (format!("connect {to}"), connect(*to)));
    let mut attempts: Vec<_> = writing.chain(connecting).collect();
    attempts.push(("gain a capability".to_owned(), rise(&arguments.rise)));
    attempts.push(("load a program".to_owned(), load()));
    attempts.push(("read every packet".to_owned(), open_packet_socket()));
    attempts.push(("make a user namespace".to_owned(), make_namespace()));
    attempts
}

fn write(folder: &Path) -> Result<()> {
    let path = folder.join("prisoner-was-here");
    fs::write(&path, "")?;
    Ok(fs::remove_file(&path)?)
}

fn connect(to: SocketAddr) -> Result<()> {
    Ok(TcpStream::connect_timeout(&to, PATIENCE).map(drop)?)
}

fn rise(cat: &Path) -> Result<()> {
    let printed = Command::new(cat).arg("/proc/self/status").output()?;
    ensure!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    let status = String::from_utf8(printed.stdout)?;
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let capabilities = u64::from_str_radix(line.context("no capabilities")?.trim(), 16)?;
    ensure!(capabilities != 0, "no capability");
    Ok(())
}

/// Loads the daemon's own program, whose maps go when this ends.
fn load() -> Result<()> {
    let mut object = Ebpf::load(KERNEL_OBJECT)?;
    for (_, program) in object.programs_mut() {
        if let Ok(program) = <&mut Xdp>::try_from(program) {
            return Ok(program.load()?);
        }
    }
    bail!("the object has no program for XDP")
}

fn open_packet_socket() -> Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Packet, SockType::Raw, flags, None).map_err(io::Error::from)?;
    Ok(())
}

/// By a program, because it would not end with this attempt.
fn make_namespace() -> Result<()> {
    let made = Command::new("unshare").args(["--user", "true"]).output()?;
    ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr).trim());
    Ok(())
}
