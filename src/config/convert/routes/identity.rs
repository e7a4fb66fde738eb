//! Conditions on the client's identity: the kind of name is told by how the text begins.

use finback_core::identity::{COMMON_NAME, IdentityKind, SPIFFE, is_dns_name, is_spiffe_id};
use finback_core::route::Text;

use super::{Result, text};
use crate::config::Wrong;
use crate::config::file;
use crate::config::units::Placed;

/// The kinds, for who wrote none of them.
const KINDS: &str = "write a SPIFFE ID (spiffe://...), a DNS name, or a common name (cn:...)";

/// The kind of name, and the condition on it. A text that no name of its kind can fit is refused: it
/// would protect nothing.
pub(super) fn identity(from: Placed<file::Text>) -> Result<(IdentityKind, Text)> {
    let place = from.place;
    let (written, can_fit) = match &from.value {
        file::Text::Exact(name) => (name.clone(), exact(name)),
        file::Text::Rule(file::TextRule {
            prefix: Some(beginning),
            regex: None,
        }) => (beginning.clone(), prefix(beginning)),
        file::Text::Rule(file::TextRule {
            prefix: None,
            regex: Some(expression),
        }) => (expression.clone(), regex(expression)),
        // Refused by `text`.
        file::Text::Rule(_) => (String::new(), true),
    };
    if !can_fit {
        let message = format!("`{written}` fits no identity; {KINDS}");
        return Err(Wrong::at(place, message));
    }
    let kind = IdentityKind::of(&written);
    let condition = match (kind, text(from)?) {
        // Names of hosts are compared in small letters (RFC 4343).
        (IdentityKind::Dns, Text::Exact(name)) => Text::Exact(name.to_ascii_lowercase().into()),
        (IdentityKind::Dns, Text::Prefix(name)) => Text::Prefix(name.to_ascii_lowercase().into()),
        (_, condition) => condition,
    };
    Ok((kind, condition))
}

fn exact(name: &str) -> bool {
    match IdentityKind::of(name) {
        IdentityKind::Spiffe => is_spiffe_id(name),
        IdentityKind::Dns => is_dns_name(name),
        IdentityKind::CommonName => name.len() > COMMON_NAME.len(),
    }
}

fn prefix(beginning: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_*".contains(c);
    match IdentityKind::of(beginning) {
        IdentityKind::Spiffe => {
            let rest = &beginning[SPIFFE.len()..];
            rest.is_empty()
                || is_spiffe_id(beginning)
                || beginning.strip_suffix('/').is_some_and(is_spiffe_id)
        }
        IdentityKind::Dns => !beginning.is_empty() && beginning.chars().all(fits),
        IdentityKind::CommonName => true,
    }
}

fn regex(expression: &str) -> bool {
    // No DNS name has these; it was meant for another kind.
    let is_host = !expression.replace("(?:", "(").contains([':', '/']);
    !expression.is_empty() && (IdentityKind::of(expression) != IdentityKind::Dns || is_host)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: file::Text) -> Option<IdentityKind> {
        let place = (7, 9);
        match identity(Placed { value, place }) {
            Ok((kind, _)) => Some(kind),
            Err(wrong) => {
                assert_eq!(wrong.place, place);
                None
            }
        }
    }

    fn rule(prefix: Option<&str>, regex: Option<&str>) -> file::Text {
        file::Text::Rule(file::TextRule {
            prefix: prefix.map(str::to_owned),
            regex: regex.map(str::to_owned),
        })
    }

    #[test]
    fn how_a_text_begins_tells_its_kind_and_what_fits_nothing_is_refused() {
        for (text, kind) in [
            ("spiffe://acme/pay", Some(IdentityKind::Spiffe)),
            ("spiffe://acme/pay/", None),
            ("spiffe:/acme", None),
            ("Spiffe://acme/pay", None),
            ("pay.acme.test", Some(IdentityKind::Dns)),
            ("*.acme.test", Some(IdentityKind::Dns)),
            ("cn:pay", Some(IdentityKind::CommonName)),
            ("cn:", None),
            ("CN=pay", None),
            ("https://acme.test", None),
            ("", None),
        ] {
            assert_eq!(of(file::Text::Exact(text.to_owned())), kind, "{text}");
        }
        for (prefix, kind) in [
            ("spiffe://", Some(IdentityKind::Spiffe)),
            ("spiffe://acme/", Some(IdentityKind::Spiffe)),
            ("spiffe://acme/p", Some(IdentityKind::Spiffe)),
            ("spiffe://Acme/", None),
            ("spiffe:", None),
            ("pay.", Some(IdentityKind::Dns)),
            ("cn:", Some(IdentityKind::CommonName)),
            ("", None),
        ] {
            assert_eq!(of(rule(Some(prefix), None)), kind, "{prefix}");
        }
        for (regex, kind) in [
            ("spiffe://[^/]+/pay", Some(IdentityKind::Spiffe)),
            ("(spiffe://a/x|spiffe://b/x)", None),
            (".*/pay", None),
            ("(?:pay|ship)[.]test", Some(IdentityKind::Dns)),
            ("cn:p.*", Some(IdentityKind::CommonName)),
            ("", None),
        ] {
            assert_eq!(of(rule(None, Some(regex))), kind, "{regex}");
        }
        assert_eq!(of(rule(Some("a"), Some("b"))), None);
    }
}
