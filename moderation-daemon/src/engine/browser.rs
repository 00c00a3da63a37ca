//! Whether a `User-Agent` names a browser. It is a courtesy test, as
//! LibreChat's is: it catches scripts that do not even pretend.

/// Product tokens that browsers of people carry (`ua-parser-js` knows many
/// more; these are the families behind them). Compared without regard to case.
const BROWSERS: [&str; 17] = [
    "chrome/",
    "chromium/",
    "crios/",
    "firefox/",
    "fxios/",
    "edg/",
    "edga/",
    "edgios/",
    "edge/",
    "opr/",
    "opera",
    "samsungbrowser/",
    "ucbrowser/",
    "yabrowser/",
    "vivaldi/",
    "msie ",
    "trident/",
];

/// Safari is the one browser that names itself only beside its version;
/// `CFNetwork` clients and WebKit shells say neither or one.
const SAFARI: [&str; 2] = ["version/", "safari/"];

/// Whether `user_agent` looks like a browser's.
pub(super) fn is_browser(user_agent: &str) -> bool {
    let user_agent = user_agent.to_ascii_lowercase();
    BROWSERS.iter().any(|token| user_agent.contains(token))
        || SAFARI.iter().all(|token| user_agent.contains(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_pass_and_scripts_that_do_not_pretend_do_not() {
        let chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                      Chrome/120.0.0.0 Safari/537.36";
        let firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:121.0) Gecko/20100101 Firefox/121.0";
        let safari = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 \
                      (KHTML, like Gecko) Version/17.2 Mobile/15E148 Safari/604.1";
        let cases = [
            (chrome, true),
            (firefox, true),
            (safari, true),
            ("foo Chrome/1", true),
            ("HeadlessChrome/100", true),
            ("curl/8.5.0", false),
            ("okhttp/4.12.0", false),
            ("python-requests/2.31", false),
            ("Dart/3.2 (dart:io)", false),
            ("LibreChat/1 CFNetwork/1490.0.4 Darwin/23.2.0", false),
            ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", false),
            ("Mozilla/5.0", false),
            ("", false),
        ];
        for (user_agent, want) in cases {
            assert_eq!(is_browser(user_agent), want, "{user_agent}");
        }
    }
}
