//! What the live view knows: the daemon's last answers, packets of the last minutes, and
//! what the operator has chosen. Pure: it neither asks nor draws.

use std::collections::VecDeque;

use moderation_common::Reason;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;

/// Seconds of packets that are remembered: as many as the widest terminal shows.
const SECONDS: usize = 512;

/// What the daemon said when it was asked.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) top: Value,
    pub(super) status: Value,
    pub(super) bans: Value,
    pub(super) denials: Value,
    /// Why nothing is known about packets.
    pub(super) kernel_problem: Option<String>,
}

/// What came of asking.
#[derive(Clone, Debug)]
pub(super) enum News {
    Seen(Box<Look>),
    /// Nobody answers, and why.
    Gone(String),
}

/// What can be looked at closely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Panel {
    Attempts,
    Handshakes,
    Drops,
    Bans,
    Denials,
}

impl Panel {
    pub(super) const ALL: [Self; 5] =
        [Self::Attempts, Self::Handshakes, Self::Drops, Self::Bans, Self::Denials];

    fn beside(self, step: usize) -> Self {
        let at = Self::ALL.iter().position(|panel| *panel == self).unwrap_or(0);
        Self::ALL[(at + step) % Self::ALL.len()]
    }
}

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    End,
}

/// Packets a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) passed: u64,
    pub(super) dropped: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) look: Option<Look>,
    /// Why the daemon does not answer just now.
    pub(super) gone: Option<String>,
    /// Oldest first, one a second.
    pub(super) rates: VecDeque<Rate>,
    counted: Option<(u64, Rate)>,
    pub(super) panel: Panel,
    /// Lines of the panel that are above its first.
    pub(super) scrolled: usize,
    pub(super) is_paused: bool,
    pub(super) has_colours: bool,
}

impl Picture {
    pub(super) fn new(has_colours: bool) -> Self {
        Self {
            look: None,
            gone: None,
            rates: VecDeque::new(),
            counted: None,
            panel: Panel::Drops,
            scrolled: 0,
            is_paused: false,
            has_colours,
        }
    }

    /// Takes over what the daemon said. While paused only that it is gone, or back.
    pub(super) fn take(&mut self, news: News) {
        match news {
            News::Gone(reason) => {
                self.gone = Some(reason);
                // Whoever comes back may count from zero.
                self.counted = None;
            }
            News::Seen(look) => {
                self.gone = None;
                self.count(&look.top);
                if !self.is_paused {
                    self.look = Some(*look);
                }
            }
        }
    }

    fn count(&mut self, top: &Value) {
        let Some(at_ms) = top["at_ms"].as_u64() else {
            self.counted = None;
            return;
        };
        let now = Rate { passed: passes(top), dropped: drops(top) };
        if let Some((before_ms, before)) = self.counted.replace((at_ms, now))
            && !self.is_paused
            && at_ms > before_ms
        {
            // Maps that were made anew begin at zero.
            let rate = |now: u64, before: u64| {
                now.saturating_sub(before).saturating_mul(1_000) / (at_ms - before_ms)
            };
            if self.rates.len() >= SECONDS {
                self.rates.pop_front();
            }
            self.rates.push_back(Rate {
                passed: rate(now.passed, before.passed),
                dropped: rate(now.dropped, before.dropped),
            });
        }
    }

    /// Packets a second, just now.
    pub(super) fn rate(&self) -> Option<Rate> {
        self.rates.back().copied()
    }

    /// What a key does.
    pub(super) fn press(&mut self, key: KeyEvent) -> Flow {
        let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return Flow::End,
            KeyCode::Char('c') if is_control => return Flow::End,
            KeyCode::Char('p' | ' ') => self.is_paused = !self.is_paused,
            KeyCode::Tab | KeyCode::Right => self.choose(1),
            KeyCode::BackTab | KeyCode::Left => self.choose(Panel::ALL.len() - 1),
            KeyCode::Down => self.scrolled = self.scrolled.saturating_add(1),
            KeyCode::Up => self.scrolled = self.scrolled.saturating_sub(1),
            KeyCode::Home => self.scrolled = 0,
            _ => {}
        }
        // Below the last line there is nothing.
        self.scrolled = self.scrolled.min(self.lines(self.panel).saturating_sub(1));
        Flow::GoOn
    }

    fn choose(&mut self, step: usize) {
        self.panel = self.panel.beside(step);
        self.scrolled = 0;
    }

    /// How many lines a panel has.
    fn lines(&self, panel: Panel) -> usize {
        self.rows(panel).len()
    }

    /// What is in a panel.
    pub(super) fn rows(&self, panel: Panel) -> &[Value] {
        let Some(look) = &self.look else { return &[] };
        let rows = match panel {
            Panel::Attempts => &look.top["attempts"]["sources"],
            Panel::Handshakes => &look.top["handshakes"]["sources"],
            Panel::Drops => &look.top["drops"]["sources"],
            Panel::Bans => &look.bans["bans"],
            Panel::Denials => &look.denials["denials"],
        };
        rows.as_array().map(Vec::as_slice).unwrap_or_default()
    }
}

