//! Client identity: the names in a verified client certificate, each of its kind.
//!
//! Kinds never stand for each other. As text, the kinds cannot be confused either: a SPIFFE ID
//! begins with `spiffe://`, a common name with `cn:`, and a DNS name has neither colon nor slash. So
//! a text that was made here may be a key, or part of one.

/// What a SPIFFE ID begins with as text (SPIFFE-ID, section 2).
pub const SPIFFE: &str = "spiffe://";
/// What a common name begins with as text.
pub const COMMON_NAME: &str = "cn:";
/// The longest SPIFFE ID (SPIFFE-ID, section 2.3).
const SPIFFE_LONGEST: usize = 2048;
/// The longest name of a trust domain (SPIFFE-ID, section 2.1).
const TRUST_DOMAIN_LONGEST: usize = 255;
/// The longest DNS name as text (RFC 1035, section 2.3.4), and the longest label.
const DNS_LONGEST: usize = 253;
const LABEL_LONGEST: usize = 63;

/// What kind of name an identity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdentityKind {
    /// A SPIFFE ID, from the certificate's only URI.
    Spiffe,
    /// A DNS name, of which a certificate may have several.
    Dns,
    /// The common name of a certificate that has neither URI nor DNS name.
    CommonName,
}

impl IdentityKind {
    /// The kind of a name that begins like this text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        if text.starts_with(SPIFFE) {
            Self::Spiffe
        } else if text.starts_with(COMMON_NAME) {
            Self::CommonName
        } else {
            Self::Dns
        }
    }
}

/// Who the client is, by a certificate that was verified; never without a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    spiffe: Option<Box<str>>,
    dns: Box<[Box<str>]>,
    /// As text, with what it begins with. It counts only where nothing else does.
    common_name: Option<Box<str>>,
}

impl Identity {
    /// Of a certificate's names; `None` if there is none. Names that are not
    /// [well-formed](is_spiffe_id) are left out.
    #[must_use]
    pub fn of(spiffe: Option<&str>, dns: &[&str], common_name: Option<&str>) -> Option<Self> {
        let spiffe = spiffe.filter(|id| is_spiffe_id(id)).map(Box::from);
        let dns: Box<[Box<str>]> = dns
            .iter()
            .filter(|name| is_dns_name(name))
            .map(|name| name.to_ascii_lowercase().into())
            .collect();
        let common_name = common_name
            .filter(|name| !name.is_empty() && !name.contains(char::is_control))
            .map(|name| format!("{COMMON_NAME}{name}").into());
        let own = Self {
            spiffe,
            dns,
            common_name,
        };
        (own.has_alternative_name() || own.common_name.is_some()).then_some(own)
    }

    /// Whether it is known by what is meant for that, so that its common name does not count
    /// (RFC 9525, section 2).
    fn has_alternative_name(&self) -> bool {
        self.spiffe.is_some() || !self.dns.is_empty()
    }

    /// Its first name, as text: the SPIFFE ID, else the first DNS name, else the common name after
    /// `cn:`.
    #[must_use]
    pub fn text(&self) -> &str {
        let first = self
            .spiffe
            .as_deref()
            .or(self.dns.first().map(|own| &**own));
        first.or(self.common_name.as_deref()).unwrap_or_default()
    }

    /// The common name as it stands in the certificate, if that is what identifies it.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.subject().filter(|_| !self.has_alternative_name())
    }

    /// The common name as it stands in the certificate, though it may not identify it.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.common_name.as_deref()?.strip_prefix(COMMON_NAME)
    }

    /// All its names, as text.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let common = (self.common_name.as_deref()).filter(|_| !self.has_alternative_name());
        let names = self.spiffe.as_deref().into_iter().chain(common);
        names.chain(self.dns.iter().map(|own| &**own))
    }

    /// Whether a name of this kind, as text, is as it should be.
    #[must_use]
    pub fn any(&self, kind: IdentityKind, is_right: impl Fn(&str) -> bool) -> bool {
        match kind {
            IdentityKind::Spiffe => self.spiffe.as_deref().is_some_and(is_right),
            IdentityKind::Dns => self.dns.iter().any(|name| is_right(name)),
            IdentityKind::CommonName => {
                !self.has_alternative_name() && self.common_name.as_deref().is_some_and(is_right)
            }
        }
    }
}

