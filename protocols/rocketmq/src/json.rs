//! A reader of JSON in place, as lenient as RocketMQ's own (fastjson) with what real clients write, and bounded:
//! it allocates nothing and follows no nesting by recursion.

use std::borrow::Cow;
use std::ops::Range;

/// Values inside of values, at most: headers are flat, and their answers three deep.
const DEPTH: usize = 64;

/// What is no JSON that a client of RocketMQ writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoJson;

/// A text between its quotes, as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Text<'a> {
    pub(crate) raw: &'a [u8],
    pub(crate) is_escaped: bool,
}

impl<'a> Text<'a> {
    /// What it means. Half of a surrogate pair alone means the replacement character.
    pub(crate) fn decode(self) -> Result<Cow<'a, str>, NoJson> {
        let raw = str::from_utf8(self.raw).map_err(|_| NoJson)?;
        if !self.is_escaped {
            return Ok(Cow::Borrowed(raw));
        }
        let mut text = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some(at) = rest.find('\\') {
            text.push_str(&rest[..at]);
            let mut chars = rest[at + 1..].chars();
            let escaped = chars.next().ok_or(NoJson)?;
            rest = chars.as_str();
            match escaped {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                'r' => text.push('\r'),
                'b' => text.push('\u{8}'),
                'f' => text.push('\u{c}'),
                'u' => {
                    let first = unit(&mut rest)?;
                    let second = match first {
                        0xD800..=0xDBFF if rest.starts_with("\\u") => {
                            let mut after = &rest[2..];
                            let second = unit(&mut after)?;
                            (0xDC00..=0xDFFF).contains(&second).then(|| {
                                rest = after;
                                second
                            })
                        }
                        _ => None,
                    };
                    let units = std::iter::once(first).chain(second);
                    let decoded = char::decode_utf16(units)
                        .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER));
                    text.extend(decoded);
                }
                '"' | '\\' | '/' | '\'' => text.push(escaped),
                _ => return Err(NoJson),
            }
        }
        text.push_str(rest);
        Ok(Cow::Owned(text))
    }
}

/// Four hexadecimal digits at the beginning of `rest`, which they are taken from.
fn unit(rest: &mut &str) -> Result<u16, NoJson> {
    let (digits, after) = rest.split_at_checked(4).ok_or(NoJson)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(NoJson);
    }
    *rest = after;
    u16::from_str_radix(digits, 16).map_err(|_| NoJson)
}

