//! What governs Dubbo's services: configurators, tag and condition routers, as Dubbo's own
//! consumers apply them (`ConfigParser`, `TagStateRouter`, `ConditionStateRouter`).
//!
//! They stand in the configuration centre, `/dubbo/config/dubbo/{key}`, and in the older form as
//! URLs beside the providers. What cannot be honoured by a proxy is left out, with its reason.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use finback_core::discovery::{Condition, Lane, Pattern, Rule, Subject};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Layout;
use super::url::{self, Url};
use crate::store::{Answer, Entries};

/// Longer documents are not read, in bytes.
const MAX_DOCUMENT: usize = 256 * 1024;
/// Parameters of a provider that rules may change.
const CHANGEABLE: &[&str] = &[
    "weight",
    "disabled",
    "enabled",
    "dubbo.tag",
    "warmup",
    "timestamp",
];
/// Any address.
const ANY_HOST: &str = "0.0.0.0";

/// The rules for one service.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rules {
    overrides: Vec<Override>,
    /// By application.
    tags: BTreeMap<String, TagRules>,
    conditions: Vec<(i64, Rule)>,
    /// What is left out, and why.
    pub(super) complaints: Vec<String>,
}

/// Parameters that take the place of certain providers' own.
#[derive(Debug, PartialEq, Eq)]
struct Override {
    /// Globs of addresses, with or without a port.
    addresses: Vec<String>,
    /// The providers' application; `None` for all.
    applications: Option<Vec<String>>,
    parameters: BTreeMap<String, String>,
}

#[derive(Debug, PartialEq, Eq)]
struct TagRules {
    force: bool,
    /// Addresses by tag; a tag without any goes by the providers' own.
    tags: Vec<(String, Vec<String>)>,
}

impl Rules {
    /// The rules among what stands in the configuration centre and in the two old-style folders.
    pub(super) fn read(
        service: &str,
        centre: Option<&Answer>,
        folders: [Option<&Answer>; 2],
    ) -> Self {
        let mut rules = Self::default();
        if let Some(entries) = entries(centre) {
            for (key, value) in entries {
                rules.add_document(service, key, value);
            }
        }
        for folder in folders {
            for name in entries(folder).into_iter().flat_map(Entries::keys) {
                rules.add_url(service, name);
            }
        }
        // Stable: of the same priority, those that stand first go first.
        rules
            .conditions
            .sort_by_key(|(priority, _)| Reverse(*priority));
        rules
    }

    /// Changes a provider as configurators and dynamic tags want it.
    pub(super) fn amend(&self, provider: &mut Url) {
        let application = provider.get("application").unwrap_or_default().to_owned();
        let address = format!("{}:{}", provider.host, provider.port);
        for own in &self.overrides {
            let concerns = own.addresses.iter().any(|glob| {
                let bare = [ANY_HOST, "0.0.0.0:0", "*"].contains(&&**glob);
                bare || fits(glob, &address) || fits(glob, &provider.host)
            }) && own
                .applications
                .as_ref()
                .is_none_or(|all| all.iter().any(|each| each == "*" || *each == application));
            if concerns {
                for (name, value) in &own.parameters {
                    provider.parameters.insert(name.clone(), value.clone());
                }
            }
        }
        let Some(rules) = self.tags.get(&application) else {
            return;
        };
        let dynamic = rules
            .tags
            .iter()
            .find(|(_, addresses)| addresses.iter().any(|own| listed(own, provider)));
        if let Some((tag, _)) = dynamic {
            provider
                .parameters
                .insert("dubbo.tag".to_owned(), tag.clone());
            return;
        }
        // Its own tag is one that the rule gives to others: it belongs to nobody.
        let own = provider.get("dubbo.tag").unwrap_or_default().to_owned();
        let taken = |(tag, addresses): &(String, Vec<String>)| *tag == own && !addresses.is_empty();
        if rules.tags.iter().any(taken) {
            provider
                .parameters
                .insert("dubbo.tag".to_owned(), format!("{own} (not by rule)"));
        }
    }

