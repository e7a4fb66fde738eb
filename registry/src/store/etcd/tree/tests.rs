//! Who is told of what in a tree.

use super::super::gathered::Gathered;
use super::*;
use crate::store::followed::Latest;
use crate::store::out::Troubles;
use proptest::prelude::*;

const KEYS: [&str; 7] = ["a", "s/1", "s/2", "t/1", "t/u/1", "t/u/2", "tu/1"];

/// What a follower of this place alone would be told.
fn alone(model: &BTreeMap<&str, u8>, wish: Wish, at: &str) -> Answer {
    let mut gathered = match wish {
        Wish::Value => {
            let value = model.get(at);
            return value.map_or(Answer::Missing, |value| Answer::Value(vec![*value].into()));
        }
        Wish::Below => Gathered::Entries(Entries::new()),
        Wish::Folders => Gathered::Folders(BTreeMap::new()),
    };
    let prefix = if at.is_empty() {
        String::new()
    } else {
        format!("{at}/")
    };
    for (key, value) in model {
        if let Some(name) = key.strip_prefix(&*prefix) {
            gathered.add(name, vec![*value]);
        }
    }
    gathered.answer()
}

proptest! {
    #[test]
    fn every_place_is_told_what_it_would_be_alone(
        changes in proptest::collection::vec((0..7usize, proptest::option::of(any::<u8>())), 0..60),
    ) {
        let (mut model, mut state) = (BTreeMap::new(), State::default());
        for (key, value) in changes {
            let key = KEYS[key];
            let what = match value {
                Some(value) => {
                    model.insert(key, value);
                    Some(What::Written(vec![value]))
                }
                None => model.remove(key).map(|_| What::Removed),
            };
            if let Some(what) = what {
                state.apply(key, what);
                state.relist(key);
            }
            for kept in ["", "t"] {
                state.keep_listing(kept);
            }
            for at in ["", "s", "t", "t/u", "tu", "u"] {
                for wish in [Wish::Below, Wish::Folders] {
                    prop_assert_eq!(state.answer(wish, at), alone(&model, wish, at));
                }
            }
            for key in KEYS {
                prop_assert_eq!(state.answer(Wish::Value, key), alone(&model, Wish::Value, key));
            }
        }
    }
}

#[tokio::test]
async fn a_change_is_told_to_those_whom_it_concerns() {
    let tree = Arc::new(Tree {
        prefix: "/r/".to_owned(),
        state: Mutex::default(),
    });
    let queries = [
        Query::Folders("/r".into()),
        Query::Entries("/r/s".into()),
        Query::Names("/r/t/".into()),
        Query::Value("/r/s/1".into()),
        Query::Value("/r/s/2".into()),
    ];
    let followers = queries.map(|query| {
        let troubles = Troubles::default();
        let out = Out::new(Arc::<Latest>::default(), troubles.clone());
        let listener = tree.clone().listen(query, out);
        (troubles, listener.ok().expect("it has not ended"))
    });
    let folders = [("s".into(), Entries::from([("1".to_owned(), "x".into())]))];
    tree.replace(folders.into()).await;
    // Whoever is told something has no trouble any more, be it what is known already.
    let heard = async || {
        let heard = followers.each_ref().map(|(own, _)| lock(own).is_empty());
        tree.fail().await;
        heard
    };
    assert_eq!(heard().await, [true; 5]);
    let change = |key: &str, value: &str| Change {
        key: key.to_owned(),
        what: What::Written(value.into()),
    };
    tree.apply([change("/r/s/1", "y")].into_iter());
    assert_eq!(heard().await, [false, true, false, true, false]);
    tree.apply([change("/r/t/u/1", "z"), change("/elsewhere", "z")].into_iter());
    assert_eq!(heard().await, [true, false, true, false, false]);
    let removed = Change {
        key: "/r/t/u/1".to_owned(),
        what: What::Removed,
    };
    tree.apply([removed].into_iter());
    assert_eq!(heard().await, [true, false, true, false, false]);
    tree.apply([change("/r/t/u/1", "z")].into_iter());
    assert_eq!(heard().await, [true, false, true, false, false]);
    tree.apply([change("/r/t/u/1", "z")].into_iter());
    assert_eq!(heard().await, [false; 5]);
    assert_eq!(lock(&tree.state).followers.len(), 5);
    drop(followers);
    assert!(lock(&tree.state).followers.is_empty());
}

