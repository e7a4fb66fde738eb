//! What one service of Dubbo is read from: its providers at both levels, and what governs it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::draft::{Cached, Drafts};
use super::rules::{Centre, NodeReader, Rules};
use super::{Layout, Roots, dubbo, dubbo_app};
use crate::metadata::Metadata;
use crate::store::{Bell, Followed, Query, Store, changed};

/// The places that are followed, and what was made of them.
pub(super) struct DubboParts {
    providers: Option<Followed>,
    cached: Cached,
    /// Older configurators and routers.
    nodes: [Followed; 2],
    node_reader: NodeReader,
    /// The configuration centre, which all services share.
    documents: Followed,
    centre: Arc<Centre>,
    applications: dubbo_app::Applications,
    /// The rules of the last reading.
    rules: Option<Rules>,
}

impl DubboParts {
    pub(super) fn begin(
        store: &Arc<Store>,
        roots: &Arc<Roots>,
        metadata: &Metadata,
        centre: &Arc<Centre>,
        layout: Layout,
        service: &str,
        bell: &Bell,
    ) -> Self {
        let folder = |category| {
            let path = dubbo::folder(roots, service, category);
            store.follow(Query::Names(path.into()), bell)
        };
        let documents = Query::Entries(format!("{}/config/dubbo", roots.dubbo).into());
        Self {
            providers: (layout == Layout::Dubbo).then(|| folder("providers")),
            cached: Cached::default(),
            nodes: ["configurators", "routers"].map(folder),
            node_reader: NodeReader::default(),
            documents: store.follow(documents, bell),
            centre: centre.clone(),
            applications: dubbo_app::Applications::begin(
                store,
                roots,
                metadata,
                centre.offered(),
                service,
                bell,
            ),
            rules: None,
        }
    }

    /// What is there now, if all of it is known.
    pub(super) fn latest(&mut self, service: &str) -> Option<Drafts> {
        // Everything is asked before anything is waited for, so that what the one leads to is
        // followed meanwhile.
        let applications = self.applications.latest();
        let providers = self.providers.as_mut().map(Followed::latest);
        let [configurators, routers] = self.nodes.each_mut().map(Followed::latest);
        let documents = self.documents.latest();
        let nodes = self.node_reader.read(service, [configurators?, routers?]);
        let documents = self.centre.read(&documents?);
        let mut drafts = match providers {
            Some(providers) => dubbo::read(service, Some(&providers?), &mut self.cached),
            None => Drafts::default(),
        };
        drafts.extend(applications?);
        drafts.listed = drafts.drafts.len();
        let names = drafts
            .drafts
            .iter()
            .filter_map(|draft| draft.provider.parameters.get("application"));
        // Nearly always they are one and the same.
        let mut applications = BTreeSet::new();
        let mut last = None;
        for name in names {
            if last.replace(name) != Some(name) {
                applications.insert(name.to_owned());
            }
        }
        let rules = Rules::select(service, applications, &documents, nodes);
        drafts.drafts = rules.amend(drafts.drafts);
        drafts.lane = rules.lane();
        drafts.rules = rules.of_calls(&self.centre);
        self.rules = Some(rules);
        Some(drafts)
    }

    /// Everything that is followed now.
    pub(super) fn followed<'a>(&'a mut self, all: &mut Vec<&'a mut Followed>) {
        all.extend(&mut self.providers);
        all.extend(&mut self.nodes);
        all.push(&mut self.documents);
        self.applications.followed(all);
    }

    /// Waits until something may have changed for this service.
    pub(super) async fn changed(&mut self, bell: &Bell) {
        loop {
            let is_own = || {
                let mut own = self.providers.iter().chain(&self.nodes);
                own.any(Followed::has_changed) || self.applications.has_changed()
            };
            changed(bell, || is_own() || self.documents.has_changed()).await;
            if is_own() {
                return;
            }
            // Most documents are of other services.
            let now = self.documents.latest();
            let now = now.map(|answer| self.centre.read(&answer));
            let is_same = |rules: &Rules| now.is_some_and(|now| rules.is_current(&now));
            if !self.rules.as_ref().is_some_and(is_same) {
                return;
            }
        }
    }
}
