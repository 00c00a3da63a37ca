//! Tables, paths and the tricks that people play with them.

use proptest::{prelude::*, sample::select};

use super::*;

const LOGIN: Meaning = event(EventType::LOGIN);
const MESSAGE: Meaning = event(EventType::MESSAGE);
const UPLOAD: Meaning = event(EventType::FILE_UPLOAD);
const NOTHING: Meaning = Meaning { event: None, phase: None };

const fn event(kind: EventType) -> Meaning {
    Meaning { event: Some(kind), phase: None }
}

fn table(lines: &[(&str, &str, Meaning)]) -> RouteTable {
    RouteTable::new(lines.iter().copied()).expect("it is sound")
}

fn refused(lines: &[(&str, &str, Meaning)]) -> (Option<usize>, String) {
    let error = RouteTable::new(lines.iter().copied()).expect_err("it is not sound");
    (error.line(), error.to_string())
}

/// As LibreChat has them, in small.
fn chat() -> RouteTable {
    table(&[
        ("POST", "/api/auth/login", LOGIN),
        ("ANY", "/oauth/*", LOGIN),
        ("POST", "/api/agents/chat", MESSAGE),
        ("POST", "/api/agents/chat/:endpoint", MESSAGE),
        ("POST", "/api/agents/chat/abort", NOTHING),
        ("POST", "/api/files/*", UPLOAD),
        ("POST", "/api/files/speech/*", NOTHING),
        ("GET", "/api/agents/:id", UPLOAD),
    ])
}

fn found(method: &str, target: &[u8]) -> Vec<&'static str> {
    chat().find(method, target).events.into_iter().map(EventType::name).collect()
}

#[test]
fn a_request_is_what_the_most_specific_route_says() {
    let cases: [(&str, &str, &[&str]); 22] = [
        ("POST", "/api/auth/login", &["login"]),
        ("GET", "/api/auth/login", &[]),
        ("POST", "/api/auth", &[]),
        ("POST", "/api/auth/login/x", &[]),
        ("POST", "/api/agents/chat", &["message"]),
        ("POST", "/api/agents/chat/openAI", &["message"]),
        ("POST", "/api/agents/chat/abort", &[]),
        ("POST", "/api/agents/chat/aborts", &["message"]),
        ("POST", "/api/agents/chat/a/b", &[]),
        ("GET", "/api/agents/chat", &["file_upload"]),
        ("HEAD", "/api/agents/chat", &["file_upload"]),
        ("OPTIONS", "/api/agents/chat", &[]),
        ("GET", "/oauth", &["login"]),
        ("BREW", "/oauth/google/callback?code=1", &["login"]),
        ("GET", "/oauths", &[]),
        ("POST", "/api/files", &["file_upload"]),
        ("POST", "/api/files/images/avatar", &["file_upload"]),
        ("POST", "/api/files/speech", &[]),
        ("POST", "/api/files/speech/stt", &[]),
        ("GET", "/", &[]),
        ("OPTIONS", "*", &[]),
        ("GET", "", &[]),
    ];
    for (method, target, want) in cases {
        assert_eq!(found(method, target.as_bytes()), want, "{method} {target}");
    }
}

