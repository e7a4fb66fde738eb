//! Observers of single exchanges: access logs, taps. Each record is counted, and shown to all of them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use finback_core::frame::{Lag, Outcome};
use finback_core::record::{About, Ending, Observer, Record, Series, SeriesKey};

/// Sees every exchange at its end, on the worker's own thread: it must not wait, and should look at few
/// things before it turns an exchange down.
pub trait Watcher: Send + Sync + 'static {
    /// An exchange has ended. Names in `key` are as the caller wrote them, whatever metrics make of them.
    fn see(&self, key: &SeriesKey, record: &Record<'_>);

    /// Successes that took fewer microseconds than this need not be shown, because they would be turned down;
    /// everything else is. It is asked anew after each exchange that was shown.
    fn successes_from(&self) -> u64 {
        0
    }
}

/// Nobody wants a success, or nobody watches.
pub const NO_SUCCESS: u64 = u64::MAX;

/// Whether an exchange is one that watchers may leave aside: a success, or a one-way that was sent.
fn is_success(ending: Ending) -> bool {
    matches!(ending, Ending::Sent | Ending::Answered(Outcome::Success))
}

/// Everybody who watches now. An exchange that nobody wants costs one look at a number.
pub struct Watchers {
    /// The least that any of them says of successes.
    successes_from: AtomicU64,
    all: ArcSwap<Vec<Arc<dyn Watcher>>>,
    /// Whoever changes the list.
    change: Mutex<()>,
}

impl Default for Watchers {
    fn default() -> Self {
        Self {
            successes_from: AtomicU64::new(NO_SUCCESS),
            all: ArcSwap::default(),
            change: Mutex::default(),
        }
    }
}

/// Watches for as long as it lives.
pub struct Watching {
    watchers: Weak<Watchers>,
    own: Arc<dyn Watcher>,
}

impl Watchers {
    /// Shows every exchange from now on to `watcher`, until what is returned is dropped.
    pub fn add(self: &Arc<Self>, watcher: Arc<dyn Watcher>) -> Watching {
        self.update(|all| all.push(watcher.clone()));
        Watching {
            watchers: Arc::downgrade(self),
            own: watcher,
        }
    }

    fn update(&self, change: impl FnOnce(&mut Vec<Arc<dyn Watcher>>)) {
        let _alone = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::clone(&self.all.load());
        change(&mut all);
        self.all.store(Arc::new(all));
        self.ask();
    }

    /// Asks everybody anew which successes are wanted. To be called when one of them wants more than before.
    pub fn ask(&self) {
        let all = self.all.load();
        let least = all.iter().map(|own| own.successes_from()).min();
        self.successes_from
            .store(least.unwrap_or(NO_SUCCESS), Relaxed);
    }

    #[cold]
    fn show(&self, key: &SeriesKey, record: &Record<'_>) {
        for watcher in self.all.load().iter() {
            watcher.see(key, record);
        }
        self.ask();
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(watchers) = self.watchers.upgrade() {
            watchers.update(|all| all.retain(|each| !Arc::ptr_eq(each, &self.own)));
        }
    }
}

/// Gives each record to an observer that counts, and to those who watch.
pub struct Watched<O> {
    /// Who counts.
    pub counts: Arc<O>,
    /// Who watches.
    pub watchers: Arc<Watchers>,
}

struct WatchedSeries {
    counts: Arc<dyn Series>,
    watchers: Arc<Watchers>,
    key: SeriesKey,
}

impl<O: Observer> Observer for Watched<O> {
    fn series(&self, worker: usize, key: &SeriesKey) -> Arc<dyn Series> {
        Arc::new(WatchedSeries {
            counts: self.counts.series(worker, key),
            watchers: self.watchers.clone(),
            key: key.clone(),
        })
    }
}

