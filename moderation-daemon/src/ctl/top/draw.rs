//! How the live view looks, at every size: what does not fit is left out from the bottom
//! up, the line that says whether the daemon is there never.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Sparkline, Table},
};
use serde_json::Value;

use super::picture::{Panel, Picture, Rate};
use crate::ctl::output::{ban_state, field};

/// From that width on all sources are shown side by side.
const WIDE: u16 = 120;
/// From that height on there is room for packets as they went.
const HIGH: u16 = 14;
/// From that height on denials are shown beside the chosen panel.
const HIGHER: u16 = 20;
const SPARKLINE: u16 = 4;

pub(super) fn draw(frame: &mut Frame<'_>, picture: &Picture) {
    let area = frame.area();
    let health = health(picture);
    let health_lines = u16::try_from(health.len()).unwrap_or(u16::MAX);
    let sparkline = if area.height >= HIGH { SPARKLINE } else { 0 };
    // At least the head, two lines of the panel, and the keys.
    let most = area.height.saturating_sub(5 + sparkline);
    let [head, health_area, packets, panels, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(health_lines.min(most)),
        Constraint::Length(sparkline),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(head_lines(picture)), head);
    frame.render_widget(Paragraph::new(health), health_area);
    if sparkline > 0 {
        draw_packets(frame, picture, packets);
    }
    draw_panels(frame, picture, panels);
    let keys = "q quit  Tab panel  \u{2191}\u{2193} move  p pause";
    frame.render_widget(Paragraph::new(keys).style(dim()), foot);
}

fn draw_panels(frame: &mut Frame<'_>, picture: &Picture, area: Rect) {
    let sources = [Panel::Attempts, Panel::Handshakes, Panel::Drops];
    let is_high = frame.area().height >= HIGHER;
    if area.width >= WIDE && is_high {
        let [top, bottom] = Layout::vertical([Constraint::Fill(1); 2]).areas(area);
        let columns: [Rect; 3] = Layout::horizontal([Constraint::Fill(1); 3]).areas(top);
        for (panel, column) in sources.into_iter().zip(columns) {
            draw_panel(frame, picture, panel, column);
        }
        let halves: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(bottom);
        for (panel, half) in [Panel::Bans, Panel::Denials].into_iter().zip(halves) {
            draw_panel(frame, picture, panel, half);
        }
    } else if is_high {
        let [top, bottom] = Layout::vertical([Constraint::Fill(1); 2]).areas(area);
        let chosen = if picture.panel == Panel::Denials { Panel::Drops } else { picture.panel };
        draw_panel(frame, picture, chosen, top);
        draw_panel(frame, picture, Panel::Denials, bottom);
    } else {
        draw_panel(frame, picture, picture.panel, area);
    }
}

fn head_lines(picture: &Picture) -> Vec<Line<'static>> {
    let mut first = vec![Span::styled("moderationctl top", bold())];
    if picture.is_paused {
        first.push(Span::styled("  paused", bold()));
    }
    let second = match (&picture.gone, &picture.look) {
        (Some(reason), _) => {
            let text = format!("no daemon answers, asking again: {reason}");
            Line::styled(text, picture.colour(Color::Red).add_modifier(Modifier::BOLD))
        }
        (None, None) => Line::raw("asking the daemon"),
        (None, Some(look)) => {
            let up = look.status["uptime_ms"].as_u64().unwrap_or(0) / 1_000;
            let version = field(&look.status["version"]);
            first.push(Span::raw(format!("  daemon {version}, up {}", span(up))));
            Line::raw(summary(picture))
        }
    };
    vec![Line::from(first), second]
}

