//! Names of browsers at their edges: what just makes one, and what just does not.
//! tests/tests/librechat compares the same with the library itself.

use super::super::is_browser;

#[track_caller]
fn assert_each(cases: &[(&str, bool)]) {
    for (user_agent, want) in cases {
        assert_eq!(is_browser(user_agent), *want, "{user_agent:?}");
    }
}

#[test]
fn a_name_needs_what_follows_it_and_nothing_else_will_do() {
    assert_each(&[
        ("Chrome/.", true),
        ("Chrome/_", true),
        ("Chrome/-", false),
        ("Chrome/ 1", false),
        ("Silk/-", true),
        ("Silk/+", false),
        ("Silk/ 1", false),
        ("HeyTapBrowser/4", true),
        ("HeyTapBrowser/.", true),
        ("HeyTapBrowser/x", false),
        ("Netscape6/6", true),
        ("NetscapeX/6", false),
        ("Fennec/+", true),
        ("Fennec+", true),
        ("Fennec-", false),
        ("Opera 9", true),
        ("Opera / 9", true),
        ("Opera-9", false),
        ("Opera9", false),
        ("Lynx-2", true),
        ("Lynx/2", true),
        ("Lynx2", true),
        ("Lynx+2", false),
        ("SogouMobileBrowser/5", true),
        ("SogouMo/5", false),
        ("SogouMobile-Browser/5", false),
        ("Electron/1.2 Safari", true),
        ("Electron/1.2-Safari", false),
    ]);
}

#[test]
fn a_name_that_must_be_a_word_is_none_within_another_one() {
    assert_each(&[
        ("OPR/1", true),
        ("(OPR/1", true),
        ("xOPR/1", false),
        ("_OPR/1", false),
        ("7OPR/1", false),
    ]);
}

#[test]
fn baidu_s_and_tizen_s_and_nokia_s_browsers_are_known_by_their_letters() {
    assert_each(&[
        ("BaiduHD 5", true),
        ("BDUHD5", true),
        ("BeiduHD 5", false),
        ("BIDUBrowser 1", true),
        ("baidubrowser/1", true),
        ("bidu12345 1", false),
        ("Tizen Browser/1", true),
        ("NokiaBrowser/1", true),
        ("an App for Tizen Browser/1", true),
        ("xizen Browser/1", false),
        ("abcde Browser/1", false),
        ("Zen Browser/1", false),
        ("Browser/1", false),
    ]);
}

#[test]
fn what_ends_a_text_does_so_at_its_very_end() {
    assert_each(&[
        ("PaleMoon/1-2", true),
        ("PaleMoon/1 x", false),
        ("PaleMoon/1\nx", false),
        ("x\nPaleMoon/1", true),
        ("PaleMoon/", false),
    ]);
}

#[test]
fn the_words_of_a_phrase_come_in_their_order_and_apart() {
    assert_each(&[
        ("AppleWebKit", false),
        ("AppleWebKit Safari/1", true),
        ("AppleWebKitSafari/1", false),
        ("AppleWebKit Safari/", false),
        ("Version/1 Safari", true),
        ("Version/(1,2|3) Safari", true),
        ("Version/-1 Safari", false),
        ("Safari Version/1 x", false),
        ("Android x Version/4.0-Safari", true),
        ("Android x Version/1Safari", false),
        ("Trident; rv:123456789 like Gecko", true),
        ("Trident; rv:1234567890 like Gecko", false),
        ("Trident; rv:. like Gecko", false),
    ]);
}

#[test]
fn no_phrase_goes_beyond_its_line() {
    for end in ['\n', '\r', '\u{2028}', '\u{2029}'] {
        assert_each(&[(&format!("AppleWebKit{end}x Safari/1"), false)]);
        assert_each(&[(&format!("x{end}AppleWebKit Safari/1"), true)]);
    }
    assert_each(&[("AppleWebKit\u{85}x Safari/1", true), ("AppleWebKit\tSafari/1", true)]);
}

#[test]
fn a_word_that_comes_later_takes_the_name_back() {
    assert_each(&[
        ("Whale/1", true),
        ("Whale/1 naver", false),
        ("Whale/1 nave", true),
        ("naver Whale/1", true),
        ("Whale naver", false),
        ("FBAN/FBIOS", true),
        ("FBAN/FBIOSFBAV", true),
        ("FBAN/FBIOS;FBAV", false),
    ]);
}

#[test]
fn of_a_long_text_the_first_500_units_are_looked_at_without_leading_space() {
    let cases = [
        (format!("Chrome/1{}", "x".repeat(600)), true),
        (format!("{}Chrome/1", "-".repeat(492)), true),
        (format!("{}Chrome/1{}", "-".repeat(492), "-".repeat(9)), true),
        (format!("{}Chrome/1{}", "-".repeat(493), "-".repeat(9)), false),
        // A unit is no byte: é is two bytes and one unit, 🦀 four and two.
        (format!("{}Chrome/1", "é".repeat(492)), true),
        (format!("{}Chrome/1", "é".repeat(493)), false),
        (format!("{}Chrome/1", "🦀".repeat(246)), true),
        (format!("{}Chrome/1", "🦀".repeat(247)), false),
        (format!("{}Chrome/1", " ".repeat(600)), true),
        (format!("{}Chrome/1{}", "\u{feff}".repeat(200), "-".repeat(600)), true),
        (format!("\u{feff}\t {}Chrome/1{}", "-".repeat(492), "-".repeat(9)), true),
        (format!("\u{85}{}Chrome/1{}", "-".repeat(492), "-".repeat(9)), false),
    ];
    for (user_agent, want) in &cases {
        assert_eq!(is_browser(user_agent), *want, "{user_agent:?}");
    }
}
