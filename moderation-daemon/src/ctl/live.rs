//! `top` and `watch`: what goes on now, again and again until the operator has
//! seen enough. One answer of the daemon's is shown like any other command's.

use std::{io::IsTerminal as _, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    output::{field, table},
    remote::Remote,
};

/// Clears the screen and goes to its top (ECMA-48, ED and CUP).
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";
/// How often `top` looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Shows who is busy: once, or for as long as there is a terminal to show it.
pub(super) fn top(remote: &mut Remote, limit: usize, once: bool) -> anyhow::Result<()> {
    let repeats = !once && std::io::stdout().is_terminal();
    let mut before: Option<Value> = None;
    loop {
        let response = remote.client.get(&format!("/v1/top?limit={limit}"));
        let now = remote.success(response)?;
        let rates = before.as_ref().map(|before| packet_rates(before, &now));
        let clear = if repeats { CLEAR } else { "" };
        let shown =
            remote.output.show(&now, |now| format!("{clear}{}", top_text(now, rates.as_ref())));
        shown?;
        if !repeats {
            return Ok(());
        }
        before = Some(now);
        std::thread::sleep(INTERVAL);
    }
}

/// Packets per second by reason, between two answers.
fn packet_rates(before: &Value, now: &Value) -> Map<String, Value> {
    let elapsed_ms = now["at_ms"].as_u64().unwrap_or(0) - before["at_ms"].as_u64().unwrap_or(0);
    let packets = now["packets"].as_object().cloned().unwrap_or_default();
    let rate = |(reason, counts): (String, Value)| {
        let count = |counts: &Value| counts["packets"].as_u64().unwrap_or(0);
        // Maps that were made anew begin at zero.
        let more = count(&counts).saturating_sub(count(&before["packets"][&reason]));
        let rate = more * 1_000 / elapsed_ms.max(1);
        (reason, json!(rate))
    };
    packets.into_iter().map(rate).collect()
}

fn top_text(top: &Value, rates: Option<&Map<String, Value>>) -> String {
    let sources = |name: &str, head| {
        let part = &top[name];
        let limit = part["limit"].as_u64();
        let rows = part["sources"].as_array().cloned().unwrap_or_default();
        let rows = rows.into_iter().map(|rate| {
            let is_over = limit.is_some_and(|limit| rate["count"].as_u64() > Some(limit));
            let over = if is_over { "over the limit" } else { "" };
            [field(&rate["source"]), field(&rate["count"]), field(&rate["excess"]), over.to_owned()]
        });
        let seconds = part["window_ms"].as_u64().unwrap_or(0) / 1_000;
        let limit = limit.map_or("not limited".to_owned(), |limit| format!("limit {limit}"));
        let rows: Vec<_> = rows.collect();
        let text = if rows.is_empty() {
            "none\n".to_owned()
        } else {
            table(["SOURCE", head, "BEYOND", ""], rows)
        };
        format!("{} in {seconds} s, {limit}\n{text}", head.to_lowercase())
    };
    let packets = top["packets"].as_object().cloned().unwrap_or_default();
    let packets =
        packets.into_iter().filter(|(_, counts)| counts["packets"] != 0).map(|(reason, counts)| {
            let rate = rates.and_then(|rates| rates.get(&reason)).map_or("-".to_owned(), field);
            [reason, field(&counts["packets"]), rate]
        });
    let packets = table(["REASON", "PACKETS", "PER SECOND"], packets);
    let alarms = top["alarms"].as_object().cloned().unwrap_or_default();
    let alarms: String = alarms
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|(name, count)| format!("{name}: {count}\n"))
        .collect();
    [
        packets,
        sources("attempts", "CONNECTION ATTEMPTS"),
        sources("handshakes", "HANDSHAKES"),
        alarms,
    ]
    .join("\n")
}

/// Shows dropped packets as they come, one line each, until `count` are shown.
pub(super) fn watch(remote: &mut Remote, every: u32, count: Option<u64>) -> anyhow::Result<()> {
    let (mut after, mut lost, mut shown) = (None::<u64>, None::<u64>, 0_u64);
    loop {
        let after_query = after.map_or_else(String::new, |after| format!("&after={after}"));
        let response = remote.client.get(&format!("/v1/watch?every={every}{after_query}"));
        let answer = remote.success(response)?;
        for sample in answer["samples"].as_array().map(Vec::as_slice).unwrap_or_default() {
            remote.output.show(sample, sample_text)?;
            shown += 1;
            if count.is_some_and(|count| shown >= count) {
                return Ok(());
            }
        }
        let now_lost = answer["lost"].as_u64().unwrap_or(0);
        if let Some(more) =
            lost.and_then(|lost| now_lost.checked_sub(lost)).filter(|more| *more > 0)
        {
            let line = json!({ "lost": more });
            remote.output.show(&line, |_| format!("({more} more came too quickly to be shown)"))?;
        }
        (after, lost) = (answer["next"].as_u64(), Some(now_lost));
    }
}

fn sample_text(sample: &Value) -> String {
    let to = match (sample["protocol"].as_u64(), &sample["port"]) {
        (Some(6), port) => format!("tcp/{port}"),
        (Some(17), port) => format!("udp/{port}"),
        _ => "-".to_owned(),
    };
    let [at, source, reason] = ["at", "source", "reason"].map(|name| field(&sample[name]));
    format!("{at}  {source:39}  {reason:20}  {to:10}  {} bytes", sample["bytes"])
}