/// All of these reach the login of some server behind some nginx.
#[test]
fn no_spelling_of_a_path_slips_past_its_route() {
    let cases: [&[u8]; 35] = [
        b"/api/auth/login/",
        b"/api/auth/login//",
        b"/API/Auth/LOGIN",
        b"/api/auth/login?x=/../..",
        b"/api/auth/login?",
        b"/api/auth/login#x",
        b"//api/auth/login",
        b"/api//auth///login",
        b"/api/./auth/login",
        b"/./api/auth/login/.",
        b"/api/x/../auth/login",
        b"/api/auth/login/x/..",
        b"/../api/auth/login",
        b"/api/%2e/auth/login",
        b"/api/x/%2E%2e/auth/login",
        b"/api/x/.%2e/auth/login",
        b"/api/auth/%6cogin",
        b"/%61pi/auth/login",
        b"/api%2fauth%2Flogin",
        b"/api/auth/%256cogin",
        b"/api/auth%252flogin",
        b"/api/auth/login%3fx",
        b"/api/auth/login%23x",
        b"/api/auth/login%253fx",
        b"\\api\\auth\\login",
        b"/api\\auth/login",
        b"/api/auth\\login#",
        b"/api/x\\..\\auth/login",
        b"/api/auth%5clogin",
        b"/api/auth/login\xa0",
        b"/api/auth/login\t",
        b"/api/auth\\login\xa0",
        b"http://chat.example/api/auth/login",
        b"https://a@chat.example:443//api/auth/login?x",
        b"/api/%61uth//./login/%2e",
    ];
    for target in cases {
        assert_eq!(found("POST", target), ["login"], "{}", String::from_utf8_lossy(target));
    }
}

/// What Express takes for one segment is one, whatever it would be when decoded.
#[test]
fn a_place_that_is_left_open_takes_segments_as_they_are_written() {
    let cases: [&[u8]; 12] = [
        b"/api/agents/chat/a%2fb",
        b"/api/agents/chat/%2e%2e",
        b"/api/agents/chat/..",
        b"/api/agents/chat/.",
        b"/api/agents/chat/a\\b",
        b"/api/agents/chat/a%5c..%2f..",
        b"/api/agents/chat/%",
        b"/api/agents/chat/%zz",
        b"/api/agents/chat/\xff",
        b"/api/agents/chat/a%3fb",
        b"/api/agents/chat/..;x",
        b"/api/agents/chat/%00",
    ];
    for target in cases {
        assert!(found("POST", target).contains(&"message"), "{}", String::from_utf8_lossy(target));
    }
}

#[test]
fn a_path_that_can_be_read_as_two_things_is_both() {
    assert_eq!(found("POST", b"/api/files/../auth/login"), ["file_upload", "login"]);
    // Whoever hides behind a route that counts nothing counts.
    assert_eq!(found("POST", b"/api/files/speech/../../auth/login"), ["login"]);
    assert_eq!(found("POST", b"/api/agents/chat/%61bort"), ["message"]);
    assert_eq!(found("POST", b"/api/agents/chat/x/../abort"), [""; 0]);
}

#[test]
fn what_is_no_pattern_is_refused_by_its_line_and_name() {
    let cases = [
        ("", "/a", "\"\" is no method: ANY, or names such as POST with | between them"),
        ("post", "/a", "\"post\" is no method: ANY, or names such as POST with | between them"),
        (
            "GET|ANY",
            "/a",
            "\"GET|ANY\" is no method: ANY, or names such as POST with | between them",
        ),
        ("GET", "a", "\"a\" does not begin with a slash"),
        ("GET", "", "\"\" does not begin with a slash"),
        ("GET", "/a//b", "\"/a//b\" has an empty segment, or one of dots"),
        ("GET", "/a/../b", "\"/a/../b\" has an empty segment, or one of dots"),
        ("GET", "/a/*/b", "\"/a/*/b\" has a * that is not its whole last segment"),
        ("GET", "/a/b*", "\"/a/b*\" has a * that is not its whole last segment"),
        ("GET", "/a/:", "\"/a/:\" has a : without a name of letters, digits and _ behind it"),
        ("GET", "/a/b:c", "\"/a/b:c\" has a : without a name of letters, digits and _ behind it"),
        ("GET", "/a?b", "\"/a?b\" has '?' in it; paths are written decoded, without a query"),
        ("GET", "/a%20", "\"/a%20\" has '%' in it; paths are written decoded, without a query"),
        (
            "GET",
            "/\u{e9}",
            "\"/\u{e9}\" has '\u{e9}' in it; paths are written decoded, without a query",
        ),
    ];
    for (methods, path, want) in cases {
        let lines = [("GET", "/fine", LOGIN), (methods, path, LOGIN)];
        assert_eq!(refused(&lines), (Some(1), want.to_owned()), "{methods} {path}");
    }
    let long = format!("/{}", "x".repeat(512));
    let error = refused(&[("GET", &long, LOGIN)]);
    assert_eq!(error, (Some(0), "a path has at most 512 bytes".to_owned()));
    let many = vec![("GET", "/a", LOGIN); MAX_ROUTES + 1];
    assert_eq!(refused(&many), (None, "a table has at most 256 routes".to_owned()));
    assert_eq!(table(&many[1..]).len(), MAX_ROUTES);
}

