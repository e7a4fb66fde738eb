//! Compact parameters: the names and values of a provider in one piece of memory, which copies share. There are hundreds of
//! thousands of providers, with a dozen parameters each, and those of one service differ in few of them.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Stands after each name and after each value.
const END: char = '\0';

/// Values by name, in order of name.
#[derive(Clone, Default)]
pub struct Texts {
    /// Shared with others that are alike. Every name in it counts.
    common: Arc<str>,
    /// These come before common ones of the same name.
    own: Arc<str>,
}

/// The names and values of one piece.
fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (name, after) = cut(rest)?;
        let (value, after) = cut(after)?;
        rest = after;
        Some((name, value))
    })
}

/// What stands before the first end, and after it. Names and values are short: a plain search is the fastest.
fn cut(text: &str) -> Option<(&str, &str)> {
    let end = text.bytes().position(|byte| byte == 0)?;
    Some((&text[..end], &text[end + END.len_utf8()..]))
}

/// One piece of names and values.
fn piece<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Arc<str> {
    let mut text = String::new();
    for (name, value) in pairs {
        text.extend([name, "\0", value, "\0"]);
    }
    match text.is_empty() {
        // The same for all: it takes no memory.
        true => Arc::default(),
        false => text.into(),
    }
}

impl Texts {
    /// The value of a name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut pieces = [&self.own, &self.common].into_iter();
        pieces.find_map(|piece| {
            // They are in order: what is not there need not be looked for to the end.
            let mut up_to = pairs(piece).take_while(|(own, _)| *own <= name);
            let (_, value) = up_to.find(|(own, _)| *own == name)?;
            Some(value)
        })
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut common = pairs(&self.common).peekable();
        let mut own = pairs(&self.own).peekable();
        std::iter::from_fn(move || {
            let order = match (common.peek(), own.peek()) {
                (Some((common, _)), Some((own, _))) => common.cmp(own),
                (Some(_), None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            match order {
                Ordering::Less => common.next(),
                Ordering::Greater => own.next(),
                Ordering::Equal => {
                    common.next();
                    own.next()
                }
            }
        })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.common.is_empty() && self.own.is_empty()
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

    /// Shares with another what both have in common, where that takes less memory.
    pub(crate) fn share(&mut self, other: &Self) {
        if let Some(shared) = self.like(other) {
            *self = shared;
        }
    }

    fn like(&self, other: &Self) -> Option<Self> {
        let mut common = pairs(&other.common).peekable();
        let mut own = Vec::new();
        for (name, value) in self.iter() {
            match common.peek() {
                Some((first, _)) if *first < name => return None,
                Some(pair) if *pair == (name, value) => drop(common.next()),
                Some((first, _)) => {
                    if *first == name {
                        common.next();
                    }
                    own.push((name, value));
                }
                None => own.push((name, value)),
            }
        }
        if common.peek().is_some() {
            return None;
        }
        let own = piece(own.into_iter());
        (own.len() < self.common.len() + self.own.len()).then(|| Self {
            common: other.common.clone(),
            own,
        })
    }
}

#[cfg(test)]
impl Texts {
    /// The bytes that it holds alone: what others share is theirs.
    pub(crate) fn own_bytes(&self) -> usize {
        self.own.len()
    }
}

impl PartialEq for Texts {
    fn eq(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.common, &other.common) {
            // Nothing in either own piece is common.
            return self.own == other.own;
        }
        self.iter().eq(other.iter())
    }
}

impl Eq for Texts {}

impl From<BTreeMap<String, String>> for Texts {
    /// Those with a NUL in them are left out: no registry's text has one.
    fn from(map: BTreeMap<String, String>) -> Self {
        let pairs = map.iter().map(|(name, value)| (&**name, &**value));
        let pairs = pairs.filter(|(name, value)| !name.contains(END) && !value.contains(END));
        Self {
            common: piece(pairs),
            own: Arc::default(),
        }
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
    use proptest::prelude::*;

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

    #[test]
    fn those_that_are_alike_keep_what_is_common_once() {
        let first = Texts::from([("application", "shop"), ("pid", "1"), ("timeout", "3000")]);
        let alike = [("application", "shop"), ("pid", "2"), ("timeout", "3000")];
        let more = [
            ("application", "shop"),
            ("pid", "2"),
            ("timeout", "3000"),
            ("zone", "a"),
        ];
        for (own, expected) in [
            (Texts::from(alike), "pid\x002\0"),
            (Texts::from(more), "pid\x002\0zone\0a\0"),
            (first.clone(), ""),
        ] {
            let mut shared = own.clone();
            shared.share(&first);
            assert_eq!(shared, own);
            assert_eq!(&*shared.own, expected);
            assert!(Arc::ptr_eq(&shared.common, &first.common));
        }
        // What it lacks cannot be common, and what has little in common is better off alone.
        let less = Texts::from([("application", "shop"), ("pid", "1")]);
        assert!(less.like(&first).is_none());
        let other = Texts::from([("application", "a"), ("pid", "b"), ("timeout", "c")]);
        assert!(other.like(&first).is_none());
    }

    proptest! {
        #[test]
        fn sharing_changes_nothing(
            maps in proptest::collection::vec(
                proptest::collection::btree_map("[a-d]", "[xy]{0,2}", 0..5), 1..8),
        ) {
            let mut last = Texts::default();
            for map in maps {
                let plain = Texts::from(map.clone());
                let mut shared = plain.clone();
                shared.share(&last);
                prop_assert_eq!(&shared, &plain);
                prop_assert_eq!(shared.to_map(), map.clone());
                prop_assert_eq!(shared == last, map == last.to_map());
                for name in ["a", "b", "c", "d"] {
                    prop_assert_eq!(shared.get(name), map.get(name).map(String::as_str));
                }
                last = shared;
            }
        }
    }
}
