//! What a tree of ZooKeeper hears, reads and tells.

use super::*;
use crate::store::followed::Latest;
use crate::store::out::Troubles;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A follower, and what it was told last.
fn follower(query: Query) -> (Arc<Follower>, Arc<Latest>) {
    let latest = Arc::<Latest>::default();
    let out = Out::new(latest.clone(), Troubles::default());
    (Follower::new(query, out), latest)
}

fn add(state: &mut State, follower: &Arc<Follower>) {
    let sort = Sort::of(&follower.query).expect("a tree tells of it");
    state.add(sort, follower);
}

fn answer(latest: &Latest) -> Option<Answer> {
    latest.with(|answer| answer.cloned())
}

fn names(names: &[&str]) -> Answer {
    let entries = names.iter().map(|name| ((*name).to_owned(), Bytes::new()));
    Answer::Entries(Arc::new(entries.collect()))
}

fn found(answer: Answer) -> Result<Found, Error> {
    Ok(Found {
        answer,
        hides: false,
    })
}

fn event(event_type: EventType, path: &str) -> WatchedEvent {
    WatchedEvent::new(event_type, path)
}

/// A list that was read once, and whoever follows it.
fn read_once(state: &mut State, path: &str, list: &[&str]) -> Arc<Latest> {
    let (follower, latest) = follower(Query::Names(path.into()));
    add(state, &follower);
    let spot = state.next().expect("to be read");
    assert!(state.settle(spot, found(names(list))).is_ok());
    latest
}

#[test]
fn an_event_changes_a_list_without_a_request() {
    let mut state = State::default();
    let latest = read_once(&mut state, "/d/s/providers", &["a"]);
    for (kind, path, expected) in [
        (EventType::NodeCreated, "/d/s/providers/b", &["a", "b"][..]),
        (EventType::NodeCreated, "/d/s/providers/b", &["a", "b"]),
        (EventType::NodeDeleted, "/d/s/providers/a", &["b"]),
        (EventType::NodeDeleted, "/d/s/providers/x", &["b"]),
        (EventType::NodeDataChanged, "/d/s/providers/b", &["b"]),
        (EventType::NodeCreated, "/d/s/providers/b/deeper", &["b"]),
        (EventType::NodeCreated, "/d/s/consumers/c", &["b"]),
        (EventType::NodeDeleted, "/d/s/providers/b", &[]),
    ] {
        assert!(state.hear(&event(kind, path)).is_ok());
        assert_eq!(answer(&latest), Some(names(expected)), "{path}");
        assert_eq!(state.next(), None, "{path}");
    }
}

#[test]
fn a_place_that_comes_or_goes_and_a_value_that_changes_are_read_again() {
    let mut state = State::default();
    let latest = read_once(&mut state, "/d/s", &["a"]);
    let (value, told) = follower(Query::Value("/d/m".into()));
    add(&mut state, &value);
    let spot = state.next().expect("to be read");
    assert!(state.settle(spot, found(Answer::Missing)).is_ok());
    for (kind, path, sort) in [
        (EventType::NodeDeleted, "/d/s", Sort::Names),
        (EventType::NodeCreated, "/d/s", Sort::Names),
        (EventType::NodeCreated, "/d/m", Sort::Value),
        (EventType::NodeDataChanged, "/d/m", Sort::Value),
    ] {
        assert!(state.hear(&event(kind, path)).is_ok());
        let spot = state.next().expect("to be read");
        assert_eq!((spot.sort, &*spot.path), (sort, path));
        assert_eq!(state.next(), None);
        let read = match sort {
            Sort::Names => names(&["b"]),
            Sort::Value => Answer::Value(Bytes::from_static(b"x")),
        };
        assert!(state.settle(spot, found(read)).is_ok());
    }
    assert_eq!(answer(&latest), Some(names(&["b"])));
    assert_eq!(answer(&told), Some(Answer::Value(Bytes::from_static(b"x"))));
}

#[test]
fn what_changes_while_it_is_read_is_read_again() {
    let mut state = State::default();
    let (own, latest) = follower(Query::Names("/d/s".into()));
    add(&mut state, &own);
    let spot = state.next().expect("to be read");
    let created = event(EventType::NodeCreated, "/d/s/b");
    assert!(state.hear(&created).is_ok());
    assert_eq!(state.next(), None, "it is being read");
    assert!(state.settle(spot, found(names(&["a"]))).is_ok());
    // Older than the event, perhaps: told, and read again.
    assert_eq!(answer(&latest), Some(names(&["a"])));
    let spot = state.next().expect("to be read again");
    assert!(state.settle(spot, found(names(&["a", "b"]))).is_ok());
    assert_eq!(answer(&latest), Some(names(&["a", "b"])));
    assert_eq!(state.next(), None);
}

#[test]
fn a_failed_reading_empties_nothing_and_is_tried_again() {
    let mut state = State::default();
    let (value, told) = follower(Query::Value("/d/m".into()));
    add(&mut state, &value);
    let text = || Answer::Value(Bytes::from_static(b"x"));
    assert!(read_once_more(&mut state, text()).is_ok());
    for error in [Error::ConnectionLoss, Error::NoAuth] {
        state.read_all();
        let spot = state.next().expect("to be read");
        assert!(state.settle(spot, Err(error)).is_ok());
        assert_eq!(answer(&told), Some(text()));
        assert_eq!(state.next(), None);
        state.look();
        assert!(read_once_more(&mut state, text()).is_ok());
        assert_eq!(state.next(), None);
    }
}

/// What waits to be read is, and says this.
fn read_once_more(state: &mut State, read: Answer) -> Result<(), Over> {
    let spot = state.next().expect("to be read");
    state.settle(spot, found(read))
}

