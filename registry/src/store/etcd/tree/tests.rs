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
    let heard = || {
        let heard = followers.each_ref().map(|(own, _)| lock(own).is_empty());
        tree.fail();
        heard
    };
    assert_eq!(heard(), [true; 5]);
    let change = |key: &str, value: &str| Change {
        key: key.to_owned(),
        what: What::Written(value.into()),
    };
    tree.apply(vec![change("/r/s/1", "y")]);
    assert_eq!(heard(), [false, true, false, true, false]);
    tree.apply(vec![change("/r/t/u/1", "z"), change("/elsewhere", "z")]);
    assert_eq!(heard(), [true, false, true, false, false]);
    tree.apply(vec![Change {
        key: "/r/t/u/1".to_owned(),
        what: What::Removed,
    }]);
    assert_eq!(heard(), [true, false, true, false, false]);
    tree.apply(vec![change("/r/t/u/1", "z")]);
    assert_eq!(heard(), [true, false, true, false, false]);
    tree.apply(vec![change("/r/t/u/1", "z")]);
    assert_eq!(heard(), [false; 5]);
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
    assert!(listener.follower.alone.get().is_none());
    drop(gathering);
    let alone = listener.follower.alone.get().cloned();
    let alone = alone.expect("nobody else tells");
    assert!(listen("/r/s").is_none());
    drop(listener);
    tokio::task::yield_now().await;
    assert!(alone.is_finished());
}
