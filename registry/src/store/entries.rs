//! Names and values of one folder, in order of name, each name kept as what it differs in from another.
//!
//! The providers of a service have names of half a kilobyte, all parameters of theirs, and differ in a
//! host, a process and a time: a hundred thousand of them would take more room than all that is made of
//! them. Copies share what they have in common, so that a change costs little more than what it changes.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

/// Begins a name that is kept as it is; no number is this character.
const WHOLE: char = '\u{10ffff}';
/// Numbers in a piece are characters, and from here on some are none.
const MAX_NUMBER: usize = 0xd7ff;

/// Names directly below a path, with their values where those are asked for.
#[derive(Clone, Default)]
pub(crate) struct Entries {
    /// A name that stands or stood among them.
    pattern: Arc<str>,
    /// In order of name.
    list: Vec<(Piece, Bytes)>,
}

/// A name: [`WHOLE`] and itself, or its differences from the pattern, which begin with three numbers each:
/// how many bytes of the pattern come first, in place of how many the difference stands, and how many it has.
type Piece = Arc<str>;

impl Entries {
    /// None.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Names and values, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Cow<'_, str>, &Bytes)> {
        self.list
            .iter()
            .map(|(piece, value)| (self.name_of(piece), value))
    }

    /// The names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.iter().map(|(name, _)| name)
    }

    /// The name and the value that stand at a place in the order.
    pub(crate) fn at(&self, place: usize) -> Option<(Cow<'_, str>, &Bytes)> {
        let (piece, value) = self.list.get(place)?;
        Some((self.name_of(piece), value))
    }

    /// How the name at a place compares with one of others; one that is missing comes last.
    pub(crate) fn compare(&self, place: usize, others: &Self, of_others: usize) -> Ordering {
        match (self.list.get(place), others.list.get(of_others)) {
            (Some((own, _)), Some((other, _))) => {
                if Arc::ptr_eq(&self.pattern, &others.pattern) && own == other {
                    return Ordering::Equal;
                }
                self.name_of(own).cmp(&others.name_of(other))
            }
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => Ordering::Equal,
        }
    }

    /// Whether name and value at a place are those at one of others.
    pub(crate) fn is_same(&self, place: usize, others: &Self, of_others: usize) -> bool {
        let value = |own: &(Piece, Bytes), other: &(Piece, Bytes)| own.1 == other.1;
        match (self.list.get(place), others.list.get(of_others)) {
            (Some(own), Some(other)) => {
                value(own, other) && self.compare(place, others, of_others).is_eq()
            }
            _ => false,
        }
    }

    /// The value of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&Bytes> {
        let place = self.find(name).ok()?;
        Some(&self.list[place].1)
    }

    /// Whether a name is there.
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.find(name).is_ok()
    }

    /// Adds a name with its value, and gives back the value that it had.
    pub(crate) fn insert(&mut self, name: &str, value: Bytes) -> Option<Bytes> {
        match self.find(name) {
            Ok(place) => Some(std::mem::replace(&mut self.list[place].1, value)),
            Err(place) => {
                if self.list.is_empty() {
                    self.pattern = name.into();
                }
                if self.list.len() == self.list.capacity() {
                    // Most have few, which change rarely: no more room than that.
                    self.list.reserve_exact(1 + self.list.len() / 16);
                }
                let piece = piece(&self.pattern, name);
                self.list.insert(place, (piece, value));
                None
            }
        }
    }

    /// Takes a name out, and gives back its value.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Bytes> {
        let place = self.find(name).ok()?;
        Some(self.list.remove(place).1)
    }

    /// Takes out all but these.
    pub(crate) fn retain(&mut self, mut kept: impl FnMut(&str) -> bool) {
        let pattern = self.pattern.clone();
        self.list.retain(|(piece, _)| kept(&whole(&pattern, piece)));
    }

    /// Takes no more room than it needs.
    pub(crate) fn shrink(&mut self) {
        self.list.shrink_to_fit();
    }

    fn name_of<'a>(&'a self, piece: &'a Piece) -> Cow<'a, str> {
        whole(&self.pattern, piece)
    }

    /// Where a name is, or where it belongs.
    fn find(&self, name: &str) -> Result<usize, usize> {
        let compare = |(piece, _): &(Piece, Bytes)| compare(parts(&self.pattern, piece), name);
        // Lists come in order.
        if self.list.last().is_some_and(|last| compare(last).is_lt()) {
            return Err(self.list.len());
        }
        self.list.binary_search_by(compare)
    }
}