/// A value, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A text.
    Text(Text<'a>),
    /// A number, `true` or `false`.
    Bare(&'a [u8]),
    /// Nothing.
    Null,
    /// An object or a list.
    Nested(&'a [u8]),
}

impl<'a> Value<'a> {
    /// As the text that fastjson makes of it where a text is wanted; `None` for null.
    pub(crate) fn text(self) -> Result<Option<Cow<'a, str>>, NoJson> {
        match self {
            Self::Null => Ok(None),
            Self::Text(text) => text.decode().map(Some),
            Self::Bare(raw) | Self::Nested(raw) => {
                let text = str::from_utf8(raw).map_err(|_| NoJson)?;
                Ok(Some(Cow::Borrowed(text)))
            }
        }
    }

    /// As a number, which may stand between quotes; 0 for null.
    #[inline]
    pub(crate) fn number(self) -> Result<i32, NoJson> {
        let digits = match self {
            Self::Null => return Ok(0),
            Self::Text(text) if !text.is_escaped => text.raw,
            Self::Bare(raw) => raw,
            Self::Text(_) | Self::Nested(_) => return Err(NoJson),
        };
        let number = integer(digits).ok_or(NoJson)?;
        i32::try_from(number).map_err(|_| NoJson)
    }
}

/// The number that these digits are, a sign before them; `None` for more of them than any of Java's numbers has.
#[inline]
pub(crate) fn integer(digits: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match digits {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() || digits.len() > 18 {
        return None;
    }
    let mut number = 0;
    for byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number * 10 + i64::from(digit);
    }
    Some(if is_negative { -number } else { number })
}

/// Reads texts and values one after another.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Reads an object: `each` is given every key, and takes the value that follows.
    #[inline]
    pub(crate) fn members<E: From<NoJson>>(
        &mut self,
        mut each: impl FnMut(&mut Self, Text<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'{')?;
        if self.next()? == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.expect(b'"')?;
            let key = self.rest_of_text()?;
            self.expect(b':')?;
            each(self, key)?;
            match self.token()? {
                b',' => {}
                b'}' => return Ok(()),
                _ => return Err(NoJson.into()),
            }
        }
    }

    /// That nothing follows but white space.
    pub(crate) fn end(&mut self) -> Result<(), NoJson> {
        match self.next() {
            Ok(_) => Err(NoJson),
            Err(NoJson) => Ok(()),
        }
    }

    /// Where the next byte stands.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Goes back to where it was before.
    pub(crate) fn return_to(&mut self, position: usize) {
        self.at = position;
    }

    /// The next byte that is no white space, which is not taken.
    #[inline]
    pub(crate) fn next(&mut self) -> Result<u8, NoJson> {
        loop {
            match *self.bytes.get(self.at).ok_or(NoJson)? {
                b' ' | b'\t' | b'\r' | b'\n' => self.at += 1,
                byte => return Ok(byte),
            }
        }
    }

    #[inline]
    fn token(&mut self) -> Result<u8, NoJson> {
        let byte = self.next()?;
        self.at += 1;
        Ok(byte)
    }

    #[inline]
    fn expect(&mut self, wanted: u8) -> Result<(), NoJson> {
        match self.token()? == wanted {
            true => Ok(()),
            false => Err(NoJson),
        }
    }

    /// A text whose opening quote has been read.
    #[inline]
    fn rest_of_text(&mut self) -> Result<Text<'a>, NoJson> {
        let from = self.at;
        let mut is_escaped = false;
        loop {
            self.at = special(self.bytes, self.at).ok_or(NoJson)?;
            if self.bytes[self.at] == b'"' {
                let raw = &self.bytes[from..self.at];
                self.at += 1;
                return Ok(Text { raw, is_escaped });
            }
            is_escaped = true;
            self.at += 2;
        }
    }

    /// A value that is a text, where the next one is: most are.
    #[inline]
    pub(crate) fn text(&mut self) -> Result<Option<Text<'a>>, NoJson> {
        if self.next()? != b'"' {
            return Ok(None);
        }
        self.at += 1;
        self.rest_of_text().map(Some)
    }

    /// A value, and where it stands.
    pub(crate) fn value(&mut self) -> Result<(Value<'a>, Range<usize>), NoJson> {
        let first = self.next()?;
        let from = self.at;
        let value = match first {
            b'"' => {
                self.at += 1;
                self.rest_of_text().map(Value::Text)?
            }
            b'{' | b'[' => {
                self.skip_nested()?;
                Value::Nested(&self.bytes[from..self.at])
            }
            _ => self.bare()?,
        };
        Ok((value, from..self.at))
    }

    /// A value without quotes.
    fn bare(&mut self) -> Result<Value<'a>, NoJson> {
        let rest = &self.bytes[self.at..];
        let bare = rest
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.'));
        let raw = &rest[..bare.count()];
        self.at += raw.len();
        match raw {
            b"" => Err(NoJson),
            b"null" => Ok(Value::Null),
            b"true" | b"false" => Ok(Value::Bare(raw)),
            // Other spellings, such as 1L, mean something else to some readers.
            raw if is_number(raw) => Ok(Value::Bare(raw)),
            _ => Err(NoJson),
        }
    }

    /// An object or a list: its brackets have to match, what is between them is not looked at.
    pub(crate) fn skip_nested(&mut self) -> Result<(), NoJson> {
        let mut open = [0_u8; DEPTH];
        let mut depth = 0;
        loop {
            match self.token()? {
                b'"' => {
                    self.rest_of_text()?;
                }
                bracket @ (b'{' | b'[') => {
                    *open.get_mut(depth).ok_or(NoJson)? = bracket;
                    depth += 1;
                }
                bracket @ (b'}' | b']') => {
                    depth -= 1;
                    // In ASCII a bracket that closes comes two after the one that opens.
                    if bracket != open[depth] + 2 {
                        return Err(NoJson);
                    }
                    if depth == 0 {
                        return Ok(());
                    }
                }
                _ => {}
            }
        }
    }
}

/// Where the next quote or backslash stands from `at` on. Most texts have a few bytes: they are looked at eight at a
/// time, which costs less than to call something that is fast with long ones.
#[inline]
fn special(bytes: &[u8], mut at: usize) -> Option<usize> {
    const ONES: u64 = u64::MAX / 255;
    // The lowest bit that is set is that of the first such byte.
    let equal = |word: u64, byte: u8| {
        let zero_where_equal = word ^ (ONES * u64::from(byte));
        zero_where_equal.wrapping_sub(ONES) & !zero_where_equal & ONES << 7
    };
    let mut rest = bytes.get(at..)?;
    while let Some((chunk, after)) = rest.split_first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let found = equal(word, b'"') | equal(word, b'\\');
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        rest = after;
        at += 8;
    }
    let found = rest.iter().position(|byte| matches!(byte, b'"' | b'\\'))?;
    Some(at + found)
}

