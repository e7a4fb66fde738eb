//! Services whose names are host names: the system's resolver knows their endpoints.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use finback_core::discovery::{Instance, Lookup, Snapshot, SnapshotSink};
use tokio::runtime::Handle;

use crate::names::Resolver;

/// The longest name, in bytes: 253 (RFC 1035, section 2.3.4), and a port.
const MAX_HOST: usize = 253 + 6;
/// The weight of each address.
const WEIGHT: u32 = 100;

/// How names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsConfig {
    /// The port of names that state none.
    pub port: u16,
    /// How often a name is asked for again. Default: 5 s.
    pub refresh: Duration,
}

/// A registry of host names.
pub(crate) struct Dns {
    port: u16,
    resolver: Resolver,
}

impl Dns {
    pub(crate) fn new(handle: &Handle, config: &DnsConfig) -> Self {
        Self {
            port: config.port,
            // Nothing is saved: callers may ask for as many names as they like.
            resolver: Resolver::new(handle, config.refresh, None),
        }
    }

    /// Names that do not resolve any more, and since when the first.
    pub(crate) fn failing(&self) -> (usize, Option<Instant>) {
        self.resolver.failing()
    }

    /// Names that are followed.
    pub(crate) fn followed(&self) -> usize {
        self.resolver.followed()
    }

    /// Delivers a snapshot now and with each change of the name's addresses. A name that cannot
    /// be resolved any more keeps those it had; one that never could has none, and nobody waits
    /// for it.
    pub(crate) async fn follow(&self, lookup: &Lookup, sink: &dyn SnapshotSink) {
        let Some((host, port)) = host_and_port(&lookup.service, self.port) else {
            return sink.update(Snapshot::default());
        };
        let mut name = self.resolver.follow(host);
        let mut last = None;
        loop {
            if let Some(addresses) = name.latest()
                && last.as_ref() != Some(&addresses)
            {
                sink.update(snapshot(&addresses, port));
                last = Some(addresses);
            }
            name.changed().await;
        }
    }
}

/// Whether a name, perhaps with a port, may be asked for: what is no host name would still be sent
/// to the name servers.
fn is_host(service: &str) -> bool {
    let sound = |char: char| char.is_ascii_alphanumeric() || "-_.:[]%".contains(char);
    !service.is_empty() && service.len() <= MAX_HOST && service.chars().all(sound)
}

/// The host of a name that may be asked for, and its port: this one if none is stated.
fn host_and_port(service: &str, port: u16) -> Option<(&str, u16)> {
    if !is_host(service) {
        return None;
    }
    let (host, port) = match service.rsplit_once(':') {
        // An IPv6 address has colons of its own.
        Some((host, stated)) if !host.contains(':') || host.ends_with(']') => {
            (host, stated.parse().ok()?)
        }
        _ => (service, port),
    };
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    (!host.is_empty()).then_some((host, port))
}

fn snapshot(addresses: &[SocketAddr], port: u16) -> Snapshot {
    let instance = |address: &SocketAddr| {
        let mut address = *address;
        address.set_port(port);
        Instance {
            address,
            weight: WEIGHT,
            labels: Default::default(),
            warm_up: None,
            terms: None,
        }
    };
    Snapshot {
        known: !addresses.is_empty(),
        instances: addresses.iter().map(instance).collect(),
        ..Snapshot::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_be_stated() {
        for (service, wanted) in [
            ("a.test", Some(("a.test", 80))),
            ("a.test:8080", Some(("a.test", 8080))),
            ("[::1]", Some(("::1", 80))),
            ("[::1]:90", Some(("::1", 90))),
            ("::1", Some(("::1", 80))),
            ("a.test:", None),
            ("a.test:http", None),
            ("a.test:70000", None),
            (":80", None),
            ("[]:80", None),
            ("a b", None),
        ] {
            assert_eq!(host_and_port(service, 80), wanted, "{service}");
        }
    }

    #[test]
    fn what_is_no_host_name_is_not_asked_for() {
        for (name, is) in [
            ("a.test", true),
            ("a_b-c.test:8080", true),
            ("[::1]:90", true),
            ("[fe80::1%eth0]", true),
            ("xn--bcher-kva.test", true),
            ("", false),
            ("a b", false),
            ("a\0b", false),
            ("a\nb", false),
            ("../b", false),
            ("b\u{fc}cher.test", false),
        ] {
            assert_eq!(is_host(name), is, "{name:?}");
        }
        assert!(is_host(&"x".repeat(253)));
        assert!(!is_host(&"x".repeat(260)));
    }
}
