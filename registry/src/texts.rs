//! Names and values in one piece of memory, which copies share: providers by the hundred thousand
//! have a dozen each.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Stands after each name and after each value.
const END: char = '\0';

/// Values by name, in order of name.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts(Arc<str>);

impl Texts {
    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find(|(own, _)| *own == name)
            .map(|(_, value)| value)
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut parts = self.0.split_terminator(END);
        std::iter::from_fn(move || Some((parts.next()?, parts.next()?)))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same, to be changed.
    #[must_use]
    pub fn to_map(&self) -> BTreeMap<String, String> {
        self.iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// The same without some names.
    pub(crate) fn without(&self, names: &[&str]) -> Self {
        let mut map = self.to_map();
        map.retain(|name, _| !names.contains(&&**name));
        map.into()
    }
}

impl From<BTreeMap<String, String>> for Texts {
    /// Those with a NUL in them are left out: no registry's text has one.
    fn from(map: BTreeMap<String, String>) -> Self {
        let mut text = String::new();
        for (name, value) in &map {
            if !name.contains(END) && !value.contains(END) {
                text.extend([name, "\0", value, "\0"]);
            }
        }
        Self(text.into())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Texts {
    fn from(pairs: [(&str, &str); N]) -> Self {
        pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter()
            .collect()
    }
}

impl FromIterator<(String, String)> for Texts {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(pairs: I) -> Self {
        pairs.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl Serialize for Texts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::<String, String>::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let texts = Texts::from([("b", "2"), ("a", ""), ("", "x"), ("c", "\0")]);
        let all: Vec<_> = texts.iter().collect();
        assert_eq!(all, [("", "x"), ("a", ""), ("b", "2")]);
        assert_eq!(
            (texts.get("a"), texts.get("b"), texts.get("c")),
            (Some(""), Some("2"), None)
        );
        assert_eq!(texts.without(&["a", ""]), Texts::from([("b", "2")]));
        assert_eq!(Texts::from(texts.to_map()), texts);
        assert!(Texts::default().is_empty() && Texts::default().iter().next().is_none());
    }
}
