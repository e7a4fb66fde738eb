//! Layout reader: reads one service, or the names of all services, again whenever their entries in the store change.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::draft::{Cached, Drafts, Read};
use super::rules::Centre;
use super::{LayoutKind, Roots};
use crate::disk::Disk;
use crate::metadata::Metadata;
use crate::store::{Answer, Bell, Followed, Query, Store, changed};

/// A service to be read, and what its layout needs for that.
pub(crate) struct ServiceQuery<'a> {
    pub(crate) store: &'a Arc<Store>,
    pub(crate) roots: &'a Arc<Roots>,
    pub(crate) metadata: &'a Metadata,
    pub(crate) centre: &'a Arc<Centre>,
    pub(crate) service: &'a str,
    /// Rings when anything changes that is followed with it.
    pub(crate) bell: &'a Bell,
}

/// Reads one service of a layout, from the places that it follows.
pub(crate) trait Reader: Send {
    /// What is there now, if all of it is known.
    fn latest(&mut self) -> Option<Drafts>;

    /// Looks whether something may have changed for this service since `latest`.
    fn look_for_change(&mut self) -> bool;

    /// Adds every place that it follows now.
    fn followed<'a>(&'a mut self, all: &mut Vec<&'a mut Followed>);
}

/// A service whose providers all stand in one place, each in an entry that can be read alone.
pub(super) struct EntryReader {
    followed: Followed,
    cached: Cached,
    read: fn(&str, &[u8]) -> Read,
}

impl EntryReader {
    pub(super) fn follow(
        service: &ServiceQuery<'_>,
        query: Query,
        read: fn(&str, &[u8]) -> Read,
    ) -> Box<dyn Reader> {
        Box::new(Self {
            followed: service.store.follow(query, service.bell),
            cached: Cached::default(),
            read,
        })
    }
}

impl Reader for EntryReader {
    fn latest(&mut self) -> Option<Drafts> {
        let answer = self.followed.latest()?;
        Some(Drafts::again(&mut self.cached, Some(&answer), self.read))
    }

    fn look_for_change(&mut self) -> bool {
        self.followed.has_changed()
    }

    fn followed<'a>(&'a mut self, all: &mut Vec<&'a mut Followed>) {
        all.push(&mut self.followed);
    }
}

/// Follows one service in a store.
pub(crate) struct ServiceWatch {
    reader: Box<dyn Reader>,
    /// Rings when any of its places changes.
    bell: Bell,
}

impl ServiceWatch {
    pub(crate) fn begin(
        store: &Arc<Store>,
        roots: &Arc<Roots>,
        metadata: &Metadata,
        centre: &Arc<Centre>,
        kind: LayoutKind,
        service: &str,
    ) -> Self {
        let bell = Bell::default();
        let query = ServiceQuery {
            store,
            roots,
            metadata,
            centre,
            service,
            bell: &bell,
        };
        let reader = kind.layout().follow(&query);
        Self { reader, bell }
    }

    /// What is there now, if all of it is known.
    pub(crate) fn latest(&mut self) -> Option<Drafts> {
        self.reader.latest()
    }

    /// Waits until something may have changed.
    pub(crate) async fn changed(&mut self) {
        let reader = &mut self.reader;
        changed(&self.bell, || reader.look_for_change()).await;
    }

    /// Hands everything that it reads to the snapshots on disk, of a service that is worth a file
    /// or is not.
    pub(crate) fn save(&mut self, disk: &Disk, registry: &str, worth_it: bool) {
        let mut all = Vec::new();
        self.reader.followed(&mut all);
        for followed in all {
            followed.save(disk, registry, worth_it);
        }
    }
}

/// Follows the names of all services of a layout.
pub(crate) struct Directory {
    pub(super) kind: LayoutKind,
    pub(super) root: String,
    pub(super) followed: Vec<Followed>,
    pub(super) bell: Bell,
}

impl Directory {
    pub(crate) fn begin(store: &Arc<Store>, roots: &Roots, kind: LayoutKind) -> Self {
        let root = kind.layout().root(roots);
        let queries = if root.is_empty() {
            // Services without a common root cannot be told from anything else that is there.
            Vec::new()
        } else {
            kind.layout().directory(root)
        };
        let bell = Bell::default();
        let queries = queries.into_iter();
        Self {
            kind,
            root: root.to_owned(),
            followed: queries.map(|query| store.follow(query, &bell)).collect(),
            bell,
        }
    }

    /// The names now, if they are known.
    pub(crate) fn latest(&mut self) -> Option<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        // All are looked at, or one that is known would be told as new while another is not.
        let answers: Vec<_> = self.followed.iter_mut().map(Followed::latest).collect();
        for answer in answers {
            if let Answer::Entries(entries) = answer? {
                let layout = self.kind.layout();
                names.extend(entries.names().filter_map(|name| layout.service_in(&name)));
            }
        }
        Some(names)
    }

    /// Waits until something may have changed.
    pub(crate) async fn changed(&mut self) {
        let has_changed = || self.followed.iter().any(Followed::has_changed);
        changed(&self.bell, has_changed).await;
    }

    /// Where the services are.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }
}
