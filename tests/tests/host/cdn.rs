//! Behind a CDN: the ready-made ranges, for nginx and for the daemon.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use moderation_daemon::config::Config;
use moderation_daemon::engine::{Prefix, PrefixSet, Trust};
use moderation_tests::front::{Setup, project};
use moderation_tests::lab::CLIENT_V4;
use serde_json::{Value, json};

use crate::{PERSON, SCRIPT, ask, host, is_apps};

const CDNS: [(&str, &str); 3] = [
    ("cloudflare", "CF-Connecting-IP"),
    ("fastly", "Fastly-Client-IP"),
    ("cloudfront", "X-Forwarded-For"),
];

/// The ranges that nginx believes, and all of the file.
fn of_nginx(cdn: &str) -> Result<(Vec<IpNet>, String)> {
    let text = fs::read_to_string(project().join(format!("nginx/real-ip/{cdn}.conf")))?;
    let ranges = text.lines().filter_map(|line| line.strip_prefix("set_real_ip_from "));
    let parsed = ranges.map(|it| Ok(it.trim_end_matches(';').parse()?)).collect::<Result<_>>();
    Ok((parsed?, text))
}

#[test]
fn nginx_and_the_daemon_have_the_same_ranges_of_a_cdn() -> Result<()> {
    let folder = fs::read_dir(project().join("nginx/real-ip"))?;
    ensure!(folder.count() == CDNS.len(), "a file that is not looked at");
    for (cdn, header) in CDNS {
        let (ranges, text) = of_nginx(cdn)?;
        let yaml = fs::read_to_string(project().join(format!("config/proxies/{cdn}.yaml")))?;
        let proxies = Config::parse(&yaml).with_context(|| cdn.to_owned())?.network.proxies;
        assert_eq!(proxies, ranges, "{cdn}");
        assert_eq!(ranges.iter().collect::<BTreeSet<_>>().len(), ranges.len(), "{cdn}: twice");
        for range in &ranges {
            assert_eq!(range.trunc(), *range, "{cdn}");
            // A zero too few, and half the Internet could say that it is anybody.
            let least = if range.addr().is_ipv4() { 12 } else { 24 };
            assert!(range.prefix_len() >= least, "{cdn}: {range}");
        }
        assert!(text.contains(&format!("real_ip_header {header};")), "{cdn}");
        for head in [&text, &yaml] {
            assert!(head.contains("Ranges: https://") && head.contains("2026-"), "{cdn}");
        }
    }
    Ok(())
}

#[test]
fn the_kernel_drops_nobody_s_packets_of_a_cdn() -> Result<()> {
    for (cdn, _) in CDNS {
        let yaml = fs::read_to_string(project().join(format!("config/proxies/{cdn}.yaml")))?;
        let network = Config::parse(&yaml)?.network;
        let guards = network.guards.iter().map(|it| (*it, Trust::Guard));
        let proxies = network.proxies.iter().map(|it| (*it, Trust::Proxy));
        let trusted: PrefixSet = guards.chain(proxies).collect();
        for range in &network.proxies {
            let edge = IpNet::from(range.broadcast()).to_string().parse::<Prefix>()?;
            assert!(!trusted.lets_drop(edge), "{cdn}: {edge}");
            assert_eq!(trusted.forbidding(edge), None, "{cdn}: bans on {edge} hold elsewhere");
        }
    }
    Ok(())
}

#[test]
fn behind_a_cdn_the_client_is_banned_and_only_the_cdn_is_believed() -> Result<()> {
    for (cdn, header) in CDNS {
        // A documentation address stands in for the CDN, beside the ranges as they are.
        let file = project().join(format!("nginx/real-ip/{cdn}.conf"));
        let http = format!("include {};\nset_real_ip_from {CLIENT_V4};", file.display());
        let setup = Setup { http: &http, ..Setup::default() };
        let Some(mut host) = host(Value::Null, setup)? else { return Ok(()) };
        host.pair.client.configure(&["address add 192.0.2.3/24 dev eth0"])?;
        let stranger: std::net::Ipv4Addr = "192.0.2.3".parse()?;
        // Whoever adds to a list adds behind what the client made up.
        let made_up = if header == "X-Forwarded-For" { "203.0.113.77, " } else { "" };
        let from = |what: &str, client: &str| format!("{what}{header}: {made_up}{client}\r\n");

        assert_eq!(ask(&host.pair, CLIENT_V4, &from(SCRIPT, "203.0.113.9"))?.0, 403, "{cdn}");
        assert_eq!(ask(&host.pair, CLIENT_V4, &from(PERSON, "203.0.113.9"))?.0, 403, "{cdn}");
        let other = ask(&host.pair, CLIENT_V4, &from(PERSON, "203.0.113.10"))?;
        assert!(is_apps(&other), "{cdn}: {other:?}");

        // Whoever is not the CDN is whoever they are.
        let forged = ask(&host.pair, stranger, &from(PERSON, "203.0.113.9"))?;
        assert!(is_apps(&forged), "{cdn}: {forged:?}");
        assert_eq!(ask(&host.pair, stranger, &from(SCRIPT, "203.0.113.10"))?.0, 403, "{cdn}");
        let bans = host.operator.bans("all=true")?;
        let addresses: Vec<_> = bans.iter().map(|it| &it["address"]).collect();
        assert_eq!(addresses, [&json!("203.0.113.9"), &json!("192.0.2.3")], "{cdn}");
    }
    Ok(())
}