/// Whether a text is a well-formed SPIFFE ID: a trust domain, then segments of a path, if any, none
/// of them empty or made of dots (SPIFFE-ID, sections 2.1 to 2.3).
#[must_use]
pub fn is_spiffe_id(text: &str) -> bool {
    let Some(rest) = text.strip_prefix(SPIFFE) else {
        return false;
    };
    let (domain, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let is_common = |c: u8| c.is_ascii_digit() || b".-_".contains(&c);
    let is_domain = |c: u8| c.is_ascii_lowercase() || is_common(c);
    let is_segment = |segment: &str| {
        let fits = |c: u8| c.is_ascii_alphabetic() || is_common(c);
        !matches!(segment, "" | "." | "..") && segment.bytes().all(fits)
    };
    text.len() <= SPIFFE_LONGEST
        && !domain.is_empty()
        && domain.len() <= TRUST_DOMAIN_LONGEST
        && domain.bytes().all(is_domain)
        && path.split('/').skip(1).all(is_segment)
}

/// Whether a text is a DNS name as certificates have it; its first label may be `*`.
#[must_use]
pub fn is_dns_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"-_".contains(&c);
        !label.is_empty() && label.len() <= LABEL_LONGEST && label.bytes().all(fits)
    };
    let labels = text.strip_prefix("*.").unwrap_or(text);
    text.len() <= DNS_LONGEST && labels.split('.').all(is_label)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_are_well_formed() {
        for good in [
            "spiffe://acme",
            "spiffe://acme.test/pay",
            "spiffe://a_b-c.1/ns/Default/sa/x.y",
        ] {
            assert!(is_spiffe_id(good), "{good}");
        }
        let long = format!("spiffe://{}", "a".repeat(256));
        for bad in [
            "spiffe://",
            "spiffe:///pay",
            "SPIFFE://acme/pay",
            "spiffe://Acme/pay",
            "spiffe://acme/",
            "spiffe://acme/pay/",
            "spiffe://acme//pay",
            "spiffe://acme/./pay",
            "spiffe://acme/../pay",
            "spiffe://acme/pay?x",
            "spiffe://acme/pay#x",
            "spiffe://acme/p%61y",
            "spiffe://acme:443/pay",
            "spiffe://user@acme/pay",
            "spiffe://acme/p\u{e4}y",
            "urn:acme:pay",
            &*long,
        ] {
            assert!(!is_spiffe_id(bad), "{bad}");
        }
    }

    #[test]
    fn a_name_of_one_kind_is_never_of_another() {
        let of = Identity::of(None, &["spiffe://acme/pay", "cn:root"], None);
        assert_eq!(of, None);
        let of = Identity::of(None, &[], Some("spiffe://acme/pay")).unwrap();
        assert_eq!(of.text(), "cn:spiffe://acme/pay");
        assert_eq!(of.common_name(), Some("spiffe://acme/pay"));
        let any = |kind| of.any(kind, |_| true);
        assert!(
            !any(IdentityKind::Spiffe) && !any(IdentityKind::Dns) && any(IdentityKind::CommonName)
        );
        let of = Identity::of(None, &[], Some("a.test")).unwrap();
        assert!(!of.any(IdentityKind::Dns, |_| true));
    }

    #[test]
    fn the_common_name_counts_where_nothing_else_does() {
        let of = Identity::of(Some("spiffe://acme/pay"), &["A.test", "b.test"], Some("c")).unwrap();
        assert_eq!((of.text(), of.common_name()), ("spiffe://acme/pay", None));
        assert!(of.any(IdentityKind::Dns, |name| name == "b.test"));
        assert!(of.any(IdentityKind::Dns, |name| name == "a.test"));
        let of = Identity::of(None, &["b.test"], Some("c")).unwrap();
        assert_eq!((of.text(), of.common_name()), ("b.test", None));
        assert_eq!(of.subject(), Some("c"));
        assert!(!of.any(IdentityKind::CommonName, |_| true));
        assert_eq!(Identity::of(None, &[], Some("")), None);
        assert_eq!(Identity::of(None, &[], Some("a\nb")), None);
        assert_eq!(Identity::of(None, &[], None), None);
    }

    #[test]
    fn dns_names_are_names() {
        for (name, is) in [
            ("a.test", true),
            ("*.a.test", true),
            ("_a-1", true),
            ("a.*.test", false),
            ("a..test", false),
            ("a.test.", false),
            ("a/b", false),
            ("cn:a", false),
            ("", false),
        ] {
            assert_eq!(is_dns_name(name), is, "{name}");
        }
    }
}
