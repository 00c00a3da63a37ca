//! Whether a `User-Agent` names a browser, as LibreChat asks it: agreeing with
//! `ua-parser-js` 1.0.37, which tests/tests/librechat compares. It does not tell
//! which browser, and it is a courtesy: whoever pretends to be one passes.

use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

/// What is longer is cut, in UTF-16 units.
const LONGEST: usize = 500;

/// Which bytes may stand in a place.
type Class = fn(u8) -> bool;

/// Names, in lower case, and what must follow them.
struct Mark {
    /// What must stand before a name.
    after: Before,
    names: &'static [&'static str],
    then: &'static [Piece],
}

#[derive(Clone, Copy)]
enum Before {
    Anything,
    /// The beginning of a word.
    Edge,
    /// Five of the letters of Tizen and Nokia, and perhaps a space.
    TizenOrNokia,
}

/// What follows a name. Nothing that may come next is of a class that is taken
/// as often as it is there, so that no piece ever needs a second try.
enum Piece {
    Text(&'static str),
    /// At least and at most so many, and as many as there are.
    Times(usize, usize, Class),
    /// At least one and at most so many, and as few as end at the edge of a word.
    ToEdge(usize, Class),
    /// The end of the whole text.
    End,
}

/// Marks in this order in one line; each but the first after at least so many
/// other characters.
type Phrase = &'static [(usize, Mark)];

const fn mark(names: &'static [&'static str], then: &'static [Piece]) -> Mark {
    Mark { after: Before::Anything, names, then }
}

const fn word(names: &'static [&'static str], then: &'static [Piece]) -> Mark {
    Mark { after: Before::Edge, names, then }
}

const fn one(class: Class) -> Piece {
    Piece::Times(1, 1, class)
}

const fn perhaps(class: Class) -> Piece {
    Piece::Times(0, 1, class)
}

const fn any(class: Class) -> Piece {
    Piece::Times(0, usize::MAX, class)
}

const fn many(class: Class) -> Piece {
    Piece::Times(1, usize::MAX, class)
}

const NOTHING: &[Piece] = &[];
const A_VERSION: &[Piece] = &[one(is_version)];
const A_DASHED_VERSION: &[Piece] = &[one(is_dashed_version)];
const A_NUMBER: &[Piece] = &[one(is_number)];
const PERHAPS_APART_A_VERSION: &[Piece] = &[perhaps(is_separator), one(is_version)];

