//! LibreChat's `math()`: arithmetic in an environment variable, read as mathjs
//! 15.2 reads it, its surprises included (a `%` may be a percentage or a
//! remainder, `8/2(4)` is 16, what fails behind a `%` is swallowed). Only what
//! `math()` lets through exists here: numbers, `+ - * / % ( )`, points, spaces.
//!
//! Deliberately not as mathjs: a text of more than [`MAX_BYTES`], or one that
//! takes more than [`MAX_TOKENS`] looks, is no expression. mathjs would look
//! again and again behind nested percent signs, twice as often for each.

use super::number::is_space;

/// Far more than any duration takes; recursion is no deeper than this.
const MAX_BYTES: usize = 512;
/// Each character is looked at a few times.
const MAX_TOKENS: u32 = 20_000;

/// The value of an expression, or `fallback` where there is none or it is none.
/// Infinity and NaN are values, as they are to LibreChat.
pub fn math(text: Option<&str>, fallback: f64) -> f64 {
    text.and_then(evaluate).unwrap_or(fallback)
}

/// The value of an expression; `None` for what LibreChat replaces by the default.
pub fn evaluate(text: &str) -> Option<f64> {
    let is_allowed = |c: char| c.is_ascii_digit() || "+-.*/%()".contains(c) || is_space(c);
    if text.is_empty() || text.len() > MAX_BYTES || !text.chars().all(is_allowed) {
        return None;
    }
    let start = State { at: 0, token: Token::End, depth: 0 };
    let mut parser = Parser { text, state: start, left: MAX_TOKENS };
    parser.next().ok()?;
    let node = parser.sum().ok()?;
    // Another line would make a block of results, which is no number.
    (parser.state.token == Token::End).then_some(node.value)
}

/// What cannot be read; where is left in the parser's state.
struct Unreadable;

type Parsed = Result<Node, Unreadable>;

#[derive(Clone, Copy, PartialEq)]
enum Token {
    End,
    Line,
    Number(f64),
    Plus,
    Minus,
    /// `*` and `.*`.
    Times,
    Over,
    /// `./`, to which "number / number (" does not apply.
    PointOver,
    Percent,
    Open,
    Close,
    Point,
    Unknown,
}

/// What has been read, and what reading on depends on.
#[derive(Clone, Copy)]
struct Node {
    value: f64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Constant,
    /// A constant behind one sign.
    Signed,
    Percentage,
    Group,
    Operation,
}

impl Node {
    const fn operation(value: f64) -> Self {
        Self { value, kind: Kind::Operation }
    }
}

#[derive(Clone, Copy)]
struct State {
    at: usize,
    token: Token,
    /// Open parentheses; within them a line's end is a space. A failed attempt
    /// leaves its own open, as in mathjs.
    depth: u32,
}

struct Parser<'a> {
    text: &'a str,
    state: State,
    left: u32,
}

