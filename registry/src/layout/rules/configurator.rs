//! Configurators: parameters that take the place of certain providers' own
//! (Dubbo: AbstractConfigurator, Dubbo: ConfigParser).
//!
//! Dubbo's providers apply those of their side and register anew, and then its consumers apply
//! theirs. A proxy looks up for all consumers at once: it applies what is for the providers, as
//! not all of them do that themselves, and then what is for every consumer. What is for some
//! consumers is left out.

use std::collections::BTreeMap;

use serde_json::Value;

use super::matching::{ANY, ANY_HOST, AddressMatch, OneOf, ParameterMatch};
use crate::layout::ORIGIN;
use crate::layout::url::Url;

/// Parameters of a rule that say whom it is for, or that no rule may change.
const KEPT: &[&str] = &[
    "anyhost",
    "application",
    "bind.ip",
    "bind.port",
    "category",
    "check",
    "compatible_config",
    "configVersion",
    "dynamic",
    "enabled",
    "ext.protocol",
    "group",
    "interface",
    "interfaces",
    "pid",
    "priority",
    "protocol",
    "providerAddresses",
    "router",
    "rule",
    "runtime",
    "side",
    "type",
    "version",
    ORIGIN,
];

/// A version or group as rules are compared with it: Dubbo writes none in two ways.
pub(super) fn plain(text: &str) -> &str {
    if text == "0.0.0" { "" } else { text }
}

/// A service as configurators name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ServiceKey {
    pub(super) interface: String,
    pub(super) version: String,
    pub(super) group: String,
}

impl ServiceKey {
    /// Reads `group/interface:version`, or `interface:version:group` as Dubbo Admin writes it.
    pub(super) fn read(text: &str) -> Self {
        let (group, rest) = text.split_once('/').unwrap_or(("", text));
        let mut parts = rest.splitn(3, ':');
        let mut part = || parts.next().unwrap_or_default();
        let (interface, version, last) = (part(), part(), part());
        let group = if group.is_empty() { last } else { group };
        Self {
            interface: interface.to_owned(),
            version: plain(version).to_owned(),
            group: group.to_owned(),
        }
    }
}

/// A provider as configurators look at it.
pub(super) struct Target<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) service: &'a ServiceKey,
    pub(super) parameters: &'a BTreeMap<String, String>,
}

impl Target<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }
}

/// Who applies a configurator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Provider,
    Consumer,
}

/// One configurator.
#[derive(Debug, Default)]
pub(super) struct Override {
    /// Who applies it.
    pub(super) sides: Vec<Side>,
    /// The host it is for; `None` for all.
    pub(super) host: Option<String>,
    /// The port it is for; `None` for all.
    pub(super) port: Option<u16>,
    /// Addresses or hosts of the providers that it is for; empty for all.
    pub(super) providers: Vec<String>,
    /// The providers' application; `None` for all.
    pub(super) application: Option<String>,
    /// The service; `None` for all.
    pub(super) service: Option<ServiceKey>,
    /// Parameters that a provider must have, with these values.
    pub(super) conditions: Vec<(String, String)>,
    pub(super) only: Match,
    /// It only adds parameters that are not there.
    pub(super) is_absent: bool,
    pub(super) priority: i64,
    pub(super) parameters: BTreeMap<String, String>,
}

/// The `match` block of version 3.
#[derive(Debug, Default)]
pub(super) struct Match {
    address: Option<AddressMatch>,
    provider_address: Option<AddressMatch>,
    service: Option<OneOf>,
    application: Option<OneOf>,
    parameters: Vec<ParameterMatch>,
}

impl Override {
    /// Whether this side applies it to a provider.
    pub(super) fn concerns(&self, side: Side, provider: &Target<'_>) -> bool {
        let service = provider.service;
        self.sides.contains(&side)
            && self
                .host
                .as_deref()
                .is_none_or(|host| host == provider.host)
            && self.port.is_none_or(|port| port == provider.port)
            && self.is_among(provider)
            && self
                .application
                .as_deref()
                .is_none_or(|own| own == ANY || Some(own) == provider.get("application"))
            && self.service.as_ref().is_none_or(|own| {
                let named = own.interface == ANY || own.interface == service.interface;
                named && own.version == service.version && own.group == service.group
            })
            && self
                .conditions
                .iter()
                .all(|(name, value)| value == ANY || provider.get(name) == Some(value))
            && self.only.fits(provider)
    }

    fn is_among(&self, provider: &Target<'_>) -> bool {
        let Target { host, port, .. } = *provider;
        let is = |own: &String| {
            own == ANY_HOST
                || own == host
                || match own.rsplit_once(':') {
                    Some((ANY_HOST, ANY)) => true,
                    Some((own, own_port)) => {
                        let own = own.trim_matches(['[', ']']);
                        (own == host || own == ANY_HOST) && *own_port == *port.to_string()
                    }
                    None => false,
                }
        };
        self.providers.is_empty() || self.providers.iter().any(is)
    }

