//! What filters change about a call: attributes that reach the endpoint in its protocol's own way.

use crate::trace::Field;

/// Attributes to set on a call, in order; an empty value takes one away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits {
    attributes: Vec<Field>,
    drops_answer: bool,
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

    /// The call is carried out, and its caller never hears of it.
    pub fn drop_answer(&mut self) {
        self.drops_answer = true;
    }

    /// Whether the caller never hears of it.
    #[must_use]
    pub fn drops_answer(&self) -> bool {
        self.drops_answer
    }

    /// Whether nothing is changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.attributes.is_empty() && !self.drops_answer
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
        self.drops_answer |= other.drops_answer;
    }
}
