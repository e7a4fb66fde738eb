//! A survey of a worker, for an operator who asks: calls in flight, and sessions.
//!
//! Nothing is noted for it on the way of a framed call: the worker looks through its connections when it
//! is asked. Protocols that drive themselves have their calls and sessions on a list of their worker.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::Now;
use crate::mesh::{Exchange, Told};
use crate::text;

use super::worker::Worker;

/// Names are cut to this many bytes: callers choose them.
const MAX_TEXT: usize = 256;

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitsFor {
    /// Whether it may go on: a filter has not decided.
    Filter,
    /// Who serves it: its registry has not said.
    Registry,
    /// A connection to its endpoint.
    Connection,
    /// Its endpoint's answer, or the rest of it.
    Answer,
}

impl WaitsFor {
    /// Its name on pages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Registry => "registry",
            Self::Connection => "connection",
            Self::Answer => "answer",
        }
    }
}

/// A call in flight.
#[derive(Clone, Debug)]
pub struct InFlight {
    /// Its protocol.
    pub protocol: &'static str,
    /// The listener that it came to.
    pub listener: Arc<str>,
    /// Its service, as the caller wrote it, cut.
    pub service: String,
    /// Its method, likewise.
    pub method: String,
    /// The route it takes, or "".
    pub route: Arc<str>,
    /// Its endpoint's cluster, or "".
    pub cluster: Arc<str>,
    /// The endpoint of the attempt under way, or of the last one.
    pub endpoint: Option<SocketAddr>,
    /// Who called.
    pub source: IpAddr,
    /// For how long it has been in flight.
    pub age: Duration,
    /// Attempts made.
    pub attempts: u32,
    /// What it waits for.
    pub waits_for: WaitsFor,
}

/// A session: a client connection that its protocol gave a name.
#[derive(Clone, Debug)]
pub struct SessionStatus {
    /// Its protocol.
    pub protocol: &'static str,
    /// The listener that it came to.
    pub listener: Arc<str>,
    /// Its name, such as a client identifier, cut.
    pub name: String,
    /// The client.
    pub peer: SocketAddr,
    /// The endpoint that it is with; `None` if it ends here.
    pub endpoint: Option<SocketAddr>,
    /// For how long it has lasted.
    pub age: Duration,
}

/// What one worker has in hand: of each kind the oldest, and how many there are in all.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// The oldest calls in flight.
    pub calls: Vec<InFlight>,
    /// All calls in flight.
    pub all_calls: usize,
    /// The oldest sessions.
    pub sessions: Vec<SessionStatus>,
    /// All sessions.
    pub all_sessions: usize,
}

impl Survey {
    /// Of several workers together, no more of each kind than `most`.
    pub(super) fn add(&mut self, other: Self, most: usize) {
        self.calls.extend(other.calls);
        self.calls.sort_by_key(|own| Reverse(own.age));
        self.calls.truncate(most);
        self.all_calls += other.all_calls;
        self.sessions.extend(other.sessions);
        self.sessions.sort_by_key(|own| Reverse(own.age));
        self.sessions.truncate(most);
        self.all_sessions += other.all_sessions;
    }
}

/// The oldest of many, found in one pass.
pub(super) struct Oldest<T> {
    most: usize,
    seen: usize,
    /// The youngest of them is on top. The number tells apart what began at once.
    kept: BinaryHeap<(Now, usize)>,
    values: BTreeMap<usize, T>,
}

impl<T> Oldest<T> {
    fn new(most: usize) -> Self {
        Self {
            most,
            seen: 0,
            kept: BinaryHeap::new(),
            values: BTreeMap::new(),
        }
    }

    /// Shows one; `value` is made only if it is among the oldest so far.
    pub(super) fn see(&mut self, since: Now, value: impl FnOnce() -> T) {
        self.seen += 1;
        if self.kept.len() >= self.most {
            match self.kept.peek() {
                Some((youngest, number)) if since < *youngest => {
                    self.values.remove(number);
                    self.kept.pop();
                }
                _ => return,
            }
        }
        self.kept.push((since, self.seen));
        self.values.insert(self.seen, value());
    }
}

/// A call as the list knows it.
struct Listed {
    told: Told,
    waits_for: WaitsFor,
}

/// A session as the list knows it.
struct Session {
    protocol: &'static str,
    listener: Arc<str>,
    name: String,
    peer: SocketAddr,
    endpoint: Option<SocketAddr>,
    since: Now,
}

