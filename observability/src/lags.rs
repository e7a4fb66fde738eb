//! Consumer lag, how far behind groups of consumers are, as answers to their fetches tell.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use finback_core::frame::Lag;
use finback_core::record::About;
use tokio::time::Instant;

use crate::metrics::cut;

/// Parts of topics that one worker keeps in mind for each listener, over all groups.
const MOST: usize = 4096;
/// What nobody has fetched from for so long is consumed elsewhere, or not at all: consumers ask again within half a
/// minute.
const FRESH: Duration = Duration::from_secs(120);

/// Of which topic and group, and of which part of it at which endpoint.
type Part = (SocketAddr, i64);
/// When it was told, and how many messages.
type Told = (Instant, u64);
/// What was told of each part.
type Parts = HashMap<Part, Told>;

/// What one worker was told through one listener.
#[derive(Default)]
pub(crate) struct Lags(Mutex<Known>);

#[derive(Default)]
struct Known {
    groups: HashMap<Arc<str>, HashMap<Box<str>, Parts>>,
    /// Parts of all of them.
    parts: usize,
}

/// The lag of each topic and group.
pub(crate) type Sums = BTreeMap<(Arc<str>, Box<str>), u64>;

/// What workers were told of each part; the last word counts.
#[derive(Default)]
pub(crate) struct Latest(BTreeMap<(Arc<str>, Box<str>), Parts>);

impl Lags {
    /// Never held for long: only the page that shows them waits for a worker, and a worker for that page.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what an answer told.
    pub(crate) fn note(&self, service: &Arc<str>, about: &dyn About, lag: Lag) {
        let Some(endpoint) = about.endpoint() else {
            return;
        };
        let (part, told) = ((endpoint, lag.part), (Instant::now(), lag.messages));
        let group = cut(about.group());
        let mut known = self.lock();
        let own = known.groups.get_mut(service);
        let own = own.and_then(|groups| groups.get_mut(group)?.get_mut(&part));
        if let Some(own) = own {
            *own = told;
            return;
        }
        if known.parts >= MOST {
            known.forget(told.0);
        }
        if known.parts < MOST {
            known.parts += 1;
            let groups = known.groups.entry(service.clone()).or_default();
            groups.entry(group.into()).or_default().insert(part, told);
        }
    }

    /// Adds what is fresh to what others were told.
    pub(crate) fn add_to(&self, latest: &mut Latest) {
        let now = Instant::now();
        let known = self.lock();
        for (service, groups) in &known.groups {
            for (group, parts) in groups {
                for (part, told) in parts {
                    if now.duration_since(told.0) < FRESH {
                        latest.take((service.clone(), group.clone()), *part, *told);
                    }
                }
            }
        }
    }
}

impl Known {
    /// Forgets what is not fresh.
    fn forget(&mut self, now: Instant) {
        let mut left = 0;
        self.groups.retain(|_, groups| {
            groups.retain(|_, parts| {
                parts.retain(|_, told| now.duration_since(told.0) < FRESH);
                left += parts.len();
                !parts.is_empty()
            });
            !groups.is_empty()
        });
        self.parts = left;
    }
}

impl Latest {
    fn take(&mut self, of: (Arc<str>, Box<str>), part: Part, told: Told) {
        let own = self.0.entry(of).or_default().entry(part).or_insert(told);
        if own.0 < told.0 {
            *own = told;
        }
    }

    /// The sum over the parts of each topic.
    pub(crate) fn sums(self) -> Sums {
        let each = self.0.into_iter();
        each.map(|(of, parts)| (of, parts.values().map(|told| told.1).sum()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    struct Group(&'static str, u16);

    impl About for Group {
        fn source(&self) -> IpAddr {
            [127, 0, 0, 1].into()
        }

        fn endpoint(&self) -> Option<SocketAddr> {
            Some(([127, 0, 0, 1], self.1).into())
        }

        fn group(&self) -> &str {
            self.0
        }
    }

    fn lag(part: i64, messages: u64) -> Lag {
        Lag { part, messages }
    }

    fn shown(workers: &[&Lags]) -> Vec<(String, u64)> {
        let mut latest = Latest::default();
        for own in workers {
            own.add_to(&mut latest);
        }
        let each = latest.sums().into_iter();
        each.map(|((service, group), messages)| (format!("{service} {group}"), messages))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn queues_are_summed_and_the_last_word_counts() {
        let (one, other) = (Lags::default(), Lags::default());
        let (orders, audit) = (Arc::from("orders"), Arc::from("audit"));
        one.note(&orders, &Group("g", 1), lag(0, 5));
        one.note(&orders, &Group("g", 1), lag(1, 7));
        one.note(&orders, &Group("g", 2), lag(0, 100));
        one.note(&orders, &Group("h", 1), lag(0, 1));
        tokio::time::advance(Duration::from_secs(1)).await;
        // The same queue, by another worker and later.
        other.note(&orders, &Group("g", 1), lag(0, 2));
        other.note(&audit, &Group("g", 1), lag(0, 3));
        let wanted = [("audit g", 3), ("orders g", 109), ("orders h", 1)];
        let wanted = wanted.map(|(name, messages)| (name.to_owned(), messages));
        assert_eq!(shown(&[&one, &other]), wanted);
        assert_eq!(shown(&[&other, &one]), wanted);
        tokio::time::advance(FRESH).await;
        assert_eq!(shown(&[&one, &other]), []);
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_bound_and_what_is_stale_makes_room() {
        let lags = Lags::default();
        let topic = Arc::from("t");
        for part in 0..10_000 {
            lags.note(&topic, &Group("g", 1), lag(part, 1));
        }
        assert_eq!(shown(&[&lags]), [("t g".to_owned(), MOST as u64)]);
        tokio::time::advance(FRESH).await;
        lags.note(&topic, &Group("h", 1), lag(0, 9));
        assert_eq!(shown(&[&lags]), [("t h".to_owned(), 9)]);
        assert_eq!(lags.lock().parts, 1);
    }
}
