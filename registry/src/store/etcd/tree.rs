//! A whole tree of keys, read once and watched once, for those who follow thousands of places in it:
//! a place each would cost a request and a watch each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};

use bytes::Bytes;
use etcd_client::Error;
use tokio::runtime::Handle;

use super::connect::is_denied;
use super::gathered::{Change, What};
use super::{AT_ONCE, Connection, Etcd};
use crate::lock;
use crate::store::pause::Pause;
use crate::store::tree::{Follower, Forget, Gathering, Listener};
use crate::store::{Answer, Entries, Out, Query, bounded};

/// Those told in one turn after a list: there may be tens of thousands.
const TOLD_AT_ONCE: usize = 64;

/// Trees by their prefix.
pub(super) type Trees = Arc<Mutex<HashMap<String, Weak<Tree>>>>;

/// All keys below a prefix.
pub(super) struct Tree {
    /// With its last slash.
    prefix: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    listed: bool,
    /// It is not kept up to date any more: places are to be followed one by one.
    ended: bool,
    /// What is in each folder, by its path below the prefix.
    folders: BTreeMap<Box<str>, Arc<Entries>>,
    /// The folders below each place where somebody follows them: kept change by change, as there may be
    /// tens of thousands.
    listings: HashMap<Box<str>, Arc<Entries>>,
    /// Those who follow a place, by its path below the prefix.
    followers: HashMap<Box<str>, Vec<Arc<Follower>>>,
}

impl Wish {
    fn of(query: &Query) -> Self {
        match query {
            Query::Names(_) | Query::Entries(_) => Self::Below,
            Query::Folders(_) => Self::Folders,
            Query::Value(_) => Self::Value,
        }
    }
}

/// A path below a prefix that ends with a slash; the prefix itself is "".
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let path = path.trim_end_matches('/');
    match path.strip_prefix(prefix) {
        Some(at) => Some(at),
        None => prefix
            .strip_suffix('/')
            .filter(|root| *root == path)
            .map(|_| ""),
    }
}

/// What of a tree differs after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Differs {
    Nothing,
    Keys,
    /// There are other folders too.
    Folders,
}

#[derive(Clone, Copy)]
enum Wish {
    /// Everything below a place.
    Below,
    /// The folders below it.
    Folders,
    /// Its own value.
    Value,
}

impl Etcd {
    /// Reads everything below `root` as one, for whatever is followed there from now on.
    pub(in crate::store) fn gather(&self, handle: &Handle, root: &str) -> Gathering {
        let prefix = format!("{}/", root.trim_end_matches('/'));
        let tree = Arc::new(Tree {
            prefix: prefix.clone(),
            state: Mutex::default(),
        });
        lock(&self.trees).insert(prefix, Arc::downgrade(&tree));
        let task = handle.spawn(keep(self.clone(), handle.clone(), tree.clone()));
        let etcd = self.clone();
        let handle = handle.clone();
        Gathering::new(task.abort_handle(), move || tree.end(&etcd, &handle))
    }

    /// Follows a place as part of the tree that it is in, if there is one.
    pub(in crate::store) fn listen(
        &self,
        query: Query,
        out: Out,
    ) -> Result<Listener, (Query, Out)> {
        let mut trees = lock(&self.trees);
        trees.retain(|_, tree| tree.strong_count() > 0);
        let tree = trees
            .iter()
            .find(|(prefix, _)| below(query.path(), prefix).is_some());
        let Some(tree) = tree.and_then(|(_, tree)| tree.upgrade()) else {
            return Err((query, out));
        };
        drop(trees);
        tree.listen(query, out)
    }
}

async fn keep(mut etcd: Etcd, handle: Handle, tree: Arc<Tree>) {
    let mut pause = Pause::default();
    while let Some(connection) = etcd.connection().await {
        let mut listed = false;
        if let Err(error) = Box::pin(connection.keep(&tree, &mut listed)).await {
            if is_denied(&error) {
                return tree.end(&etcd, &handle);
            }
            tree.fail().await;
            tracing::debug!(prefix = tree.prefix, %error, "cannot follow; trying again");
        }
        if listed {
            pause = Pause::default();
        }
        pause.wait().await;
    }
}