#[test]
fn a_reading_for_one_who_is_gone_says_nothing_to_the_next() {
    let tree = Arc::new(Tree {
        root: "/d".to_owned(),
        state: Mutex::default(),
        bell: Notify::new(),
    });
    let listen = || {
        let latest = Arc::<Latest>::default();
        let out = Out::new(latest.clone(), Troubles::default());
        let listener = tree.clone().listen(Query::Names("/d/s".into()), out);
        (listener.ok().expect("it has not ended"), latest)
    };
    let (first, _) = listen();
    let older = lock(&tree.state).next().expect("to be read");
    drop(first);
    assert!(lock(&tree.state).lists.is_empty());
    let (_second, latest) = listen();
    let newer = lock(&tree.state).next().expect("to be read");
    assert!(
        lock(&tree.state)
            .settle(older, found(names(&["a"])))
            .is_ok()
    );
    assert_eq!(answer(&latest), None);
    assert!(
        lock(&tree.state)
            .settle(newer, found(names(&["b"])))
            .is_ok()
    );
    assert_eq!(answer(&latest), Some(names(&["b"])));
}

#[test]
fn a_watch_that_does_not_tell_of_all_is_not_relied_on() {
    let mut state = State::default();
    let latest = read_once(&mut state, "/d/s", &["a"]);
    let mut look = |list: Answer, between: Option<&str>| {
        state.look();
        let spot = state.next().expect("to be looked at");
        if let Some(path) = between {
            assert!(state.hear(&event(EventType::NodeCreated, path)).is_ok());
        }
        let told = state.settle(spot, found(list));
        while let Some(spot) = state.next() {
            assert!(state.settle(spot, found(names(&["a", "b"]))).is_ok());
        }
        told
    };
    assert!(look(names(&["a"]), None).is_ok());
    // It was told of between the question and the answer.
    assert!(look(names(&["a", "b"]), Some("/d/s/b")).is_ok());
    assert_eq!(answer(&latest), Some(names(&["a", "b"])));
    assert!(matches!(look(names(&["a"]), None), Err(Over::Blind(_))));
    // One entry that we may not read is enough.
    let mut state = State::default();
    let (own, latest) = follower(Query::Names("/d/s".into()));
    add(&mut state, &own);
    let spot = state.next().expect("to be read");
    let read = Found {
        answer: names(&["a"]),
        hides: true,
    };
    assert!(matches!(state.settle(spot, Ok(read)), Err(Over::Blind(_))));
    assert_eq!(answer(&latest), None);
}

#[test]
fn a_connection_anew_is_a_gap() {
    let mut state = State::default();
    for (session, is_gap) in [
        (SessionState::Disconnected, false),
        (SessionState::SyncConnected, true),
        (SessionState::Expired, true),
    ] {
        let heard = state.hear(&WatchedEvent::new_session(session));
        assert_eq!(matches!(heard, Err(Over::Gap)), is_gap, "{session}");
    }
}

#[test]
fn only_what_cannot_be_had_later_ends_a_tree() {
    for (error, is_blind) in [
        (Error::Unimplemented, true),
        (Error::MarshallingError, true),
        (Error::ConnectionLoss, false),
        (Error::SessionExpired, false),
    ] {
        assert_eq!(matches!(refused(&error), Over::Blind(_)), is_blind);
    }
}

#[test]
fn all_lists_are_looked_at_in_a_round() {
    let mut state = State::default();
    let count = 2 * ROUND + 1;
    for number in 0..count {
        read_once(&mut state, &format!("/d/{number}"), &[]);
    }
    let mut seen = BTreeSet::new();
    for _ in 0..ROUND {
        state.look();
        while let Some(spot) = state.next() {
            seen.insert(spot.path.clone());
            assert!(state.settle(spot, found(names(&[]))).is_ok());
        }
    }
    assert_eq!(seen.len(), count);
}

proptest! {
    /// A server that answers late, in order with the events that it tells.
    #[test]
    fn whatever_the_order_a_list_ends_as_the_servers(
        steps in proptest::collection::vec((0..5_usize, 0..4_usize), 0..80),
    ) {
        const NAMES: [&str; 4] = ["a", "b", "c", "d"];
        let mut server = BTreeSet::new();
        let mut state = State::default();
        let (own, latest) = follower(Query::Names("/d/s".into()));
        add(&mut state, &own);
        let mut asked = None;
        let mut answers = BTreeMap::new();
        for (step, (what, name)) in steps.into_iter().enumerate() {
            let path = format!("/d/s/{}", NAMES[name]);
            match what {
                0 if server.insert(NAMES[name]) => {
                    prop_assert!(state.hear(&event(EventType::NodeCreated, &path)).is_ok());
                }
                1 if server.remove(NAMES[name]) => {
                    prop_assert!(state.hear(&event(EventType::NodeDeleted, &path)).is_ok());
                }
                2 if asked.is_none() => asked = state.next(),
                // The server reads now, and we hear of it later.
                3 if asked.is_some() && answers.is_empty() => {
                    let list: Vec<&str> = server.iter().copied().collect();
                    answers.insert(step, names(&list));
                }
                4 => if let Some((_, list)) = answers.pop_first() {
                    let spot = asked.take().expect("asked for");
                    prop_assert!(state.settle(spot, found(list)).is_ok());
                } else {
                    state.look();
                },
                _ => {}
            }
        }
        let list: Vec<&str> = server.iter().copied().collect();
        if let Some(spot) = asked {
            let answer = answers.pop_first().map_or(names(&list), |(_, list)| list);
            prop_assert!(state.settle(spot, found(answer)).is_ok());
        }
        while let Some(spot) = state.next() {
            prop_assert!(state.settle(spot, found(names(&list))).is_ok());
        }
        prop_assert_eq!(answer(&latest), Some(names(&list)));
    }
}
