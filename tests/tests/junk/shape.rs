//! The shapes of junk: each makes another request of its kind every time. They
//! are sent elsewhere.

use moderation_tests::random::Random;
use moderation_tests::wire::request;
use serde_json::{Map, Value, json};

/// What to send, and whether to go away without waiting for what comes back.
pub(crate) struct Shape {
    pub(crate) bytes: Vec<u8>,
    pub(crate) hangs_up: bool,
}

/// Makes one.
type Maker = fn(&mut Random) -> Shape;

/// Each with its name.
pub(crate) const SHAPES: [(&str, Maker); 17] = [
    ("random JSON", |random| waits(json_request(random))),
    ("JSON of another shape", |random| waits(misshapen(random))),
    ("almost right", |random| waits(mutated(random))),
    ("half a request", |random| waits(half(random))),
    ("half a request and gone", |random| Shape { bytes: half(random), hangs_up: true }),
    ("a request and gone", |random| Shape { bytes: json_request(random), hangs_up: true }),
    ("nothing at all", |_| Shape { bytes: Vec::new(), hangs_up: true }),
    ("random bytes", |random| waits(random_bytes(random))),
    ("NUL bytes", |random| waits(vec![0; random.index(4_096)])),
    ("a huge header", |random| waits(huge_header(random))),
    ("many headers", |random| waits(many_headers(random))),
    ("a huge body", |random| waits(huge_body(random))),
    ("a wrong length", |random| waits(wrong_length(random))),
    ("odd chunks", |random| waits(chunks(random))),
    ("a line that is none", |random| waits(odd_line(random))),
    ("lines of junk", |random| waits(lines(random))),
    ("a pipeline of garbage", |random| waits(pipeline(random))),
];

const fn waits(bytes: Vec<u8>) -> Shape {
    Shape { bytes, hangs_up: false }
}

const PATHS: [&str; 13] = [
    "/v1/events",
    "/v1/events/batch",
    "/v1/violations",
    "/v1/leases",
    "/v1/leases/1",
    "/v1/bans",
    "/v1/bans?all=true&limit=1000000000000",
    "/v1/check?ip=%00&user=%ff%fe",
    "/v1/allowlist?prefix=0.0.0.0/0",
    "/v1/status",
    "/metrics",
    "/healthz/../../etc/passwd",
    "/",
];
const METHODS: [&str; 7] = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"];
const FIELDS: [&str; 10] = [
    "type",
    "user",
    "ip",
    "user_agent",
    "id",
    "score",
    "duration",
    "reason",
    "prefix",
    "__proto__",
];

fn path(random: &mut Random) -> &'static str {
    random.pick(&PATHS)
}

/// Never an address of an honest client, never one that could be allowed or
/// banned by accident.
fn value(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth == 0 { 7 } else { 9 }) {
        0 => Value::Null,
        1 => json!(random.below(2) == 0),
        2 => json!(random.bits()),
        3 => json!(f64::from_bits(random.bits())),
        4 => json!(String::from_utf8_lossy(&random.bytes(8))),
        5 => json!("\u{0}\u{202e}\u{1f4a9}".repeat(random.index(20))),
        6 => json!("junk"),
        7 => (0..random.index(4)).map(|_| value(random, depth - 1)).collect(),
        _ => object(random, depth - 1),
    }
}