#[test]
fn routes_that_contradict_each_other_are_refused_and_one_that_settles_it_is_enough() {
    let cases = [
        (("GET", "/a"), ("GET", "/a"), "GET /a"),
        (("GET", "/A/"), ("HEAD", "/a"), "GET /a"),
        (("GET", "/a/:b"), ("GET", "/a/:c"), "GET /a/:any"),
        (("GET", "/:a/b"), ("GET", "/a/:b"), "GET /a/b"),
        (("POST", "/a/*"), ("ANY", "/a/b"), "POST /a/b"),
        (("GET|POST", "/a"), ("POST|PUT", "/a"), "POST /a"),
        (("GET", "/a/*"), ("GET", "/:x/b"), "GET /a/b"),
        (("ANY", "/*"), ("ANY", "/*"), "ANY /*"),
    ];
    for (one, other, both) in cases {
        let lines = [(one.0, one.1, LOGIN), (other.0, other.1, MESSAGE)];
        let (line, text) = refused(&lines);
        assert_eq!(line, Some(1), "{text}");
        assert!(text.contains(&format!("both match {both}, and mean")), "{text}");
        // Of the same meaning there is no doubt.
        assert_eq!(table(&[lines[0], (other.0, other.1, LOGIN)]).len(), 2);
        let (methods, path) = both.split_once(' ').expect("two words");
        let settled = [lines[0], lines[1], (methods, &path.replace(":any", ":z"), UPLOAD)];
        // Unless they are the same requests: then nothing is more specific.
        let is_same = ["GET /a", "GET /a/:any", "ANY /*"].contains(&both);
        assert_eq!(RouteTable::new(settled).is_err(), is_same, "{both}");
    }
    let clear = [
        (("GET", "/a"), ("POST", "/a")),
        (("GET", "/a"), ("ANY", "/a")),
        (("GET", "/a/:b"), ("GET", "/a/b")),
        (("GET", "/a/*"), ("GET", "/a/:b")),
        (("GET", "/a/*"), ("GET", "/a")),
        (("GET", "/a/:b"), ("GET", "/a/:b/:c")),
        (("GET", "/*"), ("GET", "/a/*")),
    ];
    for (one, other) in clear {
        for lines in [[one, other], [other, one]] {
            let lines = lines.iter().zip([LOGIN, MESSAGE]);
            let lines: Vec<_> = lines.map(|((it, path), meaning)| (*it, *path, meaning)).collect();
            assert_eq!(table(&lines).len(), 2);
        }
    }
}

fn pattern() -> impl Strategy<Value = String> {
    let segment = select(vec!["a", "b", "login", ":x"]);
    (proptest::collection::vec(segment, 0..4), any::<bool>()).prop_map(|(mut segments, is_open)| {
        segments.extend(is_open.then_some("*"));
        format!("/{}", segments.join("/"))
    })
}

fn methods() -> impl Strategy<Value = &'static str> {
    select(vec!["ANY", "GET", "POST", "GET|POST", "HEAD|PUT"])
}

fn path() -> impl Strategy<Value = String> {
    let segment = select(vec!["a", "b", "login", "c"]);
    proptest::collection::vec(segment, 0..5).prop_map(|segments| format!("/{}", segments.join("/")))
}

