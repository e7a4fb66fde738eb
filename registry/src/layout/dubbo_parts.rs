//! What one service of Dubbo is read from: its providers at both levels, and what governs it.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::{Either, select, select_all};

use super::draft::{Cached, Drafts};
use super::rules::{Centre, NodeReader, Rules};
use super::{Layout, Roots, dubbo, dubbo_app};
use crate::metadata::Metadata;
use crate::store::{Followed, Query, Store};

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
        roots: &Roots,
        metadata: &Metadata,
        centre: &Arc<Centre>,
        layout: Layout,
        service: &str,
    ) -> Self {
        let folder = |category| store.follow(Query::Names(dubbo::folder(roots, service, category)));
        Self {
            providers: (layout == Layout::Dubbo).then(|| folder("providers")),
            cached: Cached::default(),
            nodes: ["configurators", "routers"].map(folder),
            node_reader: NodeReader::default(),
            documents: store.follow(Query::Entries(format!("{}/config/dubbo", roots.dubbo))),
            centre: centre.clone(),
            applications: dubbo_app::Applications::begin(store, roots, metadata, service),
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
        let names: BTreeSet<&str> = names.collect();
        let names: BTreeSet<String> = names.into_iter().map(str::to_owned).collect();
        let rules = Rules::select(service, names, &documents, nodes);
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
    pub(super) async fn changed(&mut self) {
        let Self {
            providers,
            nodes,
            documents,
            centre,
            applications,
            rules,
            ..
        } = self;
        let mut own: Vec<&mut Followed> = Vec::new();
        own.extend(providers);
        own.extend(nodes);
        applications.followed(&mut own);
        let mut own = select_all(own.into_iter().map(|each| Box::pin(each.changed())));
        loop {
            {
                let shared = std::pin::pin!(documents.changed());
                match select(own, shared).await {
                    Either::Left(_) => return,
                    Either::Right(((), rest)) => own = rest,
                }
            }
            // Most documents are of other services.
            let now = documents.latest().map(|answer| centre.read(&answer));
            let is_same = |rules: &Rules| now.is_some_and(|now| rules.is_current(&now));
            if !rules.as_ref().is_some_and(is_same) {
                return;
            }
        }
    }
}