fn summary(picture: &Picture) -> String {
    let Some(look) = &picture.look else { return String::new() };
    let bans = &look.status["bans"];
    let [active, enforced] = ["active", "enforced"].map(|name| field(&bans[name]));
    let imported = look.status["imports"]["entries"].as_u64().unwrap_or(0);
    let mut text = match picture.rate() {
        Some(Rate { passed, dropped }) => {
            format!("{}/s dropped, {}/s passed", number(dropped), number(passed))
        }
        None => "packets: -".to_owned(),
    };
    text += &format!("; bans: {active} active, {enforced} enforced");
    if imported > 0 {
        text += &format!(", {imported} imported");
    }
    text
}

/// Kernel, store, and the services; a problem each on a line of its own.
fn health(picture: &Picture) -> Vec<Line<'static>> {
    let Some(look) = &picture.look else { return Vec::new() };
    let status = &look.status;
    let (network, redis, sharing) = (&status["network"], &status["redis"], &status["sharing"]);
    let kernel_state = field(&network["state"]);
    let observes = network["enforce"] == false && kernel_state == "attached";
    let kernel = if observes { "observing".to_owned() } else { kernel_state };
    let kernel_is_well = matches!(kernel.as_str(), "attached" | "off" | "observing");
    let failures = status["store"]["failures"].as_u64().unwrap_or(0);
    let store = if failures == 0 { "ok".to_owned() } else { format!("{failures} failures") };
    let mongodb = if sharing.is_object() { field(&sharing["state"]) } else { "off".to_owned() };
    let redis_text = match (redis.is_object(), redis["shared"] == true) {
        (false, _) => "off",
        (true, true) => "ok",
        (true, false) => "alone",
    };
    let queue = &status["queue"];
    let parts = [
        ("kernel", kernel, kernel_is_well),
        ("store", store, failures == 0),
        ("mongodb", mongodb, sharing["problem"].is_null()),
        ("redis", redis_text.to_owned(), redis_text != "alone"),
        ("queue", format!("{}/{}", field(&queue["length"]), field(&queue["capacity"])), true),
    ];
    let spans = parts.into_iter().flat_map(|(name, state, is_well)| {
        let colour = if is_well { Color::Green } else { Color::Red };
        let style = picture.colour(colour);
        let style = if is_well { style } else { style.add_modifier(Modifier::BOLD) };
        [Span::raw(format!("{name} ")), Span::styled(state, style), Span::raw("  ")]
    });
    let mut lines = vec![Line::from(spans.collect::<Vec<_>>())];
    let missing = network["missing"].as_array().map(Vec::as_slice).unwrap_or_default();
    let missing: Vec<_> = missing.iter().map(field).collect();
    let missing = (!missing.is_empty()).then(|| format!("not on {}", missing.join(", ")));
    let stopped = (status["automatic_bans"] == "stopped")
        .then(|| "automatic bans have stopped: too many in a minute".to_owned());
    let told = [&network["problem"], &sharing["problem"], &redis["fault"]];
    let told = told.into_iter().filter(|it| it.is_string()).map(field);
    let problems = told.chain(missing).chain(stopped).chain(look.kernel_problem.clone());
    lines.extend(problems.map(|text| Line::styled(text, picture.colour(Color::Red))));
    lines
}

fn draw_packets(frame: &mut Frame<'_>, picture: &Picture, area: Rect) {
    let halves: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2]).areas(area);
    let width = usize::from(area.width.div_ceil(2));
    let rates: Vec<_> =
        picture.rates.iter().skip(picture.rates.len().saturating_sub(width)).collect();
    let dropped: Vec<u64> = rates.iter().map(|rate| rate.dropped).collect();
    let passed: Vec<u64> = rates.iter().map(|rate| rate.passed).collect();
    let parts = [("dropped/s", Color::Red, dropped), ("passed/s", Color::Green, passed)];
    for ((name, colour, data), half) in parts.into_iter().zip(halves) {
        let most = data.iter().copied().max().unwrap_or(0);
        let title = format!("{name}, at most {}", number(most));
        let block = Block::new().borders(Borders::TOP).title(title).border_style(dim());
        let line = Sparkline::default().block(block).data(data).style(picture.colour(colour));
        frame.render_widget(line, half);
    }
}