    /// The split by tag.
    pub(super) fn lane(&self) -> Option<Lane> {
        let mut lane = Layout::Dubbo.lane()?;
        lane.force = self.tags.values().any(|rules| rules.force);
        Some(lane)
    }

    /// The rules that are decided call by call.
    pub(super) fn steering(&self) -> Vec<Rule> {
        self.conditions
            .iter()
            .map(|(_, rule)| rule.clone())
            .collect()
    }

    fn complain(&mut self, key: &str, why: &str) {
        self.complaints.push(format!("{key}: {why}"));
    }

    fn add_document(&mut self, service: &str, key: &str, value: &[u8]) {
        let Some((subject, kind)) = key.rsplit_once('.') else {
            return;
        };
        if !matches!(
            kind,
            "tag-router" | "condition-router" | "configurators" | "script-router"
        ) {
            return;
        }
        // `interface:version:group`, or an application, which has no colons.
        let of_service = subject.contains(':');
        let mut parts = subject.splitn(3, ':');
        if of_service && parts.next() != Some(service) {
            return;
        }
        let [version, group] = [parts.next(), parts.next()].map(|part| {
            part.filter(|part| of_service && !part.is_empty())
                .map(str::to_owned)
        });
        let text = match std::str::from_utf8(value) {
            Ok(text) if text.len() <= MAX_DOCUMENT => text,
            _ => return self.complain(key, "it is no text of at most 256 KiB"),
        };
        let mut only = Vec::new();
        only.extend(version.map(|version| is(Subject::Version, &version)));
        only.extend(group.map(|group| is(Subject::Group, &group)));
        for document in text.split("\n---").filter(|text| !text.trim().is_empty()) {
            let document = document.trim_start_matches('-');
            let added = match kind {
                "tag-router" => self.add_tags(subject, document),
                "condition-router" => {
                    let mut when = only.clone();
                    if !of_service {
                        // Such a rule is for the calls of that application.
                        when.push(is(application_of_caller(), subject));
                    }
                    self.add_conditions(when, document)
                }
                "configurators" => {
                    let of = (!of_service).then(|| subject.to_owned());
                    self.add_overrides(of, document)
                }
                _ => Err("scripts are not run".to_owned()),
            };
            if let Err(why) = added {
                self.complain(key, &why);
            }
        }
    }

