//! Splits Rust source into its code and its comments, so that a rule about one cannot
//! trip over the other, nor over the text of a string. It is no parser: it knows where
//! comments and literals begin and end, and nothing more.

/// A source text twice over, with the same lines: in `code`, comments and literals are
/// blanked; in `comments`, all but comments is.
pub(super) struct Layers {
    pub(super) code: String,
    pub(super) comments: String,
}

enum Kind {
    Code,
    Comment,
    Literal,
}

impl Layers {
    pub(super) fn of(text: &str) -> Self {
        let mut layers = Self { code: String::new(), comments: String::new() };
        let mut rest = text;
        let mut after_word = false;
        while let Some(first) = rest.chars().next() {
            let (kind, length) = next_piece(rest, first, after_word);
            let (piece, tail) = rest.split_at(length);
            layers.push(&kind, piece);
            after_word = first.is_alphanumeric() || first == '_';
            rest = tail;
        }
        layers
    }

    fn push(&mut self, kind: &Kind, piece: &str) {
        let blank: String = piece.chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        let (code, comments) = match kind {
            Kind::Code => (piece, blank.as_str()),
            Kind::Comment => (blank.as_str(), piece),
            Kind::Literal => (blank.as_str(), blank.as_str()),
        };
        self.code.push_str(code);
        self.comments.push_str(comments);
    }
}

/// What `rest` begins with, and its length in bytes.
fn next_piece(rest: &str, first: char, after_word: bool) -> (Kind, usize) {
    if rest.starts_with("//") {
        return (Kind::Comment, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Comment, block_comment_length(rest));
    }
    let literal = match first {
        '"' => Some(quoted_length(rest)),
        '\'' => character_length(rest),
        'b' | 'c' | 'r' if !after_word => raw_string_length(rest),
        _ => None,
    };
    literal.map_or((Kind::Code, first.len_utf8()), |length| (Kind::Literal, length))
}

/// Block comments nest.
fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(found) = rest[at..].find(['/', '*']) {
        at += found;
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

/// The length of a literal that ends with the quote that it begins with.
fn quoted_length(rest: &str) -> usize {
    let quote = rest.chars().next();
    let mut characters = rest.char_indices().skip(1);
    while let Some((at, character)) = characters.next() {
        if character == '\\' {
            characters.next();
        } else if Some(character) == quote {
            return at + 1;
        }
    }
    rest.len()
}

/// `'a'` and `'\n'` are characters; `'a` is a lifetime.
fn character_length(rest: &str) -> Option<usize> {
    let mut characters = rest.chars().skip(1);
    let (second, third) = (characters.next()?, characters.next()?);
    (second == '\\' || third == '\'').then(|| quoted_length(rest))
}

/// `r"…"`, `br#"…"#` and the like.
fn raw_string_length(rest: &str) -> Option<usize> {
    let opening = rest.trim_start_matches(['b', 'c']).strip_prefix('r')?;
    let body = opening.trim_start_matches('#');
    let closing = format!("\"{}", "#".repeat(opening.len() - body.len()));
    let end = body.strip_prefix('"')?.find(&closing)?;
    Some(rest.len() - body.len() + 1 + end + closing.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of `text`, without what blanking leaves behind.
    fn code(text: &str) -> String {
        Layers::of(text).code.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn comments_are_not_code_and_code_is_not_a_comment() {
        let layers = Layers::of("a(); // b\nc();");
        assert_eq!(layers.code, "a();     \nc();");
        assert_eq!(layers.comments, "     // b\n    ");
    }

    #[test]
    fn block_comments_nest() {
        assert_eq!(code("a /* b /* c */ d */ e"), "a e");
    }

    #[test]
    fn strings_are_blanked_with_their_escapes() {
        assert_eq!(code(r#"a("b \" // c", d)"#), "a( , d)");
    }

    #[test]
    fn raw_strings_end_where_their_hashes_say() {
        assert_eq!(code("a(r#\"b \" c\"#, br\"d\\\", e)"), "a( , , e)");
    }

    #[test]
    fn a_quote_in_a_character_opens_no_string_and_a_lifetime_is_code() {
        assert_eq!(code(r#"'"' a '\'' b"#), "a b");
        assert_eq!(code("fn f<'a>(x: &'a str)"), "fn f<'a>(x: &'a str)");
    }

    #[test]
    fn raw_identifiers_and_words_that_end_in_r_are_code() {
        assert_eq!(code("r#type for\"x\""), "r#type for");
    }

    #[test]
    fn lines_keep_their_numbers() {
        let text = "\"a\nb\"\n/* c\n*/ d\n";
        let layers = Layers::of(text);
        assert_eq!(layers.code.lines().count(), text.lines().count());
        assert_eq!(layers.comments.lines().count(), text.lines().count());
    }
}
