//! Rules in the configuration centre: one YAML document of `/dubbo/config/dubbo/{key}`.

use std::collections::BTreeMap;
use std::sync::Arc;

use finback_core::discovery::Rule;
use serde_json::{Map, Value};

use super::condition::{self, Fault};
use super::configurator::{Override, ServiceKey, plain};
use super::items::{self, Place, is_true};
use super::matching::{ParameterMatch, is_tagged, text_of, texts_of};
use crate::layout::url::Url;

/// Longer documents are not read, in bytes.
const MAX_DOCUMENT: usize = 256 * 1024;
/// Rules of one document, at most.
const MAX_RULES: usize = 1024;

/// One document.
#[derive(Debug)]
pub(super) struct Document {
    /// Which services or applications it is for.
    pub(super) place: Place,
    pub(super) content: Content,
}

/// What a document says.
#[derive(Debug)]
pub(super) enum Content {
    Tags(Tags),
    Conditions(Vec<Arc<Rule>>),
    Overrides(Vec<Override>),
}

/// The tags of an application's providers.
#[derive(Debug)]
pub(super) struct Tags {
    pub(super) force: bool,
    tags: Vec<Tag>,
}

#[derive(Debug)]
struct Tag {
    name: String,
    addresses: Vec<String>,
    /// Instead of addresses, in version 3.
    parameters: Vec<ParameterMatch>,
}

impl Tags {
    /// The tags that the rule gives to a provider.
    pub(super) fn of<'a>(
        &'a self,
        host: &str,
        port: u16,
        parameters: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a str> {
        let has = move |tag: &&Tag| {
            let listed = tag.addresses.iter();
            let matched = tag.addresses.is_empty()
                && !tag.parameters.is_empty()
                && tag
                    .parameters
                    .iter()
                    .all(|own| own.fits(|name| parameters.get(name).map(String::as_str)));
            listed.into_iter().any(|own| is_tagged(own, host, port)) || matched
        };
        let own: Vec<&'a str> = self.tags.iter().filter(has).map(|tag| &*tag.name).collect();
        own.into_iter()
    }

    /// The tags that are given by address, whether anybody has them or not. Those that are given
    /// by parameters are only for as long as somebody has them.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let by_address = self.tags.iter().filter(|tag| !tag.addresses.is_empty());
        by_address.map(|tag| &*tag.name)
    }
}

/// Reads what stands at a key; what is left out goes to `complaints`.
pub(super) fn read(key: &str, value: &[u8], complaints: &mut Vec<String>) -> Vec<Document> {
    let Some((subject, kind)) = key.rsplit_once('.') else {
        return Vec::new();
    };
    let is_known = match kind {
        "tag-router" | "condition-router" | "configurators" => true,
        "script-router" | "MESHAPPRULE" => false,
        _ => return Vec::new(),
    };
    if !is_known {
        complaints.push(format!("{key}: rules of this kind are not supported"));
        return Vec::new();
    }
    let place = place_of(subject);
    let text = match std::str::from_utf8(value) {
        Ok(text) if text.len() <= MAX_DOCUMENT => text,
        _ => {
            complaints.push(format!("{key}: it is not text of at most 256 KiB"));
            return Vec::new();
        }
    };
    let mut documents = Vec::new();
    for document in text.split("\n---").filter(|text| !text.trim().is_empty()) {
        let mut faults = Vec::new();
        match content(&place, kind, document.trim_start_matches('-'), &mut faults) {
            Ok(content) => documents.extend(content.map(|content| Document {
                place: place.clone(),
                content,
            })),
            Err(why) => faults.push(why),
        }
        complaints.extend(faults.into_iter().map(|why| format!("{key}: {why}")));
    }
    documents
}

/// `interface:version:group`, or an application, which has no colons.
fn place_of(subject: &str) -> Place {
    let mut parts = subject.splitn(3, ':');
    let mut part = || parts.next().unwrap_or_default().to_owned();
    if !subject.contains(':') {
        return Place::Application(subject.to_owned());
    }
    let (interface, version, group) = (part(), part(), part());
    Place::Service(ServiceKey {
        interface,
        version: plain(&version).to_owned(),
        group,
    })
}