/// How a text in parts compares with another.
fn compare<'a>(parts: impl Iterator<Item = &'a str>, text: &str) -> Ordering {
    let mut rest = text.as_bytes();
    for part in parts {
        let part = part.as_bytes();
        let length = part.len().min(rest.len());
        let (first, after) = rest.split_at(length);
        match part.cmp(first) {
            Ordering::Equal => rest = after,
            differs => return differs,
        }
    }
    match rest {
        [] => Ordering::Equal,
        _ => Ordering::Less,
    }
}

/// The piece that a name is kept as.
fn piece(pattern: &str, name: &str) -> Piece {
    match differences(pattern, name) {
        Some(piece) if piece.len() < name.len() => piece.into(),
        _ => format!("{WHOLE}{name}").into(),
    }
}

/// What a name differs in, if it has as many words as the pattern.
fn differences(pattern: &str, name: &str) -> Option<String> {
    let number = |number: usize| {
        let number = u32::try_from(number.min(MAX_NUMBER + 1)).ok()?;
        char::from_u32(number)
    };
    let mut piece = String::new();
    let (mut words, mut of_pattern) = (words(name), words(pattern));
    let mut same = 0;
    loop {
        match (words.next(), of_pattern.next()) {
            (Some(word), Some(pattern)) if word == pattern => same += word.len(),
            (Some(word), Some(pattern)) => {
                piece.extend([number(same)?, number(pattern.len())?, number(word.len())?]);
                piece.push_str(word);
                same = 0;
            }
            (None, None) => return Some(piece),
            _ => return None,
        }
    }
}

/// The words of a name, each with what it is parted by before it: parameters of encoded URLs and their values.
fn words(name: &str) -> impl Iterator<Item = &str> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let mut others = rest.bytes().enumerate().skip(1);
        let end = others.find(|(_, byte)| matches!(byte, b'%' | b'&'));
        let end = end.map_or(rest.len(), |(at, _)| at);
        let (word, after) = rest.split_at(end);
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

/// The name that a piece stands for.
fn whole<'a>(pattern: &'a str, piece: &'a str) -> Cow<'a, str> {
    if let Some(name) = piece.strip_prefix(WHOLE) {
        return Cow::Borrowed(name);
    }
    if piece.is_empty() {
        return Cow::Borrowed(pattern);
    }
    let mut name = String::with_capacity(pattern.len() + piece.len());
    name.extend(parts(pattern, piece));
    Cow::Owned(name)
}

/// The parts of the name that a piece stands for.
fn parts<'a>(pattern: &'a str, piece: &'a str) -> impl Iterator<Item = &'a str> {
    let (mut pattern, mut rest) = match piece.strip_prefix(WHOLE) {
        Some(name) => (name, ""),
        None => (pattern, piece),
    };
    let mut difference = None;
    std::iter::from_fn(move || {
        if let Some(word) = difference.take() {
            return Some(word);
        }
        let mut numbers = rest.chars();
        let mut number = || numbers.next().map(|char| char as usize);
        let (Some(same), Some(replaced), Some(length)) = (number(), number(), number()) else {
            let end = std::mem::take(&mut pattern);
            return (!end.is_empty()).then_some(end);
        };
        let (word, after) = numbers.as_str().split_at(length);
        let (first, others) = pattern.split_at(same);
        (rest, pattern, difference) = (after, &others[replaced..], Some(word));
        Some(first)
    })
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        if Arc::ptr_eq(&self.pattern, &other.pattern) {
            return self.list == other.list;
        }
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Entries {}

impl Hash for Entries {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len());
        for (name, value) in self.iter() {
            name.hash(state);
            value.hash(state);
        }
    }
}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<T: AsRef<str> + Ord> FromIterator<(T, Bytes)> for Entries {
    fn from_iter<I: IntoIterator<Item = (T, Bytes)>>(entries: I) -> Self {
        // Of the same name the last counts.
        let entries: BTreeMap<T, Bytes> = entries.into_iter().collect();
        let mut own = Self::new();
        own.list.reserve_exact(entries.len());
        for (name, value) in entries {
            own.insert(name.as_ref(), value);
        }
        own
    }
}

