//! The page of who is denied, as Chromium shows it on a phone and on a desk, with scripts
//! turned off. To make the picture for the docs anew:
//! `sudo MODERATION_SCREENSHOT=$PWD/docs/denied.png cargo xtask test somebody_banned`.

use std::fs;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use moderation_tests::chromium::{self, Browser, Screen, Tab};
use moderation_tests::front::Setup;
use moderation_tests::lab::{CLIENT_V4, HOST_V4, Pair};
use moderation_tests::need;
use serde_json::{Value, json};

use crate::{Host, host};

const PHONE: Screen = Screen { width: 390, height: 844, is_phone: true };
const DESK: Screen = Screen { width: 1_280, height: 800, is_phone: false };

/// What a long word must not do is to make the page wider than the screen.
const REASON: &str =
    "Spam, see https://chat.example/rules/of/this/house/that/nobody/reads/until/they/must?all=1";

/// Smaller text is hard to read on a phone; 16 is what browsers take for text.
const LEAST_FONT_PX: f64 = 13.0;
const LEAST_TEXT_PX: f64 = 16.0;

/// What is seen: the text, which leaves out what is hidden, and the sizes.
const SEEN: &str = "({
    text: document.body.innerText,
    title: document.title,
    language: document.documentElement.lang,
    scrolled: document.documentElement.scrollWidth,
    width: innerWidth,
    body: parseFloat(getComputedStyle(document.body).fontSize),
    least: Math.min(...[...document.body.querySelectorAll('*')]
        .filter(it => it.innerText && it.checkVisibility())
        .map(it => parseFloat(getComputedStyle(it).fontSize))),
    scripts: document.scripts.length,
    loaded: performance.getEntriesByType('resource').map(it => it.name),
})";

fn url() -> String {
    format!("http://{HOST_V4}/c/new")
}

fn number(seen: &Value, key: &str) -> Result<f64> {
    seen[key].as_f64().with_context(|| format!("{key} in {seen}"))
}

/// What the page looks like, checked for what holds of every page.
fn look(tab: &mut Tab<'_>, screen: Screen) -> Result<String> {
    let seen = tab.evaluate(SEEN)?;
    let width = f64::from(screen.width);
    ensure!(number(&seen, "width")? <= width, "laid out for another screen: {seen}");
    ensure!(number(&seen, "scrolled")? <= width, "one has to scroll sideways: {seen}");
    ensure!(number(&seen, "body")? >= LEAST_TEXT_PX, "too small: {seen}");
    ensure!(number(&seen, "least")? >= LEAST_FONT_PX, "too small: {seen}");
    ensure!(seen["scripts"] == 0 && seen["loaded"] == json!([]), "it needs more: {seen}");
    ensure!(seen["language"] == "en" || seen["language"] == "de", "{seen}");
    ensure!(seen["title"].as_str().is_some_and(|it| !it.is_empty()), "{seen}");
    Ok(seen["text"].as_str().context("a text")?.to_owned())
}

/// Bans the visitor; returns the ban's number, and its end as people read it.
fn ban(host: &mut Host, reason: &str) -> Result<(u64, String)> {
    let ban = json!({ "ip": CLIENT_V4, "reason": reason, "duration": "2h" });
    let ban = host.operator.ban(&ban)?;
    let until = ban["expires_at"].as_str().and_then(|it| it.get(..16)).context("an end")?;
    Ok((ban["id"].as_u64().context("a number")?, until.replacen('T', " ", 1) + " UTC"))
}

#[test]
fn somebody_banned_can_read_why_until_when_and_what_to_do_on_any_screen() -> Result<()> {
    if !chromium::is_there() {
        return Ok(());
    }
    let Some(mut host) = host(Value::Null, Setup::default())? else { return Ok(()) };
    let (number, until) = ban(&mut host, REASON)?;
    let mut browser = Browser::start(&host.pair.client)?;
    for screen in [DESK, PHONE] {
        let mut tab = browser.open(&url(), screen)?;
        let text = look(&mut tab, screen)?;
        let code = format!("#{number}");
        let wanted = ["You are banned for now", "Reason", REASON, "Until", &until, "Code", &code];
        for want in wanted.iter().chain(&["write to whoever runs this site, and quote the code"]) {
            assert!(text.contains(want), "{want} in {text}");
        }
        // What is for other denials is hidden, which takes no script either.
        for other in ["a little fast", "not allowed", "Try again in"] {
            assert!(!text.contains(other), "{other} in {text}");
        }
        let picture = STANDARD.decode(tab.screenshot()?)?;
        assert!(picture.starts_with(b"\x89PNG"));
        if let Some(path) = std::env::var_os("MODERATION_SCREENSHOT") {
            fs::write(path, picture)?;
        }
    }
    Ok(())
}

