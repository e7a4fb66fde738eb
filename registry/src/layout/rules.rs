//! Rules of Dubbo's services: configurators, tag and condition routers, as Dubbo's own
//! consumers apply them (3.3; Dubbo: ConfigParser, Dubbo: TagStateRouter, Dubbo: ConditionStateRouter).
//!
//! They stand in the configuration centre, `/dubbo/config/dubbo/{key}`, and in the older form as
//! URLs beside the providers. A rule holds for exactly whom it names; what cannot be honoured by a
//! proxy is left out, with its reason.

mod centre;
mod condition;
mod configurator;
mod document;
mod items;
mod matching;
mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use finback_core::discovery::{Condition, Lane, Pattern, Rule, Subject};

use super::{Draft, dubbo};
use crate::offer::{CallRules, Provider};
use crate::store::Answer;
pub(crate) use centre::{Centre, Documents};
use condition::{labels_of, parameter_of};
use configurator::{Override, ServiceKey, Side, Target};
use document::{Content, Document};
use items::Place;
pub(crate) use node::{NodeRule, Nodes};

/// The label in which a provider's tags are.
const TAG: &str = "tag";
/// The parameter by which a provider tags itself.
const TAG_PARAMETER: &str = "dubbo.tag";

/// The rules for one service.
#[derive(Default)]
pub(super) struct Rules {
    service: String,
    /// Of applications first.
    documents: Vec<Arc<Document>>,
    nodes: Arc<Nodes>,
    /// The applications that provide the service.
    applications: Box<[String]>,
    /// Labels of providers that rules of callers ask for.
    caller_labels: Arc<BTreeSet<String>>,
}

/// The older form, parsed once for each state of the two folders.
#[derive(Default)]
pub(super) struct NodeReader {
    last: Option<[Answer; 2]>,
    nodes: Arc<Nodes>,
}

impl NodeReader {
    /// Reads the folders of configurators and of routers.
    pub(super) fn read(&mut self, service: &str, folders: [Answer; 2]) -> Arc<Nodes> {
        if self.last.as_ref() != Some(&folders) {
            let nodes = Nodes::read(service, [&folders[0], &folders[1]]);
            if nodes.complaints != self.nodes.complaints {
                for complaint in &nodes.complaints {
                    tracing::warn!(service, complaint, "a rule that is not applied");
                }
            }
            self.nodes = Arc::new(nodes);
            self.last = Some(folders);
        }
        self.nodes.clone()
    }
}

impl Rules {
    /// The rules that are for a service of these applications.
    pub(super) fn select(
        service: &str,
        applications: BTreeSet<String>,
        documents: &Documents,
        nodes: Arc<Nodes>,
    ) -> Self {
        // A set takes room for eleven, and nearly always there is one.
        let applications: Box<[String]> = applications.into_iter().collect();
        Self {
            service: service.to_owned(),
            documents: documents.select(service, &applications),
            nodes,
            applications,
            caller_labels: documents.labels.clone(),
        }
    }

    /// Whether these documents say the same for the service.
    pub(super) fn is_current(&self, documents: &Documents) -> bool {
        let selected = documents.select(&self.service, &self.applications);
        selected.len() == self.documents.len()
            && selected
                .iter()
                .zip(&self.documents)
                .all(|(new, own)| Arc::ptr_eq(new, own))
            && *documents.labels == *self.caller_labels
    }

    /// The providers as the rules want them; those that are switched off are left out.
    pub(super) fn amend(&self, drafts: Vec<Draft>) -> Vec<Draft> {
        let changes = self.has_overrides();
        let mut drafts: Vec<Draft> = drafts
            .into_iter()
            .map(|draft| {
                if changes {
                    self.overridden(draft)
                } else {
                    draft
                }
            })
            .filter(|draft| !draft.is_disabled)
            .collect();
        self.tag(&mut drafts);
        let labels = self.labels();
        if !labels.is_empty() {
            for draft in &mut drafts {
                label(&mut draft.provider, &self.service, &labels);
            }
        }
        drafts
    }

    fn has_overrides(&self) -> bool {
        let of_documents = |own: &Arc<Document>| matches!(own.content, Content::Overrides(_));
        !self.nodes.overrides.is_empty() || self.documents.iter().any(of_documents)
    }

    fn overridden(&self, draft: Draft) -> Draft {
        let host = draft.host();
        let own = ServiceKey {
            interface: self.service.clone(),
            version: draft.provider.version.clone(),
            group: draft.provider.group.clone(),
        };
        let of_documents = self.documents.iter().filter_map(|document| {
            let Content::Overrides(overrides) = &document.content else {
                return None;
            };
            let is_ours = match &document.place {
                Place::Application(name) => application(&draft.provider) == Some(name),
                Place::Service(place) => *place == own,
            };
            is_ours.then_some(overrides)
        });
        let all: Vec<&Override> = self
            .nodes
            .overrides
            .iter()
            .chain(of_documents.flatten())
            .collect();
        let mut parameters: Option<BTreeMap<String, String>> = None;
        let mut is_changed = false;
        for (side, each) in [Side::Provider, Side::Consumer]
            .into_iter()
            .flat_map(|side| all.iter().map(move |each| (side, each)))
        {
            let now = parameters.get_or_insert_with(|| draft.provider.parameters.to_map());
            let target = Target {
                host: &host,
                port: draft.port,
                service: &own,
                parameters: now,
            };
            if each.concerns(side, &target) {
                each.apply(now);
                is_changed = true;
            }
        }
        drop(host);
        match parameters {
            Some(parameters) if is_changed => dubbo::amended(draft, parameters),
            _ => draft,
        }
    }

