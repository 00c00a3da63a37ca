//! moderationctl: the operator's tool. Most commands ask the daemon; `xdp`
//! works on the kernel itself and needs no daemon.

mod bundle;
mod command;
mod completion;
mod doctor;
mod effective;
mod explain;
mod import;
mod keep;
mod librechat;
mod live;
mod man;
mod output;
mod own;
mod penalty;
mod remote;
mod setup;
mod top;
mod unit;
mod xdp;

use std::process::ExitCode;

use crate::{
    api,
    config::Config,
    exit::{self, tell},
};
use command::{Arguments, Command};
use doctor::Host;
use output::Output;
use remote::Remote;

/// The whole program.
pub fn main() -> ExitCode {
    exit::main("moderationctl", run)
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let output = Output::new(arguments.json);
    if matches!(arguments.command, Command::Openapi) {
        // For people, too: it is a document.
        return Ok(output.show(&api::description(), |document| format!("{document:#}"))?);
    }
    if let Command::Completions { shell } = arguments.command {
        return completion::print(shell);
    }
    if let Command::Man { folder } = &arguments.command {
        return man::write(folder);
    }
    let path = arguments.config.as_deref();
    if let Command::Setup(wanted) = &arguments.command {
        return setup::run(wanted, path, &arguments.files, output);
    }
    if arguments.command.examines() {
        let loaded = doctor::load(path);
        let defaults = Config::parse("")?;
        let socket = loaded.as_ref().unwrap_or(&defaults).admin.path.clone();
        let socket = arguments.socket.unwrap_or(socket);
        let mut remote = Remote::new(socket, output, 64, arguments.files);
        let host = Host { loaded: loaded.as_ref(), defaults: &defaults };
        return match arguments.command {
            Command::SupportBundle(wanted) => bundle::run(&mut remote, host, &wanted),
            _ => doctor::run(&mut remote, host),
        };
    }
    // LibreChat's own files say nothing about sockets and pins, and not every
    // operator may read them.
    let config = match Config::load_readable(path) {
        Err(error) if arguments.command.is_emergency() => {
            tell("going by the defaults, for the configuration is wrong", &error);
            Config::parse("")?
        }
        config => config?,
    };
    if let Command::Xdp(command) = arguments.command {
        return xdp::run(command, &config, &arguments.files, output);
    }
    let socket = arguments.socket.unwrap_or_else(|| config.admin.path.clone());
    let mut remote = Remote::new(socket, output, config.rules.ban.v6_prefix, arguments.files);
    if matches!(arguments.command, Command::Config) {
        return effective::show(&mut remote, || Ok(Config::load(path)?.effective.as_ref().clone()));
    }
    remote.run(arguments.command)
}
