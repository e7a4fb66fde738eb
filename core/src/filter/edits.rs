//! Edits that filters make to a call: attributes that reach the endpoint in its protocol's own way.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::subset::InLane;
use crate::trace::Field;

/// Attributes of these names are claims: filters write them, and nobody else.
const CLAIM: &str = "claim.";

/// What is proved of a caller, by names.
pub type Claims = BTreeMap<String, String>;

/// The name of a claim, if an attribute is called as one.
pub(super) fn claim(attribute: &str) -> Option<&str> {
    let (begin, name) = attribute.split_at_checked(CLAIM.len())?;
    begin.eq_ignore_ascii_case(CLAIM).then_some(name)
}

/// Attributes to set on a call, in order; an empty value takes one away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    attributes: Vec<Field>,
    claims: Vec<Arc<Claims>>,
    drops_answer: bool,
    lane: Option<InLane>,
}

impl Edits {
    /// Sets an attribute, whatever it was before.
    pub fn set(&mut self, name: &str, value: &str) {
        let own = self.attributes.iter_mut().find(|(own, _)| own == name);
        match own {
            Some((_, own)) => value.clone_into(own),
            None => self
                .attributes
                .push((name.to_owned().into(), value.to_owned())),
        }
    }

    /// Takes an attribute away. Frames cannot lose one: there it stays, without a value.
    pub fn clear(&mut self, name: &str) {
        self.set(name, "");
    }

    /// The value that an attribute was given; empty if it was taken away. However its name is written: where the
    /// protocol tells no `X-User` from `x-user`, what the caller wrote must not be read in place of what was set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let own = self.attributes.iter().rev();
        let own = own
            .clone()
            .find(|(own, _)| own == name)
            .or_else(|| own.clone().find(|(own, _)| own.eq_ignore_ascii_case(name)));
        own.map(|(_, value)| value.as_str())
    }

    /// Says what is proved of the caller: filters that follow read it as the attributes `claim.NAME`, whatever the
    /// caller writes there. It is not sent on.
    pub fn claim(&mut self, claims: Arc<Claims>) {
        self.claims.push(claims);
    }

    /// What is proved of the caller under this name; what was proved last goes before.
    #[must_use]
    pub fn claimed(&self, name: &str) -> Option<&str> {
        let mut claims = self.claims.iter().rev();
        claims.find_map(|own| own.get(name)).map(String::as_str)
    }

    /// The call is carried out, and its caller never hears of it.
    pub fn drop_answer(&mut self) {
        self.drops_answer = true;
    }

    /// Whether the caller never hears of it.
    #[must_use]
    pub fn drops_answer(&self) -> bool {
        self.drops_answer
    }

    /// Has it go to the endpoints of a lane.
    pub fn place(&mut self, lane: InLane) {
        self.lane = Some(lane);
    }

    /// The lane whose endpoints it goes to, if that is told apart.
    #[must_use]
    pub fn placed(&self) -> Option<&InLane> {
        self.lane.as_ref()
    }

    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty()
            && self.claims.is_empty()
            && !self.drops_answer
            && self.lane.is_none()
    }

    /// The attributes.
    #[must_use]
    pub fn attributes(&self) -> &[Field] {
        &self.attributes
    }

    /// Adds what another has.
    pub fn extend(&mut self, other: Self) {
        for (name, value) in &other.attributes {
            self.set(name, value);
        }
        self.claims.extend(other.claims);
        self.drops_answer |= other.drops_answer;
        if other.lane.is_some() {
            self.lane = other.lane;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_proved_last_goes_before_and_names_of_claims_are_told_in_any_case() {
        let claims = |value: &str| {
            let own = [("sub", value), (value, "own")];
            let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
            Arc::new(Claims::from(own))
        };
        let mut edits = Edits::default();
        edits.claim(claims("first"));
        let mut later = Edits::default();
        later.claim(claims("later"));
        edits.extend(later);
        assert!(!edits.is_empty() && edits.attributes().is_empty());
        let mut dropping = Edits::default();
        dropping.drop_answer();
        assert!(!edits.drops_answer());
        edits.extend(dropping);
        edits.extend(Edits::default());
        assert!(edits.drops_answer());
        assert_eq!(edits.claimed("sub"), Some("later"));
        assert_eq!(edits.claimed("first"), Some("own"));
        assert_eq!(edits.claimed("none"), None);
        assert_eq!(
            (claim("Claim.sub"), claim("claims.sub"), claim("cläim.")),
            (Some("sub"), None, None)
        );
    }

    #[test]
    fn an_attribute_that_was_set_is_read_however_its_name_is_written() {
        let mut edits = Edits::default();
        edits.set("X-User", "alice");
        edits.clear("x-secret");
        assert_eq!(edits.get("x-user"), Some("alice"));
        assert_eq!(edits.get("X-Secret"), Some(""));
        edits.set("x-user", "carol");
        edits.set("x-user", "bob");
        assert_eq!(edits.attributes().len(), 3);
        assert_eq!(
            (edits.get("x-user"), edits.get("X-User")),
            (Some("bob"), Some("alice"))
        );
    }
}
