//! ZooKeeper trees: all nodes below a root, followed by one persistent recursive watch. Since version 3.6 a server
//! tells of everything below a path for as long as the session lasts, and names the node that came or went.
//!
//! So a change costs one message from the server: no list is read again, and no watch is set again. The
//! values of entries are not followed so: who follows those does so alone.
//!
//! A server before 3.6 does not know such a watch, and since 3.8.4 one hides what we may not read, even
//! where the list of names is ours to read. Then every place is followed alone, as without a tree. What
//! is hidden is found by two looks: into an entry of each list, and, in turn, at each list anew.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use zookeeper_client::{AddWatchMode, Client, Error, EventType, SessionState, WatchedEvent};

use super::ZooKeeper;
use crate::lock;
use crate::store::pause::Pause;
use crate::store::tree::{Follower, Forget, Gathering, Listener};
use crate::store::{Answer, Entries, Out, Query, bounded};

/// Places read at the same time.
const READS: usize = 64;
/// Steps in one turn of the thread: events and answers come by the thousand after a start.
const AT_ONCE: usize = 64;
/// How often some of the lists are looked at anew, and what could not be read is tried again.
const LOOK: Duration = Duration::from_secs(10);
/// Looks that it takes for all lists.
const ROUND: usize = 60;

/// Trees by their root.
pub(super) type Trees = Arc<Mutex<HashMap<String, Weak<Tree>>>>;

/// What is followed below a root.
pub(super) struct Tree {
    root: String,
    state: Mutex<State>,
    /// Rings when there is something to read.
    bell: Notify,
}

#[derive(Default)]
struct State {
    /// It is not kept up to date any more: places are to be followed one by one.
    ended: bool,
    /// By their paths, those of which the names below are followed, and those whose values are.
    lists: Places,
    values: Places,
    /// To be read.
    unread: VecDeque<Spot>,
    /// Could not be read.
    failed: Vec<Spot>,
    /// Lists to be looked at anew in this round.
    round: Vec<Spot>,
    next_number: u64,
}

/// Places by their paths: boxed, as a map has room for more than it holds.
type Places = HashMap<Arc<str>, Box<Place>>;

/// A place, and what of it is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Spot {
    sort: Sort,
    path: Arc<str>,
    /// Another for each [`Place`], be it of the same path.
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    /// The names below it.
    Names,
    /// Its own value.
    Value,
}

impl Sort {
    /// What of a place a query follows; `None` for what a tree does not tell of.
    fn of(query: &Query) -> Option<Self> {
        match query {
            Query::Names(_) | Query::Folders(_) => Some(Self::Names),
            Query::Value(_) => Some(Self::Value),
            Query::Entries(_) => None,
        }
    }
}

struct Place {
    number: u64,
    followers: Vec<Arc<Follower>>,
    known: Option<Answer>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// What is known of it is kept up to date by what the watch tells.
    #[default]
    Calm,
    /// It waits to be read.
    Waits,
    /// It is being read.
    Reads,
    /// It is being read to see whether all changes were told.
    Looks,
    /// It has changed since a reading began: what that says may be older.
    Changed,
}

/// Why a tree cannot be kept up to date by this watch.
enum Over {
    /// The session or its connection has ended: changes may have been missed.
    Gap,
    /// The servers do not tell of everything.
    Blind(&'static str),
}

impl ZooKeeper {
    /// Has one watch tell of everything below `root`, for whatever is followed there from now on.
    pub(in crate::store) fn gather(&self, handle: &Handle, root: &str) -> Gathering {
        let root = root.trim_end_matches('/').to_owned();
        let tree = Arc::new(Tree {
            root: root.clone(),
            state: Mutex::default(),
            bell: Notify::new(),
        });
        lock(&self.trees).insert(root, Arc::downgrade(&tree));
        let task = handle.spawn(keep(self.clone(), handle.clone(), tree.clone()));
        let (zookeeper, handle) = (self.clone(), handle.clone());
        Gathering::new(task.abort_handle(), move || tree.end(&zookeeper, &handle))
    }

