//! The section `redis`: whether limits are counted together, and if not, why; what this
//! host may do there, and whether the server is set up for it.

use super::{Context, Finding, Grade};
use crate::{
    clock,
    config::Redis as Settings,
    moderator::SharingStatus,
    sharing::{Failure, Fault},
    store::redis::{Eviction, Examined},
};

/// By more than this clocks are not meant to differ: scores that several hosts count fade
/// by the clocks of those who add to them.
const SKEW_MS: u64 = 5_000;

pub(super) async fn findings(context: &Context) -> Vec<Finding> {
    let settings = &context.config.redis;
    let Some(redis) = context.redis.as_ref().filter(|_| settings.enabled) else {
        return vec![Finding::ok("configuration", "limits are not shared (redis.enabled)")];
    };
    let asked = clock::now().unix_ms;
    let mut findings: Vec<_> = context.moderator.sharing().iter().map(counting).collect();
    let nodes = redis.examine().await;
    let many = nodes.len() > 1;
    for (number, node) in (1..).zip(nodes) {
        let of = if many { format!("node {number}: ") } else { String::new() };
        let found = match node {
            Ok(node) => examined(&node, settings, asked),
            Err(failure) => vec![failed("connection", &failure)],
        };
        findings
            .extend(found.into_iter().map(|it| Finding { text: format!("{of}{}", it.text), ..it }));
    }
    findings
}

fn counting(status: &SharingStatus) -> Finding {
    let owed = status.owed;
    match status.fault.and_then(Fault::from_name) {
        _ if status.shared => Finding::ok("counting", "together with other hosts"),
        None => {
            let advice = "ask again in a moment";
            Finding::wrong("counting", Grade::Warning, "not reached yet", advice)
        }
        Some(fault) => {
            let text = format!("on this host alone: {}; {owed} acts are owed", fault.name());
            Finding::wrong("counting", Grade::Problem, text, advice(fault))
        }
    }
}

fn failed(check: &'static str, failure: &Failure) -> Finding {
    Finding::wrong(check, Grade::Problem, failure.to_string(), advice(failure.fault))
}

const fn advice(fault: Fault) -> &'static str {
    match fault {
        Fault::Slow => {
            "look at the load of Redis and of the network (SLOWLOG, redis-cli --latency), or set \
             redis.bound to more than an answer takes"
        }
        Fault::Gone => {
            "start redis-server, or correct the host in redis.uri (or REDIS_URI); a firewall may \
             be in between"
        }
        Fault::Refused => {
            "correct the user and the password (the credentials redis-uri and redis-password), \
             and the user's rights, see docs/counting.md"
        }
        Fault::Busy => "end the script that runs there (SCRIPT KILL)",
        Fault::Full => "give Redis more memory (maxmemory)",
        Fault::ReadOnly => "name the master, not a replica; if it is one, look at its disk",
        Fault::NotReady => {
            "wait until it has loaded its data; of a cluster, see that it is whole (CLUSTER INFO) \
             and that redis.cluster is true"
        }
        Fault::Script => "look at the log of moderationd; Redis 6.2 or later is needed",
        Fault::Nonsense => "see that redis.uri names a Redis",
    }
}

fn examined(node: &Examined, settings: &Settings, asked_unix_ms: u64) -> Vec<Finding> {
    let version = node.version.as_deref().unwrap_or("(it does not say which version)");
    let mut findings = vec![
        Finding::ok("connection", format!("redis-server {version}")),
        rights(node, &settings.prefix),
        eviction(node.eviction.as_ref()),
        clock_skew(node.server_unix_ms, asked_unix_ms),
    ];
    findings.extend(cluster(node, settings.is_cluster));
    if node.is_replica == Some(true) {
        let text = "it is a replica, and takes no writes";
        findings.push(Finding::wrong("role", Grade::Problem, text, advice(Fault::ReadOnly)));
    }
    findings
}

fn rights(node: &Examined, prefix: &str) -> Finding {
    if node.denied.is_empty() {
        return Finding::ok("rights", "all commands, keys and channels that are used");
    }
    let denied: Vec<_> = node.denied.iter().map(|right| format!("+{right}")).collect();
    let text = format!("not permitted: {}", node.denied.join(", "));
    let advice = format!("ACL SETUSER USER ~{prefix}:* &{prefix}:* {}", denied.join(" "));
    Finding::wrong("rights", Grade::Problem, text, advice)
}

fn eviction(eviction: Option<&Eviction>) -> Finding {
    match eviction {
        None => {
            let text = "what happens when its memory is full cannot be read";
            let advice = "see that maxmemory-policy is noeviction, or permit info (+info)";
            Finding::wrong("eviction", Grade::Warning, text, advice)
        }
        Some(Eviction { policy, .. }) if policy == "noeviction" => Finding::ok("eviction", policy),
        Some(Eviction { policy, is_bounded: Some(false) }) => {
            Finding::ok("eviction", format!("{policy}, without a bound (maxmemory)"))
        }
        Some(Eviction { policy, .. }) => {
            let text = format!("{policy}: when its memory is full, counts and leases vanish");
            let advice = "set maxmemory-policy to noeviction: a Redis that is full is left alone \
                          until it is not";
            Finding::wrong("eviction", Grade::Problem, text, advice)
        }
    }
}

fn clock_skew(server_unix_ms: Option<u64>, asked_unix_ms: u64) -> Finding {
    let Some(server) = server_unix_ms else {
        return Finding::ok("clock", "it does not tell its time");
    };
    let now = clock::now().unix_ms;
    // Its answer is from some moment in between.
    let skew_ms = server.saturating_sub(now).max(asked_unix_ms.saturating_sub(server));
    let text = format!("at most {skew_ms} ms apart");
    if skew_ms > SKEW_MS {
        let advice = "synchronize the clocks (chrony, systemd-timesyncd)";
        return Finding::wrong("clock", Grade::Warning, text, advice);
    }
    Finding::ok("clock", text)
}

fn cluster(node: &Examined, is_configured: bool) -> Option<Finding> {
    match (is_configured, node.is_node?, node.is_whole) {
        (false, false, _) => None,
        (false, true, _) => {
            let advice = "set redis.cluster to true";
            let text = "it is a node of a cluster";
            Some(Finding::wrong("cluster", Grade::Problem, text, advice))
        }
        (true, false, _) => {
            let advice = "set redis.cluster to false, and name one server";
            let text = "it is no node of a cluster";
            Some(Finding::wrong("cluster", Grade::Problem, text, advice))
        }
        (true, true, Some(true)) => Some(Finding::ok("cluster", "whole")),
        (true, true, Some(false)) => {
            let text = "not all slots are served";
            Some(Finding::wrong("cluster", Grade::Problem, text, advice(Fault::NotReady)))
        }
        (true, true, None) => {
            let text = "whether it is whole cannot be read";
            let advice = "permit cluster (+cluster|info)";
            Some(Finding::wrong("cluster", Grade::Warning, text, advice))
        }
    }
}
