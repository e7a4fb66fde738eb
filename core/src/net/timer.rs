//! Timers that outlive a request, and never ring before what already lies in the sockets was read.
//!
//! A timer costs an allocation, and entering it in the runtime's wheel. Most never fire, and each
//! request's moment is later than that of the one before: so a timer is used again, and entered
//! anew only when it fires too early.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::turn::give_way;

/// A timer that fires this much after its moment shows that *we* did not run: the machine was
/// paused, or the process had no share of its processor. What was sent to us meanwhile waits in the
/// sockets, and is read before anything is taken for late.
pub const LATE: Duration = Duration::from_millis(50);
/// Turns that the others have before a late timer rings.
const TURNS: u8 = 4;

/// Timers that nobody uses now, to be used again.
#[derive(Default)]
pub struct Timers(RefCell<Vec<Pin<Box<Sleep>>>>);

/// Rings at a moment that may be changed.
pub struct Timer {
    /// Taken when it is dropped.
    sleep: Option<Pin<Box<Sleep>>>,
    at: Instant,
    home: Rc<Timers>,
    /// Turns that others still have before it rings; `None` until it is found late.
    turns: Option<u8>,
}

impl Timers {
    /// A timer for a moment.
    #[must_use]
    pub fn set(self: &Rc<Self>, at: Instant) -> Timer {
        let used = self.0.borrow_mut().pop();
        let sleep = used.unwrap_or_else(|| Box::pin(tokio::time::sleep_until(at)));
        let mut timer = Timer {
            sleep: Some(sleep),
            at,
            home: self.clone(),
            turns: None,
        };
        timer.reset(at);
        timer
    }
}

impl Timer {
    /// When it rings.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Has it ring at another moment.
    pub fn reset(&mut self, at: Instant) {
        self.at = at;
        self.turns = None;
        if let Some(sleep) = &mut self.sleep
            && (sleep.is_elapsed() || sleep.deadline() > at)
        {
            sleep.as_mut().reset(at);
        }
    }

    /// Whether it rang so late that it tells nothing of a peer: see [`LATE`].
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.turns.is_some()
    }

    /// Whether it rings; if not, its task is woken when it does.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(sleep) = &mut self.sleep else {
            return Poll::Ready(());
        };
        loop {
            if self.turns.is_none() {
                ready!(sleep.as_mut().poll(cx));
                if sleep.deadline() < self.at {
                    sleep.as_mut().reset(self.at);
                    continue;
                }
                if Instant::now() < self.at + LATE {
                    return Poll::Ready(());
                }
            }
            return match self.turns.unwrap_or(TURNS) {
                0 => Poll::Ready(()),
                left => {
                    self.turns = Some(left - 1);
                    give_way(cx);
                    Poll::Pending
                }
            };
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.home.0.borrow_mut().extend(self.sleep.take());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_rings_when_it_should_however_often_it_was_used() {
        let timers = Rc::<Timers>::default();
        let begin = Instant::now();
        let second = |number| begin + Duration::from_secs(number);
        let mut first = timers.set(second(5));
        assert!(poll_fn(|cx| Poll::Ready(first.poll(cx))).await.is_pending());
        drop(first);
        // Used again for a later moment: it fires early, and is not taken for ringing.
        let mut later = timers.set(second(9));
        poll_fn(|cx| later.poll(cx)).await;
        assert_eq!(Instant::now(), second(9));
        assert!(!later.is_late());
        drop(later);
        // Used again after it rang, for an earlier moment than it is set to.
        let mut again = timers.set(second(30));
        again.reset(second(12));
        poll_fn(|cx| again.poll(cx)).await;
        assert_eq!(Instant::now(), second(12));
        assert_eq!(timers.0.borrow().len(), 0);
        drop(again);
        assert_eq!(timers.0.borrow().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_pause_of_ours_others_have_their_turn_before_it_rings() {
        let timers = Rc::<Timers>::default();
        let mut timer = timers.set(Instant::now() + Duration::from_secs(1));
        // Nobody polls it meanwhile, as when the process is stopped.
        tokio::time::advance(Duration::from_secs(3)).await;
        let heard = Rc::new(Cell::new(false));
        let local = tokio::task::LocalSet::new();
        let hears = heard.clone();
        local.spawn_local(async move {
            // What lies in a socket takes a turn of the runtime to be noticed, and one to be read.
            tokio::task::yield_now().await;
            hears.set(true);
        });
        local.run_until(poll_fn(|cx| timer.poll(cx))).await;
        assert!(heard.get());
        assert!(timer.is_late());
    }
}