    /// Follows a place as part of the tree that it is in, if there is one.
    pub(in crate::store) fn listen(
        &self,
        handle: &Handle,
        query: Query,
        out: Out,
    ) -> Result<Listener, (Query, Out)> {
        let mut trees = lock(&self.trees);
        trees.retain(|_, tree| tree.strong_count() > 0);
        let tree = trees.values().find_map(|tree| {
            let tree = tree.upgrade()?;
            is_in(query.path(), &tree.root).then_some(tree)
        });
        drop(trees);
        let Some(tree) = tree else {
            return Err((query, out));
        };
        if matches!(query, Query::Entries(_)) {
            if query.path().trim_end_matches('/') == tree.root {
                // It takes a watch of the other kind at the root, in place of which servers before 3.9
                // forget the tree's.
                tree.end(self, handle);
            }
            return Err((query, out));
        }
        tree.listen(query, out)
    }
}

/// Whether a path is a root or below it.
fn is_in(path: &str, root: &str) -> bool {
    let below = path.strip_prefix(root);
    below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
}

async fn keep(mut zookeeper: ZooKeeper, handle: Handle, tree: Arc<Tree>) {
    let mut pause = Pause::default();
    while let Some(client) = zookeeper.client().await {
        let mut stands = false;
        match Box::pin(tree.keep(&client, &mut stands)).await {
            Over::Gap => tracing::debug!(root = tree.root, "changes may have been missed"),
            Over::Blind(why) => {
                tracing::info!(root = tree.root, why, "places are followed one by one");
                return tree.end(&zookeeper, &handle);
            }
        }
        if stands {
            // It works: after a gap everything is read again at once.
            pause = Pause::default();
        } else {
            pause.wait().await;
        }
    }
}

/// What a reading found.
struct Found {
    answer: Answer,
    /// There is an entry that we may not read: changes of such may not be told.
    hides: bool,
}

async fn read(client: Arc<Client>, spot: Spot) -> (Spot, Result<Found, Error>) {
    let read = match spot.sort {
        Sort::Names => read_names(&client, &spot.path).await,
        Sort::Value => client.get_data(&spot.path).await.map(|(value, _)| Found {
            answer: Answer::Value(bounded(&spot.path, value)),
            hides: false,
        }),
    };
    let read = match read {
        Err(Error::NoNode | Error::BadArguments(_)) => Ok(Found {
            answer: Answer::Missing,
            hides: false,
        }),
        read => read,
    };
    (spot, read)
}

async fn read_names(client: &Client, path: &str) -> Result<Found, Error> {
    let names = client.list_children(path).await?;
    let hides = match names.last() {
        Some(name) => {
            let read = client.get_data(&super::join(path, name)).await;
            matches!(read, Err(Error::NoAuth))
        }
        None => false,
    };
    let entries = names.into_iter().map(|name| (name, Bytes::new()));
    Ok(Found {
        answer: Answer::Entries(Arc::new(entries.collect())),
        hides,
    })
}

impl Tree {
    /// Follows a place of it, unless it is not kept up to date any more.
    fn listen(self: Arc<Self>, query: Query, out: Out) -> Result<Listener, (Query, Out)> {
        let mut state = lock(&self.state);
        let Some(sort) = Sort::of(&query) else {
            return Err((query, out));
        };
        if state.ended {
            return Err((query, out));
        }
        let follower = Follower::new(query, out);
        state.add(sort, &follower);
        drop(state);
        self.bell.notify_one();
        Ok(Listener::new(self, follower))
    }

    /// Is not kept up to date any more: whoever follows a place of it does so alone from now on.
    fn end(&self, zookeeper: &ZooKeeper, handle: &Handle) {
        let mut state = lock(&self.state);
        state.ended = true;
        let State { lists, values, .. } = std::mem::take(&mut *state);
        state.ended = true;
        for follower in lists.into_values().chain(values.into_values()) {
            for follower in follower.followers {
                let zookeeper = zookeeper.clone();
                let alone =
                    async move |own: Arc<Follower>| zookeeper.follow(&own.query, &own.out).await;
                follower.go_alone(handle, alone);
            }
        }
    }