#[test]
fn somebody_too_fast_can_read_when_to_try_again() -> Result<()> {
    if !chromium::is_there() {
        return Ok(());
    }
    let limits = json!({ "message_ip": { "max": 1, "window": "10m" } });
    let routes = json!([{ "method": "GET", "path": "/c/new", "counts": "message" }]);
    let overrides = json!({ "limits": limits, "nginx": { "routes": routes, "outcomes": [] } });
    let Some(host) = host(overrides, Setup::default())? else { return Ok(()) };
    let mut browser = Browser::start(&host.pair.client)?;
    let first = browser.open(&url(), PHONE)?.evaluate("document.body.innerText")?;
    assert_eq!(first, moderation_tests::front::APP);
    let text = look(&mut browser.open(&url(), PHONE)?, PHONE)?;
    assert!(text.contains("That was a little fast") && text.contains("10 min"), "{text}");
    assert!(text.contains("status 429") && !text.contains("banned"), "{text}");
    Ok(())
}

#[test]
fn the_operator_s_own_text_is_shown_in_its_language() -> Result<()> {
    if !chromium::is_there() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("page.html");
    let built_in = include_str!("../../../moderation-daemon/src/nginx/page.html");
    let german = [
        ("lang=\"en\"", "lang=\"de\""),
        ("You are banned for now", "Du bist vorübergehend gesperrt"),
        ("<p>{{message}}</p>", ""),
        ("Reason", "Grund"),
        ("Until", "Bis"),
    ];
    let mut template = built_in.to_owned();
    for (english, text) in german {
        assert!(template.contains(english), "{english}");
        template = template.replace(english, text);
    }
    fs::write(&path, template)?;
    let overrides =
        json!({ "nginx": { "page": path, "contest": "Schreib uns: hilfe@chat.example" } });
    let Some(mut host) = host(overrides, Setup::default())? else { return Ok(()) };
    let (number, until) = ban(&mut host, "Störung")?;
    let mut browser = Browser::start(&host.pair.client)?;
    let text = look(&mut browser.open(&url(), PHONE)?, PHONE)?;
    let code = format!("#{number}");
    for want in ["Du bist vorübergehend gesperrt", "Störung", &until, &code, "hilfe@chat.example"]
    {
        assert!(text.contains(want), "{want} in {text}");
    }
    assert!(!text.contains("banned") && !text.contains("whoever runs this site"), "{text}");
    Ok(())
}

#[test]
fn a_page_that_is_hard_to_read_is_noticed() -> Result<()> {
    if !chromium::is_there() || !need::root() {
        return Ok(());
    }
    const HEAD: &str = "<html lang='en'><title>x</title>\
        <meta name='viewport' content='width=device-width'>";
    let cases = [
        (PHONE, HEAD.to_owned() + "<p>x", None),
        (PHONE, "<html lang='en'><title>x</title><p>x".to_owned(), Some("another screen")),
        // There the browser zooms out instead.
        (PHONE, HEAD.to_owned() + "<pre style='width:600px'>x", Some("another screen")),
        (DESK, HEAD.to_owned() + "<pre style='width:1600px'>x", Some("sideways")),
        (PHONE, HEAD.to_owned() + "<body style='font-size:12px'><p>x", Some("too small")),
        (PHONE, HEAD.to_owned() + "<p>x <small style='font-size:9px'>y</small>", Some("too small")),
        (PHONE, HEAD.to_owned() + "<p>x<script>document.title=''</script>", Some("needs more")),
    ];
    let pair = Pair::new()?;
    let mut browser = Browser::start(&pair.client)?;
    for (screen, page, want) in cases {
        let looked = look(&mut browser.open(&format!("data:text/html,{page}"), screen)?, screen);
        match want {
            None => assert_eq!(looked?, "x"),
            Some(want) => {
                let error = looked.expect_err(&page).to_string();
                assert!(error.contains(want), "{page}: {error}");
            }
        }
    }
    Ok(())
}