/// Each of these alone makes a browser.
static MARKS: &[Mark] = &[
    mark(&["avant", "iemobile", "slim"], NOTHING),
    mark(&["blazer", "jasmine", "lunascape", "maxthon", "netfront"], NOTHING),
    mark(&["lbbrowser", "swiftfox", "[linkedinapp]", "panasonic;viera"], NOTHING),
    mark(&["headlesschrome ", "tesla qtcarbrowser"], NOTHING),
    mark(&["360browser", "qhbrowser", "qhobrowser", "qhoobrowser"], NOTHING),
    mark(&["qihbrowser", "qihobrowser", "qihoobrowser"], NOTHING),
    word(&["qihu"], NOTHING),
    // The engines and the great families.
    mark(&["chrome/", "firefox/", "khtml/", "webkit/"], A_VERSION),
    mark(&["edg/", "edga/", "edge/", "edgios/", "msie ", "(ie "], A_VERSION),
    word(&["crios/", "crmo/", "focus/", "opr/", "opt/"], A_VERSION),
    mark(&["fxios/", "navigator/", "netscape/"], A_DASHED_VERSION),
    mark(&["netscape"], &[one(is_digit), Piece::Text("/"), one(is_dashed_version)]),
    mark(&["opera"], &[many(is_separator), one(is_version)]),
    mark(&["opios"], &[many(is_separator), one(is_version)]),
    // Makers' own.
    mark(&["huaweibrowser/", "miuibrowser/", "oculusbrowser/", "sailfishbrowser/"], A_VERSION),
    mark(&["samsungbrowser/", "slbrowser/", "vivobrowser/"], A_VERSION),
    mark(&["yabrowser/", "yasearchbrowser/", "dolfin/", "kindle/"], A_VERSION),
    mark(&["heytapbrowser/", "ovibrowser/", "weibo__"], A_NUMBER),
    mark(&["arora/", "avast/", "avg/", "coast/", "cobalt/", "comodo_dragon/"], A_VERSION),
    mark(&["konqueror/", "omniweb/", "links ("], A_VERSION),
    mark(&["bolt/", "bowser/", "brave/", "duckduckgo/", "epiphany/"], A_DASHED_VERSION),
    mark(&["falkon/", "flock/", "iridium/", "iron/", "midori/"], A_DASHED_VERSION),
    mark(&["phantomjs/", "puffin/", "qq/", "qqbrowserlite/", "quark/"], A_DASHED_VERSION),
    mark(&["qupzilla/", "rekonq/", "rockmelt/", "silk/", "skyfire/"], A_DASHED_VERSION),
    mark(&["vivaldi/"], A_DASHED_VERSION),
    mark(&["chromium/", "chromium "], A_DASHED_VERSION),
    mark(&["2345explorer", "qqbrowser"], PERHAPS_APART_A_VERSION),
    word(&["u browser", "ubrowser", "uc browser", "ucbrowser"], PERHAPS_APART_A_VERSION),
    mark(&["metasr"], &[perhaps(is_separator), one(is_number)]),
    mark(&["sogoumo"], &[many(is_word), Piece::Text("/"), one(is_number)]),
    mark(&["coc_coc"], &[many(is_word), Piece::Text("/"), one(is_version)]),
    word(&["b"], &[any(is_a_or_i), Piece::Text("duhd"), perhaps(is_separator), one(is_version)]),
    word(
        &["b"],
        &[
            any(is_a_or_i),
            Piece::Text("d"),
            any(is_u_or_b),
            Piece::Times(5, 5, is_of_baidu),
            perhaps(is_separator),
            one(is_version),
        ],
    ),
    Mark { after: Before::TizenOrNokia, names: &["browser/"], then: A_VERSION },
    mark(&["tesla/20"], &[Piece::Times(2, 2, is_digit), Piece::Text("."), one(is_dashed_version)]),
    // Gecko's relatives, and those before and beside all of these.
    mark(&["camino", "chimera", "conkeror", "fennec", "icedragon", "iceweasel"], LATER_GECKO),
    mark(&["klar", "maemo browser", "minimo"], LATER_GECKO),
    mark(&["basilisk/", "firebird/", "iceape/", "icecat/", "k-meleon/"], EARLIER_GECKO),
    mark(&["palemoon/", "phoenix/", "seamonkey/", "waterfox/"], EARLIER_GECKO),
    mark(&["amaya", "dillo", "doris", "icab", "lynx", "mosaic", "netsurf", "obigo"], OTHERS),
    mark(&["polaris", "sleipnir", "w3m", "gobrowser", "go browser", "go.browser"], OTHERS),
    mark(&["icebrowser", "ice browser", "ice.browser"], OTHERS),
    mark(&["upbrowser", "up browser", "up.browser"], OTHERS),
    // Apps that show pages.
    mark(&["alipayclient/", "klarna/", "micromessenger/", "musical_ly_"], A_VERSION),
    mark(&["kakaostory/", "kakaostory ", "kakaotalk/", "kakaotalk "], A_VERSION),
    mark(&["instagram/", "instagram ", "snapchat/", "snapchat "], A_DASHED_VERSION),
    mark(&["electron/"], &[many(is_version), Piece::Text(" safari")]),
    mark(&["safari line/"], A_VERSION),
    word(&["line/"], &[many(is_version), Piece::Text("/iab")]),
    mark(&[";fbav/"], &[many(is_version), Piece::Text(";")]),
];

const LATER_GECKO: &[Piece] = &[perhaps(is_separator), one(is_added_version)];
const EARLIER_GECKO: &[Piece] = &[many(is_dashed_version), Piece::End];
const OTHERS: &[Piece] = &[perhaps(is_separator_or_dash), one(is_version)];

/// Each of these makes a browser unless the word behind it comes later, after at
/// least one other character.
static MARKS_UNLESS: &[(Mark, &str)] = &[
    (mark(&["whale"], &[Piece::Text("/"), one(is_dashed_version)]), "naver"),
    (mark(&["fban/fbios", "fb_iab/fb4a"], NOTHING), "fbav"),
];