/// Packets that were dropped, by an answer of `/v1/top`.
pub(super) fn drops(top: &Value) -> u64 {
    counted(top, Reason::drops)
}

fn passes(top: &Value) -> u64 {
    counted(top, |reason| !reason.drops())
}

fn counted(top: &Value, is_wanted: impl Fn(Reason) -> bool) -> u64 {
    let wanted = Reason::ALL.into_iter().filter(|reason| is_wanted(*reason));
    wanted.filter_map(|reason| top["packets"][reason.name()]["packets"].as_u64()).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(at_ms: u64, passed: u64, dropped: u64) -> News {
        let packets = json!({
            "pass": { "packets": passed }, "ban_v4": { "packets": dropped },
            "syn_rate": { "packets": 1 }, "observe_would_drop": { "packets": 5 },
        });
        let top = json!({
            "at_ms": at_ms, "packets": packets,
            "drops": { "sources": [{ "source": "192.0.2.1" }, { "source": "192.0.2.2" }] },
        });
        News::Seen(Box::new(Look { top, ..Look::default() }))
    }

    fn press(picture: &mut Picture, code: KeyCode) -> Flow {
        picture.press(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn rates_are_between_two_answers_and_begin_anew_with_another_daemon() {
        let mut picture = Picture::new(true);
        picture.take(seen(1_000, 100, 10));
        assert_eq!(picture.rate(), None, "one answer is none");
        picture.take(seen(3_000, 300, 20));
        assert_eq!(picture.rate(), Some(Rate { passed: 100, dropped: 5 }));
        picture.take(News::Gone("no".to_owned()));
        assert_eq!(picture.gone.as_deref(), Some("no"));
        picture.take(seen(9_000, 90_000, 0));
        assert_eq!((picture.gone.as_deref(), picture.rates.len()), (None, 1), "it is back");
        picture.take(seen(10_000, 1, 0));
        assert_eq!(picture.rate(), Some(Rate::default()), "maps that were made anew");
    }

    #[test]
    fn no_more_is_remembered_than_is_shown() {
        let mut picture = Picture::new(true);
        (0..2 * SECONDS as u64).for_each(|at| picture.take(seen(at * 1_000, at, at)));
        assert_eq!(picture.rates.len(), SECONDS);
    }

    #[test]
    fn what_is_paused_stays() {
        let mut picture = Picture::new(true);
        picture.take(seen(1_000, 1, 1));
        assert_eq!(press(&mut picture, KeyCode::Char('p')), Flow::GoOn);
        picture.take(seen(2_000, 9, 9));
        let shown = |picture: &Picture| picture.look.as_ref().map(|it| it.top["at_ms"].clone());
        assert_eq!((shown(&picture), picture.rates.len()), (Some(json!(1_000)), 0));
        press(&mut picture, KeyCode::Char('p'));
        picture.take(seen(3_000, 19, 9));
        assert_eq!(shown(&picture), Some(json!(3_000)));
        assert_eq!(picture.rate(), Some(Rate { passed: 10, dropped: 0 }), "of the last second");
    }

    #[test]
    fn keys_end_it_and_choose_what_to_look_at() {
        let mut picture = Picture::new(true);
        picture.take(seen(1_000, 1, 1));
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(picture.press(control_c), Flow::End);
        for (code, flow) in [
            (KeyCode::Char('q'), Flow::End),
            (KeyCode::Esc, Flow::End),
            (KeyCode::Char('c'), Flow::GoOn),
        ] {
            assert_eq!(press(&mut picture, code), flow, "{code}");
        }
        (0..9).for_each(|_| assert_eq!(press(&mut picture, KeyCode::Down), Flow::GoOn));
        assert_eq!(picture.scrolled, 1, "the last line");
        press(&mut picture, KeyCode::Tab);
        assert_eq!((picture.panel, picture.scrolled), (Panel::Bans, 0));
        press(&mut picture, KeyCode::Tab);
        assert_eq!(picture.panel, Panel::Denials);
        press(&mut picture, KeyCode::Right);
        assert_eq!(picture.panel, Panel::Attempts);
        press(&mut picture, KeyCode::BackTab);
        assert_eq!(picture.panel, Panel::Denials);
    }
}