/// One way of spelling a path so that nginx, or a server behind it, takes it for the same.
fn spelt(path: &str, tricks: &[u8]) -> Vec<u8> {
    let mut spelling = Vec::new();
    for (byte, trick) in path.bytes().zip(tricks.iter().cycle()) {
        match (trick % 8, byte) {
            (1, _) => spelling.extend(format!("%{byte:02x}").bytes()),
            (2, _) => spelling.extend(format!("%{byte:02X}").bytes()),
            (3, _) => spelling.push(byte.to_ascii_uppercase()),
            (4, b'/') => spelling.extend(b"//"),
            (5, b'/') => spelling.extend(b"/./"),
            (6, b'/') => spelling.extend(b"/x/%2e./"),
            (7, b'/') => spelling.extend(b"/%2E/"),
            _ => spelling.push(byte),
        }
    }
    if tricks.first().is_some_and(|it| it % 3 == 0) {
        spelling.extend(b"/?/../x");
    }
    // The first slash is one: nginx takes no request without.
    if spelling.first() != Some(&b'/') {
        spelling.insert(0, b'/');
    }
    spelling
}

proptest! {
    #[test]
    fn whatever_the_spelling_a_request_is_at_least_what_it_is(
        lines in proptest::collection::vec((methods(), pattern()), 1..6),
        path in path(),
        tricks in proptest::collection::vec(any::<u8>(), 1..12),
    ) {
        let meanings = [LOGIN, MESSAGE, UPLOAD, NOTHING];
        let lines = lines.iter().zip(meanings.into_iter().cycle());
        let lines: Vec<_> = lines.map(|((it, path), what)| (*it, path.as_str(), what)).collect();
        let Ok(table) = RouteTable::new(lines) else { return Ok(()) };
        let spelling = spelt(&path, &tricks);
        for kind in table.find("POST", path.as_bytes()).events {
            let found = table.find("POST", &spelling).events;
            prop_assert!(found.contains(&kind), "{}", String::from_utf8_lossy(&spelling));
        }
    }

    #[test]
    fn what_two_routes_have_in_common_is_what_both_match(
        one in (methods(), pattern()), other in (methods(), pattern()), path in path(),
    ) {
        let route = |(methods, path): &(&str, String)| Route {
            methods: Methods::parse(methods).expect("methods"),
            pattern: Pattern::parse(path).expect("a pattern"),
            meaning: LOGIN,
        };
        let (one, other) = (route(&one), route(&other));
        let overlap = one.overlap(&other);
        let segments: Vec<&[u8]> =
            path.split('/').filter(|it| !it.is_empty()).map(str::as_bytes).collect();
        for method in ["GET", "HEAD", "POST", "PUT", "BREW"] {
            let matches = |it: &Route| it.methods.contain(method) && it.pattern.matches(&segments);
            let both = matches(&one) && matches(&other);
            prop_assert_eq!(overlap.as_ref().is_some_and(matches), both);
            if one.is_within(&other) {
                prop_assert!(!matches(&one) || matches(&other));
            }
        }
    }

    #[test]
    fn the_order_of_a_table_that_is_taken_does_not_matter(
        lines in proptest::collection::vec((methods(), pattern()), 1..6), path in path(),
    ) {
        let meanings = [LOGIN, MESSAGE, UPLOAD, NOTHING];
        let lines = lines.iter().zip(meanings.into_iter().cycle());
        let mut lines: Vec<_> =
            lines.map(|((it, path), what)| (*it, path.as_str(), what)).collect();
        let Ok(table) = RouteTable::new(lines.iter().copied()) else { return Ok(()) };
        lines.reverse();
        let reversed = RouteTable::new(lines.iter().copied()).expect("the same lines");
        for method in ["GET", "POST", "PUT"] {
            let (one, other) = (table.find(method, path.as_bytes()), reversed.find(method, path.as_bytes()));
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn no_bytes_stop_the_search(target in proptest::collection::vec(any::<u8>(), 0..300)) {
        chat().find("POST", &target);
    }
}

/// LibreChat's, and one whose answers are generations.
fn streaming() -> RouteTable {
    let phase = |phase| Meaning { event: None, phase: Some(phase) };
    table(&[
        ("POST", "/chat", phase(Phase::Start)),
        ("POST", "/chat/:endpoint", phase(Phase::Start)),
        ("POST", "/chat/abort", phase(Phase::Abort)),
        ("GET", "/chat/stream/:id", phase(Phase::Stream)),
        ("POST", "/v1/chat", phase(Phase::Whole)),
    ])
}

#[test]
fn a_request_begins_carries_or_ends_a_generation_or_is_one() {
    let stream = |id: &str| StreamId::parse(id.as_bytes()).map(Follows::Stream);
    let long = "x".repeat(128);
    let cases = [
        ("POST", "/chat", Some(Takes::Start), None),
        ("POST", "/chat/openAI?x=1", Some(Takes::Start), None),
        ("GET", "/chat", None, None),
        ("POST", "/v1/chat", Some(Takes::Whole), None),
        ("POST", "/chat/abort", None, Some(Follows::Abort)),
        ("POST", "/chat/abort/", None, Some(Follows::Abort)),
        ("GET", "/chat/stream/a-B_9?resume=true", None, stream("a-B_9")),
        ("GET", "/chat/stream/a-B_9/", None, stream("a-B_9")),
        ("GET", &format!("/chat/stream/{long}"), None, stream(&long)),
        ("GET", &format!("/chat/stream/{long}x"), None, None),
        ("GET", "/chat/stream", None, None),
        ("GET", "/chat/stream/a.b", None, None),
        ("GET", "/chat/stream/a;b", None, None),
        // Under another spelling one stream would be two.
        ("GET", "/chat/stream/%61-B_9", None, None),
        ("GET", "//chat/stream/a-B_9", None, None),
        ("POST", "/chat/./abort", None, None),
        ("POST", "/chat/%61bort", Some(Takes::Start), None),
        // And a place is taken for whatever could begin one.
        ("POST", "/%63hat", Some(Takes::Start), None),
        ("POST", "/v1/../chat", Some(Takes::Start), None),
        ("POST", "/x/../v1/chat", Some(Takes::Whole), None),
    ];
    for (method, target, takes, follows) in cases {
        let found = streaming().find(method, target.as_bytes());
        assert_eq!((found.takes, found.follows), (takes, follows), "{method} {target}");
    }
}

#[test]
fn routes_that_only_differ_in_what_they_do_with_generations_overlap() {
    let phase = |phase| Meaning { phase, ..MESSAGE };
    let lines =
        [("POST", "/:any/chat", phase(Some(Phase::Start))), ("POST", "/api/:any", phase(None))];
    let (line, problem) = refused(&lines);
    assert_eq!(line, Some(1), "{problem}");
    assert!(problem.contains("both match POST /api/chat"), "{problem}");
}

#[test]
fn a_route_that_carries_streams_says_which() {
    let stream = Meaning { event: None, phase: Some(Phase::Stream) };
    for path in ["/chat/stream", "/chat/:id/stream", "/chat/stream/*", "/chat/:id/*", "/"] {
        let (line, problem) = refused(&[("GET", path, stream)]);
        assert_eq!(line, Some(0), "{path}: {problem}");
        assert!(problem.contains("last segment"), "{problem}");
    }
}

#[test]
fn a_table_that_only_begins_generations_says_so() {
    let phase = |phase| Meaning { event: None, phase: Some(phase) };
    let start = ("POST", "/chat", phase(Phase::Start));
    let cases = [
        (table(&[start]), true, true),
        (table(&[start, ("POST", "/abort", phase(Phase::Abort))]), true, true),
        (table(&[start, ("GET", "/:id", phase(Phase::Stream))]), true, false),
        (table(&[("POST", "/chat", phase(Phase::Whole))]), true, false),
        (chat(), false, false),
    ];
    for (table, knows, only_begins) in cases {
        assert_eq!((table.knows_generations(), table.only_begins()), (knows, only_begins));
    }
}