    /// Changes the parameters of a provider that it is for.
    pub(super) fn apply(&self, parameters: &mut BTreeMap<String, String>) {
        for (name, value) in &self.parameters {
            if self.is_absent && parameters.get(name).is_some_and(|own| !own.is_empty()) {
                continue;
            }
            parameters.insert(name.clone(), value.clone());
        }
    }

    /// Dubbo applies those for a host after those for all, and those of higher priority later
    /// (`Configurator.compareTo`).
    pub(super) fn order(&self) -> (&str, i64) {
        (self.host.as_deref().unwrap_or(ANY_HOST), self.priority)
    }

    /// One in the form of a URL; `None` if it changes nothing.
    ///
    /// # Errors
    /// If it is for some consumers only.
    pub(super) fn of_url(url: &Url) -> Result<Option<Self>, String> {
        let text = |name: &str| url.get(name).filter(|text| !text.is_empty());
        let application = text("application").filter(|own| *own != ANY);
        let side = text("side").filter(|own| *own != ANY);
        let any_host = url.host == ANY_HOST;
        let is_new = text("configVersion").is_some();
        if is_new && side.is_none() {
            return Err("it names no side".to_owned());
        }
        let mut sides = Vec::new();
        // In the older form, an address without a port is a consumer's.
        if side != Some("consumer") && (any_host || is_new || url.port > 0) {
            sides.push(Side::Provider);
        }
        let of_all = application.is_none() && (any_host || (!is_new && url.port > 0));
        if side != Some("provider") && of_all {
            sides.push(Side::Consumer);
        }
        match side {
            None | Some("provider" | "consumer") if sides.is_empty() => {
                return Err(some_consumers());
            }
            None | Some("provider" | "consumer") => {}
            Some(other) => return Err(format!("no side is `{other}`")),
        }
        let own = Self {
            sides,
            host: (!any_host).then(|| url.host.clone()),
            port: Some(url.port).filter(|port| *port > 0),
            providers: text("providerAddresses").map(list).unwrap_or_default(),
            application: application.map(str::to_owned),
            service: Some(ServiceKey {
                interface: url.get("interface").unwrap_or(&url.path).to_owned(),
                version: plain(url.get("version").unwrap_or_default()).to_owned(),
                group: url.get("group").unwrap_or_default().to_owned(),
            }),
            is_absent: url.scheme == "absent",
            priority: url.number("priority").unwrap_or(0),
            ..Self::default()
        };
        Ok(own.changing(url.parameters.clone()))
    }

    /// The same with these parameters, those with `~` being conditions; `None` if none are left.
    pub(super) fn changing(mut self, parameters: BTreeMap<String, String>) -> Option<Self> {
        for (name, value) in parameters {
            match name.strip_prefix('~') {
                Some(name) => self.conditions.push((name.to_owned(), value)),
                None if !KEPT.contains(&&*name) => {
                    self.parameters.insert(name, value);
                }
                None => {}
            }
        }
        (!self.parameters.is_empty()).then_some(self)
    }
}

pub(super) fn some_consumers() -> String {
    "it is for some consumers only, which a proxy does not tell apart".to_owned()
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::to_owned).collect()
}

impl Match {
    /// # Errors
    /// If it has a part that is not known, or tells consumers apart.
    pub(super) fn read(value: &Value, of_providers: bool) -> Result<Self, String> {
        let mut own = Self::default();
        let parts = value.as_object().ok_or("`match` has no parts")?;
        for (name, value) in parts.iter().filter(|(_, value)| !value.is_null()) {
            match &**name {
                "address" => own.address = Some(AddressMatch::read(value)?),
                "providerAddress" => own.provider_address = Some(AddressMatch::read(value)?),
                "service" => own.service = Some(OneOf::read(value)?),
                "app" => own.application = Some(OneOf::read(value)?),
                "param" => own.parameters = ParameterMatch::read_all(value)?,
                other => return Err(format!("nothing is matched by `{other}`")),
            }
        }
        if !of_providers {
            let address = own.address.take();
            if own.application.is_some() || address.is_some_and(|address| !address.is_any()) {
                return Err(some_consumers());
            }
        }
        Ok(own)
    }

    fn fits(&self, provider: &Target<'_>) -> bool {
        let address = |own: &AddressMatch| own.fits(&address_of(provider));
        self.address
            .as_ref()
            .is_none_or(|own| own.fits(provider.host))
            && self.provider_address.as_ref().is_none_or(address)
            && self
                .service
                .as_ref()
                .is_none_or(|own| own.fits(Some(&name_of(provider.service))))
            && self
                .application
                .as_ref()
                .is_none_or(|own| own.fits(provider.get("application")))
            && self
                .parameters
                .iter()
                .all(|own| own.fits(|name| provider.get(name)))
    }
}

fn address_of(provider: &Target<'_>) -> String {
    let Target { host, port, .. } = provider;
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// A service as Dubbo writes it: `group/interface:version`.
fn name_of(service: &ServiceKey) -> String {
    let mut name = String::new();
    if !service.group.is_empty() {
        name.extend([&service.group, "/"]);
    }
    name.push_str(&service.interface);
    if !service.version.is_empty() {
        name.extend([":", &service.version]);
    }
    name
}
