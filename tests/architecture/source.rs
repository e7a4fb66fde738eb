//! Source text as tokens: what Rust code says, without comments, texts and layout.

/// One word or sign of a source file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// An identifier, `::`, a single sign, or `""` in place of any text or number.
    pub(crate) text: String,
    /// Its line, from 1.
    pub(crate) line: usize,
}

/// Whether it is a word: an identifier or keyword.
pub(crate) fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

/// The tokens of a source file.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut reader = Reader {
        rest: source,
        line: 1,
    };
    std::iter::from_fn(|| reader.next()).collect()
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let line = self.line;
        let length = token_length(self.rest)?;
        let text = &self.rest[..length];
        let plain = text == "::" || is_word(text) && !text.ends_with(['"', '#']);
        let text = if plain || text.len() == 1 && !text.starts_with(|c: char| c.is_ascii_digit()) {
            text.strip_prefix("r#").unwrap_or(text).to_owned()
        } else {
            "\"\"".to_owned()
        };
        self.advance(length);
        Some(Token { text, line })
    }

    /// Passes over blanks and comments; those of the block form nest.
    fn skip_blank(&mut self) {
        loop {
            let blank = self.rest.len() - self.rest.trim_start().len();
            self.advance(blank);
            if self.rest.starts_with("//") {
                self.advance(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                self.advance(block_comment(self.rest));
            } else {
                return;
            }
        }
    }

    fn advance(&mut self, length: usize) {
        self.line += self.rest[..length].matches('\n').count();
        self.rest = &self.rest[length..];
    }
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while at < text.len() {
        let rest = &text.as_bytes()[at..];
        if rest.starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest.starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    text.len()
}

/// How many bytes the first token of a text has.
fn token_length(text: &str) -> Option<usize> {
    let first = text.chars().next()?;
    if let Some(length) = quoted(text) {
        return Some(length);
    }
    if let Some(raw) = text.strip_prefix("r#") {
        return Some(2 + word_length(raw));
    }
    let word = word_length(text);
    Some(match first {
        '\'' => character_length(text),
        ':' if text.starts_with("::") => 2,
        _ if word > 0 => word,
        _ => first.len_utf8(),
    })
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(text.len())
}

/// The length of the literal text (`".."`, `b".."`, `r#".."#`) that begins here, if one does.
fn quoted(text: &str) -> Option<usize> {
    let prefix = text.find(|c| c != 'b' && c != 'c')?.min(1);
    let bytes = &text[prefix..];
    if let Some(inside) = bytes.strip_prefix('"') {
        let mut escaped = false;
        let end = inside.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        return Some(prefix + end.map_or(bytes.len(), |end| end + 2));
    }
    let raw = bytes.strip_prefix('r')?;
    let hashes = raw.len() - raw.trim_start_matches('#').len();
    let inside = raw[hashes..].strip_prefix('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let end = inside
        .find(&close)
        .map_or(inside.len(), |at| at + close.len());
    Some(prefix + 1 + hashes + 1 + end)
}

/// The length of the character or the lifetime that begins here.
fn character_length(text: &str) -> usize {
    let mut inside = text[1..].char_indices();
    match (inside.next(), inside.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let after = 1 + at + escaped.len_utf8();
            text[after..]
                .find('\'')
                .map_or(text.len(), |end| after + end + 1)
        }
        (Some(_), Some((at, '\''))) => 1 + at + 1,
        _ => 1 + word_length(&text[1..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        let tokens = tokens(source).into_iter();
        tokens
            .map(|token| token.text)
            .filter(|text| is_word(text))
            .collect()
    }

    #[test]
    fn comments_and_texts_say_nothing() {
        assert_eq!(words("a // b\n c /* d /* e */ f */ g"), ["a", "c", "g"]);
        assert_eq!(words(r##"a "b \" c" r#"d " e"# b"f" g"##), ["a", "g"]);
        assert_eq!(words(r"'a' '\'' '\u{1}' b"), ["b"]);
        assert_eq!(words("fn f<'a>(x: &'a str)"), ["fn", "f", "x", "str"]);
        assert_eq!(words("r#type 10u8 brown crab"), ["type", "brown", "crab"]);
    }

    #[test]
    fn lines_are_counted_through_texts() {
        let tokens = tokens("a\n\"x\ny\"\n/* \n */ b::c");
        let last: Vec<_> = tokens.iter().map(|t| (t.text.as_str(), t.line)).collect();
        let expected = [("a", 1), ("\"\"", 2), ("b", 5), ("::", 5), ("c", 5)];
        assert_eq!(last, expected);
    }
}