impl Connection {
    /// Keeps a tree up to date until changes may have been missed.
    async fn keep(&self, tree: &Arc<Tree>, listed: &mut bool) -> Result<(), Error> {
        let mut folders: BTreeMap<Box<str>, Entries> = BTreeMap::new();
        let add = |name: &str, value: Vec<u8>| {
            let (folder, name) = split(name);
            let value = bounded(name, value);
            match folders.get_mut(folder) {
                Some(entries) => drop(entries.insert(name, value)),
                None => drop(folders.insert(folder.into(), [(name, value)].into_iter().collect())),
            }
        };
        let revision = self.list(&tree.prefix, true, add).await?;
        *listed = true;
        tree.replace(folders).await;
        let watched = Some(tree.clone());
        let mut watching = self.watch(&tree.prefix, true, revision + 1, watched);
        // Ends when changes may have been missed.
        while watching.changes.recv().await.is_some() {}
        Ok(())
    }
}

impl Tree {
    /// Follows a place of it, unless it is not kept up to date any more.
    fn listen(self: Arc<Self>, query: Query, out: Out) -> Result<Listener, (Query, Out)> {
        let mut state = lock(&self.state);
        let at = below(query.path(), &self.prefix);
        let (false, Some(at)) = (state.ended, at.map(Box::<str>::from)) else {
            return Err((query, out));
        };
        let follower = Follower::new(query, out);
        if matches!(Wish::of(&follower.query), Wish::Folders) {
            state.keep_listing(&at);
        }
        if state.listed {
            let answer = state.answer(Wish::of(&follower.query), &at);
            follower.out.publish(answer);
        }
        let own = state.followers.entry(at);
        own.or_insert_with(|| Vec::with_capacity(1))
            .push(follower.clone());
        drop(state);
        Ok(Listener::new(self, follower))
    }

    /// Is not kept up to date any more: whoever follows a place of it does so alone from now on.
    fn end(&self, etcd: &Etcd, handle: &Handle) {
        let mut state = lock(&self.state);
        state.ended = true;
        for follower in std::mem::take(&mut state.followers).into_values().flatten() {
            let etcd = etcd.clone();
            let alone = async move |own: Arc<Follower>| etcd.follow(&own.query, &own.out).await;
            follower.go_alone(handle, alone);
        }
    }

