//! Timers that outlive a request, and never ring before what already lies in the sockets was read.
//!
//! A timer costs an allocation, and entering it in the runtime's wheel. Most never fire, and each
//! request's moment is later than that of the one before: so a timer is used again, and entered
//! anew only when it fires too early.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::turn::give_way;

/// A timer that fires this much after its moment shows that *we* did not run: the machine was
/// paused, or the process had no share of its processor. What was sent to us meanwhile waits in the
/// sockets, and is read before anything is taken for late.
pub const LATE: Duration = Duration::from_millis(50);
/// Timers that are kept to be used again, at most.
const KEPT: usize = 1024;
/// Turns that the others have before a late timer rings: as many as a connection takes to be read
/// that has the largest window of ours lying in its socket.
const TURNS: u8 = 32;

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
        timer.move_sleep();
        timer
    }

    /// Waits for `future`, at most until `due`. What lies in the sockets by then is read first.
    ///
    /// # Errors
    /// If it was not ready by then.
    pub async fn within<F: Future>(
        self: &Rc<Self>,
        due: Instant,
        future: F,
    ) -> Result<F::Output, Expired> {
        let mut future = pin!(future);
        let mut timer = self.set(due);
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            ready!(timer.poll(cx));
            Poll::Ready(Err(Expired {
                stalled: timer.is_late(),
            }))
        })
        .await
    }

    /// Waits for something of a peer's, for so long; time in which we did not run is not the
    /// peer's. `None` if it did not come.
    pub async fn patiently<F: Future>(
        self: &Rc<Self>,
        patience: Duration,
        future: F,
    ) -> Option<F::Output> {
        let mut future = pin!(future);
        loop {
            let due = Instant::now() + patience;
            match self.within(due, future.as_mut()).await {
                Ok(output) => return Some(output),
                Err(Expired { stalled: true }) => {}
                Err(Expired { stalled: false }) => return None,
            }
        }
    }
}

/// Time was over before what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// It passed while we did not run: it tells nothing of a peer.
    pub stalled: bool,
}

impl Timer {
    /// When it rings.
    #[must_use]
    pub fn at(&self) -> Instant {
        self.at
    }

    /// Has it ring at another moment.
    pub fn reset(&mut self, at: Instant) {
        if at != self.at {
            self.at = at;
            self.turns = None;
            self.move_sleep();
        }
    }

    fn move_sleep(&mut self) {
        if let Some(sleep) = &mut self.sleep
            && (sleep.is_elapsed() || sleep.deadline() > self.at)
        {
            sleep.as_mut().reset(self.at);
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
        let mut home = self.home.0.borrow_mut();
        if home.len() < KEPT {
            home.extend(self.sleep.take());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

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

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_waited_for_as_long_as_we_run() {
        let timers = Rc::<Timers>::default();
        let begin = Instant::now();
        let patience = Duration::from_secs(1);
        let never = std::future::pending::<()>;
        assert_eq!(timers.patiently(patience, never()).await, None);
        assert_eq!(begin.elapsed(), patience);
        assert_eq!(timers.patiently(patience, async { 7 }).await, Some(7));
        let mut waiting = pin!(timers.patiently(patience, never()));
        assert!(
            poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx)))
                .await
                .is_pending()
        );
        tokio::time::advance(Duration::from_secs(20)).await;
        let resumed = Instant::now();
        assert_eq!(waiting.await, None);
        assert_eq!(resumed.elapsed(), patience);
        let due = Instant::now() + patience;
        let mut waiting = pin!(timers.within(due, never()));
        assert!(
            poll_fn(|cx| Poll::Ready(waiting.as_mut().poll(cx)))
                .await
                .is_pending()
        );
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(waiting.await, Err(Expired { stalled: true }));
    }
}
