//! Rules in the older form: URLs as names of nodes beside the providers.

use std::sync::Arc;

use finback_core::discovery::{Lookup, Rule};

use super::condition::{self, Fault};
use super::configurator::{Override, plain};
use super::matching::ANY;
use crate::layout::url::{self, Url};
use crate::store::{Answer, Entries};

/// The rules that stand beside the providers of one service.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    /// In the order in which they apply.
    pub(super) overrides: Vec<Override>,
    /// In the order in which they apply.
    pub(super) rules: Vec<NodeRule>,
    /// What is left out, and why.
    pub(super) complaints: Vec<String>,
}

/// A rule for calls, and the version and group whose consumers it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeRule {
    version: String,
    group: String,
    rule: Arc<Rule>,
    priority: i64,
}

impl NodeRule {
    /// What it says of calls.
    pub(crate) fn rule(&self) -> &Arc<Rule> {
        &self.rule
    }

    /// Whether it is for a consumer (`UrlUtils.isMatch`).
    pub(crate) fn is_for(&self, lookup: &Lookup) -> bool {
        let mut groups = lookup.group.split(',');
        let version = *lookup.version == *ANY || plain(&lookup.version) == self.version;
        version
            && (*lookup.group == *ANY
                || *lookup.group == *self.group
                || (!self.group.is_empty() && groups.any(|own| own == self.group)))
    }
}

impl Nodes {
    /// Reads the two folders, of configurators and of routers.
    pub(super) fn read(service: &str, folders: [&Answer; 2]) -> Self {
        let mut nodes = Self::default();
        for folder in folders {
            for name in entries(folder).into_iter().flat_map(Entries::names) {
                // etcd holds keys of folders too.
                if !name.is_empty() {
                    nodes.add(service, &name);
                }
            }
        }
        nodes
            .overrides
            .sort_by(|one, two| one.order().cmp(&two.order()));
        // Stable: of the same priority, those that stand first go first.
        nodes.rules.sort_by_key(|rule| rule.priority);
        nodes
    }

    fn add(&mut self, service: &str, name: &str) {
        let Some(url) = url::decode(name).as_deref().and_then(Url::parse_any) else {
            return self.complaints.push(format!("{name}: it is not a URL"));
        };
        let interface = url.get("interface").unwrap_or(&url.path);
        let is_ours = interface == service || interface == ANY;
        // Those that Dubbo Admin writes for consumers of 2.6 stand in the configuration centre too.
        let is_copy = url
            .get("compatible_config")
            .is_some_and(|own| !own.is_empty());
        if !is_ours || is_copy || !url.flag("enabled", true) || url.scheme == "empty" {
            return;
        }
        let category = url.get("category").unwrap_or_default();
        let added = match &*url.scheme {
            "override" | "absent" if matches!(category, "" | "configurators") => {
                Override::of_url(&url).map(|own| self.overrides.extend(own))
            }
            "route" | "condition" if matches!(category, "" | "routers") => self.add_rule(&url),
            scheme => Err(format!("rules of the kind {scheme} are not supported")),
        };
        if let Err(why) = added {
            self.complaints.push(format!("{url}: {why}"));
        }
    }

    fn add_rule(&mut self, url: &Url) -> Result<(), String> {
        // A route names its kind; a kind as the scheme needs the category to be known as one.
        let kind = match url.get("router").filter(|own| !own.is_empty()) {
            Some(kind) => kind,
            None if url.scheme == "condition" && url.get("category").is_some() => "condition",
            None => "none",
        };
        if kind != "condition" {
            return Err(format!("routers of the kind {kind} are not supported"));
        }
        let text = url.get("rule").and_then(url::decode).unwrap_or_default();
        match condition::read(&text, url.flag("force", false)) {
            Ok(Some(rule)) => self.rules.push(NodeRule {
                version: plain(url.get("version").unwrap_or_default()).to_owned(),
                group: url.get("group").unwrap_or_default().to_owned(),
                rule: Arc::new(rule),
                priority: url.number("priority").unwrap_or(0),
            }),
            Ok(None) => {}
            Err(Fault::Invalid(why) | Fault::Unsupported(why)) => return Err(why),
        }
        Ok(())
    }
}

pub(super) fn entries(answer: &Answer) -> Option<&Entries> {
    let Answer::Entries(entries) = answer else {
        return None;
    };
    Some(entries)
}
