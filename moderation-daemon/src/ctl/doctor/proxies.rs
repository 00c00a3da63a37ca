//! Whether a CDN stands in front of this host that the configuration does not know: then
//! everybody has a few addresses of the CDN's, and limits and bans hit all of them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;

use super::finding::{Finding, Grade};
use crate::config::Config;

/// The CDNs whose ranges we have, with the files that are shipped.
const KNOWN: [(&str, &str); 3] = [
    ("cloudflare", include_str!("../../../../config/proxies/cloudflare.yaml")),
    ("cloudfront", include_str!("../../../../config/proxies/cloudfront.yaml")),
    ("fastly", include_str!("../../../../config/proxies/fastly.yaml")),
];

/// By what `/v1/top` tells about who connects.
pub(super) fn finding(config: &Config, top: Option<&Value>) -> Finding {
    let check = "proxies";
    let Some(top) = top else {
        return Finding::note(check, "who connects only the daemon can tell");
    };
    let sources = |part: &str| {
        let sources = top[part]["sources"].as_array().cloned().unwrap_or_default();
        sources.into_iter().filter_map(|one| one["source"].as_str()?.parse::<IpAddr>().ok())
    };
    let found: Vec<_> = sources("handshakes").chain(sources("attempts")).collect();
    let is_known = |ip: &IpAddr| config.network.proxies.iter().any(|net| net.contains(ip));
    let unknown: Vec<_> = found.iter().filter(|ip| !is_known(ip)).collect();
    let of = |name: &str, text: &str| {
        let ranges = ranges(text);
        let inside = unknown.iter().filter(|ip| ranges.iter().any(|net| net.contains(**ip)));
        (inside.count(), name.to_owned())
    };
    let most = KNOWN.iter().map(|(name, text)| of(name, text)).max().unwrap_or_default();
    match most {
        (0, _) => Finding::ok(check, format!("none of {} sources is a known CDN's", found.len())),
        (count, name) => {
            let text = format!(
                "{count} of {} sources that connect are {name}'s, and network.proxies does not \
                 have them: limits and bans hit everybody behind it",
                found.len()
            );
            let advice = format!(
                "put config/proxies/{name}.yaml into the configuration, and nginx/real-ip/{name}.conf \
                 into nginx's"
            );
            Finding::wrong(check, Grade::Warning, text, advice)
        }
    }
}

/// The ranges of a file, which is configuration.
fn ranges(text: &str) -> Vec<IpNet> {
    Config::parse(text).expect("what we ship is right").network.proxies
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cdn_that_the_configuration_does_not_know_is_noticed() {
        let top = |ip: &str| json!({ "handshakes": { "sources": [{ "source": ip }] } });
        let config = |text: &str| Config::parse(text).expect("a configuration");
        let plain = config("");
        let found = finding(&plain, Some(&top("104.16.0.1")));
        assert_eq!(found.grade, Grade::Warning);
        assert!(found.text.contains("cloudflare"), "{found:?}");
        assert_eq!(finding(&plain, Some(&top("192.0.2.1"))).grade, Grade::Ok);
        assert_eq!(finding(&plain, None).grade, Grade::Note);
        let knowing = config("network: { proxies: [104.16.0.0/13] }");
        assert_eq!(finding(&knowing, Some(&top("104.16.0.1"))).grade, Grade::Ok);
    }

    #[test]
    fn every_file_that_is_shipped_has_ranges() {
        for (name, text) in KNOWN {
            assert!(ranges(text).len() > 5, "{name}");
        }
    }
}