/// Values by numbers that are used again.
struct Slots<T> {
    all: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slots<T> {
    fn insert(&mut self, value: T) -> usize {
        if let Some(number) = self.free.pop() {
            self.all[number] = Some(value);
            return number;
        }
        self.all.push(Some(value));
        self.all.len() - 1
    }

    fn remove(&mut self, number: usize) {
        self.all[number] = None;
        self.free.push(number);
    }

    fn each(&self) -> impl Iterator<Item = &T> {
        self.all.iter().flatten()
    }
}

/// What is on a worker's lists.
#[derive(Default)]
pub(crate) struct Lists {
    calls: RefCell<Slots<Listed>>,
    sessions: RefCell<Slots<Session>>,
}

/// A call's place on the list, for as long as it lives.
pub(crate) struct CallPlace {
    worker: Rc<Worker>,
    number: usize,
}

/// A session's place on the list, for as long as it lives.
pub struct SessionPlace {
    worker: Rc<Worker>,
    number: usize,
}

impl CallPlace {
    /// Puts a call on the list of its worker.
    pub(crate) fn take(worker: &Rc<Worker>, exchange: &Exchange, waits_for: WaitsFor) -> Self {
        let told = exchange.told();
        let listed = Listed { told, waits_for };
        Self {
            number: worker.lists().calls.borrow_mut().insert(listed),
            worker: worker.clone(),
        }
    }

    /// Notes where the call is now, and what it waits for.
    pub(crate) fn note(&self, exchange: &Exchange, waits_for: WaitsFor) {
        let told = exchange.told();
        self.worker.lists().calls.borrow_mut().all[self.number] = Some(Listed { told, waits_for });
    }
}

impl Drop for CallPlace {
    fn drop(&mut self) {
        self.worker.lists().calls.borrow_mut().remove(self.number);
    }
}

impl SessionPlace {
    /// The name under which it is listed.
    #[must_use]
    pub fn name(&self) -> String {
        let sessions = self.worker.lists().sessions.borrow();
        let own = sessions.all.get(self.number).and_then(Option::as_ref);
        own.map(|own| own.name.clone()).unwrap_or_default()
    }

    /// Puts a session on the list of its worker.
    pub(super) fn take(
        worker: &Rc<Worker>,
        (protocol, listener): (&'static str, &Arc<str>),
        name: &str,
        (peer, endpoint): (SocketAddr, Option<SocketAddr>),
    ) -> Self {
        let session = Session {
            protocol,
            listener: listener.clone(),
            name: text::cut(name, MAX_TEXT).to_owned(),
            peer,
            endpoint,
            since: worker.now(),
        };
        Self {
            number: worker.lists().sessions.borrow_mut().insert(session),
            worker: worker.clone(),
        }
    }
}

impl Drop for SessionPlace {
    fn drop(&mut self) {
        let lists = self.worker.lists();
        lists.sessions.borrow_mut().remove(self.number);
    }
}

/// What this worker has in hand, of each kind `most`.
pub(super) fn survey(worker: &Worker, most: usize) -> Survey {
    worker.read_clock();
    let now = worker.now();
    let mut calls = Oldest::new(most);
    worker.see_calls(&mut calls);
    for own in worker.lists().calls.borrow().each() {
        calls.see(own.told.since, || (own.told.clone(), own.waits_for));
    }
    let mut sessions = Oldest::new(most);
    for own in worker.lists().sessions.borrow().each() {
        sessions.see(own.since, || SessionStatus {
            protocol: own.protocol,
            listener: own.listener.clone(),
            name: own.name.clone(),
            peer: own.peer,
            endpoint: own.endpoint,
            age: now.since(own.since),
        });
    }
    Survey {
        all_calls: calls.seen,
        calls: calls
            .values
            .into_values()
            .map(|(told, waits_for)| in_flight(&told, waits_for, now))
            .collect(),
        all_sessions: sessions.seen,
        sessions: sessions.values.into_values().collect(),
    }
}

fn in_flight(told: &Told, waits_for: WaitsFor, now: Now) -> InFlight {
    let cut = |name: &str| text::cut(name, MAX_TEXT).to_owned();
    let (service, method) = told.names();
    InFlight {
        protocol: told.resolved.protocol,
        listener: told.listener().clone(),
        service: cut(service),
        method: cut(method),
        route: told.route(),
        cluster: told.cluster(),
        endpoint: told.endpoint(),
        source: told.source,
        age: now.since(told.since),
        attempts: u32::from(told.attempts),
        waits_for,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_found_among_many() {
        let mut oldest = Oldest::new(3);
        for since in [50, 10, 90, 20, 70, 30, 10] {
            oldest.see(Now(since), || since);
        }
        let mut kept: Vec<_> = oldest.values.into_values().collect();
        kept.sort_unstable();
        assert_eq!(kept, [10, 10, 20]);
        assert_eq!(oldest.seen, 7);
    }

    #[test]
    fn none_are_kept_where_none_are_wanted() {
        let mut oldest = Oldest::new(0);
        oldest.see(Now(1), || 1);
        assert!(oldest.values.is_empty());
    }
}
