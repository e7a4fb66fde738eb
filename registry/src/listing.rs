//! Listing for operators: which services a registry has, who provides one, and whether its servers answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::feed::Feed;
use crate::layout::{Directory, LayoutKind};
use crate::offer::Offer;
use crate::source::Source;
use crate::{Registries, lock};

/// The offers of one service, followed for as long as this lives.
pub struct Offers {
    offers: watch::Receiver<Option<Arc<Offer>>>,
    feed: Arc<Feed>,
}

impl Offers {
    /// The latest offer; `None` until the first.
    #[must_use]
    pub fn latest(&mut self) -> Option<Arc<Offer>> {
        self.offers.borrow_and_update().clone()
    }

    /// Whether the servers do not let us read who provides it.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.feed.is_refused()
    }

    /// Waits for another offer.
    pub async fn changed(&mut self) {
        if self.offers.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Registries {
    /// Follows one service of a registry of servers: its offers of every version and group.
    /// `None` if there is no such registry, or it is a list.
    #[must_use]
    pub fn offers(&self, registry: &str, layout: LayoutKind, service: &str) -> Option<Offers> {
        let Some((_, Source::Servers(servers))) = lock(&self.sources).get(registry).cloned() else {
            return None;
        };
        let feed = servers.feeds.feed(layout, service);
        Some(Offers {
            offers: feed.offers(),
            feed,
        })
    }

    /// Waits until the servers of a registry answer. A registry without servers always does.
    ///
    /// # Errors
    /// If they do not within `patience`: what was the matter last.
    pub async fn reach(&self, registry: &str, patience: Duration) -> Result<(), String> {
        let Some((_, Source::Servers(servers))) = lock(&self.sources).get(registry).cloned() else {
            return Ok(());
        };
        let store = servers.feeds.store();
        if store.connected_within(patience).await {
            return Ok(());
        }
        let why = store.why();
        Err(why.unwrap_or_else(|| format!("nothing within {patience:?}")))
    }

    /// The names of all services of a layout in a registry of servers. `None` if there is no
    /// such registry, it is a list, or its servers do not answer within `patience`.
    pub async fn services(
        &self,
        registry: &str,
        layout: LayoutKind,
        patience: Duration,
    ) -> Option<BTreeSet<String>> {
        let Some((_, Source::Servers(servers))) = lock(&self.sources).get(registry).cloned() else {
            return None;
        };
        let feeds = &servers.feeds;
        let mut directory = Directory::begin(feeds.store(), feeds.roots(), layout);
        let names = async {
            loop {
                if let Some(names) = directory.latest() {
                    return names;
                }
                directory.changed().await;
            }
        };
        tokio::time::timeout(patience, names).await.ok()
    }
}
