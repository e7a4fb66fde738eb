//! A whole tree of keys, read once and watched once, for those who follow thousands of places in it:
//! a place each would cost a request and a watch each.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use bytes::Bytes;
use etcd_client::Error;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::connect::is_denied;
use super::gathered::{Change, What};
use super::{Connection, Etcd};
use crate::lock;
use crate::store::pause::Pause;
use crate::store::{Answer, Entries, Out, Query, bounded};

/// Those told in one turn after a list: there may be tens of thousands.
const AT_ONCE: usize = 64;

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
    /// Those who follow a place, by its path below the prefix.
    followers: HashMap<Box<str>, Vec<Arc<Follower>>>,
}

struct Follower {
    wish: Wish,
    query: Query,
    out: Out,
    /// Follows the place alone, since the tree is not kept up to date any more.
    alone: OnceLock<AbortHandle>,
}

impl Follower {
    fn new(query: Query, out: Out) -> Self {
        let wish = match query {
            Query::Names(_) | Query::Entries(_) => Wish::Below,
            Query::Folders(_) => Wish::Folders,
            Query::Value(_) => Wish::Value,
        };
        Self {
            wish,
            query,
            out,
            alone: OnceLock::new(),
        }
    }

    /// Its place below a prefix.
    fn place(&self, prefix: &str) -> Option<&str> {
        below(self.query.path(), prefix)
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

/// Keeps a tree up to date until dropped.
pub(crate) struct Gathering {
    etcd: Etcd,
    handle: Handle,
    tree: Arc<Tree>,
    task: AbortHandle,
}

impl Drop for Gathering {
    fn drop(&mut self) {
        self.task.abort();
        self.tree.end(&self.etcd, &self.handle);
    }
}

/// Follows a place of a tree, or alone if that is not kept up to date any more, until dropped.
pub(in crate::store) struct Listener {
    tree: Arc<Tree>,
    follower: Arc<Follower>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.tree.forget(&self.follower);
        if let Some(alone) = self.follower.alone.get() {
            alone.abort();
        }
    }
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
        Gathering {
            etcd: self.clone(),
            handle: handle.clone(),
            tree,
            task: task.abort_handle(),
        }
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
            tree.fail();
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
    async fn keep(&self, tree: &Tree, listed: &mut bool) -> Result<(), Error> {
        let mut folders: HashMap<Box<str>, Entries> = HashMap::new();
        let add = |name: &str, value: Vec<u8>| {
            let (folder, name) = split(name);
            let entries = folders.entry(folder.into()).or_default();
            entries.insert(name.to_owned(), bounded(name, value));
        };
        let revision = self.list(&tree.prefix, true, add).await?;
        *listed = true;
        tree.replace(folders).await;
        let mut watching = self.watch(&tree.prefix, true, revision + 1);
        while let Some(changes) = watching.changes.recv().await {
            tree.apply(changes);
        }
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
        let follower = Arc::new(Follower::new(query, out));
        if state.listed {
            let answer = state.answer(follower.wish, &at);
            follower.out.publish(answer);
        }
        let own = state.followers.entry(at);
        own.or_insert_with(|| Vec::with_capacity(1))
            .push(follower.clone());
        drop(state);
        Ok(Listener {
            tree: self,
            follower,
        })
    }

    fn forget(&self, follower: &Arc<Follower>) {
        let mut state = lock(&self.state);
        let at = follower.place(&self.prefix).unwrap_or_default();
        let Some(own) = state.followers.get_mut(at) else {
            return;
        };
        own.retain(|other| !Arc::ptr_eq(other, follower));
        if own.is_empty() {
            state.followers.remove(at);
        }
    }

    /// Is not kept up to date any more: whoever follows a place of it does so alone from now on.
    fn end(&self, etcd: &Etcd, handle: &Handle) {
        let mut state = lock(&self.state);
        state.ended = true;
        for follower in std::mem::take(&mut state.followers).into_values().flatten() {
            let (etcd, own) = (etcd.clone(), Arc::downgrade(&follower));
            let alone = async move {
                let Some(own) = own.upgrade() else { return };
                etcd.follow(&own.query, &own.out).await;
            };
            // Set once: nobody is among the followers of a tree that has ended.
            let _ = follower.alone.set(handle.spawn(alone).abort_handle());
        }
    }

    /// Puts a fresh list in place of what was known.
    async fn replace(&self, folders: HashMap<Box<str>, Entries>) {
        let all: Vec<Arc<Follower>> = {
            let mut state = lock(&self.state);
            let former = std::mem::take(&mut state.folders);
            let kept = folders.into_iter().map(|(folder, entries)| {
                // The same piece of memory tells at a glance that nothing changed.
                let same = former.get(&folder).filter(|former| ***former == entries);
                let entries = same.cloned().unwrap_or_else(|| Arc::new(entries));
                (folder, entries)
            });
            state.folders = kept.collect();
            state.listed = true;
            state.followers.values().flatten().cloned().collect()
        };
        for some in all.chunks(AT_ONCE) {
            {
                let state = lock(&self.state);
                for follower in some {
                    let at = follower.place(&self.prefix).unwrap_or_default();
                    follower.out.publish(state.answer(follower.wish, at));
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn apply(&self, changes: Vec<Change>) {
        let mut state = lock(&self.state);
        let mut touched: BTreeMap<String, bool> = BTreeMap::new();
        for Change { key, what } in changes {
            let Some(name) = key.strip_prefix(&self.prefix) else {
                continue;
            };
            match state.apply(name, what) {
                Differs::Nothing => {}
                Differs::Keys => drop(touched.entry(name.to_owned()).or_default()),
                Differs::Folders => drop(touched.insert(name.to_owned(), true)),
            }
        }
        let mut told = BTreeSet::new();
        for (name, folders) in &touched {
            // Whoever follows the key itself, its folder, or one further up; of thousands of folders
            // only if there are others.
            let mut at = Some(&**name);
            while let Some(place) = at {
                for follower in state.followers.get(place).into_iter().flatten() {
                    let concerns = *folders || !matches!(follower.wish, Wish::Folders);
                    if concerns && told.insert(Arc::as_ptr(follower)) {
                        follower.out.publish(state.answer(follower.wish, place));
                    }
                }
                at = match place.rsplit_once('/') {
                    Some((folder, _)) => Some(folder),
                    None => (!place.is_empty()).then_some(""),
                };
            }
        }
    }

    fn fail(&self) {
        let state = lock(&self.state);
        for follower in state.followers.values().flatten() {
            follower.out.fail();
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
                let former = Arc::make_mut(entries).insert(own.to_owned(), value.clone());
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

    fn answer(&self, wish: Wish, at: &str) -> Answer {
        match wish {
            Wish::Value => {
                let (folder, name) = split(at);
                let value = self.folders.get(folder).and_then(|own| own.get(name));
                value.map_or(Answer::Missing, |value| Answer::Value(value.clone()))
            }
            Wish::Folders => {
                let folders = self.below(at).map(|(below, entries)| match below {
                    // Keys in no folder stand for themselves.
                    "" => entries.keys().cloned().collect(),
                    below => vec![format!("{below}/")],
                });
                let folders = folders.flatten().map(|name| (name, Bytes::new()));
                listed(folders.collect())
            }
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
                                "" => (name.clone(), value.clone()),
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

/// The folder of a key, and its name there.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('/').unwrap_or(("", name))
}

#[cfg(test)]
mod tests;
