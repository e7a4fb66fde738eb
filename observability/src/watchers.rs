//! Who looks at single exchanges: access logs, taps. Each record is counted, and shown to all of them.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use finback_core::record::{Observer, Record, Series, SeriesKey};

/// Sees every exchange at its end, on the worker's own thread: it must not wait, and should look at few
/// things before it turns an exchange down.
pub trait Watcher: Send + Sync + 'static {
    /// An exchange has ended. Names in `key` are as the caller wrote them, whatever metrics make of them.
    fn see(&self, key: &SeriesKey, record: &Record<'_>);
}

/// Everybody who watches now. While nobody does, an exchange costs one look at a flag.
#[derive(Default)]
pub struct Watchers {
    is_watched: AtomicBool,
    all: ArcSwap<Vec<Arc<dyn Watcher>>>,
    /// Whoever changes the list.
    change: Mutex<()>,
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
        self.is_watched.store(!all.is_empty(), Relaxed);
        self.all.store(Arc::new(all));
    }

    #[cold]
    fn show(&self, key: &SeriesKey, record: &Record<'_>) {
        for watcher in self.all.load().iter() {
            watcher.see(key, record);
        }
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
        if self.watchers.is_watched.load(Relaxed) {
            self.watchers.show(&self.key, record);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;
    use crate::Metrics;
    use finback_core::record::Ending;

    #[derive(Default)]
    struct Seen(Mutex<Vec<String>>);

    impl Watcher for Seen {
        fn see(&self, key: &SeriesKey, record: &Record<'_>) {
            let line = format!("{} {}", key.service, record.route);
            self.0.lock().unwrap().push(line);
        }
    }

    #[test]
    fn who_watches_sees_each_exchange_until_it_stops() {
        let watchers = Arc::new(Watchers::default());
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
        let series = observer.series(0, &key);
        let source = [127, 0, 0, 1].into();
        let record = |route| Record {
            route,
            ..Record::new(Ending::Sent, source)
        };
        series.record(&record("before"));
        let (one, two) = (Arc::new(Seen::default()), Arc::new(Seen::default()));
        let first = watchers.add(one.clone());
        let second = watchers.add(two.clone());
        series.record(&record("both"));
        drop(first);
        series.record(&record("second"));
        drop(second);
        series.record(&record("nobody"));
        assert_eq!(*one.0.lock().unwrap(), ["invented both"]);
        assert_eq!(*two.0.lock().unwrap(), ["invented both", "invented second"]);
        // Who stops after everything else is gone harms nobody.
        let last = watchers.add(one);
        drop((watchers, observer, series));
        drop(last);
    }
}