    /// Puts a fresh list in place of what was known.
    async fn replace(&self, folders: BTreeMap<Box<str>, Entries>) {
        let mut fresh = BTreeMap::new();
        let places: Vec<Box<str>> = lock(&self.state).listings.keys().cloned().collect();
        let mut listings: HashMap<Box<str>, Arc<Entries>> =
            places.into_iter().map(|at| (at, Arc::default())).collect();
        for (number, (folder, mut entries)) in folders.into_iter().enumerate() {
            let known = lock(&self.state).folders.get(&folder).cloned();
            // The same piece of memory tells at a glance that nothing changed.
            let same = known.filter(|known| **known == entries);
            entries.shrink();
            for (at, listing) in &mut listings {
                if let Some(below) = within(&folder, at) {
                    list(Arc::make_mut(listing), below, &entries);
                }
            }
            fresh.insert(folder, same.unwrap_or_else(|| Arc::new(entries)));
            if number.is_multiple_of(AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
        {
            let mut state = lock(&self.state);
            state.folders = fresh;
            state.listed = true;
            for at in std::mem::take(&mut state.listings).into_keys() {
                match listings.remove(&at) {
                    Some(listing) => drop(state.listings.insert(at, listing)),
                    // Somebody asked for it meanwhile.
                    None => state.keep_listing(&at),
                }
            }
        }
        self.each(|state, follower| {
            let at = below(follower.query.path(), &self.prefix).unwrap_or_default();
            follower
                .out
                .publish(state.answer(Wish::of(&follower.query), at));
        })
        .await;
    }

    /// Does something for all who follow a place now, some at a time.
    async fn each(&self, tell: impl Fn(&State, &Follower)) {
        let all: Vec<Arc<Follower>> = {
            let state = lock(&self.state);
            state.followers.values().flatten().cloned().collect()
        };
        for some in all.chunks(TOLD_AT_ONCE) {
            {
                let state = lock(&self.state);
                for follower in some {
                    tell(&state, follower);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Takes changes, and tells those whom they concern.
    pub(super) fn apply(&self, changes: impl Iterator<Item = Change>) {
        let mut state = lock(&self.state);
        let mut touched: Vec<(String, bool)> = Vec::new();
        for Change { key, what } in changes {
            let Some(name) = key.strip_prefix(&self.prefix) else {
                continue;
            };
            let differs = state.apply(name, what);
            if differs != Differs::Nothing {
                state.relist(name);
                touched.push((key, differs == Differs::Folders));
            }
        }
        let mut told = BTreeSet::new();
        for (key, folders) in &touched {
            let name = &key[self.prefix.len()..];
            // Whoever follows the key itself, its folder, or one further up; of thousands of folders
            // only if there are others.
            let mut at = Some(name);
            while let Some(place) = at {
                for follower in state.followers.get(place).into_iter().flatten() {
                    // Keys directly in a place stand for themselves among its folders.
                    let concerns = *folders
                        || split(name).0 == place
                        || !matches!(Wish::of(&follower.query), Wish::Folders);
                    if concerns && told.insert(Arc::as_ptr(follower)) {
                        follower
                            .out
                            .publish(state.answer(Wish::of(&follower.query), place));
                    }
                }
                at = match place.rsplit_once('/') {
                    Some((folder, _)) => Some(folder),
                    None => (!place.is_empty()).then_some(""),
                };
            }
        }
    }

    async fn fail(&self) {
        self.each(|_, follower| follower.out.fail()).await;
    }
}

impl Forget for Tree {
    fn forget(&self, follower: &Arc<Follower>) {
        let mut state = lock(&self.state);
        let at = below(follower.query.path(), &self.prefix).unwrap_or_default();
        let Some(own) = state.followers.get_mut(at) else {
            return;
        };
        own.retain(|other| !Arc::ptr_eq(other, follower));
        if own.is_empty() {
            state.followers.remove(at);
            state.listings.remove(at);
        }
    }
}

impl State {
    /// Applies a change of one key.
    fn apply(&mut self, name: &str, what: What) -> Differs {
        let (folder, own) = split(name);
        match what {
            What::Made(value) | What::Written(value) => {
                let value = bounded(name, value);
                // A key in no folder stands for itself among folders.
                let is_new = folder.is_empty() || !self.folders.contains_key(folder);
                let entries = self.folders.entry(folder.into()).or_default();
                let former = Arc::make_mut(entries).insert(own, value.clone());
                match former {
                    None if is_new => Differs::Folders,
                    Some(former) if former == value => Differs::Nothing,
                    _ => Differs::Keys,
                }
            }
            What::Removed => {
                let Some(entries) = self.folders.get_mut(folder) else {
                    return Differs::Nothing;
                };
                if Arc::make_mut(entries).remove(own).is_none() {
                    return Differs::Nothing;
                }
                if entries.is_empty() {
                    self.folders.remove(folder);
                    return Differs::Folders;
                }
                match folder {
                    "" => Differs::Folders,
                    _ => Differs::Keys,
                }
            }
        }
    }

    /// Keeps the folders below a place from now on.
    fn keep_listing(&mut self, at: &str) {
        if !self.listings.contains_key(at) {
            let folders = self.list(at);
            self.listings.insert(at.into(), Arc::new(folders));
        }
    }

    /// What a change of one key makes of the folders that are kept.
    fn relist(&mut self, name: &str) {
        let (folder, own) = split(name);
        for (at, listing) in &mut self.listings {
            let (listed, is_there) = match within(folder, at) {
                None => continue,
                Some("") => {
                    let entries = self.folders.get(folder);
                    let is_there = entries.is_some_and(|entries| entries.contains(own));
                    (own.to_owned(), is_there)
                }
                Some(below) => (format!("{below}/"), self.folders.contains_key(folder)),
            };
            if listing.contains(&listed) == is_there {
                continue;
            }
            let listing = Arc::make_mut(listing);
            match is_there {
                true => drop(listing.insert(&listed, Bytes::new())),
                false => drop(listing.remove(&listed)),
            }
        }
    }

    /// The folders below a place; keys in no folder stand for themselves.
    fn list(&self, at: &str) -> Entries {
        let mut listed = Entries::new();
        for (below, entries) in self.below(at) {
            list(&mut listed, below, entries);
        }
        listed.shrink();
        listed
    }

    fn answer(&self, wish: Wish, at: &str) -> Answer {
        match wish {
            Wish::Value => {
                let (folder, name) = split(at);
                let value = self.folders.get(folder).and_then(|own| own.get(name));
                value.map_or(Answer::Missing, |value| Answer::Value(value.clone()))
            }
            Wish::Folders => match self.listings.get(at) {
                Some(listing) if listing.is_empty() => Answer::Missing,
                Some(listing) => Answer::Entries(listing.clone()),
                None => listed(self.list(at)),
            },
            Wish::Below => {
                let mut below = self.below(at).peekable();
                match (below.next(), below.peek()) {
                    (None, _) => Answer::Missing,
                    // Nearly always: shared, not copied.
                    (Some(("", entries)), None) => Answer::Entries(entries.clone()),
                    (Some(first), _) => {
                        let all = std::iter::once(first).chain(below);
                        let all = all.flat_map(|(folder, entries)| {
                            entries.iter().map(move |(name, value)| match folder {
                                "" => (name.into_owned(), value.clone()),
                                folder => (format!("{folder}/{name}"), value.clone()),
                            })
                        });
                        listed(all.collect())
                    }
                }
            }
        }
    }

    /// A place's own folder, "" here, and all folders below it.
    fn below<'a>(&'a self, at: &'a str) -> impl Iterator<Item = (&'a str, &'a Arc<Entries>)> {
        let own = self.folders.get(at).map(|own| ("", own));
        let own = own.filter(|_| !at.is_empty());
        let prefix = match at {
            "" => String::new(),
            at => format!("{at}/"),
        };
        let length = prefix.len();
        let from: Box<str> = prefix.clone().into();
        let deeper = self
            .folders
            .range(from..)
            .take_while(move |(folder, _)| folder.starts_with(&*prefix))
            .map(move |(folder, entries)| (&folder[length..], entries));
        own.into_iter().chain(deeper)
    }
}

fn listed(entries: Entries) -> Answer {
    if entries.is_empty() {
        Answer::Missing
    } else {
        Answer::Entries(Arc::new(entries))
    }
}

/// Lists a folder that is at `below`; keys of the place itself stand for themselves.
fn list(listing: &mut Entries, below: &str, entries: &Entries) {
    match below {
        "" => entries
            .names()
            .for_each(|name| drop(listing.insert(&name, Bytes::new()))),
        below => drop(listing.insert(&format!("{below}/"), Bytes::new())),
    }
}

/// Where a folder is below a place; "" is the place itself.
fn within<'a>(folder: &'a str, at: &str) -> Option<&'a str> {
    match at {
        "" => Some(folder),
        at => match folder.strip_prefix(at)? {
            "" => Some(""),
            below => below.strip_prefix('/'),
        },
    }
}

/// The folder of a key, and its name there.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

#[cfg(test)]
mod tests;