    fn add_tags(&mut self, application: &str, text: &str) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            force: bool,
            #[serde(default = "yes")]
            enabled: bool,
            #[serde(default)]
            tags: Vec<Tag>,
        }
        #[derive(Deserialize)]
        struct Tag {
            name: String,
            #[serde(default)]
            addresses: Option<Vec<String>>,
            #[serde(default, rename = "match")]
            parameters: Option<serde_json::Value>,
        }
        let document: Document = yaml(text)?;
        if !document.enabled {
            return Ok(());
        }
        if document.tags.iter().any(|tag| tag.parameters.is_some()) {
            return Err("tags by `match` are not supported; write addresses".to_owned());
        }
        let tags = document
            .tags
            .into_iter()
            .map(|tag| (tag.name, tag.addresses.unwrap_or_default()))
            .collect();
        self.tags.insert(
            application.to_owned(),
            TagRules {
                force: document.force,
                tags,
            },
        );
        Ok(())
    }

    fn add_conditions(&mut self, only: Vec<Condition>, text: &str) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            force: bool,
            #[serde(default = "yes")]
            enabled: bool,
            #[serde(default)]
            priority: i64,
            #[serde(default)]
            conditions: Vec<serde_json::Value>,
        }
        let document: Document = yaml(text)?;
        if !document.enabled {
            return Ok(());
        }
        let mut fault = Ok(());
        for condition in document.conditions {
            let rule = match condition.as_str() {
                Some(text) => rule(text, document.force),
                None => Err("weighted destinations are not supported; write conditions".to_owned()),
            };
            match rule {
                Ok(mut rule) => {
                    rule.when.splice(0..0, only.clone());
                    self.conditions.push((document.priority, rule));
                }
                Err(why) => fault = Err(why),
            }
        }
        fault
    }

    fn add_overrides(&mut self, of: Option<String>, text: &str) -> Result<(), String> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default = "yes")]
            enabled: bool,
            #[serde(default)]
            configs: Vec<Config>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Config {
            #[serde(default = "yes")]
            enabled: bool,
            side: Option<String>,
            addresses: Option<Vec<String>>,
            provider_addresses: Option<Vec<String>>,
            applications: Option<Vec<String>>,
            #[serde(default)]
            parameters: BTreeMap<String, serde_json::Value>,
            #[serde(rename = "match")]
            only: Option<serde_json::Value>,
        }
        if text.trim_start().starts_with('[') {
            let urls: Vec<String> =
                serde_json::from_str(text).map_err(|error| error.to_string())?;
            for text in urls {
                if let Some(url) = Url::parse(&text) {
                    self.add_override(&url);
                }
            }
            return Ok(());
        }
        let document: Document = yaml(text)?;
        if !document.enabled {
            return Ok(());
        }
        let mut fault = Ok(());
        for config in document.configs {
            // Those for consumers change what consumers do; a weight of theirs is Dubbo's way to
            // write it for the providers they see.
            let parameters = changeable(config.parameters.into_iter().filter_map(
                |(name, value)| match value {
                    serde_json::Value::String(text) => Some((name, text)),
                    serde_json::Value::Number(number) => Some((name, number.to_string())),
                    serde_json::Value::Bool(flag) => Some((name, flag.to_string())),
                    _ => None,
                },
            ));
            if !config.enabled || parameters.is_empty() {
                continue;
            }
            if config.only.is_some() {
                fault = Err("configs by `match` are not supported; write addresses".to_owned());
                continue;
            }
            let mut addresses = config.provider_addresses.unwrap_or_default();
            // For consumers, `addresses` are the consumers' own.
            if config.side.as_deref() != Some("consumer") {
                addresses.extend(config.addresses.unwrap_or_default());
            }
            if addresses.is_empty() {
                addresses.push(ANY_HOST.to_owned());
            }
            self.overrides.push(Override {
                addresses,
                applications: of.clone().map(|own| vec![own]).or(config.applications),
                parameters,
            });
        }
        fault
    }

    /// An old-style node: a URL as its name.
    fn add_url(&mut self, service: &str, name: &str) {
        let Some(text) = url::decode(name) else {
            return self.complain(name, "it cannot be decoded");
        };
        // Addresses of rules may have no port.
        let text = match text.split_once("://") {
            Some((scheme, rest)) if !rest.split(['/', '?']).next().unwrap_or("").contains(':') => {
                let at = rest.find(['/', '?']).unwrap_or(rest.len());
                format!("{scheme}://{}:1{}", &rest[..at], &rest[at..])
            }
            _ => text,
        };
        let Some(url) = Url::parse(&text) else {
            return self.complain(&text, "it is no URL");
        };
        if !url.flag("enabled", true) || url.path.rsplit('/').next() != Some(service) {
            return;
        }
        let router = url.get("router").unwrap_or(&url.scheme);
        match (&*url.scheme, router) {
            ("empty", _) => {}
            ("override", _) => self.add_override(&url),
            ("route" | "condition", "condition" | "route") => {
                let written = url.get("rule").and_then(url::decode).unwrap_or_default();
                match rule(&written, url.flag("force", false)) {
                    Ok(rule) => {
                        let priority = url.number("priority").unwrap_or(0);
                        self.conditions.push((priority, rule));
                    }
                    Err(why) => self.complain(&text, &why),
                }
            }
            (scheme, router) => {
                let why = format!("routers of the kind {scheme}/{router} are not supported");
                self.complain(&text, &why);
            }
        }
    }

    fn add_override(&mut self, url: &Url) {
        let parameters = changeable(url.parameters.clone());
        if parameters.is_empty() {
            return;
        }
        let address = if url.port == 1 {
            url.host.clone()
        } else {
            format!("{}:{}", url.host, url.port)
        };
        self.overrides.push(Override {
            addresses: vec![address],
            applications: url
                .get("application")
                .filter(|own| *own != "*")
                .map(|own| vec![own.to_owned()]),
            parameters,
        });
    }
}

