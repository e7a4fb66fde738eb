//! Sessions by the client identifier that their brokers see, where the route does not leave duplicates to the broker.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::policy::Duplicates;

/// Who is here, over all workers.
#[derive(Default)]
pub(crate) struct Sessions(Arc<Mutex<HashMap<Key, Arc<Notice>>>>);

/// What makes two sessions one: the identifier that brokers see, at brokers that are one cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    /// The cluster; "" for sessions that end here.
    cluster: Box<str>,
    client_id: Box<str>,
}

impl Key {
    /// Of a session at brokers of this cluster.
    pub(crate) fn at(cluster: &str, client_id: &str) -> Self {
        Self {
            cluster: cluster.into(),
            client_id: client_id.into(),
        }
    }

    /// Of a session that ends here.
    pub(crate) fn here(client_id: &str) -> Self {
        Self::at("", client_id)
    }
}

/// How a session is told that another took its place.
#[derive(Default)]
struct Notice {
    given: AtomicBool,
    changed: Notify,
}

/// A session's place, until dropped.
pub(crate) struct Seat {
    all: Arc<Mutex<HashMap<Key, Arc<Notice>>>>,
    key: Key,
    notice: Arc<Notice>,
}

impl Sessions {
    /// Whether somebody has this place.
    pub(crate) fn has(&self, key: &Key) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.contains_key(key)
    }

    /// Takes a place, for one who is known to be who it says.
    ///
    /// # Errors
    /// If somebody has it, and keeps it.
    pub(crate) fn enter(&self, key: Key, duplicates: Duplicates) -> Result<Option<Seat>, ()> {
        if duplicates == Duplicates::Broker || key.client_id.is_empty() {
            return Ok(None);
        }
        let notice = Arc::<Notice>::default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if duplicates == Duplicates::Refuse && all.contains_key(&key) {
            return Err(());
        }
        if let Some(former) = all.insert(key.clone(), notice.clone()) {
            former.given.store(true, Ordering::Relaxed);
            former.changed.notify_one();
        }
        Ok(Some(Seat {
            all: self.0.clone(),
            key,
            notice,
        }))
    }
}

impl Seat {
    /// Whether another session has taken its place.
    pub(crate) fn is_lost(&self) -> bool {
        self.notice.given.load(Ordering::Relaxed)
    }

    /// Waits until another session takes its place.
    pub(crate) async fn lost(&self) {
        while !self.is_lost() {
            self.notice.changed.notified().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if all
            .get(&self.key)
            .is_some_and(|own| Arc::ptr_eq(own, &self.notice))
        {
            all.remove(&self.key);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_second_session_is_refused_or_takes_the_place() {
        let sessions = Sessions::default();
        let key = || Key::at("brokers", "a");
        assert!(sessions.enter(key(), Duplicates::Broker).unwrap().is_none());
        let first = sessions.enter(key(), Duplicates::Refuse).unwrap().unwrap();
        assert!(sessions.has(&key()));
        assert!(sessions.enter(key(), Duplicates::Refuse).is_err());
        let second = sessions.enter(key(), Duplicates::TakeOver);
        let second = second.unwrap().unwrap();
        assert!(first.notice.given.load(Ordering::Relaxed));
        // The one that left late does not free the place of the one that came.
        drop(first);
        assert!(sessions.enter(key(), Duplicates::Refuse).is_err());
        // Other brokers have other sessions.
        for other in [
            Key::at("others", "a"),
            Key::at("brokers", "b"),
            Key::here("a"),
        ] {
            assert!(sessions.enter(other, Duplicates::Refuse).is_ok());
        }
        drop(second);
        assert!(sessions.enter(key(), Duplicates::Refuse).is_ok());
    }
}