fn draw_panel(frame: &mut Frame<'_>, picture: &Picture, panel: Panel, area: Rect) {
    let is_chosen = picture.panel == panel;
    let title_style = if is_chosen { bold().add_modifier(Modifier::REVERSED) } else { bold() };
    let title = Line::styled(title(picture, panel), title_style);
    let block = Block::new().borders(Borders::TOP).title(title).border_style(dim());
    let rows = picture.rows(panel);
    if rows.is_empty() {
        frame.render_widget(Paragraph::new("none").style(dim()).block(block), area);
        return;
    }
    let scrolled = if is_chosen { picture.scrolled } else { 0 };
    let shown = rows.iter().skip(scrolled);
    let limit = limit_of(picture, panel);
    let samples =
        picture.look.as_ref().map_or(0, |look| look.top["drops"]["samples"].as_u64().unwrap_or(0));
    let table = match panel {
        Panel::Attempts | Panel::Handshakes => {
            let rows = shown.map(|row| {
                let is_over = limit.is_some_and(|limit| row["count"].as_u64() > Some(limit));
                let style = if is_over { picture.colour(Color::Red) } else { Style::new() };
                let cells = ["source", "count", "excess"].map(|name| field(&row[name]));
                Row::new(cells).style(style)
            });
            let widths = [Constraint::Fill(1), Constraint::Length(9), Constraint::Length(9)];
            Table::new(rows, widths).header(header(["SOURCE", "COUNT", "BEYOND"]))
        }
        Panel::Drops => {
            let rate = picture.rate().map_or(0, |rate| rate.dropped);
            let rows = shown.map(|row| {
                let share = row["samples"].as_u64().unwrap_or(0);
                let estimate = share.saturating_mul(rate) / samples.max(1);
                let percent = share.saturating_mul(100) / samples.max(1);
                let cells = [
                    field(&row["source"]),
                    format!("{percent} %"),
                    format!("~{}", number(estimate)),
                ];
                Row::new(cells.into_iter().chain([field(&row["reason"])]))
            });
            let widths = [
                Constraint::Fill(1),
                Constraint::Length(6),
                Constraint::Length(7),
                Constraint::Length(9),
            ];
            Table::new(rows, widths).header(header(["SOURCE", "SHARE", "PER S", "REASON"]))
        }
        Panel::Bans => {
            let rows = shown.map(|row| {
                let names = ["id", "address", "user", "reason"];
                Row::new(names.map(|name| field(&row[name])).into_iter().chain([ban_state(row)]))
            });
            let widths = [
                Constraint::Length(7),
                Constraint::Length(18),
                Constraint::Length(12),
                Constraint::Length(12),
                Constraint::Fill(1),
            ];
            let head = ["BAN", "ADDRESS", "USER", "REASON", "STATE"];
            Table::new(rows, widths).header(header(head))
        }
        Panel::Denials => {
            let rows = shown.map(denial);
            let widths = [
                Constraint::Length(8),
                Constraint::Length(14),
                Constraint::Length(5),
                Constraint::Length(14),
                Constraint::Length(14),
                Constraint::Fill(1),
            ];
            let head = ["TIME", "CODE", "TIMES", "WHAT", "WHY", "WHOM"];
            Table::new(rows, widths).header(header(head))
        }
    };
    frame.render_widget(table.block(block), area);
}

