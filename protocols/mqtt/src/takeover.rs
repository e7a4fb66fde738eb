//! Sessions by client identifier, where the route does not leave duplicates to the broker.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::policy::Duplicates;

/// Who is here, over all workers.
#[derive(Default)]
pub(crate) struct Sessions(Arc<Mutex<HashMap<Box<str>, Arc<Notice>>>>);

/// How a session is told that another took its place.
#[derive(Default)]
struct Notice {
    given: AtomicBool,
    changed: Notify,
}

/// A session's place, until dropped.
pub(crate) struct Seat {
    all: Arc<Mutex<HashMap<Box<str>, Arc<Notice>>>>,
    client_id: Box<str>,
    notice: Arc<Notice>,
}

impl Sessions {
    /// Takes the place of this identifier.
    ///
    /// # Errors
    /// If somebody has it, and keeps it.
    pub(crate) fn enter(
        &self,
        client_id: &str,
        duplicates: Duplicates,
    ) -> Result<Option<Seat>, ()> {
        if duplicates == Duplicates::Broker || client_id.is_empty() {
            return Ok(None);
        }
        let notice = Arc::<Notice>::default();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if duplicates == Duplicates::Refuse && all.contains_key(client_id) {
            return Err(());
        }
        if let Some(former) = all.insert(client_id.into(), notice.clone()) {
            former.given.store(true, Ordering::Relaxed);
            former.changed.notify_one();
        }
        Ok(Some(Seat {
            all: self.0.clone(),
            client_id: client_id.into(),
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
            .get(&self.client_id)
            .is_some_and(|own| Arc::ptr_eq(own, &self.notice))
        {
            all.remove(&self.client_id);
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
        assert!(sessions.enter("a", Duplicates::Broker).unwrap().is_none());
        let first = sessions.enter("a", Duplicates::Refuse).unwrap().unwrap();
        assert!(sessions.enter("a", Duplicates::Refuse).is_err());
        let second = sessions.enter("a", Duplicates::TakeOver).unwrap().unwrap();
        assert!(first.notice.given.load(Ordering::Relaxed));
        // The one that left late does not free the place of the one that came.
        drop(first);
        assert!(sessions.enter("a", Duplicates::Refuse).is_err());
        drop(second);
        assert!(sessions.enter("a", Duplicates::Refuse).is_ok());
    }
}
