//! The call to explain: the parts of a call that decide about its route.

use std::net::{IpAddr, Ipv4Addr};

use finback_core::identity::{Identity, IdentityKind};

use crate::admin::query::{Query, encode};

/// A call, as far as it decides about its way.
#[derive(Clone, Debug, clap::Args)]
pub struct ExplainQuestion {
    /// The service that is called; of HTTP the host.
    #[arg(long, default_value = "")]
    pub service: String,
    /// The method; of HTTP that of the request.
    #[arg(long, default_value = "")]
    pub method: String,
    /// The service's version.
    #[arg(long, default_value = "")]
    pub version: String,
    /// The service's group (SOFA: unique id).
    #[arg(long, default_value = "")]
    pub group: String,
    /// What the call brings along, as NAME=VALUE: a header, attachment or property. Parts of HTTP are
    /// `:path`, `:authority`, `:method` and `?NAME` for the query; of MQTT `:client-id`, `:username` and
    /// `:will-topic`; of TLS `:sni`.
    #[arg(long = "attribute", value_name = "NAME=VALUE")]
    pub attributes: Vec<String>,
    /// What it speaks: bolt, dubbo, grpc, triple, http, mqtt, rocketmq, rocketmq-grpc, tcp. Default: what the
    /// listener speaks, if that is one thing only.
    #[arg(long)]
    pub protocol: Option<String>,
    /// The listener that it comes to. Default: the only one.
    #[arg(long)]
    pub listener: Option<String>,
    /// The caller's address.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST.into())]
    pub source: IpAddr,
    /// The name in the caller's certificate: a SPIFFE ID, a DNS name, or `cn:NAME`.
    #[arg(long)]
    pub identity: Option<String>,
}

/// What a query may say.
const NAMES: [&str; 9] = [
    "service",
    "method",
    "version",
    "group",
    "attribute",
    "protocol",
    "listener",
    "source",
    "identity",
];

/// A listener, as far as it decides about a call's way.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// Its name.
    pub name: String,
    /// Its route table.
    pub table: String,
    /// What it speaks.
    pub protocols: Vec<&'static str>,
}

impl ExplainQuestion {
    pub(in crate::admin) fn read(query: &Query) -> Result<Self, String> {
        if let Some(name) = query.unknown(&NAMES) {
            return Err(format!(
                "`{name}` means nothing; write {}",
                NAMES.join(", ")
            ));
        }
        let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
        let source = query
            .get("source")
            .map_or(Ok(Ipv4Addr::LOCALHOST.into()), str::parse);
        Ok(Self {
            service: text("service"),
            method: text("method"),
            version: text("version"),
            group: text("group"),
            attributes: query.all("attribute").map(str::to_owned).collect(),
            protocol: query.get("protocol").map(str::to_owned),
            listener: query.get("listener").map(str::to_owned),
            source: source.map_err(|_| "`source` is an address, such as 10.0.0.1".to_owned())?,
            identity: query.get("identity").map(str::to_owned),
        })
    }

    /// The request that asks it.
    #[must_use]
    pub fn target(&self) -> String {
        let mut pairs = vec![
            ("service", self.service.clone()),
            ("method", self.method.clone()),
            ("version", self.version.clone()),
            ("group", self.group.clone()),
            ("source", self.source.to_string()),
        ];
        pairs.extend(self.protocol.clone().map(|own| ("protocol", own)));
        pairs.extend(self.listener.clone().map(|own| ("listener", own)));
        pairs.extend(self.identity.clone().map(|own| ("identity", own)));
        pairs.extend(self.attributes.iter().map(|own| ("attribute", own.clone())));
        let pairs = pairs
            .iter()
            .map(|(name, value)| format!("{name}={}", encode(value)));
        format!("/explain?{}", pairs.collect::<Vec<_>>().join("&"))
    }

    pub(super) fn entrance<'a>(&self, all: &'a [Entrance]) -> Result<&'a Entrance, String> {
        let names: Vec<_> = all.iter().map(|own| own.name.as_str()).collect();
        let names = names.join(", ");
        match (&self.listener, all) {
            (Some(name), _) => all
                .iter()
                .find(|own| own.name == *name)
                .ok_or_else(|| format!("no listener is called `{name}`; there are: {names}")),
            (None, [only]) => Ok(only),
            (None, [first, rest @ ..])
                if rest
                    .iter()
                    .all(|own| own.table == first.table && own.protocols == first.protocols) =>
            {
                Ok(first)
            }
            (None, []) => Err("there is no listener that a call could come to".to_owned()),
            (None, _) => Err(format!("say which listener the call comes to: {names}")),
        }
    }

    pub(super) fn protocol(&self, entrance: &Entrance) -> Result<String, String> {
        let spoken = entrance.protocols.join(", ");
        match (&self.protocol, &*entrance.protocols) {
            // gRPC and Triple are spoken in HTTP.
            (Some(own), all)
                if all.contains(&own.as_str())
                    || all.contains(&"http")
                        && ["grpc", "rocketmq-grpc", "triple"].contains(&own.as_str()) =>
            {
                Ok(own.clone())
            }
            (Some(own), _) => Err(format!(
                "listener {} does not speak {own}, but: {spoken}",
                entrance.name
            )),
            (None, [only]) => Ok((*only).to_owned()),
            (None, _) => Err(format!("say which protocol the call speaks: {spoken}")),
        }
    }

    pub(super) fn attributes(&self, protocol: &str) -> Result<Vec<(String, String)>, String> {
        let mut all = Vec::new();
        for own in &self.attributes {
            let pair = own.split_once('=');
            let (name, value) = pair
                .filter(|(name, _)| !name.is_empty())
                .ok_or_else(|| format!("`{own}` is not an attribute; write NAME=VALUE"))?;
            all.push((name.to_owned(), value.to_owned()));
        }
        if is_http(protocol) {
            // What HTTP says twice need not be.
            for (name, value) in [(":authority", &self.service), (":method", &self.method)] {
                if !value.is_empty()
                    && protocol == "http"
                    && !all.iter().any(|(own, _)| own == name)
                {
                    all.push((name.to_owned(), value.clone()));
                }
            }
        }
        Ok(all)
    }

    pub(super) fn client(&self) -> Result<Option<Identity>, String> {
        let Some(text) = &self.identity else {
            return Ok(None);
        };
        let identity = match IdentityKind::of(text) {
            IdentityKind::Spiffe => Identity::of(Some(text), &[], None),
            IdentityKind::Dns => Identity::of(None, &[text], None),
            IdentityKind::CommonName => Identity::of(None, &[], text.strip_prefix("cn:")),
        };
        let none = || format!("`{text}` is not a certificate name");
        identity.map(Some).ok_or_else(none)
    }
}

pub(super) fn is_http(protocol: &str) -> bool {
    ["http", "grpc", "rocketmq-grpc", "triple"].contains(&protocol)
}
