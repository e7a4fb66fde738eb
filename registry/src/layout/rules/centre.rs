//! The configuration centre of a registry: every document is parsed once per revision, and shared
//! by all services that it is for. What revisions of applications offer is shared in the same way.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use finback_core::discovery::{ByCaller, Callers};

use super::condition::{CALLER, labels_of};
use super::document::{self, Content, Document};
use super::items::Place;
use crate::layout::dubbo_app::Offered;
use crate::lock;
use crate::store::{Answer, Entries};

/// The documents of one registry.
pub(crate) struct Centre {
    callers: Arc<Callers>,
    offered: Arc<Offered>,
    read: Mutex<(Option<Arc<Entries>>, Arc<Documents>)>,
}

/// All documents at one moment.
#[derive(Debug, Default)]
pub(crate) struct Documents {
    /// By key.
    parsed: BTreeMap<String, Parsed>,
    by_service: HashMap<String, Vec<Arc<Document>>>,
    by_application: HashMap<String, Vec<Arc<Document>>>,
    /// Labels of providers that rules of callers ask for.
    pub(super) labels: Arc<BTreeSet<String>>,
}

#[derive(Clone, Debug)]
struct Parsed {
    text: Bytes,
    documents: Vec<Arc<Document>>,
}

impl Default for Centre {
    fn default() -> Self {
        Self {
            callers: Arc::new(Callers::new(CALLER)),
            offered: Arc::default(),
            read: Mutex::default(),
        }
    }
}

impl Centre {
    /// The rules of callers, which change without any service being read again.
    pub(crate) fn callers(&self) -> &Arc<Callers> {
        &self.callers
    }

    /// What revisions of applications offer.
    pub(in crate::layout) fn offered(&self) -> &Arc<Offered> {
        &self.offered
    }

    /// The documents that are there now. Those that did not change are not parsed again.
    pub(crate) fn read(&self, answer: &Answer) -> Arc<Documents> {
        let now = entries(answer).cloned();
        let mut read = lock(&self.read);
        let (last, documents) = &mut *read;
        let is_same = match (&*last, &now) {
            (Some(last), Some(now)) => Arc::ptr_eq(last, now),
            (last, now) => last.is_none() && now.is_none(),
        };
        if !is_same {
            *documents = Arc::new(documents.next(answer));
            self.callers.replace(documents.of_callers());
            *last = now;
        }
        documents.clone()
    }
}

impl Documents {
    fn next(&self, answer: &Answer) -> Self {
        let mut next = Self::default();
        for (key, text) in entries(answer).into_iter().flat_map(|all| all.iter()) {
            let parsed = match self.parsed.get(&*key) {
                Some(parsed) if parsed.text == *text => parsed.clone(),
                _ => parse(&key, text),
            };
            for document in &parsed.documents {
                let place = match &document.place {
                    Place::Service(service) => next.by_service.entry(service.interface.clone()),
                    Place::Application(name) => next.by_application.entry(name.clone()),
                };
                place.or_default().push(document.clone());
            }
            next.parsed.insert(key.into_owned(), parsed);
        }
        let labels: BTreeSet<String> = next
            .by_application
            .values()
            .flatten()
            .filter_map(|document| match &document.content {
                Content::Conditions(rules) => Some(rules),
                _ => None,
            })
            .flatten()
            .flat_map(|rule| labels_of(rule))
            .map(str::to_owned)
            .collect();
        next.labels = if labels == *self.labels {
            self.labels.clone()
        } else {
            Arc::new(labels)
        };
        next
    }

    fn of_callers(&self) -> ByCaller {
        let mut by_caller = ByCaller::new();
        for (application, documents) in &self.by_application {
            for document in documents {
                if let Content::Conditions(rules) = &document.content {
                    let own = by_caller.entry(application.clone()).or_default();
                    own.extend(rules.iter().cloned());
                }
            }
        }
        by_caller
    }

    /// Those for one service and for the applications that provide it: of applications first.
    pub(super) fn select(&self, service: &str, applications: &[String]) -> Vec<Arc<Document>> {
        let of_applications = applications
            .iter()
            .filter_map(|name| self.by_application.get(name));
        let of_service = self.by_service.get(service);
        of_applications
            .chain(of_service)
            .flatten()
            .cloned()
            .collect()
    }
}

fn entries(answer: &Answer) -> Option<&Arc<Entries>> {
    let Answer::Entries(entries) = answer else {
        return None;
    };
    Some(entries)
}

fn parse(key: &str, text: &Bytes) -> Parsed {
    let mut complaints = Vec::new();
    let documents = document::read(key, text, &mut complaints);
    for complaint in complaints {
        tracing::warn!(complaint, "a rule that is not applied");
    }
    Parsed {
        text: text.clone(),
        documents: documents.into_iter().map(Arc::new).collect(),
    }
}
