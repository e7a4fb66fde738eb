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
    raw: &'a [u8],
    is_escaped: bool,
}

impl<'a> Text<'a> {
    /// One without anything escaped.
    pub(crate) fn plain(raw: &'a [u8]) -> Self {
        Self {
            raw,
            is_escaped: false,
        }
    }

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

    /// Whether it means `name`.
    pub(crate) fn is(self, name: &str) -> bool {
        if self.is_escaped {
            return self.decode().is_ok_and(|own| own == name);
        }
        self.raw == name.as_bytes()
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
    pub(crate) fn number(self) -> Result<i32, NoJson> {
        let digits = match self {
            Self::Null => return Ok(0),
            Self::Text(text) if !text.is_escaped => text.raw,
            Self::Bare(raw) => raw,
            Self::Text(_) | Self::Nested(_) => return Err(NoJson),
        };
        let digits = str::from_utf8(digits).map_err(|_| NoJson)?;
        digits.parse().map_err(|_| NoJson)
    }
}

/// Reads the object that `bytes` are, white space around it left out; `each` is given every key and value, and
/// where the value stands.
pub(crate) fn object<'a, E: From<NoJson>>(
    bytes: &'a [u8],
    mut each: impl FnMut(Text<'a>, Value<'a>, Range<usize>) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = Reader { bytes, at: 0 };
    reader.expect(b'{')?;
    if reader.next_is(b'}') {
        reader.at += 1;
    } else {
        loop {
            let key = reader.key()?;
            reader.expect(b':')?;
            reader.skip_space();
            let from = reader.at;
            let value = reader.value()?;
            each(key, value, from..reader.at)?;
            match reader.token()? {
                b',' => {}
                b'}' => break,
                _ => return Err(NoJson.into()),
            }
        }
    }
    reader.skip_space();
    match reader.at == bytes.len() {
        true => Ok(()),
        false => Err(NoJson.into()),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn skip_space(&mut self) {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let space = rest
            .iter()
            .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
        self.at += space.count();
    }

    fn token(&mut self) -> Result<u8, NoJson> {
        self.skip_space();
        let byte = *self.bytes.get(self.at).ok_or(NoJson)?;
        self.at += 1;
        Ok(byte)
    }

    fn expect(&mut self, wanted: u8) -> Result<(), NoJson> {
        match self.token()? == wanted {
            true => Ok(()),
            false => Err(NoJson),
        }
    }

    fn next_is(&mut self, wanted: u8) -> bool {
        self.skip_space();
        self.bytes.get(self.at) == Some(&wanted)
    }

    fn key(&mut self) -> Result<Text<'a>, NoJson> {
        self.expect(b'"')?;
        self.rest_of_text()
    }

    /// A text whose opening quote has been read.
    fn rest_of_text(&mut self) -> Result<Text<'a>, NoJson> {
        let from = self.at;
        let mut is_escaped = false;
        loop {
            let rest = self.bytes.get(self.at..).ok_or(NoJson)?;
            let found = memchr::memchr2(b'"', b'\\', rest).ok_or(NoJson)?;
            self.at += found;
            if self.bytes[self.at] == b'"' {
                let raw = &self.bytes[from..self.at];
                self.at += 1;
                return Ok(Text { raw, is_escaped });
            }
            is_escaped = true;
            self.at += 2;
        }
    }

    fn value(&mut self) -> Result<Value<'a>, NoJson> {
        self.skip_space();
        let from = self.at;
        match *self.bytes.get(from).ok_or(NoJson)? {
            b'"' => {
                self.at += 1;
                self.rest_of_text().map(Value::Text)
            }
            b'{' | b'[' => {
                self.skip_nested()?;
                Ok(Value::Nested(&self.bytes[from..self.at]))
            }
            _ => {
                let rest = &self.bytes[from..];
                let bare = rest.iter().take_while(|byte| {
                    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.')
                });
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
        }
    }

    /// An object or a list: its brackets have to match, what is between them is not looked at.
    fn skip_nested(&mut self) -> Result<(), NoJson> {
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
        object(text.as_bytes(), |key, value, _| {
            all.push((
                key.decode()?.into_owned(),
                value.text()?.map(Cow::into_owned),
            ));
            Ok::<(), NoJson>(())
        })?;
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
    fn a_key_is_what_it_means_however_it_is_spelt() {
        object(br#"{"\u0074opic":"x"}"#, |key, _, _| {
            assert!(key.is("topic"));
            Ok::<(), NoJson>(())
        })
        .unwrap();
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