impl Parser<'_> {
    fn next(&mut self) -> Result<(), Unreadable> {
        self.left = self.left.checked_sub(1).ok_or(Unreadable)?;
        let state = &mut self.state;
        let is_skipped =
            |c: char| matches!(c, ' ' | '\t' | '\u{a0}') || c == '\n' && state.depth > 0;
        let rest = self.text[state.at..].trim_start_matches(is_skipped);
        let (token, length) = token(rest);
        state.at = self.text.len() - rest.len() + length;
        state.token = token;
        if token == Token::Unknown { Err(Unreadable) } else { Ok(()) }
    }

    /// Behind an operator the expression may go on in the next line.
    fn next_operand(&mut self) -> Result<(), Unreadable> {
        self.next()?;
        while self.state.token == Token::Line {
            self.next()?;
        }
        Ok(())
    }

    fn sum(&mut self) -> Parsed {
        let mut node = self.product()?;
        loop {
            let sign = match self.state.token {
                Token::Plus => 1.0,
                Token::Minus => -1.0,
                _ => return Ok(node),
            };
            self.next_operand()?;
            let right = self.product()?;
            // 10 + 10% is 11.
            let is_share = right.kind == Kind::Percentage;
            let right = if is_share { node.value * right.value } else { right.value };
            node = Node::operation(node.value + sign * right);
        }
    }

    fn product(&mut self) -> Parsed {
        let mut node = self.juxtaposition()?;
        loop {
            let operation: fn(f64, f64) -> f64 = match self.state.token {
                Token::Times => |left, right| left * right,
                Token::Over | Token::PointOver => |left, right| left / right,
                Token::Percent => remainder,
                _ => return Ok(node),
            };
            self.next_operand()?;
            let right = self.juxtaposition()?;
            node = Node::operation(operation(node.value, right.value));
        }
    }

    /// 2(3), (2)3, (2)(3).
    fn juxtaposition(&mut self) -> Parsed {
        let mut node = self.fraction()?;
        let mut last = node;
        loop {
            let follows = match self.state.token {
                Token::Open => true,
                Token::Number(_) => last.kind == Kind::Group,
                _ => false,
            };
            if !follows {
                return Ok(node);
            }
            last = self.fraction()?;
            node = Node::operation(node.value * last.value);
        }
    }

    /// "number / number (" divides before it multiplies; any other quotient is
    /// left to [`Self::product`].
    fn fraction(&mut self) -> Parsed {
        let mut node = self.percentage()?;
        let mut last = node;
        while self.state.token == Token::Over && matches!(last.kind, Kind::Constant | Kind::Signed)
        {
            let before = self.state;
            self.next_operand()?;
            let divisor = self.state;
            let is_fraction = matches!(divisor.token, Token::Number(_)) && {
                self.next_operand()?;
                self.state.token == Token::Open
            };
            if !is_fraction {
                self.state = before;
                break;
            }
            self.state = divisor;
            last = self.percentage()?;
            node = Node::operation(node.value / last.value);
        }
        Ok(node)
    }

    /// A `%` is a remainder if an operand can be read behind it, else a
    /// percentage. What the attempt read before it failed stays read.
    fn percentage(&mut self) -> Parsed {
        let node = self.signed()?;
        if self.state.token != Token::Percent {
            return Ok(node);
        }
        let before = self.state;
        self.next_operand()?;
        if self.signed().is_ok() {
            self.state = before;
            return Ok(node);
        }
        Ok(Node { value: node.value / 100.0, kind: Kind::Percentage })
    }

    fn signed(&mut self) -> Parsed {
        let sign = match self.state.token {
            Token::Plus => 1.0,
            Token::Minus => -1.0,
            _ => return self.operand(),
        };
        self.next_operand()?;
        let node = self.signed()?;
        let kind = if node.kind == Kind::Constant { Kind::Signed } else { Kind::Operation };
        Ok(Node { value: sign * node.value, kind })
    }

    fn operand(&mut self) -> Parsed {
        match self.state.token {
            Token::Number(value) => {
                self.next()?;
                Ok(Node { value, kind: Kind::Constant })
            }
            Token::Open => self.group(),
            _ => Err(Unreadable),
        }
    }

    fn group(&mut self) -> Parsed {
        self.state.depth += 1;
        self.next()?;
        let inner = self.sum()?;
        if self.state.token != Token::Close {
            return Err(Unreadable);
        }
        self.state.depth -= 1;
        self.next()?;
        if self.state.token == Token::Point {
            // The name of a property would have to follow.
            self.next()?;
            return Err(Unreadable);
        }
        Ok(Node { value: inner.value, kind: Kind::Group })
    }
}

/// The token that `rest` begins with, and its length in bytes.
fn token(rest: &str) -> (Token, usize) {
    if rest.starts_with(".*") {
        return (Token::Times, 2);
    }
    if rest.starts_with("./") {
        return (Token::PointOver, 2);
    }
    let single = match rest.chars().next() {
        None => return (Token::End, 0),
        Some('\n') => Token::Line,
        Some('+') => Token::Plus,
        Some('-') => Token::Minus,
        Some('*') => Token::Times,
        Some('/') => Token::Over,
        Some('%') => Token::Percent,
        Some('(') => Token::Open,
        Some(')') => Token::Close,
        Some('.' | '0'..='9') => return number(rest),
        Some(_) => return (Token::Unknown, rest.len()),
    };
    (single, 1)
}

/// Digits with at most one point, which is none before `*` and `/`.
fn number(rest: &str) -> (Token, usize) {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut length = digits(rest);
    let behind = &rest[length..];
    if behind.starts_with('.') && !behind.starts_with(".*") && !behind.starts_with("./") {
        let decimals = digits(&behind[1..]);
        if length + decimals == 0 {
            return (Token::Point, 1);
        }
        length += 1 + decimals;
    }
    match rest[..length].parse() {
        Ok(value) => (Token::Number(value), length),
        Err(_) => (Token::Unknown, rest.len()),
    }
}

/// The remainder that has the sign of the divisor. A quotient that is a whole
/// number but for rounding counts as one, as in mathjs (relTol, absTol).
fn remainder(left: f64, right: f64) -> f64 {
    if right == 0.0 { left } else { left - right * floor(left / right) }
}