fn object(random: &mut Random, depth: usize) -> Value {
    let fields = (0..random.index(6)).map(|_| {
        let name = random.pick(&FIELDS).to_owned();
        (name, value(random, depth))
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

fn json_request(random: &mut Random) -> Vec<u8> {
    request("POST", path(random), value(random, 4).to_string())
}

fn misshapen(random: &mut Random) -> Vec<u8> {
    let deep = "[".repeat(random.index(20_000));
    let wrong = json!({ "type": { "type": "login" }, "ip": ["junk"] }).to_string();
    let twice = r#"{"type":"login","type":"message","ip":"junk"}"#.to_owned();
    let number = "9".repeat(random.index(5_000) + 1);
    let bodies = [deep, wrong, twice, number, object(random, 2).to_string()];
    request(random.pick(&METHODS), path(random), random.pick(&bodies))
}

/// A good request with one byte changed.
fn mutated(random: &mut Random) -> Vec<u8> {
    let body = json!({ "type": "login", "user": "junk", "id": "junk" }).to_string();
    let mut bytes = request("POST", path(random), body);
    let at = random.index(bytes.len());
    bytes[at] = random.bits().to_le_bytes()[0];
    bytes
}

fn half(random: &mut Random) -> Vec<u8> {
    let mut bytes = json_request(random);
    bytes.truncate(random.index(bytes.len()));
    bytes
}

fn random_bytes(random: &mut Random) -> Vec<u8> {
    let count = random.index(2_000);
    random.bytes(count)
}

fn huge_header(random: &mut Random) -> Vec<u8> {
    let value = "x".repeat(30_000 + random.index(70_000));
    format!("GET {} HTTP/1.1\r\nhost: x\r\nx-huge: {value}\r\n\r\n", path(random)).into_bytes()
}

fn many_headers(random: &mut Random) -> Vec<u8> {
    let headers = "a: b\r\n".repeat(60 + random.index(3_000));
    format!("GET {} HTTP/1.1\r\nhost: x\r\n{headers}\r\n", path(random)).into_bytes()
}

fn huge_body(random: &mut Random) -> Vec<u8> {
    let body = json!({ "type": "x".repeat(65_000 + random.index(200_000)) });
    request("POST", path(random), body.to_string())
}

fn wrong_length(random: &mut Random) -> Vec<u8> {
    let lengths = ["-1", "18446744073709551616", "1000000000000", "0x10", "", "5, 5", "1e3", "NaN"];
    let (length, body) = (random.pick(&lengths), object(random, 1));
    let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}", path(random));
    format!("{head}\r\ncontent-length: 3\r\n\r\n{body}").into_bytes()
}

fn chunks(random: &mut Random) -> Vec<u8> {
    let chunks =
        ["zz\r\n", "ffffffffffffffffff\r\n", "-5\r\n{\"a\"", "5\r\n{}", "0\r\n", "5;a=b\r\n"];
    let body = random.pick(&chunks);
    let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: ", path(random));
    let encoding = random.pick(&["chunked", "chunked, chunked", "gzip, chunked", "identity"]);
    format!("{head}{encoding}\r\ncontent-length: 4\r\n\r\n{body}").into_bytes()
}

fn odd_line(random: &mut Random) -> Vec<u8> {
    let lines = [
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET http://example.org/v1/check?user=a HTTP/1.1\r\n\r\n",
        "CONNECT example.org:443 HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nexpect: 100-continue\r\nupgrade: websocket\r\n\r\n",
        "GET / HTTP/1.1\nhost: x\n\n",
        "\r\n\r\n\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}",
        "GET / HTTP/1.1\r\n folded: x\r\n\r\n",
    ];
    random.pick(&lines).into()
}

/// A batch of which no line is an event.
fn lines(random: &mut Random) -> Vec<u8> {
    let ends = ["\n", "\r\n", "\n\n", "\u{0}\n", ""];
    let count = random.index(1_100);
    let lines = (0..count).map(|_| value(random, 2).to_string() + random.pick(&ends));
    let mut body: Vec<u8> = lines.collect::<String>().into_bytes();
    let half = random.index(body.len() + 1);
    if random.below(4) == 0 {
        body.truncate(half);
    }
    request("POST", "/v1/events/batch", body)
}

fn pipeline(random: &mut Random) -> Vec<u8> {
    let parts = (0..2 + random.index(20)).map(|_| match random.below(4) {
        0 => request("GET", "/healthz", ""),
        1 => json_request(random),
        2 => mutated(random),
        _ => misshapen(random),
    });
    let mut bytes: Vec<u8> = parts.flatten().collect();
    bytes.extend(random_bytes(random));
    bytes
}