#[cfg(test)]
impl<T: AsRef<str> + Ord, const N: usize> From<[(T, Bytes); N]> for Entries {
    fn from(entries: [(T, Bytes); N]) -> Self {
        entries.into_iter().collect()
    }
}

#[cfg(test)]
impl Entries {
    /// The bytes of names that it holds.
    pub(crate) fn name_bytes(&self) -> usize {
        let pieces = self.list.iter().map(|(piece, _)| piece.len());
        self.pattern.len() + pieces.sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn provider(number: usize) -> String {
        let mut url = format!("dubbo%3A%2F%2F10.0.0.{number}%3A20880%2Fcom.acme.Greeter%3F");
        for parameter in ["application", "methods", "release", "side"] {
            url += &format!("{parameter}%3Dsomething-of-all%26");
        }
        url + &format!("pid%3D{}%26version%3D1.0.0", 1000 + 7 * number)
    }

    #[test]
    fn a_name_takes_the_room_of_what_it_differs_in() {
        let names: Vec<String> = (0..20).map(provider).collect();
        let all = names.iter().map(|name| (name.clone(), Bytes::new()));
        let entries: Entries = all.collect();
        let longest = names.iter().map(String::len).max().unwrap_or_default();
        let each = (entries.name_bytes() - longest) / entries.len();
        assert!(each < 40, "{each} bytes of {longest}");
        let mut sorted = names.clone();
        sorted.sort();
        assert_eq!(entries.names().collect::<Vec<_>>(), sorted);
        for name in names {
            assert!(entries.contains(&name));
        }
    }

    #[test]
    fn what_is_parted_otherwise_is_kept_whole() {
        let mut entries = Entries::new();
        let names = ["a%b", "a%b%c", "", "%", "%%", "a&b", "\u{e9}%b", "a%\u{e9}"];
        for (number, name) in names.iter().enumerate() {
            assert_eq!(entries.insert(name, vec![number as u8].into()), None);
        }
        for (number, name) in names.iter().enumerate() {
            assert_eq!(entries.get(name), Some(&vec![number as u8].into()));
        }
        let long = format!("{}%b", "x".repeat(2 * MAX_NUMBER));
        for last in ["c", "d"] {
            entries.insert(&format!("{long}{last}"), Bytes::new());
        }
        let mut long_ones = Entries::new();
        for first in ["a", "b"] {
            long_ones.insert(&format!("{first}{long}"), Bytes::new());
        }
        assert_eq!(long_ones.names().count(), 2);
        assert!(long_ones.contains(&format!("b{long}")));
        assert_eq!(entries.len(), names.len() + 2);
    }

    proptest! {
        #[test]
        fn they_are_a_map(
            changes in proptest::collection::vec(
                ("[ab\u{e9}]?(%[ab]{0,2}){0,3}", proptest::option::of(any::<u8>())), 0..40),
        ) {
            let mut model = BTreeMap::<String, Bytes>::new();
            let mut own = Entries::new();
            for (name, value) in changes {
                match value {
                    Some(value) => {
                        let value = Bytes::from(vec![value]);
                        let before = model.insert(name.clone(), value.clone());
                        prop_assert_eq!(own.insert(&name, value), before);
                    }
                    None => prop_assert_eq!(own.remove(&name), model.remove(&name)),
                }
                prop_assert_eq!(own.len(), model.len());
                let fresh: Entries = model.iter().map(|(name, value)| (&**name, value.clone())).collect();
                prop_assert_eq!(&own, &fresh);
                let listed = own.iter().map(|(name, value)| (name.into_owned(), value.clone()));
                prop_assert_eq!(listed.collect::<BTreeMap<_, _>>(), model.clone());
                prop_assert_eq!(own.get(&name), model.get(&name));
                for (place, (name, value)) in model.iter().enumerate() {
                    prop_assert_eq!(own.at(place), Some((Cow::Borrowed(&**name), value)));
                    prop_assert_eq!(own.compare(place, &fresh, place), Ordering::Equal);
                    prop_assert_eq!(own.compare(place, &fresh, place + 1), Ordering::Less);
                }
                prop_assert!(own.compare(own.len(), &fresh, own.len()).is_eq());
            }
            let mut kept = own.clone();
            kept.retain(|name| name.contains('b'));
            model.retain(|name, _| name.contains('b'));
            prop_assert!(kept.names().eq(model.keys().map(String::as_str)));
        }
    }
}