    /// Keeps it up to date until changes may have been missed. Whether the watch stood.
    async fn keep(&self, client: &Arc<Client>, stands: &mut bool) -> Over {
        let watching = client.watch(&self.root, AddWatchMode::PersistentRecursive);
        let mut watcher = match watching.await {
            Ok(watcher) => watcher,
            Err(error) => return refused(&error),
        };
        *stands = true;
        lock(&self.state).read_all();
        let mut reads = FuturesUnordered::new();
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.reset();
        for step in 1_usize.. {
            while reads.len() < READS
                && let Some(spot) = lock(&self.state).next()
            {
                reads.push(read(client.clone(), spot));
            }
            // What the watch told before an answer is heard before it.
            let heard = tokio::select! {
                biased;
                event = watcher.changed() => lock(&self.state).hear(&event),
                Some((spot, read)) = reads.next() => lock(&self.state).settle(spot, read),
                () = self.bell.notified() => Ok(()),
                _ = looks.tick() => {
                    lock(&self.state).look();
                    Ok(())
                }
            };
            if let Err(over) = heard {
                return over;
            }
            if step.is_multiple_of(AT_ONCE) {
                tokio::task::yield_now().await;
            }
        }
        Over::Gap
    }
}

impl Forget for Tree {
    fn forget(&self, follower: &Arc<Follower>) {
        let mut state = lock(&self.state);
        let path = follower.query.path();
        let Some(sort) = Sort::of(&follower.query) else {
            return;
        };
        let places = state.places(sort);
        let Some(place) = places.get_mut(path) else {
            return;
        };
        let own = &mut place.followers;
        own.retain(|other| !Arc::ptr_eq(other, follower));
        if own.is_empty() {
            places.remove(path);
        }
    }
}

/// Why there is no watch.
fn refused(error: &Error) -> Over {
    match error {
        Error::ConnectionLoss
        | Error::Timeout
        | Error::SessionExpired
        | Error::SessionMoved
        | Error::ClientClosed
        | Error::AuthFailed
        | Error::Throttled => Over::Gap,
        _ => Over::Blind("the servers have no watch for a whole tree"),
    }
}

impl State {
    fn places(&mut self, sort: Sort) -> &mut Places {
        match sort {
            Sort::Names => &mut self.lists,
            Sort::Value => &mut self.values,
        }
    }

    fn add(&mut self, sort: Sort, follower: &Arc<Follower>) {
        let number = self.next_number;
        let (Query::Names(path) | Query::Folders(path) | Query::Entries(path) | Query::Value(path)) =
            &follower.query;
        let place = self.places(sort).entry(path.clone());
        let place = place.or_insert_with(|| {
            Box::new(Place {
                number,
                followers: Vec::with_capacity(1),
                known: None,
                phase: Phase::Waits,
            })
        });
        if let Some(known) = &place.known {
            follower.out.publish(known.clone());
        }
        place.followers.push(follower.clone());
        if place.number == number {
            self.next_number += 1;
            self.unread.push_back(Spot {
                sort,
                path: path.clone(),
                number,
            });
        }
    }

    /// The place that a spot is of, if it is still followed.
    fn place(&mut self, spot: &Spot) -> Option<&mut Place> {
        let place = self.places(spot.sort).get_mut(&spot.path)?;
        Some(&mut **place).filter(|place| place.number == spot.number)
    }

    /// Has all be read: whatever was told before may have a gap.
    fn read_all(&mut self) {
        let mut all: Vec<Spot> = self.spots(Sort::Names);
        all.extend(self.spots(Sort::Value));
        self.failed.clear();
        self.round.clear();
        for place in self.lists.values_mut().chain(self.values.values_mut()) {
            place.phase = Phase::Waits;
        }
        self.unread = all.into();
    }

    fn spots(&mut self, sort: Sort) -> Vec<Spot> {
        let spots = self.places(sort).iter().map(|(path, place)| Spot {
            sort,
            path: path.clone(),
            number: place.number,
        });
        spots.collect()
    }

    /// What is to be read next; it is taken as begun.
    fn next(&mut self) -> Option<Spot> {
        while let Some(spot) = self.unread.pop_front() {
            let Some(place) = self.place(&spot) else {
                continue;
            };
            place.phase = match place.phase {
                Phase::Looks => Phase::Looks,
                // A look that something came in between of is a reading like others.
                Phase::Calm | Phase::Waits | Phase::Reads | Phase::Changed => Phase::Reads,
            };
            return Some(spot);
        }
        None
    }