    /// The tag rules of an application.
    fn tags<'a>(&'a self, of: &'a str) -> Option<&'a document::Tags> {
        self.documents
            .iter()
            .find_map(|document| match (&document.place, &document.content) {
                (Place::Application(name), Content::Tags(tags)) if name == of => Some(tags),
                _ => None,
            })
    }

    /// Puts providers into the lanes that rules and their own tags give them.
    fn tag(&self, drafts: &mut [Draft]) {
        let of_tags = |own: &Arc<Document>| matches!(own.content, Content::Tags(_));
        if !self.documents.iter().any(of_tags) {
            return;
        }
        let given: Vec<Option<BTreeSet<String>>> = drafts
            .iter()
            .map(|draft| {
                let tags = self.tags(application(&draft.provider)?)?;
                let parameters = draft.provider.parameters.to_map();
                let host = draft.host();
                let given = tags.of(&host, draft.port, &parameters);
                Some(given.map(str::to_owned).collect())
            })
            .collect();
        // Tags that are given by parameters count as long as somebody has them.
        let mut named: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (draft, given) in drafts.iter().zip(&given) {
            let (Some(own), Some(given)) = (application(&draft.provider), given) else {
                continue;
            };
            let names = named.entry(own.to_owned()).or_default();
            names.extend(given.iter().cloned());
            let by_address = self.tags(own).into_iter().flat_map(document::Tags::names);
            names.extend(by_address.map(str::to_owned));
        }
        for (draft, mut lanes) in drafts
            .iter_mut()
            .zip(given)
            .filter_map(|(draft, given)| Some((draft, given?)))
        {
            let own = draft.provider.parameters.get(TAG_PARAMETER);
            if let Some(own) = own.filter(|own| !own.is_empty()) {
                let is_named = application(&draft.provider)
                    .and_then(|application| named.get(application))
                    .is_some_and(|names| names.contains(own));
                if !is_named {
                    lanes.insert(own.to_owned());
                } else if lanes.is_empty() {
                    // A tag that the rule gives to others: it belongs to nobody.
                    lanes.insert(format!("{own} (not by rule)"));
                }
            }
            let lanes: Vec<String> = lanes.into_iter().collect();
            set_label(
                Arc::make_mut(&mut draft.provider),
                TAG,
                Some(lanes.join("\n")),
            );
        }
    }

    /// The split by tag.
    pub(super) fn lane(&self) -> Option<Lane> {
        let mut lane = dubbo::tag_lane();
        for tags in self.applications.iter().filter_map(|own| self.tags(own)) {
            for name in tags.names() {
                let force = lane.ruled.entry(name.to_owned()).or_insert(tags.force);
                *force &= tags.force;
            }
        }
        Some(lane)
    }

    /// The rules that are decided call by call.
    pub(super) fn of_calls(&self, centre: &Centre) -> CallRules {
        let mut all = CallRules {
            callers: Some(centre.callers().clone()),
            ..CallRules::default()
        };
        for document in &self.documents {
            let Content::Conditions(rules) = &document.content else {
                continue;
            };
            match &document.place {
                Place::Service(place) => all.of_services.extend(
                    rules
                        .iter()
                        .map(|rule| (place.version.clone(), place.group.clone(), rule.clone())),
                ),
                Place::Application(name) if self.applications.len() > 1 => all
                    .of_providers
                    .extend(rules.iter().map(|rule| among(rule, name))),
                Place::Application(_) => all.of_providers.extend(rules.iter().cloned()),
            }
        }
        all.nodes.clone_from(&self.nodes.rules);
        all
    }

    /// The labels of providers that rules ask for.
    fn labels(&self) -> BTreeSet<&str> {
        let mut labels: BTreeSet<&str> = self.caller_labels.iter().map(|own| &**own).collect();
        for document in &self.documents {
            if let Content::Conditions(rules) = &document.content {
                labels.extend(rules.iter().flat_map(|rule| labels_of(rule)));
            }
        }
        labels.extend(
            self.nodes
                .rules
                .iter()
                .flat_map(|own| labels_of(own.rule())),
        );
        labels
    }
}

fn application(provider: &Provider) -> Option<&str> {
    provider.parameters.get("application")
}

/// A rule of one of several applications, which speaks of that one's providers.
fn among(rule: &Rule, application: &str) -> Arc<Rule> {
    let own = Condition {
        subject: Subject::Label("application".to_owned()),
        negated: false,
        patterns: vec![Pattern::Glob(application.to_owned())],
    };
    Arc::new(Rule {
        among: vec![own],
        ..rule.clone()
    })
}

/// Gives a provider the labels that rules ask for.
fn label(provider: &mut Arc<Provider>, service: &str, labels: &BTreeSet<&str>) {
    for label in labels {
        if provider.labels.get(label).is_some() {
            continue;
        }
        let value = match parameter_of(label) {
            "protocol" => Some(provider.protocol.clone()),
            "interface" => Some(service.to_owned()),
            parameter => provider.parameters.get(parameter).map(str::to_owned),
        };
        if value.is_some() {
            set_label(Arc::make_mut(provider), label, value);
        }
    }
}

/// Sets a label, or takes it away where the value is missing or empty.
fn set_label(provider: &mut Provider, name: &str, value: Option<String>) {
    let mut labels = provider.labels.to_map();
    match value.filter(|value| !value.is_empty()) {
        Some(value) => labels.insert(name.to_owned(), value),
        None => labels.remove(name),
    };
    provider.labels = labels.into();
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
