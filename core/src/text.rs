//! Text that peers chose, made fit to be shown: cut to a bound and escaped for logs and labels.

use std::fmt::{self, Display, Formatter, Write};

/// The longest text of an answer of our own, in bytes: what a caller wrote comes back to it no
/// longer than this.
pub const ANSWER_LIMIT: usize = 2048;

/// Characters of a peer's text that one log line holds at most.
const SHOWN: usize = 256;

/// What secrets are called, and who logs in.
const SECRETS: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "auth",
    "cookie",
    "api-key",
    "apikey",
    "jaas",
    "user",
];

/// Whether an attribute or option of this name is taken for a secret, which no page shows. The host that
/// is asked for is none, though it is called an authority.
#[must_use]
pub fn sounds_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name != ":authority" && SECRETS.iter().any(|secret| name.contains(secret))
}

/// The text, or as many whole characters of its beginning as fit into `limit` bytes.
#[must_use]
pub fn cut(text: &str, limit: usize) -> &str {
    &text[..text.floor_char_boundary(limit)]
}

/// A peer's text as logs show it: escaped, so that it stays on its line and can feign no other,
/// and cut to its first 256 characters.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut chars = self.0.chars();
        for char in chars.by_ref().take(SHOWN) {
            match char {
                // A line of a log that others read by machine may be quoted: these end the quote.
                '"' | '\\' => write!(f, "\\{char}")?,
                // Escapes what is not printable, line separators and direction marks among it.
                '\'' => f.write_char(char)?,
                _ => write!(f, "{}", char.escape_debug())?,
            }
        }
        if chars.next().is_some() {
            f.write_str("..")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_told_by_their_names() {
        for name in [
            "Authorization",
            "x-api-key",
            "Cookie",
            "sasl.password",
            ":username",
            "auth_token",
        ] {
            assert!(sounds_secret(name), "{name}");
        }
        for name in ["lane", ":authority", ":path", "linger.ms", "x-request-id"] {
            assert!(!sounds_secret(name), "{name}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abc", 2), "ab");
        assert_eq!(cut("a\u{e9}", 2), "a");
        assert_eq!(cut("\u{1f600}", 3), "");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn what_a_peer_wrote_stays_on_its_line() {
        for (text, shown) in [
            ("com.acme.Pay", "com.acme.Pay"),
            ("it's \u{65e5}\u{672c}", "it's \u{65e5}\u{672c}"),
            ("a\r\n2026 WARN forged", "a\\r\\n2026 WARN forged"),
            ("\0\u{1b}[31m", "\\0\\u{1b}[31m"),
            (
                "a\u{85}b\u{2028}c\u{202e}d",
                "a\\u{85}b\\u{2028}c\\u{202e}d",
            ),
            ("say \"x\" \\", "say \\\"x\\\" \\\\"),
        ] {
            assert_eq!(Escaped(text).to_string(), shown);
        }
    }

    #[test]
    fn what_a_peer_wrote_takes_a_bounded_part_of_a_line() {
        assert_eq!(Escaped(&"x".repeat(SHOWN)).to_string(), "x".repeat(SHOWN));
        let long = "x".repeat(7 << 20);
        assert_eq!(
            Escaped(&long).to_string(),
            format!("{}..", "x".repeat(SHOWN))
        );
        let worst = "\u{10ffff}".repeat(10_000);
        assert!(Escaped(&worst).to_string().len() <= SHOWN * 10 + 2);
    }
}