    /// Takes what the watch tells.
    fn hear(&mut self, event: &WatchedEvent) -> Result<(), Over> {
        let path = &*event.path;
        match event.event_type {
            EventType::Session => match event.session_state {
                SessionState::Disconnected => {}
                // A connection anew: the client does not set such watches again by itself.
                _ => return Err(Over::Gap),
            },
            EventType::NodeCreated | EventType::NodeDeleted => {
                self.touch(Sort::Names, path);
                self.touch(Sort::Value, path);
                if let Some((folder, name)) = path.rsplit_once('/') {
                    self.enter(folder, name, event.event_type == EventType::NodeCreated);
                }
            }
            EventType::NodeDataChanged => self.touch(Sort::Value, path),
            EventType::NodeChildrenChanged => {}
        }
        Ok(())
    }

    /// Has a place be read again, if it is followed.
    fn touch(&mut self, sort: Sort, path: &str) {
        let places = self.places(sort);
        let Some(place) = places.get_mut(path) else {
            return;
        };
        let number = place.number;
        place.phase = match place.phase {
            Phase::Waits => return,
            Phase::Reads | Phase::Looks | Phase::Changed => {
                place.phase = Phase::Changed;
                return;
            }
            Phase::Calm => Phase::Waits,
        };
        let Some((path, _)) = places.get_key_value(path) else {
            return;
        };
        let path = path.clone();
        self.unread.push_back(Spot { sort, path, number });
    }

    /// Adds a name to the list of a folder, or takes it out.
    fn enter(&mut self, folder: &str, name: &str, is_there: bool) {
        let Some(place) = self.lists.get_mut(folder) else {
            return;
        };
        match (place.phase, &mut place.known) {
            (Phase::Calm, Some(Answer::Entries(entries))) => {
                let own: &mut Entries = Arc::make_mut(entries);
                match is_there {
                    true => drop(own.insert(name, Bytes::new())),
                    false => drop(own.remove(name)),
                }
                let answer = Answer::Entries(entries.clone());
                place.tell(answer);
            }
            _ => self.touch(Sort::Names, folder),
        }
    }

    /// Takes what a reading found.
    fn settle(&mut self, spot: Spot, read: Result<Found, Error>) -> Result<(), Over> {
        let Some(place) = self.place(&spot) else {
            return Ok(());
        };
        let was = std::mem::take(&mut place.phase);
        match read {
            Ok(found) if found.hides => return Err(Over::Blind("it has what we may not read")),
            Ok(Found { answer, .. }) => {
                let is_other = place.known.as_ref().is_some_and(|known| *known != answer);
                if was == Phase::Looks && is_other {
                    return Err(Over::Blind("not all changes were told"));
                }
                place.tell(answer);
            }
            Err(error) => {
                for Follower { out, query, .. } in place.followers.iter().map(|own| &**own) {
                    match error {
                        Error::NoAuth => out.refuse(query),
                        _ => out.fail(),
                    }
                }
                self.failed.push(spot.clone());
            }
        }
        if was == Phase::Changed {
            self.touch(spot.sort, &spot.path);
        }
        Ok(())
    }

    /// Has what could not be read be tried again, and some of the lists be looked at anew.
    fn look(&mut self) {
        for spot in std::mem::take(&mut self.failed) {
            if self.place(&spot).is_some() {
                self.touch(spot.sort, &spot.path);
            }
        }
        if self.round.is_empty() {
            self.round = self.spots(Sort::Names);
        }
        for _ in 0..self.lists.len().div_ceil(ROUND) {
            let Some(spot) = self.round.pop() else { break };
            if let Some(place) = self.place(&spot)
                && place.phase == Phase::Calm
                && matches!(place.known, Some(Answer::Entries(_)))
            {
                place.phase = Phase::Looks;
                self.unread.push_back(spot);
            }
        }
    }
}

impl Place {
    fn tell(&mut self, answer: Answer) {
        // The same piece of memory tells at a glance that nothing changed.
        let answer = match self.known.take() {
            Some(known) if known == answer => known,
            _ => answer,
        };
        for follower in &self.followers {
            follower.out.publish(answer.clone());
        }
        self.known = Some(answer);
    }
}

#[cfg(test)]
mod tests;
