//! The terminal, and how it is given back: when the view ends, when the program panics
//! (ratatui's hook), and when a signal ends it, which is waited for like a key.

use std::io;

use anyhow::Context as _;
use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use ratatui::{DefaultTerminal, Frame};

/// The terminal in raw mode, on its other screen; it is as before when this is dropped.
pub(super) struct Screen(DefaultTerminal);

impl Screen {
    pub(super) fn open() -> io::Result<Self> {
        ratatui::try_init().map(Self).inspect_err(|_| ratatui::restore())
    }

    pub(super) fn draw(&mut self, render: impl FnOnce(&mut Frame<'_>)) -> anyhow::Result<()> {
        self.0.draw(render).context("cannot write to the terminal")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Whether colours are wanted: `NO_COLOR`, `CLICOLOR`, `TERM=dumb`.
pub(super) fn has_colours() -> bool {
    anstream::AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never
}

/// What would end the program before it has given the terminal back.
pub(super) struct EndSignals(SignalFd);

const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

impl EndSignals {
    /// From now on these wait to be looked at, in this thread and those it starts.
    pub(super) fn await_them() -> nix::Result<Self> {
        let mut set = SigSet::empty();
        ENDING.into_iter().for_each(|signal| set.add(signal));
        set.thread_block()?;
        SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map(Self)
    }

    /// Whether one has come.
    pub(super) fn has_come(&self) -> nix::Result<bool> {
        Ok(self.0.read_signal()?.is_some())
    }
}
