//! A service of Dubbo, and what it is read from: its providers at both levels, and what governs it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::draft::{Cached, Drafts};
use super::reading::{Reader, ServiceQuery};
use super::rules::{Centre, NodeReader, Rules};
use super::{dubbo, dubbo_app};
use crate::store::{Followed, Query};

/// The places that are followed, and what was made of them.
pub(super) struct DubboParts {
    service: Box<str>,
    /// At the interface level, where that is read.
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
    /// Begins to read a service, at the interface level too or at that of applications alone.
    pub(super) fn begin(query: &ServiceQuery<'_>, has_interface: bool) -> Self {
        let ServiceQuery {
            store,
            roots,
            centre,
            service,
            bell,
            ..
        } = *query;
        let folder = |category| {
            let path = dubbo::folder(roots, service, category);
            store.follow(Query::Names(path.into()), bell)
        };
        let documents = Query::Entries(format!("{}/config/dubbo", roots.dubbo).into());
        Self {
            service: service.into(),
            providers: has_interface.then(|| folder("providers")),
            cached: Cached::default(),
            nodes: ["configurators", "routers"].map(folder),
            node_reader: NodeReader::default(),
            documents: store.follow(documents, bell),
            centre: centre.clone(),
            applications: dubbo_app::Applications::begin(query),
            rules: None,
        }
    }
}

impl Reader for DubboParts {
    fn latest(&mut self) -> Option<Drafts> {
        let service = &*self.service;
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

    fn look_for_change(&mut self) -> bool {
        let mut own = self.providers.iter().chain(&self.nodes);
        if own.any(Followed::has_changed) || self.applications.has_changed() {
            return true;
        }
        if !self.documents.has_changed() {
            return false;
        }
        // Most documents are of other services.
        let now = self.documents.latest();
        let now = now.map(|answer| self.centre.read(&answer));
        let is_same = |rules: &Rules| now.is_some_and(|now| rules.is_current(&now));
        !self.rules.as_ref().is_some_and(is_same)
    }

    fn followed<'a>(&'a mut self, all: &mut Vec<&'a mut Followed>) {
        all.extend(&mut self.providers);
        all.extend(&mut self.nodes);
        all.push(&mut self.documents);
        self.applications.followed(all);
    }
}