#[tokio::test]
async fn who_follows_a_place_of_a_tree_that_has_ended_does_so_alone() {
    let (_owner, connection) = tokio::sync::watch::channel(None);
    let trees = Trees::default();
    let etcd = Etcd { connection, trees };
    let gathering = etcd.gather(&Handle::current(), "/r");
    let listen = |path: &str| {
        let out = Out::new(Arc::default(), Arc::default());
        etcd.listen(Query::Names(path.into()), out).ok()
    };
    let listener = listen("/r/s").expect("it is in the tree");
    assert!(listen("/rs").is_none() && listen("/").is_none());
    assert!(listener.follower.alone().is_none());
    drop(gathering);
    let alone = listener.follower.alone().cloned();
    let alone = alone.expect("nobody else tells");
    assert!(listen("/r/s").is_none());
    drop(listener);
    tokio::task::yield_now().await;
    assert!(alone.is_finished());
}

#[tokio::test]
async fn a_list_of_many_folders_leaves_others_their_turns() {
    const MANY: usize = 5000;
    let tree = Arc::new(Tree {
        prefix: "/r/".to_owned(),
        state: Mutex::default(),
    });
    let follow = |path: String| {
        let latest = Arc::<Latest>::default();
        let out = Out::new(latest.clone(), Troubles::default());
        let listener = tree.clone().listen(Query::Names(path.into()), out);
        (latest, listener.ok().expect("it has not ended"))
    };
    let followers: Vec<_> = (0..MANY).map(|n| follow(format!("/r/s{n}/p"))).collect();
    let fresh = || {
        let folder = |n: usize| {
            let entries = Entries::from([("1".to_owned(), Bytes::new())]);
            (format!("s{n}/p").into_boxed_str(), entries)
        };
        (0..MANY).map(folder).collect::<BTreeMap<_, _>>()
    };
    let mut known = Vec::new();
    for _ in 0..2 {
        let mut replacing = Box::pin(tree.replace(fresh()));
        let mut turns = 0;
        while futures_util::poll!(&mut replacing).is_pending() {
            turns += 1;
        }
        assert!(turns >= MANY / AT_ONCE + MANY / TOLD_AT_ONCE, "{turns}");
        drop(replacing);
        let told = followers
            .iter()
            .map(|(latest, _)| latest.with(|own| own.cloned()));
        let told: Vec<Answer> = told.flatten().collect();
        assert_eq!(told.len(), MANY);
        known.push(told);
    }
    // The same list again is the same piece of memory.
    let [first, second] = &known[..] else {
        unreachable!()
    };
    for pair in first.iter().zip(second) {
        let (Answer::Entries(first), Answer::Entries(second)) = pair else {
            panic!("{pair:?}");
        };
        assert!(Arc::ptr_eq(first, second));
    }
}

#[test]
fn a_service_that_comes_or_goes_changes_the_list_of_services_and_nothing_else() {
    let mut state = State::default();
    state.keep_listing("");
    for n in 0..3 {
        let name = format!("s{n}/p/1");
        state.apply(&name, What::Made(Vec::new()));
        state.relist(&name);
    }
    let Answer::Entries(before) = state.answer(Wish::Folders, "") else {
        panic!("there are some");
    };
    // Another provider of the same service.
    state.apply("s1/p/2", What::Made(Vec::new()));
    state.relist("s1/p/2");
    let Answer::Entries(same) = state.answer(Wish::Folders, "") else {
        panic!("there are some");
    };
    assert!(Arc::ptr_eq(&before, &same));
    state.apply("s2/p/1", What::Removed);
    state.relist("s2/p/1");
    let Answer::Entries(after) = state.answer(Wish::Folders, "") else {
        panic!("there are some");
    };
    assert_eq!(after.names().collect::<Vec<_>>(), ["s0/p/", "s1/p/"]);
}
