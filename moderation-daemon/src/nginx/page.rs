//! The page that a denied person sees: a template, the operator's or the built-in one,
//! with the facts put into its places. Pure but for reading the template once. It runs no
//! script and knows no language: words are the template's.

use std::path::Path;

use anyhow::Context as _;

use super::denial::Denial;

const BUILT_IN: &str = include_str!("page.html");

/// Longer templates are none.
const MAX_BYTES: usize = 256 * 1_024;

/// What can be put in.
const PLACES: [&str; 8] =
    ["kind", "status", "message", "reason", "until", "wait", "code", "contest"];

/// A template, cut at its places.
#[derive(Clone, Debug)]
pub(super) struct Page {
    /// Text, and the place behind it.
    parts: Vec<(String, Option<&'static str>)>,
    contest: String,
}

impl Page {
    /// The operator's, or the built-in one.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, is too long, or has a place that does not exist.
    pub(super) fn load(path: Option<&Path>, contest: &str) -> anyhow::Result<Self> {
        let Some(path) = path else { return Self::of(BUILT_IN, contest) };
        let told = || format!("cannot use the page {} (nginx.page)", path.display());
        let text = std::fs::read_to_string(path).with_context(told)?;
        Self::of(&text, contest).with_context(told)
    }

    fn of(template: &str, contest: &str) -> anyhow::Result<Self> {
        anyhow::ensure!(template.len() <= MAX_BYTES, "it has more than {MAX_BYTES} bytes");
        let (mut parts, mut rest) = (Vec::new(), template);
        while let Some((text, behind)) = rest.split_once("{{") {
            let (name, behind) = behind.split_once("}}").context("a {{ without }}")?;
            let place = PLACES.into_iter().find(|place| *place == name.trim());
            let places = PLACES.join(", ");
            let place =
                place.with_context(|| format!("{{{{{name}}}}} is none of its places: {places}"))?;
            parts.push((text.to_owned(), Some(place)));
            rest = behind;
        }
        parts.push((rest.to_owned(), None));
        Ok(Self { parts, contest: contest.to_owned() })
    }

    /// The page for one denial.
    pub(super) fn render(&self, denial: &Denial) -> String {
        let mut page = String::new();
        for (text, place) in &self.parts {
            page.push_str(text);
            if let Some(place) = place {
                escape(&self.value(place, denial), &mut page);
            }
        }
        page
    }

    fn value(&self, place: &str, denial: &Denial) -> String {
        match place {
            "kind" => kind(denial).to_owned(),
            "status" => denial.status.to_string(),
            "message" => denial.message.clone(),
            "reason" => denial.reason.clone().unwrap_or_default(),
            "until" => denial.until.as_deref().map(minute).unwrap_or_default(),
            "wait" => denial.retry_after.map(waiting).unwrap_or_default(),
            "code" => denial.code.clone(),
            _ => self.contest.clone(),
        }
    }
}

/// By which a template shows and hides its parts.
fn kind(denial: &Denial) -> &'static str {
    match (denial.r#type.as_str(), &denial.until) {
        ("ban", Some(_)) => "banned",
        ("ban", None) => "banned-for-good",
        _ if denial.retry_after.is_some() => "limited",
        _ => "refused",
    }
}

/// `2026-11-22T03:10:00Z` as people read it, to the minute, which is up by then.
fn minute(rfc3339: &str) -> String {
    match rfc3339.get(..16).map(|text| text.replacen('T', " ", 1)) {
        Some(text) if rfc3339.ends_with('Z') => format!("{text} UTC"),
        _ => rfc3339.to_owned(),
    }
}

/// Seconds as people say them; units are understood in most languages.
fn waiting(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds.div_ceil(60)),
        7_200..172_800 => format!("{} h", seconds.div_ceil(3_600)),
        _ => format!("{} d", seconds.div_ceil(86_400)),
    }
}

fn escape(text: &str, page: &mut String) {
    for character in text.chars() {
        match character {
            '&' => page.push_str("&amp;"),
            '<' => page.push_str("&lt;"),
            '>' => page.push_str("&gt;"),
            '"' => page.push_str("&quot;"),
            '\'' => page.push_str("&#39;"),
            other => page.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ban() -> Denial {
        Denial {
            r#type: "ban".to_owned(),
            until: Some("2026-11-22T03:10:59Z".to_owned()),
            retry_after: Some(7_201),
            reason: Some("<script>alert('x')</script>&".to_owned()),
            ..Denial::forbidden("#42")
        }
    }

    #[test]
    fn the_built_in_page_has_every_place_and_no_script() {
        let page = Page::load(None, "Write to <us>").expect("it is sound");
        for place in PLACES {
            assert!(page.parts.iter().any(|(_, it)| *it == Some(place)), "{place}");
        }
        let text = page.render(&ban());
        for want in
            ["#42", "2026-11-22 03:10 UTC", "3 h", "Write to &lt;us&gt;", "class=\"banned\""]
        {
            assert!(text.contains(want), "{want} in {text}");
        }
        assert!(text.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;"), "{text}");
        assert!(!text.contains("<script") && !text.contains("{{"), "{text}");
        assert!(text.contains("name=\"viewport\""));
    }

    #[test]
    fn a_template_of_one_s_own_is_filled_in_and_a_strange_place_is_refused() {
        let page =
            Page::of("{{ code }}|{{until}}|{{reason}}|{{wait}}|{{kind}}", "").expect("sound");
        assert_eq!(page.render(&Denial::forbidden("abc")), "abc||||refused");
        assert_eq!(page.render(&Denial::overloaded("abc")), "abc|||1 s|limited");
        for (template, want) in
            [("{{name}}", "{{name}} is none of its places"), ("a{{code", "a {{ without }}")]
        {
            let error = Page::of(template, "").expect_err("refused").to_string();
            assert!(error.contains(want), "{error}");
        }
        assert!(Page::of(&"x".repeat(MAX_BYTES + 1), "").is_err());
        let missing = Page::load(Some(Path::new("/nonexistent/page.html")), "").expect_err("gone");
        assert!(format!("{missing:#}").contains("/nonexistent/page.html (nginx.page)"));
    }

    #[test]
    fn times_are_told_in_the_unit_that_people_would_take() {
        let cases = [
            (1, "1 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7_199, "120 min"),
            (7_200, "2 h"),
            (172_800, "2 d"),
        ];
        for (seconds, want) in cases {
            assert_eq!(waiting(seconds), want);
        }
    }
}
