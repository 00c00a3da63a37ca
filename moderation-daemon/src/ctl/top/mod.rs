//! `moderationctl top` on a terminal: asks the daemon every second on a thread of its
//! own, draws what is known, and gives the terminal back whatever ends it. What is drawn
//! is `picture`'s affair, how `draw`'s.

mod asker;
mod draw;
mod picture;
mod screen;

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    sync::mpsc::{TryRecvError, sync_channel},
    time::Duration,
};

use anyhow::{Context as _, bail};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::{
    asker::Asker,
    picture::{Flow, Picture},
    screen::{EndSignals, Screen},
};

/// How long a key, an answer or a signal waits at most before it is looked at.
const BEAT: Duration = Duration::from_millis(100);

/// Whether there is somebody to show it to, who can press keys.
pub(super) fn has_terminal() -> bool {
    io::stdout().is_terminal() && io::stdin().is_terminal()
}

/// Shows it until a key or a signal ends it.
///
/// # Errors
///
/// If the terminal cannot be used. A daemon that is gone is no error: it is said, and it
/// is asked again.
pub(super) fn show(socket: &Path, limit: usize) -> anyhow::Result<()> {
    // Before there are other threads: they inherit that these wait for us.
    let signals = EndSignals::await_them().context("cannot wait for signals")?;
    // One answer that waits is enough; the next is asked for when it was taken.
    let (tell, told) = sync_channel(1);
    let asker = Asker::new(socket, limit);
    std::thread::Builder::new()
        .name("asker".into())
        .spawn(move || asker.run(&tell))
        .context("cannot start a thread")?;
    let mut screen = Screen::open().context("cannot use the terminal")?;
    let mut picture = Picture::new(screen::has_colours());
    loop {
        match told.try_recv() {
            Ok(news) => picture.take(news),
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => bail!("asking the daemon ended; this is a bug"),
        }
        screen.draw(|frame| draw::draw(frame, &picture))?;
        if event::poll(BEAT).context("cannot read the terminal")?
            && let Event::Key(key) = event::read().context("cannot read the terminal")?
            && key.kind != KeyEventKind::Release
            && picture.press(key) == Flow::End
        {
            return Ok(());
        }
        if signals.has_come().context("cannot wait for signals")? {
            return Ok(());
        }
    }
}
