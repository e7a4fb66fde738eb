//! Virtual time in a world: what is due is taken in order, tasks of the mesh have their turns in between, and the process stops.

use std::time::Duration;

use finback_core::driver::Crew;

use super::network::{Event, Network, Time};

/// Draining takes no longer than this, in milliseconds.
const LONGEST_DRAIN: Time = 12_000;
/// A process that is gone is looked at for so long: peers may still read what was written to them.
const AFTERWARDS: Time = 3000;

/// Runs a world in a runtime of its own, whose clock goes on only when nothing else is to be done.
///
/// # Errors
/// If there can be no runtime.
pub(super) fn in_virtual_time<T>(world: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let local = tokio::task::LocalSet::new();
    Ok(local.block_on(&runtime, world))
}

/// A world in which time passes.
pub(super) trait Passing {
    /// Where its connections are, and what is to happen when.
    fn network(&self) -> &Network;

    /// Does what an event says.
    fn take(&mut self, event: Event);

    /// Whether tasks of the mesh have their turns before the next event.
    fn gives_turn(&mut self) -> bool;

    /// Stands still, if that is what follows an event.
    async fn pause_after(&mut self, event: Event);

    /// Tasks whose connections have news are woken.
    fn wake(&self) {
        let wakers = self.network().lock().take_wakers();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Lets so much virtual time pass, in milliseconds.
    async fn pass(&mut self, period: Time) {
        let network = self.network().clone();
        let (until, start) = {
            let mut net = network.lock();
            (net.now() + period, net.start())
        };
        loop {
            let next = network.lock().next_at();
            let next = next.unwrap_or(until).min(until);
            tokio::select! {
                biased;
                () = network.sooner.notified() => {}
                () = tokio::time::sleep_until(start + Duration::from_millis(next)) => {}
            }
            let now = network.lock().now();
            self.take_due(now).await;
            if now >= until {
                return;
            }
        }
    }

    /// Takes what is due; in between, tasks of the mesh have their turns, or have not.
    async fn take_due(&mut self, now: Time) {
        loop {
            let event = self.network().lock().next_event(now);
            let Some((_, event)) = event else { break };
            self.take(event);
            self.wake();
            if self.gives_turn() {
                tokio::task::yield_now().await;
            }
            self.pause_after(event).await;
        }
        self.wake();
    }
}

/// A world whose process stops: it drains, and then is gone. What it has not said by then nobody hears.
pub(super) trait Stopping: Passing {
    /// The workers of its process.
    fn crew(&self) -> &Crew;

    /// Something that must not happen has.
    fn fault(&mut self, what: String);

    /// Stops the process.
    async fn stop(&mut self) {
        let crew = self.crew().share();
        let drained = tokio::task::spawn_local(async move { crew.drain().await });
        let mut waited = 0;
        while !drained.is_finished() && waited < LONGEST_DRAIN {
            self.pass(20).await;
            waited += 20;
        }
        if !drained.is_finished() {
            self.fault("draining did not end in time".to_owned());
        }
        self.network().lock().exit();
        self.pass(AFTERWARDS).await;
    }
}