fn yes() -> bool {
    true
}

fn entries(answer: Option<&Answer>) -> Option<&Entries> {
    match answer {
        Some(Answer::Entries(entries)) => Some(entries),
        _ => None,
    }
}

fn yaml<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_saphyr::from_str(text).map_err(|error| error.without_snippet().to_string())
}

fn changeable(parameters: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    parameters
        .into_iter()
        .filter(|(name, _)| CHANGEABLE.contains(&&**name))
        .collect()
}

/// Whether an address of a tag is a provider's; without a port, or with port 0, it is all of a host.
fn listed(own: &str, provider: &Url) -> bool {
    match own.rsplit_once(':') {
        Some((host, "0" | "*")) => host == provider.host || host == ANY_HOST,
        Some((host, port)) => {
            (host == provider.host || host == ANY_HOST) && port == provider.port.to_string()
        }
        None => own == provider.host,
    }
}

/// Dubbo's globs: one `*` at most.
fn fits(glob: &str, text: &str) -> bool {
    match glob.split_once('*') {
        None => glob == text,
        Some((beginning, end)) => {
            text.len() >= beginning.len() + end.len()
                && text.starts_with(beginning)
                && text.ends_with(end)
        }
    }
}

fn is(subject: Subject, glob: &str) -> Condition {
    Condition {
        subject,
        negated: false,
        patterns: vec![Pattern::Glob(glob.to_owned())],
    }
}

fn application_of_caller() -> Subject {
    Subject::Attribute("remote.application".to_owned())
}

/// A condition rule such as `method=get* & host!=10.0.0.1 => address=10.0.0.2:20880`.
fn rule(text: &str, force: bool) -> Result<Rule, String> {
    let (when, then) = match text.split_once("=>") {
        Some((when, then)) => (when.trim(), then.trim()),
        // Without an arrow, it is all right side.
        None => ("", text.trim()),
    };
    if when.is_empty() && then.is_empty() {
        return Err("an empty rule".to_owned());
    }
    let left = |word: &str| subject_of_call(word);
    let right = |word: &str| {
        Ok(match word {
            "address" => Subject::Address,
            "host" => Subject::Host,
            "port" => Subject::Port,
            "tag" | "dubbo.tag" => Subject::Label("tag".to_owned()),
            "method" | "interface" => {
                return Err(format!("`{word}` says nothing of a provider"));
            }
            label => Subject::Label(label.to_owned()),
        })
    };
    Ok(Rule {
        when: match when {
            "" | "true" => Vec::new(),
            when => conditions(when, left)?,
        },
        then: match then {
            "" | "false" => None,
            then => Some(conditions(then, right)?),
        },
        force,
    })
}

fn subject_of_call(word: &str) -> Result<Subject, String> {
    Ok(match word {
        "method" | "methods" => Subject::Method,
        "host" => Subject::Source,
        "interface" => Subject::Service,
        "version" => Subject::Version,
        "group" => Subject::Group,
        "application" => application_of_caller(),
        _ if word.starts_with("attachments[") && word.ends_with(']') => {
            Subject::Attribute(word["attachments[".len()..word.len() - 1].to_owned())
        }
        _ if word.starts_with("arguments") => {
            return Err("rules by arguments are not supported".to_owned());
        }
        other => Subject::Attribute(other.to_owned()),
    })
}

