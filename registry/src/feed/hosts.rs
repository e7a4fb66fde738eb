//! Hosts of providers: addresses, or names that are resolved beside the feed.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::select_all;

use crate::layout::{Drafts, LayoutKind};
use crate::names::{Name, Resolver};
use crate::offer::{Offer, Provider};

/// The names that one service's providers give for hosts.
pub(super) struct Hosts {
    resolver: Arc<Resolver>,
    names: HashMap<String, Name>,
    pending: bool,
}

impl Hosts {
    pub(super) fn new(resolver: &Arc<Resolver>) -> Self {
        Self {
            resolver: resolver.clone(),
            names: HashMap::new(),
            pending: false,
        }
    }

    /// Whether there is a name of which it is not yet known whether it has addresses.
    pub(super) fn pending(&self) -> bool {
        self.pending
    }

    /// Waits until a name has other addresses.
    pub(super) async fn changed(&mut self) {
        if self.names.is_empty() {
            return std::future::pending().await;
        }
        let all = self.names.values_mut();
        select_all(all.map(|name| Box::pin(name.changed()))).await;
    }

    /// The providers at all addresses of their hosts, as far as these are known now.
    pub(super) fn resolve(&mut self, layout: LayoutKind, drafts: Drafts) -> Offer {
        let Drafts {
            known, lane, rules, ..
        } = drafts;
        self.pending = false;
        let drafts = drafts.drafts;
        self.names
            .retain(|name, _| drafts.iter().any(|draft| draft.name() == Some(name)));
        let mut providers = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let Some(name) = draft.name() else {
                providers.push(draft.provider);
                continue;
            };
            let resolver = &self.resolver;
            let name = self.names.entry(name.to_owned());
            let name = name.or_insert_with_key(|host| resolver.follow(host));
            let Some(addresses) = name.latest() else {
                self.pending = true;
                continue;
            };
            providers.extend(addresses.iter().map(|address| {
                let mut provider = Provider::clone(&draft.provider);
                provider.address = SocketAddr::new(address.ip(), draft.port);
                Arc::new(provider)
            }));
        }
        let mut offer = Offer::new(layout, known, providers);
        offer.lane = lane.or(offer.lane);
        offer.rules = rules;
        offer
    }
}
