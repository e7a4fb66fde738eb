//! Answers of policy servers: what one may change about a call.
//!
//! Servers may be wrong, or in wrong hands: what frames a message, what names its target and what is ours they never set.

use finback_core::filter::Edits;

use super::messages::Header;

/// The longest name, and the longest value, in bytes.
const NAME: usize = 256;
const VALUE: usize = 8 * 1024;
/// All that one answer may set and remove, in bytes.
const ALL: usize = 64 * 1024;

/// Names that frame a message or say where it goes (RFC 9110, section 7; RFC 9112, section 6; gRPC over HTTP/2).
const KEPT: [&str; 14] = [
    "host",
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "content-length",
    "content-type",
    "content-encoding",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "grpc-encoding",
    "grpc-timeout",
];
/// Names that begin so are ours.
const OURS: [&str; 2] = ["x-finback-", "claim."];

/// A name as it is set. It begins with `:` for nobody but HTTP/2 itself (RFC 9113, section 8.3), which is no token.
fn name(given: &str) -> Result<String, String> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if given.is_empty() || given.len() > NAME || !given.bytes().all(is_token) {
        return Err("an attribute without a good name".to_owned());
    }
    let low = given.to_ascii_lowercase();
    if KEPT.contains(&&*low) || OURS.iter().any(|own| low.starts_with(own)) {
        return Err(format!("`{low}`, which no answer may change"));
    }
    Ok(given.to_owned())
}

fn value(header: &Header) -> Result<&str, String> {
    let raw = std::str::from_utf8(&header.raw_value).ok();
    let text = match (&*header.value, raw) {
        ("", Some(raw)) => raw,
        (text, Some("")) => text,
        _ => return Err(format!("two values of `{}`", header.key)),
    };
    let is_good = |byte: u8| byte == b'\t' || (b' '..0x7f).contains(&byte);
    if text.len() > VALUE || !text.bytes().all(is_good) {
        return Err(format!(
            "a value of `{}` that no header can hold",
            header.key
        ));
    }
    Ok(text)
}

/// What an answer changes about a call: all of it, or nothing.
///
/// # Errors
/// What of it no answer may change.
pub(super) fn edits<'a>(
    set: impl Iterator<Item = &'a Header>,
    removed: impl Iterator<Item = &'a String>,
) -> Result<Edits, String> {
    let mut edits = Edits::default();
    let mut bytes = 0;
    for given in removed {
        bytes += given.len();
        edits.clear(&name(given)?);
    }
    for header in set {
        bytes += header.key.len() + header.value.len() + header.raw_value.len();
        edits.set(&name(&header.key)?, value(header)?);
        if bytes > ALL {
            break;
        }
    }
    match bytes > ALL {
        true => Err(format!("more than {ALL} bytes")),
        false => Ok(edits),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn header(key: &str, value: &str) -> Header {
        Header {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: Vec::new(),
        }
    }

    #[test]
    fn an_answer_sets_and_removes_attributes() {
        let raw = Header {
            raw_value: b"raw".to_vec(),
            ..header("x-raw", "")
        };
        let set = [header("x-user", "alice"), raw, header("x-empty", "")];
        let found = edits(set.iter(), ["Authorization".to_owned()].iter()).unwrap();
        assert_eq!(found.get("x-user"), Some("alice"));
        assert_eq!(found.get("x-raw"), Some("raw"));
        assert_eq!(found.get("x-empty"), Some(""));
        assert_eq!(found.get("Authorization"), Some(""));
    }

    #[test]
    fn what_frames_a_message_and_what_is_ours_no_answer_changes() {
        let long = "x".repeat(NAME + 1);
        for bad in [
            ":path",
            ":authority",
            "",
            "a b",
            "a\r\nb",
            "Host",
            "Content-Length",
            "transfer-encoding",
            "TE",
            "connection",
            "X-Finback-Identity",
            "claim.sub",
            "Claim.sub",
            "grpc-timeout",
            &long,
        ] {
            let set = [header("x-good", "1"), header(bad, "x")];
            assert!(edits(set.iter(), [].iter()).is_err(), "{bad} was set");
            let removed = [bad.to_owned()];
            assert!(
                edits([].iter(), removed.iter()).is_err(),
                "{bad} was removed"
            );
        }
        for bad in ["a\r\nx-admin: 1", "\0", "é", &"x".repeat(VALUE + 1)] {
            let set = [header("x-user", bad)];
            assert!(edits(set.iter(), [].iter()).is_err(), "{bad}");
        }
        let many: Vec<Header> = (0..20)
            .map(|n| header(&format!("x-{n}"), &"x".repeat(VALUE)))
            .collect();
        assert!(edits(many.iter(), [].iter()).is_err());
    }
}
