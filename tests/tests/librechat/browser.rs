//! Which user agents are browsers: ua-parser-js and ours, on real ones, on real ones
//! with something changed, and on scraps of its own words.

use anyhow::{Result, ensure};
use moderation_daemon::engine::is_browser;
use moderation_tests::random::Random;
use serde_json::json;

use crate::harness::Harness;

const COUNT: usize = 20_000;
/// Asked at once.
const SLICE: usize = 1_000;
const SEED: u64 = 1_037;

/// One of each family, and what is none.
const KNOWN: [&str; 30] = [
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
    "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/20G75 [FBAN/FBIOS;FBAV/428.0.0.26.108;FBBV/500000]",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 16_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) GSA/280.3.577393357 Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (Linux; U; Android 4.0.3; en-us; LG-L160L) AppleWebkit/534.30 (KHTML, like Gecko) Version/4.0 Mobile Safari/534.30",
    "Mozilla/5.0 (Linux; Android 13; SM-S908B; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/119.0 Mobile Safari/537.36 musical_ly_2023 app_version/31.1.1",
    "Mozilla/5.0 (Windows NT 10.0; WOW64; Trident/7.0; rv:11.0) like Gecko",
    "Mozilla/4.0 (compatible; MSIE 8.0; Windows NT 6.1; Trident/4.0)",
    "Mozilla/5.0 (X11; Linux i686; rv:1.7.3) Gecko/20040913",
    "Mozilla/5.0 (Android 7.1; Mobile VR; rv:65.0) Gecko/65.0 Firefox/65.0",
    "Mozilla/5.0 (X11; U; Linux i686; en-US; rv:1.9) Gecko/2008 SeaMonkey/2.0a1",
    "Opera/9.80 (Windows NT 6.1) Presto/2.12.388 Version/12.18",
    "Opera/9.80 (J2ME/MIDP; Opera Mini/5.1) Presto/2.8.119 Version/11.10",
    "JUC (Linux; U; 2.3.5; zh-cn; MEIZU MX; 640*960) UCWEB8.5.1.179/145/33232",
    "Mozilla/5.0 (Windows NT 6.1) AppleWebKit/537.36 Chrome/53 Safari/537 QBCore/3.53 MicroMessenger/6.5",
    "Mozilla/5.0 (Windows; EkiohFlow) EkiohFlow/5.9 Flow/5.9",
    "Mozilla/5.0 (Linux; Android 10) NAVER(inapp; search; 1000; 11.8.3) Whale/1.0",
    "baiduboxapp/12.0 bdbrowser_i18n/4.6 BIDUBrowser/8.7",
    "Tizen Browser/2.2 NokiaBrowser/7.3 Tesla/2020.16.2.1 Links (2.1; Linux)",
    "curl/8.5.0",
    "okhttp/4.12.0",
    "python-requests/2.31",
    "Dart/3.2 (dart:io)",
    "LibreChat/1 CFNetwork/1490.0.4 Darwin/23.2.0",
    "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
    "Mozilla/5.0",
    "PostmanRuntime/7.36.0",
    "",
];

/// What stands between words, and what makes parsers stumble.
const SCRAPS: [&str; 40] = [
    "/", "/", "/", "/", " ", " ", " ", "-", ".", "_", ":", ";", "(", ")", ",", "|", "+", "[", "]",
    "1", "7", "20", "2019.", "9.0", "v1", "x", "a", "d", "\n", "\r", "\u{2028}", "\u{a0}", "é",
    "ſ", "\u{212a}", "😀", "//", "  ", "browser", "version/",
];

#[test]
fn the_same_user_agents_are_browsers_as_for_ua_parser_js() -> Result<()> {
    let Some(mut harness) = Harness::start()? else {
        return Ok(());
    };
    let words: Vec<String> = harness.ask(&json!({ "ask": "words" }))?;
    ensure!(words.iter().any(|word| word == "firefox"), "no words: {words:?}");
    let mut random = Random::new(SEED);
    let mut texts: Vec<String> = KNOWN.iter().map(ToString::to_string).collect();
    texts.extend((texts.len()..COUNT).map(|_| made_up(&mut random, &words)));
    let mut browsers = 0;
    for slice in texts.chunks(SLICE) {
        let names: Vec<Option<String>> =
            harness.ask(&json!({ "ask": "browsers", "texts": slice }))?;
        ensure!(names.len() == slice.len(), "one answer each");
        for (text, name) in slice.iter().zip(names) {
            assert_eq!(is_browser(text), name.is_some(), "{name:?} for them: {text:?}");
            browsers += usize::from(name.is_some());
        }
    }
    println!("{COUNT} user agents agree, {browsers} of them browsers");
    // Otherwise the comparison says little.
    ensure!((COUNT / 5..COUNT * 4 / 5).contains(&browsers), "{browsers} of {COUNT}");
    Ok(())
}

fn made_up(random: &mut Random, words: &[String]) -> String {
    let mut text = if random.below(2) == 0 {
        let mut text = random.pick(&KNOWN).to_owned();
        for _ in 0..=random.below(3) {
            change(random, &mut text, words);
        }
        text
    } else {
        (0..=random.below(7)).map(|_| piece(random, words)).collect()
    };
    if random.below(4) == 0 {
        text = other_case(random, &text);
    }
    match random.below(20) {
        0 => random.pick(&[" ", "\u{feff}", "\t", "\u{85}"]).repeat(random.index(600)) + &text,
        1 => random.pick(&["y", "é", "😀"]).repeat(300 + random.index(210)) + &text,
        _ => text,
    }
}

fn piece(random: &mut Random, words: &[String]) -> String {
    if random.below(2) == 0 { random.pick(words) } else { random.pick(&SCRAPS).to_owned() }
}

/// Puts something in, takes something out, or ends it early.
fn change(random: &mut Random, text: &mut String, words: &[String]) {
    let starts: Vec<usize> = text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
    let from = random.index(starts.len());
    let to = (from + random.index(8)).min(starts.len() - 1);
    match random.below(4) {
        0 => text.insert_str(starts[from], &piece(random, words)),
        1 => text.replace_range(starts[from]..starts[to], ""),
        2 => text.replace_range(starts[from]..starts[to], &piece(random, words)),
        _ => text.truncate(starts[from]),
    }
}

fn other_case(random: &mut Random, text: &str) -> String {
    let flip = |character: char| match random.below(2) {
        0 => character.to_ascii_uppercase(),
        _ => character.to_ascii_lowercase(),
    };
    text.chars().map(flip).collect()
}