impl Series for WatchedSeries {
    fn record(&self, record: &Record<'_>) {
        self.counts.record(record);
        let from = self.watchers.successes_from.load(Relaxed);
        if record.micros >= from || !is_success(record.ending) {
            self.watchers.show(&self.key, record);
        }
    }

    fn lag(&self, about: &dyn About, lag: Lag) {
        self.counts.lag(about, lag);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::Metrics;
    use finback_core::record::Ends;
    use std::net::{IpAddr, SocketAddr};

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Watcher for Seen {
        fn see(&self, key: &SeriesKey, record: &Record<'_>) {
            let line = format!("{} {}", key.service, record.about.route());
            self.0.lock().unwrap().push(line);
        }
    }

    struct Route(&'static str);

    impl About for Route {
        fn source(&self) -> IpAddr {
            [127, 0, 0, 1].into()
        }

        fn endpoint(&self) -> Option<SocketAddr> {
            None
        }

        fn route(&self) -> &str {
            self.0
        }
    }

    /// Wants slow ones only, and fewer as it sees more.
    #[derive(Default)]
    struct Slow {
        from: AtomicU64,
        seen: AtomicU64,
    }

    impl Watcher for Slow {
        fn see(&self, _: &SeriesKey, _: &Record<'_>) {
            self.seen.fetch_add(1, Relaxed);
            self.from.fetch_add(10, Relaxed);
        }

        fn successes_from(&self) -> u64 {
            self.from.load(Relaxed)
        }
    }

    fn series(watchers: &Arc<Watchers>) -> Arc<dyn Series> {
        let observer = Watched {
            counts: Arc::new(Metrics::new(|_, _| None)),
            watchers: watchers.clone(),
        };
        let key = SeriesKey {
            protocol: "p",
            known: false,
            listener: "l".into(),
            service: "invented".into(),
            method: "m".into(),
        };
        observer.series(0, &key)
    }

    #[test]
    fn a_success_that_nobody_wants_is_not_shown() {
        let watchers = Arc::new(Watchers::default());
        let series = series(&watchers);
        let nobody = Ends {
            source: [127, 0, 0, 1].into(),
            endpoint: None,
        };
        let end = |ending, micros| {
            series.record(&Record {
                micros,
                ..Record::new(ending, &nobody)
            });
        };
        let success = Ending::Answered(Outcome::Success);
        let slow = Arc::new(Slow::default());
        let _watching = watchers.add(slow.clone());
        let seen = |count| assert_eq!(slow.seen.load(Relaxed), count);
        end(success, 5);
        seen(1);
        // It asks for 10 by now.
        end(success, 9);
        end(Ending::Sent, 9);
        seen(1);
        end(success, 10);
        seen(2);
        end(Ending::Answered(Outcome::Failed), 0);
        seen(3);
        slow.from.store(1, Relaxed);
        end(success, 1);
        seen(3);
        watchers.ask();
        end(success, 1);
        seen(4);
        // Somebody who wants everything is shown everything.
        let all = Arc::new(Seen::default());
        let _all = watchers.add(all.clone());
        end(success, 0);
        assert_eq!(all.0.lock().unwrap().len(), 1);
    }

    #[test]
    fn who_watches_sees_each_exchange_until_it_stops() {
        let watchers = Arc::new(Watchers::default());
        let series = series(&watchers);
        let record = |route: &'static Route| Record::new(Ending::Sent, route);
        series.record(&record(&Route("before")));
        let (one, two) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
        let first = watchers.add(one.clone());
        let second = watchers.add(two.clone());
        series.record(&record(&Route("both")));
        drop(first);
        series.record(&record(&Route("second")));
        drop(second);
        series.record(&record(&Route("nobody")));
        assert_eq!(*one.0.lock().unwrap(), ["invented both"]);
        assert_eq!(*two.0.lock().unwrap(), ["invented both", "invented second"]);
        // Who stops after everything else is gone harms nobody.
        let last = watchers.add(one);
        drop((watchers, series));
        drop(last);
    }
}
