//! Configurators in documents of the configuration centre (Dubbo: ConfigParser, Dubbo: ConfigItem).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::configurator::{Match, Override, ServiceKey, Side, some_consumers};
use super::matching::{ANY, ANY_HOST, text_of, texts_of};

/// Whom the document of some configurators is for, as the place where it stands says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Application(String),
    Service(ServiceKey),
}

/// The configurators of a document.
///
/// # Errors
/// If Dubbo would refuse the document. Items that a proxy cannot honour go to `complaints`.
pub(super) fn read(
    place: &Place,
    document: &Map<String, Value>,
    complaints: &mut Vec<String>,
) -> Result<Vec<Override>, String> {
    let flag = |value: Option<&Value>| value.and_then(text_of).map(|text| is_true(&text));
    let enabled = flag(document.get("enabled")).unwrap_or(true);
    let key = document.get("key").and_then(text_of).unwrap_or_default();
    let of_application = document.get("scope").and_then(Value::as_str) == Some("application");
    let service = match place {
        Place::Application(own) if of_application && *own == key => None,
        Place::Application(_) if !of_application && !key.is_empty() => Some(ServiceKey::read(&key)),
        Place::Service(own) if !of_application && agrees(own, &key) => Some(own.clone()),
        _ => return Err("its scope and key do not go with the place where it stands".to_owned()),
    };
    let mut all = Vec::new();
    let items = document.get("configs").and_then(Value::as_array);
    for item in items.into_iter().flatten() {
        let general = matches!(item["type"].as_str(), None | Some("general"));
        let is_on = if general {
            enabled
        } else {
            flag(item.get("enabled")) == Some(true)
        };
        match add(place, service.as_ref(), item, &mut all) {
            // One that is switched off is only looked at for what makes Dubbo refuse the whole.
            Ok(count) if !is_on => all.truncate(all.len() - count),
            Ok(_) => {}
            Err(Refusal::Document(why)) => return Err(why),
            Err(Refusal::Item(why)) if is_on => complaints.push(why),
            Err(Refusal::Item(_)) => {}
        }
    }
    all.sort_by(|one: &Override, two| one.order().cmp(&two.order()));
    Ok(all)
}

/// What is wrong with an item.
enum Refusal {
    Item(String),
    Document(String),
}

impl From<String> for Refusal {
    fn from(why: String) -> Self {
        Self::Item(why)
    }
}

/// Adds the configurators of one item, and says how many they are.
fn add(
    place: &Place,
    service: Option<&ServiceKey>,
    item: &Value,
    all: &mut Vec<Override>,
) -> Result<usize, Refusal> {
    let parameters = parameters_of(item)?;
    let or_any = |mut list: Vec<String>, any: &str| {
        if list.is_empty() {
            list.push(any.to_owned());
        }
        list
    };
    let addresses = or_any(texts_of(&item["addresses"]), ANY_HOST);
    let mut providers = texts_of(&item["providerAddresses"]);
    let side = side_of(item)?;
    let of_providers = side == Side::Provider;
    let only = || match &item["match"] {
        Value::Null => Ok(Match::default()),
        value => Match::read(value, of_providers),
    };
    if of_providers && providers.is_empty() {
        providers.clone_from(&addresses);
    }
    let (applications, services) = match service {
        None => (Vec::new(), or_any(texts_of(&item["services"]), ANY)),
        Some(_) => (texts_of(&item["applications"]), Vec::new()),
    };
    let everybody = applications.is_empty() || applications.iter().any(|own| own == ANY);
    let is_for_some = matches!(place, Place::Application(_)) || !everybody;
    if !of_providers && (is_for_some || !addresses.iter().any(|own| host_of(own).is_none())) {
        return Err(Refusal::Item(some_consumers()));
    }
    let before = all.len();
    let services: Vec<Option<ServiceKey>> = match service {
        Some(service) => vec![Some(service.clone())],
        None if services.iter().any(|own| own == ANY) => vec![None],
        None => services
            .iter()
            .map(|own| Some(ServiceKey::read(own)))
            .collect(),
    };
    let applications: Vec<Option<String>> = match place {
        Place::Application(own) => vec![Some(own.clone())],
        Place::Service(_) if everybody => vec![None],
        Place::Service(_) => applications.into_iter().map(Some).collect(),
    };
    for address in &addresses {
        for (service, application) in services
            .iter()
            .flat_map(|service| applications.iter().map(move |own| (service, own)))
        {
            let own = Override {
                sides: vec![side],
                host: if of_providers { host_of(address) } else { None },
                providers: providers.clone(),
                application: application.clone(),
                service: service.clone(),
                only: only()?,
                ..Override::default()
            };
            all.extend(own.changing(parameters.clone()));
        }
    }
    Ok(all.len() - before)
}

/// The parameters that an item sets.
fn parameters_of(item: &Value) -> Result<BTreeMap<String, String>, Refusal> {
    let parameters: Option<&Map<_, _>> = item["parameters"].as_object();
    let parameters = parameters.filter(|all| !all.is_empty());
    let parameters =
        parameters.ok_or(Refusal::Document("an item without parameters".to_owned()))?;
    let texts = parameters
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), text_of(value)?)));
    Ok(texts.collect())
}

fn side_of(item: &Value) -> Result<Side, Refusal> {
    match item["side"].as_str() {
        Some("provider") => Ok(Side::Provider),
        Some("consumer") => Ok(Side::Consumer),
        _ => Err(Refusal::Item("an item that names no side".to_owned())),
    }
}

/// The host of an address with or without a port; `None` for any.
fn host_of(address: &str) -> Option<String> {
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => address.split(':').next().unwrap_or(address),
    };
    (host != ANY_HOST).then(|| host.to_owned())
}

/// Whether the key in a document names the service of the place where it stands. Dubbo 2.7 does
/// not look at more of it than the interface.
fn agrees(place: &ServiceKey, key: &str) -> bool {
    let key = ServiceKey::read(key);
    let same = |own: &String, place: &String| own.is_empty() || own == place;
    key.interface == place.interface
        && same(&key.version, &place.version)
        && same(&key.group, &place.group)
}

/// Whether a text is one of the words for true in YAML 1.1, which Java's reader goes by.
pub(super) fn is_true(text: &str) -> bool {
    ["true", "yes", "on"]
        .iter()
        .any(|own| text.eq_ignore_ascii_case(own))
}