fn content(
    place: &Place,
    kind: &str,
    text: &str,
    faults: &mut Vec<String>,
) -> Result<Option<Content>, String> {
    if kind == "configurators" && text.trim_start().starts_with('[') {
        return Ok(Some(Content::Overrides(urls(text, faults)?)));
    }
    // As Java's reader has it: the last of equal keys counts. `y` and `n` are texts to it; the
    // other words for true are told by whoever asks for a flag.
    let options = serde_saphyr::options! {
        strict_booleans: true,
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::LastWins,
    };
    let document: Map<String, Value> = serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| error.without_snippet().to_string())?;
    let flag = |name: &str, default: bool| {
        let text = document.get(name).and_then(text_of);
        text.map_or(default, |text| is_true(&text))
    };
    Ok(match kind {
        "configurators" => Some(Content::Overrides(items::read(place, &document, faults)?)),
        _ if !flag("enabled", true) || !flag("valid", true) => None,
        "tag-router" => tags(&document, flag("force", false), faults)?.map(Content::Tags),
        _ => Some(Content::Conditions(conditions(
            &document,
            flag("force", false),
            faults,
        )?)),
    })
}

/// Configurators as a list of URLs.
fn urls(text: &str, faults: &mut Vec<String>) -> Result<Vec<Override>, String> {
    let texts: Vec<String> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let mut all = Vec::new();
    for text in texts {
        let url = Url::parse_any(&text).ok_or_else(|| format!("{text}: it is not a URL"))?;
        if !url.flag("enabled", true) {
            continue;
        }
        match Override::of_url(&url) {
            Ok(own) => all.extend(own),
            Err(why) => faults.push(format!("{url}: {why}")),
        }
    }
    all.sort_by(|one: &Override, two| one.order().cmp(&two.order()));
    Ok(all)
}

fn version_of(document: &Map<String, Value>) -> String {
    let version = document.get("configVersion").and_then(text_of);
    version.unwrap_or_default().to_ascii_lowercase()
}

fn tags(
    document: &Map<String, Value>,
    force: bool,
    faults: &mut Vec<String>,
) -> Result<Option<Tags>, String> {
    let by_parameters = version_of(document).starts_with("v3.0");
    let mut tags = Vec::new();
    let written = document.get("tags").and_then(Value::as_array);
    for tag in written.into_iter().flatten() {
        let name = tag["name"].as_str().ok_or("a tag without a name")?;
        let addresses = texts_of(&tag["addresses"]);
        let parameters = match &tag["match"] {
            Value::Null => Vec::new(),
            value if by_parameters => ParameterMatch::read_all(value)?,
            _ => {
                faults.push(format!("tag `{name}`: `match` is read from version 3.0 on"));
                Vec::new()
            }
        };
        tags.push(Tag {
            name: name.to_owned(),
            addresses,
            parameters,
        });
    }
    Ok((!tags.is_empty()).then_some(Tags { force, tags }))
}

fn conditions(
    document: &Map<String, Value>,
    force: bool,
    faults: &mut Vec<String>,
) -> Result<Vec<Arc<Rule>>, String> {
    let version = version_of(document);
    let is_weighted = version.starts_with("v3.1");
    if !is_weighted && version.as_str() > "v3.1" {
        return Err(format!("version {version} is not known"));
    }
    let written = document.get("conditions").and_then(Value::as_array);
    let written = written.map(Vec::as_slice).unwrap_or_default();
    if written.len() > MAX_RULES {
        return Err(format!("more than {MAX_RULES} conditions"));
    }
    let mut rules = Vec::new();
    for condition in written {
        let rule = match (is_weighted, text_of(condition)) {
            (true, _) => condition::read_weighted(condition, force),
            (false, Some(text)) => condition::read(&text, force),
            (false, None) => Err(Fault::Invalid(
                "weighted destinations are read from version 3.1 on".to_owned(),
            )),
        };
        match rule {
            Ok(rule) => rules.extend(rule.map(Arc::new)),
            Err(Fault::Unsupported(why)) => faults.push(why),
            Err(Fault::Invalid(why)) => return Err(why),
        }
    }
    Ok(rules)
}