fn conditions(
    text: &str,
    subject: impl Fn(&str) -> Result<Subject, String>,
) -> Result<Vec<Condition>, String> {
    text.split('&')
        .map(|part| {
            let part = part.trim();
            let (word, negated, values) = match (part.split_once("!="), part.split_once('=')) {
                (Some((word, values)), _) => (word, true, values),
                (None, Some((word, values))) => (word, false, values),
                (None, None) => return Err(format!("`{part}` compares nothing")),
            };
            let patterns = values
                .split(',')
                .map(str::trim)
                .filter(|value| !value.is_empty())
                .map(|value| match value.strip_prefix('$') {
                    Some(word) => Ok(Pattern::OfCall(subject_of_call(word)?)),
                    None if value.matches('*').count() > 1 => {
                        Err(format!("`{value}` has more than one `*`"))
                    }
                    None if value.contains('~') => {
                        Err(format!("`{value}`: ranges are not supported"))
                    }
                    None => Ok(Pattern::Glob(value.to_owned())),
                })
                .collect::<Result<Vec<_>, String>>()?;
            if patterns.is_empty() {
                return Err(format!("`{part}` compares with nothing"));
            }
            Ok(Condition {
                subject: subject(word.trim())?,
                negated,
                patterns,
            })
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn read(documents: &[(&str, &str)], urls: &[&str]) -> Rules {
        let centre: Entries = documents
            .iter()
            .map(|(key, text)| ((*key).to_owned(), bytes::Bytes::from((*text).to_owned())))
            .collect();
        let encoded: Vec<String> = urls.iter().map(|text| url::encode(text)).collect();
        let folder = super::super::names(encoded.iter().map(String::as_str));
        let centre = Answer::Entries(Arc::new(centre));
        Rules::read("a.B", Some(&centre), [Some(&folder), None])
    }

    fn amended(rules: &Rules, text: &str) -> Url {
        let mut url = Url::parse(text).unwrap();
        rules.amend(&mut url);
        url
    }

    #[test]
    fn tags_by_address_take_the_place_of_the_providers_own() {
        // As Dubbo Admin writes it.
        let text = "---\nforce: true\nruntime: true\nenabled: true\nkey: shop\ntags:\n- name: gray\n  addresses: [\"10.0.0.1:1\"]\n- name: blue\n  addresses: null\n";
        let rules = read(&[("shop.tag-router", text)], &[]);
        assert_eq!(rules.complaints, [""; 0]);
        let tag = |text: &str| amended(&rules, text).get("dubbo.tag").map(str::to_owned);
        assert_eq!(
            tag("dubbo://10.0.0.1:1/a.B?application=shop").as_deref(),
            Some("gray")
        );
        assert_eq!(tag("dubbo://10.0.0.2:1/a.B?application=shop"), None);
        let own = "dubbo://10.0.0.2:1/a.B?application=shop&dubbo.tag=";
        assert_eq!(tag(&format!("{own}blue")).as_deref(), Some("blue"));
        assert_ne!(tag(&format!("{own}gray")).as_deref(), Some("gray"));
        assert_eq!(tag("dubbo://10.0.0.1:1/a.B?application=other"), None);
        assert!(rules.lane().unwrap().force);
    }

    #[test]
    fn conditions_become_rules_by_priority() {
        let one = "scope: service\nforce: true\npriority: 1\nkey: a.B\nconditions:\n  - method=get*,find & host != 10.0.0.9 => address=10.0.0.1:1\n";
        let two = "force: false\npriority: 5\nconditions:\n  - '=> zone=$zone'\n  - attachments[lane]=gray =>\n";
        let rules = read(
            &[
                ("a.B::.condition-router", one),
                ("caller.condition-router", two),
                ("x.Y::.condition-router", one),
            ],
            &[],
        );
        assert_eq!(rules.complaints, [""; 0]);
        let steering = rules.steering();
        assert_eq!(steering.len(), 3);
        assert_eq!(steering[0].when, [is(application_of_caller(), "caller")]);
        assert_eq!(
            steering[0].then.as_ref().unwrap()[0].patterns,
            [Pattern::OfCall(Subject::Attribute("zone".to_owned()))]
        );
        assert_eq!(steering[1].then, None);
        let last = &steering[2];
        assert!(last.force && last.when[1].negated);
        assert_eq!(last.when[0].patterns.len(), 2);
        assert_eq!(last.then, Some(vec![is(Subject::Address, "10.0.0.1:1")]));
    }

    #[test]
    fn priorities_go_as_far_as_their_numbers() {
        let with = |priority: i64, address: &str| {
            let rule = format!("rule=%3D%3E%20address%3D{address}");
            format!(
                "route://0.0.0.0/a.B?category=routers&router=condition&priority={priority}&{rule}"
            )
        };
        let (least, most) = (with(i64::MIN, "10.0.0.1:1"), with(i64::MAX, "10.0.0.2:1"));
        let rules = read(&[], &[&least, &most]);
        assert_eq!(rules.complaints, [""; 0]);
        let addresses: Vec<_> = rules
            .steering()
            .into_iter()
            .map(|rule| rule.then.unwrap()[0].patterns.clone())
            .collect();
        let of = |address: &str| vec![Pattern::Glob(address.to_owned())];
        assert_eq!(addresses, [of("10.0.0.2:1"), of("10.0.0.1:1")]);
    }

    #[test]
    fn overrides_in_both_forms_change_what_a_proxy_can_honour() {
        let text = "configVersion: v2.7\nscope: service\nkey: a.B\nenabled: true\nconfigs:\n- addresses: [\"10.0.0.1:1\"]\n  side: provider\n  parameters: { weight: 7, timeout: 3000 }\n- side: consumer\n  addresses: [\"10.9.9.9\"]\n  parameters: { timeout: 1 }\n- enabled: false\n  parameters: { weight: 1 }\n";
        let rules = read(
            &[("a.B::.configurators", text)],
            &[
                "override://10.0.0.2/a.B?category=configurators&dynamic=false&disabled=true",
                "override://0.0.0.0/a.B?category=configurators&enabled=false&weight=1",
                "override://0.0.0.0/x.Y?category=configurators&weight=1",
                "empty://0.0.0.0/a.B?category=configurators",
            ],
        );
        assert_eq!(rules.complaints, [""; 0]);
        let one = amended(&rules, "dubbo://10.0.0.1:1/a.B?weight=100");
        assert_eq!((one.get("weight"), one.get("timeout")), (Some("7"), None));
        let two = amended(&rules, "dubbo://10.0.0.2:1/a.B?weight=100");
        assert_eq!(
            (two.get("weight"), two.get("disabled")),
            (Some("100"), Some("true"))
        );
    }

    #[test]
    fn old_routers_are_read_and_others_refused_with_a_reason() {
        let rules = read(
            &[
                ("a.B::.script-router", "script: 1"),
                ("shop.tag-router", "tags: {"),
                (
                    "a.B::.condition-router",
                    "conditions: ['arguments[0]=1 => host=1']",
                ),
                ("dubbo.properties", "a=b"),
            ],
            &[
                "route://0.0.0.0/a.B?category=routers&router=condition&priority=2&rule=host%20%3D%2010.*%20%3D%3E%20host%20%3D%2010.0.0.1",
                "script://0.0.0.0/a.B?category=routers&rule=x",
            ],
        );
        assert_eq!(rules.steering().len(), 1);
        assert_eq!(rules.steering()[0].when, [is(Subject::Source, "10.*")]);
        assert_eq!(rules.complaints.len(), 4, "{:?}", rules.complaints);
    }

    proptest! {
        #[test]
        fn any_text_ends_in_rules_or_complaints(text in "\\PC{0,120}", rule in "[a-z=!>&,*$ .\\[\\]]{0,60}") {
            let document = format!("conditions: ['{rule}']");
            let _ = read(
                &[("a.B::.condition-router", &document), ("a.B::.configurators", &text), ("s.tag-router", &text)],
                &[&text],
            );
        }
    }
}
