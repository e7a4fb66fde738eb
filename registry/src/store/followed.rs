//! Watches, shared: those who follow the same share one watch, for as long as any does.
//!
//! There may be a hundred thousand places, so each is small: what waits for changes of several places
//! is woken by one bell.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::tree::Listener;
use super::{Answer, Out, Query};
use crate::disk::{Disk, Place};
use crate::lock;

/// Rings when there is another answer to something that is followed with it.
pub(crate) type Bell = Arc<Notify>;

/// What is followed: only for as long as it is.
pub(super) type Places = HashMap<Query, Weak<Following>>;

/// The latest answer of one query.
#[derive(Default)]
pub(super) struct Latest(Mutex<State>);

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    /// Grows with every other answer.
    version: u64,
    bells: Vec<Bell>,
}

impl Latest {
    /// Puts an answer in place of the last one, and tells if it differs.
    pub(super) fn set(&self, answer: Answer) {
        let mut state = lock(&self.0);
        if state.answer.as_ref() == Some(&answer) {
            return;
        }
        state.answer = Some(answer);
        state.version += 1;
        for bell in &state.bells {
            bell.notify_one();
        }
    }

    /// What `look` sees of it.
    pub(super) fn with<T>(&self, look: impl FnOnce(Option<&Answer>) -> T) -> T {
        look(lock(&self.0).answer.as_ref())
    }
}

/// One query, followed by any number.
pub(super) struct Following {
    latest: Arc<Latest>,
    /// Finds the answers out; `None` where there is nothing to find out.
    _work: Option<Work>,
    /// Where it stands among what is followed.
    place: Option<(Arc<Mutex<Places>>, Query)>,
}

/// Finds answers out until dropped.
#[expect(dead_code, reason = "to be dropped is all that they are kept for")]
pub(super) enum Work {
    Task(Task),
    /// Hears of them from a tree.
    Tree(Listener),
}

/// Ends its task when dropped.
pub(super) struct Task(pub(super) AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Following {
    pub(super) fn new(
        latest: Arc<Latest>,
        work: Option<Work>,
        place: Option<(Arc<Mutex<Places>>, Query)>,
    ) -> Self {
        Self {
            latest,
            _work: work,
            place,
        }
    }

    pub(super) fn is_shared(&self) -> bool {
        self.place.is_some()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let Some((places, query)) = &self.place else {
            return;
        };
        let mut places = lock(places);
        // Another may stand there by now.
        if places.get(query).is_some_and(|own| own.strong_count() == 0) {
            places.remove(query);
        }
    }
}

/// Something followed, for as long as this lives.
pub(crate) struct Followed {
    following: Arc<Following>,
    /// The version that was looked at last.
    seen: u64,
    bell: Bell,
}

impl Followed {
    pub(super) fn new(following: Arc<Following>, bell: &Bell) -> Self {
        {
            let bells = &mut lock(&following.latest.0).bells;
            // Nearly always there is one.
            bells.reserve_exact(1);
            bells.push(bell.clone());
        }
        Self {
            following,
            seen: 0,
            bell: bell.clone(),
        }
    }

    /// Hands the latest answer to the snapshots on disk, if it came from a registry's servers.
    /// Where there was none before, one is made only if `worth_it`.
    pub(crate) fn save(&self, disk: &Disk, registry: &str, worth_it: bool) {
        let Some((_, query)) = &self.following.place else {
            return;
        };
        let Some(answer) = self.following.latest.with(|answer| answer.cloned()) else {
            return;
        };
        let place = Place::of(registry, query);
        match worth_it {
            true => disk.save(place, answer),
            false => disk.update(place, answer),
        }
    }

    /// The latest answer; `None` until the first.
    pub(crate) fn latest(&mut self) -> Option<Answer> {
        let state = lock(&self.following.latest.0);
        self.seen = state.version;
        state.answer.clone()
    }

    /// Whether there is another answer than the one looked at last.
    pub(crate) fn has_changed(&self) -> bool {
        lock(&self.following.latest.0).version != self.seen
    }

    /// Waits for another answer.
    #[cfg(test)]
    pub(crate) async fn changed(&self) {
        changed(&self.bell, || self.has_changed()).await;
    }

    /// What `task` finds out, for as long as this lives.
    pub(crate) fn task<F>(handle: &Handle, bell: &Bell, task: impl FnOnce(Out) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let latest = Arc::<Latest>::default();
        let out = Out::new(latest.clone(), Arc::default());
        let task = Task(handle.spawn(task(out)).abort_handle());
        let following = Following::new(latest, Some(Work::Task(task)), None);
        Self::new(Arc::new(following), bell)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut state = lock(&self.following.latest.0);
        let own = |bell: &Bell| Arc::ptr_eq(bell, &self.bell);
        // Those who came last go first, more often than not.
        if let Some(at) = state.bells.iter().rposition(own) {
            state.bells.swap_remove(at);
        }
    }
}

/// Waits until any of those that `has_changed` looks at, which are followed with this bell, has.
pub(crate) async fn changed(bell: &Bell, mut has_changed: impl FnMut() -> bool) {
    // Whoever forgets to look at one of them shall not hold up all others on this thread.
    tokio::task::coop::consume_budget().await;
    while !has_changed() {
        bell.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &'static str) -> Answer {
        Answer::Value(bytes::Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn one_bell_rings_for_all_that_is_followed_with_it() {
        let [one, two] = [(); 2].map(|()| Arc::<Latest>::default());
        let follow = |latest: &Arc<Latest>, bell| {
            let following = Following::new(latest.clone(), None, None);
            Followed::new(Arc::new(following), bell)
        };
        let bell = Bell::default();
        let mut all = [&one, &two].map(|latest| follow(latest, &bell));
        let rings = async |all: &[Followed]| {
            let changed = changed(&bell, || all.iter().any(Followed::has_changed));
            let soon = std::time::Duration::from_millis(1);
            tokio::time::timeout(soon, changed).await.is_ok()
        };
        assert!(!rings(&all).await);
        for latest in [&one, &two] {
            // Told while it is waited for.
            let told = async { latest.set(answer("a")) };
            let (rang, ()) = tokio::join!(rings(&all), told);
            assert!(rang);
            // Until it is looked at.
            assert!(rings(&all).await);
            let seen = all.each_mut().map(Followed::latest);
            assert!(seen.contains(&Some(answer("a"))));
            assert!(!rings(&all).await);
            latest.set(answer("a"));
            assert!(!rings(&all).await, "the same again");
        }
        let [first, _] = all;
        drop(first);
        assert!(lock(&one.0).bells.is_empty());
        assert_eq!(lock(&two.0).bells.len(), 1);
    }
}