/// Each of these makes a browser.
const PHRASES: &[Phrase] = &[
    &[
        (0, mark(&["version/"], &[many(is_listed_version), Piece::Text(" ")])),
        (0, mark(&["safari"], NOTHING)),
    ],
    &[(0, mark(&["webkit"], NOTHING)), (1, mark(&["safari/"], A_VERSION))],
    &[
        (0, mark(&["droid"], NOTHING)),
        (1, mark(&[" version/"], &[Piece::ToEdge(usize::MAX, is_version)])),
        (1, mark(&["safari"], NOTHING)),
    ],
    &[
        (0, word(&["gsa/"], &[many(is_version), Piece::Text(" ")])),
        (0, mark(&["safari/"], NOTHING)),
    ],
    &[
        (0, mark(&["mozilla/"], &[many(is_version), Piece::Text(" ")])),
        (1, mark(&["rv:"], NOTHING)),
        (1, mark(&["gecko/"], &[one(is_digit)])),
    ],
    &[
        (0, mark(&["mobile vr; rv:"], &[many(is_version), Piece::Text(")")])),
        (1, mark(&["firefox"], NOTHING)),
    ],
    &[
        (0, mark(&["trident"], NOTHING)),
        (1, mark(&["rv:", "rv "], &[Piece::ToEdge(9, is_version)])),
        (1, mark(&["like gecko"], NOTHING)),
    ],
    &[(0, mark(&["opera"], NOTHING)), (1, mark(&["version/"], A_VERSION))],
    &[(0, mark(&["juc"], NOTHING)), (1, mark(&["ucweb"], PERHAPS_APART_A_VERSION))],
    &[(0, mark(&["microm"], NOTHING)), (1, word(&["qbcore/"], A_VERSION))],
    &[(0, word(&["qbcore/"], A_VERSION)), (1, mark(&["microm"], NOTHING))],
    &[(0, mark(&["ekiohf"], NOTHING)), (1, mark(&["flow/"], A_VERSION))],
    &[(0, mark(&["musical_ly"], NOTHING)), (1, mark(&["app_version/", "appversion/"], A_VERSION))],
    &[
        (0, mark(&["naver("], NOTHING)),
        (
            0,
            mark(
                &["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
                &[Piece::Text("."), one(is_version)],
            ),
        ),
        (0, mark(&[")"], NOTHING)),
    ],
];

/// What the name of a mark, wherever it is found, leads to.
#[derive(Clone, Copy)]
enum Lead {
    Alone(&'static Mark),
    Unless(&'static Mark, &'static str),
    /// The phrase of that index, whose first mark it is.
    Phrase(usize, &'static Mark),
}

/// All names, to be found in one pass.
struct Names {
    finder: AhoCorasick,
    /// What each pattern of the finder is, and what it leads to.
    leads: Vec<(&'static str, Lead)>,
}

static NAMES: LazyLock<Names> = LazyLock::new(|| {
    let alone = MARKS.iter().map(|mark| (mark, Lead::Alone(mark)));
    let unless = MARKS_UNLESS.iter().map(|(mark, word)| (mark, Lead::Unless(mark, word)));
    let phrases = PHRASES.iter().enumerate();
    let first = phrases.map(|(index, phrase)| (&phrase[0].1, Lead::Phrase(index, &phrase[0].1)));
    let marks = alone.chain(unless).chain(first);
    let leads: Vec<(&str, Lead)> =
        marks.flat_map(|(mark, lead)| mark.names.iter().map(move |name| (*name, lead))).collect();
    let finder = AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .build(leads.iter().map(|(name, _)| name))
        .expect("the names are few");
    Names { finder, leads }
});

/// Whether `user_agent` looks like a browser's.
pub fn is_browser(user_agent: &str) -> bool {
    let text = cut(user_agent);
    let mut lines = text.split(ends_line).peekable();
    while let Some(line) = lines.next() {
        let line = Line { bytes: line.as_bytes(), is_last: lines.peek().is_none() };
        if line.is_browser() {
            return true;
        }
    }
    false
}

/// The part of it that is looked at.
fn cut(user_agent: &str) -> &str {
    // A byte is at most one unit.
    if user_agent.len() <= LONGEST || user_agent.encode_utf16().nth(LONGEST).is_none() {
        return user_agent;
    }
    let text = user_agent.trim_start_matches(is_space_in_script);
    let mut units = 0;
    let end = text.char_indices().find_map(|(at, character)| {
        let is_over = units >= LONGEST;
        // One that is cut in two still stands there, as something that is no letter.
        units += character.len_utf16();
        is_over.then_some(at)
    });
    end.map_or(text, |end| &text[..end])
}

/// What ECMAScript takes for white space.
fn is_space_in_script(character: char) -> bool {
    (character.is_whitespace() && character != '\u{85}') || character == '\u{feff}'
}

/// What no gap between two marks reaches across.
fn ends_line(character: char) -> bool {
    matches!(character, '\n' | '\r' | '\u{2028}' | '\u{2029}')
}

struct Line<'a> {
    bytes: &'a [u8],
    is_last: bool,
}

impl Line<'_> {
    fn is_browser(&self) -> bool {
        // Where the first mark of a phrase ends first, which leaves the most to the rest.
        let mut begun = [None; PHRASES.len()];
        let is_marked = NAMES.finder.find_overlapping_iter(self.bytes).any(|found| {
            let (name, lead) = NAMES.leads[found.pattern()];
            let end = |mark| self.name_end(mark, name, found.start());
            match lead {
                Lead::Alone(mark) => end(mark).is_some(),
                Lead::Unless(mark, word) => {
                    end(mark).is_some() && !self.has_later(word, found.end())
                }
                Lead::Phrase(index, mark) => {
                    begun[index] = begun[index].or_else(|| end(mark));
                    false
                }
            }
        });
        let mut phrases = PHRASES.iter().zip(begun);
        is_marked
            || phrases
                .any(|(phrase, begun)| begun.is_some_and(|end| self.has_rest(&phrase[1..], end)))
    }

    /// Whether these marks follow, each the first that leaves its gap.
    fn has_rest(&self, marks: Phrase, end: usize) -> bool {
        let mut end = end;
        marks.iter().all(|(gap, mark)| {
            let found = (end + gap..self.bytes.len()).find_map(|at| self.mark_end(mark, at));
            end = found.unwrap_or(end);
            found.is_some()
        })
    }

    /// Whether `word` comes after `end` and at least one other character.
    fn has_later(&self, word: &str, end: usize) -> bool {
        let rest = self.bytes.get(end + 1..).unwrap_or_default();
        rest.windows(word.len()).any(|part| is_same(part, word))
    }

    fn mark_end(&self, mark: &Mark, at: usize) -> Option<usize> {
        mark.names.iter().find_map(|name| self.name_end(mark, name, at))
    }

    /// Where the mark ends whose name begins at `at`.
    fn name_end(&self, mark: &Mark, name: &str, at: usize) -> Option<usize> {
        let end = self.text_end(name, at).filter(|_| self.stands_after(mark.after, at))?;
        mark.then.iter().try_fold(end, |end, piece| self.piece_end(piece, end))
    }

    fn stands_after(&self, before: Before, at: usize) -> bool {
        let text = &self.bytes[..at];
        match before {
            Before::Anything => true,
            Before::Edge => text.last().is_none_or(|byte| !is_word(*byte)),
            Before::TizenOrNokia => {
                let text = text.strip_suffix(b" ").unwrap_or(text);
                text.len() >= 5 && text[text.len() - 5..].iter().all(|b| is_of_tizen_and_nokia(*b))
            }
        }
    }

    fn piece_end(&self, piece: &Piece, at: usize) -> Option<usize> {
        let rest = &self.bytes[at..];
        match piece {
            Piece::Text(text) => self.text_end(text, at),
            Piece::Times(least, most, class) => {
                let count = rest.iter().take(*most).take_while(|byte| class(**byte)).count();
                (count >= *least).then_some(at + count)
            }
            Piece::ToEdge(most, class) => {
                let count = rest.iter().take(*most).take_while(|byte| class(**byte)).count();
                (at + 1..=at + count).find(|end| self.is_edge(*end))
            }
            Piece::End => (rest.is_empty() && self.is_last).then_some(at),
        }
    }

    fn text_end(&self, text: &str, at: usize) -> Option<usize> {
        let end = at + text.len();
        self.bytes.get(at..end).filter(|part| is_same(part, text)).map(|_| end)
    }

    /// Whether a word begins or ends between this byte and the one before it.
    fn is_edge(&self, at: usize) -> bool {
        is_word(self.bytes[at - 1]) != self.bytes.get(at).is_some_and(|byte| is_word(*byte))
    }
}

fn is_same(part: &[u8], text: &str) -> bool {
    part.eq_ignore_ascii_case(text.as_bytes())
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

fn is_number(byte: u8) -> bool {
    is_digit(byte) || byte == b'.'
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn is_version(byte: u8) -> bool {
    is_word(byte) || byte == b'.'
}

fn is_dashed_version(byte: u8) -> bool {
    is_version(byte) || byte == b'-'
}

fn is_added_version(byte: u8) -> bool {
    is_version(byte) || byte == b'+'
}

/// Safari's, which was once a list.
fn is_listed_version(byte: u8) -> bool {
    is_version(byte) || b"(),|".contains(&byte)
}

fn is_space(byte: u8) -> bool {
    byte == b' '
}

fn is_separator(byte: u8) -> bool {
    byte == b'/' || is_space(byte)
}

fn is_separator_or_dash(byte: u8) -> bool {
    is_separator(byte) || byte == b'-'
}

fn is_a_or_i(byte: u8) -> bool {
    b"ai".contains(&byte.to_ascii_lowercase())
}

fn is_u_or_b(byte: u8) -> bool {
    b"ub".contains(&byte.to_ascii_lowercase())
}

fn is_of_baidu(byte: u8) -> bool {
    b"aekoprswx".contains(&byte.to_ascii_lowercase())
}

fn is_of_tizen_and_nokia(byte: u8) -> bool {
    b"aeiknotz".contains(&byte.to_ascii_lowercase())
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
        let web_view = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) \
                        AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148";
        let trident = "Mozilla/5.0 (Windows NT 10.0; Trident/7.0; rv:11.0) like Gecko";
        let cases = [
            (chrome, true),
            (firefox, true),
            (safari, true),
            (web_view, true),
            (trident, true),
            ("foo Chrome/1", true),
            ("HeadlessChrome/100", true),
            ("chrome/", false),
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
