//! Timers that outlive a request.
//!
//! A timer costs an allocation, and entering it in the runtime's wheel. Most never fire, and each
//! request's moment is later than that of the one before: so a timer is used again, and entered
//! anew only when it fires too early.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::time::{Instant, Sleep};

/// Alarms of one client connection that nobody uses now.
#[derive(Default)]
pub(crate) struct Alarms(RefCell<Vec<Pin<Box<Sleep>>>>);

/// Rings at a moment that may be changed.
pub(crate) struct Alarm {
    /// Taken when it is dropped.
    sleep: Option<Pin<Box<Sleep>>>,
    at: Instant,
    home: Rc<Alarms>,
}

impl Alarms {
    /// An alarm for a moment.
    pub(crate) fn set(self: &Rc<Self>, at: Instant) -> Alarm {
        let used = self.0.borrow_mut().pop();
        let sleep = used.unwrap_or_else(|| Box::pin(tokio::time::sleep_until(at)));
        let mut alarm = Alarm {
            sleep: Some(sleep),
            at,
            home: self.clone(),
        };
        alarm.reset(at);
        alarm
    }
}

impl Alarm {
    /// When it rings.
    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// Has it ring at another moment.
    pub(crate) fn reset(&mut self, at: Instant) {
        self.at = at;
        if let Some(sleep) = &mut self.sleep
            && (sleep.is_elapsed() || sleep.deadline() > at)
        {
            sleep.as_mut().reset(at);
        }
    }

    /// Whether it rings; if not, its task is woken when it does.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sleep) = &mut self.sleep else {
            return Poll::Ready(());
        };
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= self.at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(self.at);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.home.0.borrow_mut().extend(self.sleep.take());
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_when_it_should_however_often_it_was_used() {
        let alarms = Rc::<Alarms>::default();
        let begin = Instant::now();
        let second = |number| begin + Duration::from_secs(number);
        let mut first = alarms.set(second(5));
        assert!(poll_fn(|cx| Poll::Ready(first.poll(cx))).await.is_pending());
        drop(first);
        // Used again for a later moment: it fires early, and is not taken for ringing.
        let mut later = alarms.set(second(9));
        poll_fn(|cx| later.poll(cx)).await;
        assert_eq!(Instant::now(), second(9));
        drop(later);
        // Used again after it rang, for an earlier moment than it is set to.
        let mut again = alarms.set(second(30));
        again.reset(second(12));
        poll_fn(|cx| again.poll(cx)).await;
        assert_eq!(Instant::now(), second(12));
        assert_eq!(alarms.0.borrow().len(), 0);
        drop(again);
        assert_eq!(alarms.0.borrow().len(), 1);
    }
}