fn floor(x: f64) -> f64 {
    let (below, nearest) = (x.floor(), x.round());
    let is_near = |to: f64| (x - to).abs() <= (1e-12 * x.abs().max(to.abs())).max(1e-15);
    if x.is_finite() && is_near(nearest) && !is_near(below) { nearest } else { below }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO: Option<f64> = None;

    #[test]
    fn expressions_have_the_values_that_mathjs_gives_them() {
        let table = [
            // What people write.
            ("1000 * 60 * 60 * 2", Some(7_200_000.0)),
            ("(1000 * 60 * 60 * 24) * 7", Some(604_800_000.0)),
            ("20", Some(20.0)),
            (" 7 ", Some(7.0)),
            ("0", Some(0.0)),
            ("-1", Some(-1.0)),
            ("+7", Some(7.0)),
            ("5.", Some(5.0)),
            (".5", Some(0.5)),
            ("2 + 3 * 4 - 6 / 2", Some(11.0)),
            ("10-3-2", Some(5.0)),
            ("-(3)", Some(-3.0)),
            ("--3", Some(3.0)),
            ("2*-3", Some(-6.0)),
            ("0/0", Some(f64::NAN)),
            ("1/0", Some(f64::INFINITY)),
            ("-1/0", Some(f64::NEG_INFINITY)),
            // What is none.
            ("", NO),
            (" ", NO),
            ("2h", NO),
            ("1e3", NO),
            ("0x10", NO),
            ("abc", NO),
            ("1_000", NO),
            ("2^3", NO),
            ("1,000", NO),
            ("٣", NO),
            ("1.2.3", NO),
            ("5..5", NO),
            (".", NO),
            ("//", NO),
            ("2**3", NO),
            ("2*/3", NO),
            ("()", NO),
            (")", NO),
            ("3(", NO),
            ("(3", NO),
            ("3)", NO),
            ("2 3", NO),
            ("2*", NO),
            ("*2", NO),
            // Percent signs.
            ("50%", Some(0.5)),
            ("5%3", Some(2.0)),
            ("5%(3)", Some(2.0)),
            ("-5%3", Some(1.0)),
            ("5%-3", Some(-1.0)),
            ("5%0", Some(5.0)),
            ("5%*3", Some(0.150_000_000_000_000_02)),
            ("50%%", NO),
            ("50%%3", Some(0.5)),
            ("5%%%3", NO),
            ("10+10%", Some(11.0)),
            ("10-10%", Some(9.0)),
            ("10 + -10%", Some(9.0)),
            ("10+10%*2", Some(10.2)),
            ("10+(10%)", Some(10.1)),
            ("2*50%", Some(1.0)),
            ("(3)%", Some(0.03)),
            ("5%(1/0)", Some(f64::NAN)),
            ("7.5%0.5", Some(0.0)),
            ("0.3%0.1", Some(-5.551_115_123_125_783e-17)),
            ("5% (2) % 3", Some(1.0)),
            // What fails behind one is swallowed.
            ("5%-", Some(0.05)),
            ("(5%-)", Some(0.05)),
            ("5%(3", Some(0.05)),
            ("5%(3).", Some(0.05)),
            ("2%+3", Some(2.0)),
            // Without an operator.
            ("2(3)", Some(6.0)),
            ("(2)3", Some(6.0)),
            ("(2)(3)4", Some(24.0)),
            ("2(3)4", Some(24.0)),
            ("(2)3 4", NO),
            ("(2).5", Some(1.0)),
            ("(2).", NO),
            ("8/2(4)", Some(16.0)),
            ("-8/2(4)", Some(-16.0)),
            ("--8/2(4)", Some(1.0)),
            ("8/2/2(4)", Some(2.0)),
            ("8/4/2(2)", Some(2.0)),
            ("(8)/2(4)", Some(1.0)),
            ("8/+2(4)", Some(1.0)),
            ("8./2(4)", Some(1.0)),
            ("8/2.(4)", Some(16.0)),
            // Operators with a point.
            ("2.*3", Some(6.0)),
            ("5./2", Some(2.5)),
            ("2. *3", Some(6.0)),
            // Lines and spaces.
            ("5\n", NO),
            ("\n5", NO),
            ("5\n6", NO),
            ("5*\n3", Some(15.0)),
            ("(5\n*3)", Some(15.0)),
            ("5%\n3", Some(2.0)),
            ("5%\n", Some(0.05)),
            ("5\t*\u{a0}3", Some(15.0)),
            ("5\r", NO),
            ("5\u{2003}", NO),
            ("\u{feff}5", NO),
            ("5%-\r", NO),
        ];
        for (text, want) in table {
            let got = evaluate(text);
            let is_same = match (got, want) {
                (Some(got), Some(want)) => got == want || (got.is_nan() && want.is_nan()),
                (got, want) => got.is_none() && want.is_none(),
            };
            assert!(is_same, "{text:?}: {got:?}, not {want:?}");
        }
    }

    #[test]
    fn what_is_missing_or_no_expression_is_the_fallback() {
        assert_eq!(math(None, 7.0), 7.0);
        assert_eq!(math(Some("2h"), 7.0), 7.0);
        assert_eq!(math(Some(""), 7.0), 7.0);
        assert_eq!(math(Some("0"), 7.0), 0.0);
    }

    #[test]
    fn texts_that_would_take_for_ever_are_no_expressions() {
        assert_eq!(evaluate(&format!("{}5{}", "5%(".repeat(60), ")".repeat(60))), None);
        assert_eq!(evaluate(&format!("{}1", "-".repeat(MAX_BYTES))), None);
        assert_eq!(evaluate(&format!("{}1", "-".repeat(MAX_BYTES - 2))), Some(1.0));
        assert_eq!(evaluate(&"(".repeat(MAX_BYTES)), None);
    }
}