/// Whether this is a number of JSON.
fn is_number(raw: &[u8]) -> bool {
    let digits = raw.strip_prefix(b"-").unwrap_or(raw);
    // Nearly all are plain.
    let is_plain = digits.iter().all(u8::is_ascii_digit)
        && !digits.is_empty()
        && (digits[0] != b'0' || digits.len() == 1);
    is_plain || serde_json::from_slice::<serde_json::Number>(raw).is_ok()
}

/// Appends `text` as it stands between the quotes of a JSON text.
pub(crate) fn escape(text: &str, out: &mut Vec<u8>) {
    for char in text.chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            control if control < ' ' => {
                out.extend_from_slice(format!("\\u{:04x}", u32::from(control)).as_bytes());
            }
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    type Entry = (String, Option<String>);

    fn read(text: &str) -> Result<Vec<Entry>, NoJson> {
        let mut all = Vec::new();
        let mut reader = Reader::new(text.as_bytes());
        reader.members(|reader, key| {
            let (value, at) = reader.value()?;
            assert!(!text[at].is_empty());
            let value = value.text()?.map(Cow::into_owned);
            all.push((key.decode()?.into_owned(), value));
            Ok::<(), NoJson>(())
        })?;
        reader.end()?;
        Ok(all)
    }

    fn entry(key: &str, value: &str) -> Entry {
        (key.to_owned(), Some(value.to_owned()))
    }

    #[test]
    fn what_real_clients_write_is_read() {
        let text = r#" {"a":"b", "n":-12,"t":true,"z":null ,"o":{"x":[1,{"y":"}"}]},"u":"\u0001\ud83d\ude00\n\/"} "#;
        assert_eq!(
            read(text).unwrap(),
            [
                entry("a", "b"),
                entry("n", "-12"),
                entry("t", "true"),
                ("z".to_owned(), None),
                entry("o", r#"{"x":[1,{"y":"}"}]}"#),
                entry("u", "\u{1}\u{1F600}\n/"),
            ]
        );
        assert_eq!(read("{}").unwrap(), []);
    }

    #[test]
    fn a_text_ends_where_its_quote_is_however_long_it_is() {
        for length in 0..40 {
            for (escaped, means) in [
                ("", ""),
                ("\\\"", "\""),
                ("\\\\", "\\"),
                ("\\u0001", "\u{1}"),
            ] {
                for before in [0, length / 2, length] {
                    let (one, other) = ("x".repeat(before), "y".repeat(length - before));
                    let text = format!("{{\"k\":\"{one}{escaped}{other}\",\"l\":\"m\"}}");
                    let own = entry("k", &format!("{one}{means}{other}"));
                    assert_eq!(read(&text).unwrap(), [own, entry("l", "m")], "{text}");
                }
            }
        }
    }

    #[test]
    fn numbers_are_those_of_java() {
        for (digits, number) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("+7", Some(7)),
            ("007", Some(7)),
            ("-2147483648", Some(-2_147_483_648)),
            ("999999999999999999", Some(999_999_999_999_999_999)),
            ("9999999999999999999", None),
            ("", None),
            ("-", None),
            ("1.0", None),
            ("1e3", None),
            (" 1", None),
        ] {
            assert_eq!(integer(digits.as_bytes()), number, "{digits}");
        }
        assert_eq!(Value::Bare(b"2147483648").number(), Err(NoJson));
    }

    #[test]
    fn what_is_no_json_is_refused_and_nesting_costs_nothing() {
        let deep = format!("{{\"a\":{}", "[".repeat(1_000_000));
        for text in [
            "",
            "{",
            "}",
            "{]",
            "[]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1}x",
            "{'a':1}",
            "{a:1}",
            "{\"a\":[}}",
            "{\"a\":\"",
            "{\"a\":\"\\",
            "{\"a\":\"\\u00\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":{]}",
            "{\"a\":1L}",
            "{\"a\":01}",
            "{\"a\":+1}",
            "{\"a\":x}",
            &deep,
        ] {
            assert_eq!(read(text), Err(NoJson), "{}", &text[..text.len().min(40)]);
        }
    }

    #[test]
    fn what_is_escaped_reads_back() {
        let text = "a\"b\\c\n\u{1}\u{2}\u{e9}\u{1F600}";
        let mut out = b"{\"k\":\"".to_vec();
        escape(text, &mut out);
        out.extend_from_slice(b"\"}");
        assert_eq!(
            read(str::from_utf8(&out).unwrap()).unwrap(),
            [entry("k", text)]
        );
    }
}