fn header<const N: usize>(names: [&'static str; N]) -> Row<'static> {
    Row::new(names.map(Cell::from)).style(dim())
}

/// A denial's line. The time is UTC, like all that is shown.
fn denial(row: &Value) -> Row<'static> {
    let at = field(&row["at"]);
    let time = at.get(11..19).unwrap_or("-").to_owned();
    let whom = ["ip", "user"].map(|name| &row[name]);
    let whom: Vec<_> = whom.into_iter().filter(|it| it.is_string()).map(field).collect();
    let [code, times, what, why] =
        ["code", "times", "type", "reason"].map(|name| field(&row[name]));
    Row::new([time, code, times, what, why, whom.join(" ")])
}

fn title(picture: &Picture, panel: Panel) -> String {
    let seconds = |name: &str| {
        let window = picture.look.as_ref().and_then(|look| look.top[name]["window_ms"].as_u64());
        window.map_or_else(String::new, |ms| format!(" in {}", span(ms / 1_000)))
    };
    let limit = limit_of(picture, panel).map_or_else(String::new, |it| format!(", limit {it}"));
    match panel {
        Panel::Attempts => format!("connection attempts{}{limit}", seconds("attempts")),
        Panel::Handshakes => format!("handshakes{}{limit}", seconds("handshakes")),
        Panel::Drops => "drops by source, in 10 s".to_owned(),
        Panel::Bans => "active bans, latest first".to_owned(),
        Panel::Denials => "denials, latest first".to_owned(),
    }
}

fn limit_of(picture: &Picture, panel: Panel) -> Option<u64> {
    let top = &picture.look.as_ref()?.top;
    match panel {
        Panel::Attempts => top["attempts"]["limit"].as_u64(),
        Panel::Handshakes => top["handshakes"]["limit"].as_u64(),
        Panel::Drops | Panel::Bans | Panel::Denials => None,
    }
}

impl Picture {
    /// A colour, where colours are wanted.
    fn colour(&self, colour: Color) -> Style {
        if self.has_colours { Style::new().fg(colour) } else { Style::new() }
    }
}

const fn bold() -> Style {
    Style::new().add_modifier(Modifier::BOLD)
}

const fn dim() -> Style {
    Style::new().add_modifier(Modifier::DIM)
}

/// A number that fits into five characters or so.
fn number(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{} k", count / 1_000),
        _ => format!("{} M", count / 1_000_000),
    }
}

