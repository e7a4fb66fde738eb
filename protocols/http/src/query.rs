//! Parameters of a query as servers read them: the `application/x-www-form-urlencoded` of WHATWG's URL standard.

use std::borrow::Cow;

/// The value of a parameter; of one that stands there several times a list, as of [headers](crate::headers).
pub(crate) fn value(query: &str, name: &str) -> Option<String> {
    let mut values = named(query, name);
    let mut all = values.next()?.into_owned();
    for value in values {
        all.push_str(", ");
        all.push_str(&value);
    }
    Some(all)
}

/// What else servers may read there, each in a line of its own: every value of a parameter that stands there several
/// times, in another case, or behind a semicolon, which some take for the end of a parameter (HTML 4.01, appendix
/// B.2.2). `None` where all read the same.
pub(crate) fn readings(query: &str, name: &str) -> Option<String> {
    let own: Vec<_> = named(query, name).collect();
    let parts = query.split(['&', ';']).map(pair);
    let loose = parts.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    let loose: Vec<_> = loose.map(|(_, value)| value).collect();
    let is_plain = own.len() < 2 && own == loose;
    (!is_plain).then(|| [own, loose].concat().join("\n"))
}

fn named<'a>(query: &'a str, name: &str) -> impl Iterator<Item = Cow<'a, str>> {
    let pairs = query.split('&').map(pair);
    pairs.filter_map(move |(key, value)| (key == name).then_some(value))
}

fn pair(text: &str) -> (Cow<'_, str>, Cow<'_, str>) {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    (plain(key), plain(value))
}

/// A text without its escapes. One that is broken stands for itself.
fn plain(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        let code = more.get(..2).filter(|_| *first == b'%');
        let code = code.and_then(|own| Some(digit(own[0])? << 4 | digit(own[1])?));
        match (code, first) {
            (Some(byte), _) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            (None, b'+') => bytes.push(b' '),
            (None, byte) => bytes.push(*byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn digit(byte: u8) -> Option<u8> {
    let value = char::from(byte).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_what_servers_make_of_it() {
        for (query, read) in [
            ("x=a", Some("a")),
            ("y=1&x=a", Some("a")),
            ("x", Some("")),
            ("x=a=b", Some("a=b")),
            ("%78=%61dmin", Some("admin")),
            ("x=a+b%20c%2Bd", Some("a b c+d")),
            ("x=%c3%a9%C3%A9", Some("éé")),
            ("x=%zz%4", Some("%zz%4")),
            ("x=%+1", Some("% 1")),
            ("x=%0A", Some("\n")),
            ("x=%2561", Some("%61")),
            ("xx=a&y=x", None),
            ("", None),
        ] {
            assert_eq!(value(query, "x").as_deref(), read, "{query}");
            assert_eq!(readings(query, "x"), None, "{query}");
        }
    }

    #[test]
    fn what_servers_read_differently_has_every_reading() {
        for (query, all, others) in [
            ("x=a&x=b", Some("a, b"), "a b a b"),
            ("x=a&x=a", Some("a, a"), "a a a a"),
            ("x=a&%78=b", Some("a, b"), "a b a b"),
            ("x=a&X=b", Some("a"), "a a b"),
            ("X=b", None, "b"),
            ("y=1;x=b", None, "b"),
            ("x=a;y=1", Some("a;y=1"), "a;y=1 a"),
            ("x=a;x=b", Some("a;x=b"), "a;x=b a b"),
        ] {
            assert_eq!(value(query, "x").as_deref(), all, "{query}");
            let found = readings(query, "x").map(|own| own.replace('\n', " "));
            assert_eq!(found.as_deref(), Some(others), "{query}");
        }
    }
}
