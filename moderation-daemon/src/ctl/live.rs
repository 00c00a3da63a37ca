//! `top --once` and `watch`: what goes on now, as lines. The live view is in `top`.

use serde_json::{Value, json};

use super::{
    output::{field, table},
    remote::Remote,
};

/// Shows once who is busy.
pub(super) fn top(remote: &mut Remote, limit: usize) -> anyhow::Result<()> {
    let response = remote.client.get(&format!("/v1/top?limit={limit}"));
    let now = remote.success(response)?;
    Ok(remote.output.show(&now, top_text)?)
}

fn top_text(top: &Value) -> String {
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
    let packets = packets
        .into_iter()
        .filter(|(_, counts)| counts["packets"] != 0)
        .map(|(reason, counts)| [reason, field(&counts["packets"])]);
    let packets = table(["REASON", "PACKETS"], packets);
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