/// Seconds, in the largest unit that is not zero.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};
    use serde_json::json;

    use super::*;
    use crate::ctl::top::picture::{Look, News};

    const LONG: &str = "2001:db8:1234:5678:9abc:def0:1234:5678";

    fn look(at_ms: u64, dropped: u64) -> News {
        let sources = json!([{ "source": LONG, "count": 70, "excess": 50 }]);
        let top = json!({
            "at_ms": at_ms,
            "packets": { "ban_v4": { "packets": dropped }, "pass": { "packets": 2 * dropped } },
            "attempts": { "limit": 20, "window_ms": 2_000, "sources": sources },
            "handshakes": { "limit": null, "window_ms": 60_000, "sources": [] },
            "drops": { "samples": 4, "sources": [
                { "source": "192.0.2.7", "samples": 3, "reason": "ban_v4" },
                { "source": LONG, "samples": 1, "reason": "ban_v6" },
            ] },
        });
        let status = json!({
            "version": "1.2.3", "uptime_ms": 7_200_000, "bans": { "active": 12, "enforced": 11 },
            "network": { "state": "attached", "enforce": true, "problem": null, "missing": [] },
            "store": { "failures": 0 }, "queue": { "length": 3, "capacity": 1024 },
            "redis": { "shared": false, "fault": "timed out" }, "sharing": null,
        });
        let denials = json!({ "denials": [{
            "code": "d65a0c1f2-7", "type": "message", "reason": "rate_limited", "times": 3,
            "ip": "192.0.2.9", "user": "an\u{1b}[31mna", "at": "2026-01-02T03:04:05.678Z",
        }] });
        let bans = json!({ "bans": [{
            "id": 7, "address": "198.51.100.0/24", "user": null, "reason": "spam",
            "expires_at": "2026-01-03T00:00:00Z", "remaining_ms": 75_000, "enforced": true,
        }] });
        News::Seen(Box::new(Look { top, status, bans, denials, kernel_problem: None }))
    }

    fn busy() -> Picture {
        let mut picture = Picture::new(true);
        picture.take(look(1_000, 1_000));
        picture.take(look(2_000, 1_400));
        picture
    }

    fn drawn(picture: &Picture, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
        terminal.draw(|frame| draw(frame, picture)).expect("memory");
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(line).collect()
    }

    /// All of these, in one line each.
    fn assert_shows(lines: &[String], wanted: &[&str]) {
        for want in wanted {
            assert!(lines.iter().any(|line| line.contains(want)), "{want:?} in {lines:#?}");
        }
    }

    #[test]
    fn a_common_terminal_shows_what_matters() {
        let lines = drawn(&busy(), 80, 24);
        assert_shows(
            &lines,
            &[
                "moderationctl top  daemon 1.2.3, up 2 h",
                "400/s dropped, 800/s passed; bans: 12 active, 11 enforced",
                "kernel attached  store ok  mongodb off  redis alone  queue 3/1024",
                "timed out",
                "dropped/s, at most 400",
                "passed/s, at most 800",
                "drops by source, in 10 s",
                "192.0.2.7",
                "75 %",
                "~300",
                LONG,
                "denials, latest first",
                "03:04:05 d65a0c1f2-7",
                "rate_limited",
                "192.0.2.9 an[31mna",
                "q quit",
            ],
        );
    }

    #[test]
    fn a_small_one_shows_the_panel_that_was_chosen() {
        let lines = drawn(&busy(), 40, 10);
        assert_shows(&lines, &["400/s dropped", "kernel attached", "192.0.2.7", "q quit"]);
        assert!(!lines.iter().any(|line| line.contains("denials,")), "{lines:#?}");
        let mut picture = busy();
        picture.panel = Panel::Attempts;
        assert_shows(
            &drawn(&picture, 40, 10),
            &["connection attempts in 2 s, limit 20", "2001:db8:1"],
        );
    }

    #[test]
    fn a_large_one_shows_all_panels_side_by_side() {
        let lines = drawn(&busy(), 200, 60);
        let heads = lines.iter().find(|line| line.contains("connection attempts"));
        let heads = heads.expect("a head");
        assert!(
            heads.contains("handshakes in 60 s") && heads.contains("drops by source"),
            "{heads}"
        );
        assert_shows(
            &lines,
            &[LONG, "none", "d65a0c1f2-7", "198.51.100.0/24", "until 2026-01-03T00:00:00Z"],
        );
    }

    #[test]
    fn nothing_known_is_said_and_so_is_a_daemon_that_is_gone() {
        for (width, height) in [(80, 24), (40, 10), (200, 60), (10, 3), (1, 1)] {
            let lines = drawn(&Picture::new(true), width, height);
            assert_eq!(lines.len(), usize::from(height));
            if width >= 40 {
                assert_shows(&lines, &["asking the daemon", "none"]);
            }
            let mut picture = busy();
            picture.take(News::Gone("cannot connect".to_owned()));
            let lines = drawn(&picture, width, height);
            if width >= 80 {
                assert_shows(&lines, &["no daemon answers, asking again: cannot connect"]);
            }
        }
    }

    #[test]
    fn without_colours_there_are_none() {
        for has_colours in [true, false] {
            let mut picture = busy();
            picture.has_colours = has_colours;
            let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("memory");
            terminal.draw(|frame| draw(frame, &picture)).expect("memory");
            let cells = &terminal.backend().buffer().content;
            assert_eq!(cells.iter().any(|cell| cell.fg != Color::Reset), has_colours);
        }
    }

    #[test]
    fn numbers_and_times_stay_short() {
        let numbers = [0, 9_999, 10_000, 9_999_999, 12_000_000].map(number);
        assert_eq!(numbers, ["0", "9999", "10 k", "9999 k", "12 M"]);
        let spans = [0, 119, 120, 7_200, 172_800].map(span);
        assert_eq!(spans, ["0 s", "119 s", "2 min", "2 h", "2 d"]);
    }
}
