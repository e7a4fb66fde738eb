//! A prefix of etcd, kept up to date change by change.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::{Answer, Entries, bounded};

/// A change of one key.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) key: String,
    pub(super) what: What,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    Made(Vec<u8>),
    Written(Vec<u8>),
    Removed,
}

/// What a follower keeps of the keys below a prefix.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gathered {
    /// All names and values.
    Entries(Entries),
    /// All names.
    Names(Entries),
    /// How many keys there are below each folder, at any depth; a change costs the same however
    /// many there are.
    Folders(BTreeMap<String, usize>),
}

impl Gathered {
    /// Whether the keys' values are of any use.
    pub(super) fn wants_values(&self) -> bool {
        matches!(self, Self::Entries(_))
    }

    /// Takes a key below the prefix that stands there from the start.
    pub(super) fn add(&mut self, name: &str, value: Vec<u8>) {
        self.apply(name, What::Made(value));
    }

    /// Applies a change of the key `name` below the prefix. Whether an answer would now differ.
    pub(super) fn apply(&mut self, name: &str, what: What) -> bool {
        if name.is_empty() {
            return false;
        }
        match (self, what) {
            (Self::Entries(entries), What::Made(value) | What::Written(value)) => {
                let value = bounded(name, value);
                entries.insert(name, value.clone()) != Some(value)
            }
            (Self::Names(entries), What::Made(_) | What::Written(_)) => {
                entries.insert(name, Bytes::new()).is_none()
            }
            (Self::Entries(entries) | Self::Names(entries), What::Removed) => {
                entries.remove(name).is_some()
            }
            (Self::Folders(_), What::Written(_)) => false,
            (Self::Folders(folders), What::Made(_)) => {
                let count = folders.entry(folder(name).to_owned()).or_default();
                *count += 1;
                *count == 1
            }
            (Self::Folders(folders), What::Removed) => {
                let folder = folder(name);
                let Some(count) = folders.get_mut(folder) else {
                    return false;
                };
                *count -= 1;
                *count == 0 && folders.remove(folder).is_some()
            }
        }
    }

    /// What those who asked are told.
    pub(super) fn answer(&self) -> Answer {
        let entries = match self {
            Self::Entries(entries) | Self::Names(entries) => entries.clone(),
            Self::Folders(folders) => folders
                .keys()
                .map(|folder| (folder.clone(), Bytes::new()))
                .collect(),
        };
        if entries.is_empty() {
            Answer::Missing
        } else {
            Answer::Entries(Arc::new(entries))
        }
    }
}

/// The folder that a key is in, with its slash; a key in none stands for itself.
fn folder(name: &str) -> &str {
    name.rfind('/').map_or(name, |slash| &name[..=slash])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What etcd keeps, and the changes it tells of.
    #[derive(Default)]
    struct Model(BTreeMap<String, Vec<u8>>);

    impl Model {
        fn put(&mut self, name: &str, value: u8) -> What {
            match self.0.insert(name.to_owned(), vec![value]) {
                None => What::Made(vec![value]),
                Some(_) => What::Written(vec![value]),
            }
        }

        fn list(&self, mut empty: Gathered) -> Gathered {
            for (name, value) in &self.0 {
                empty.add(name, value.clone());
            }
            empty
        }
    }

    fn empties() -> [Gathered; 3] {
        [
            Gathered::Entries(Entries::new()),
            Gathered::Names(Entries::new()),
            Gathered::Folders(BTreeMap::new()),
        ]
    }

    proptest! {
        #[test]
        fn any_sequence_of_changes_ends_as_a_fresh_list(
            before in proptest::collection::vec((0..6usize, any::<u8>()), 0..12),
            after in proptest::collection::vec((0..6usize, proptest::option::of(any::<u8>())), 0..60),
        ) {
            const NAMES: [&str; 6] = ["a", "s/1", "s/2", "t/1", "t/u/1", "t/u/2"];
            for (at, empty) in empties().into_iter().enumerate() {
                let mut model = Model::default();
                for (name, value) in &before {
                    model.put(NAMES[*name], *value);
                }
                let mut followed = model.list(empty);
                for (name, value) in &after {
                    let name = NAMES[*name];
                    let last = followed.answer();
                    let what = match value {
                        Some(value) => Some(model.put(name, *value)),
                        None => model.0.remove(name).map(|_| What::Removed),
                    };
                    if let Some(what) = what {
                        let differs = followed.apply(name, what);
                        prop_assert_eq!(differs, followed.answer() != last);
                    }
                }
                let [entries, names, folders] = empties();
                let fresh = model.list([entries, names, folders].into_iter().nth(at).expect("three"));
                prop_assert_eq!(&followed, &fresh);
            }
        }
    }
}
