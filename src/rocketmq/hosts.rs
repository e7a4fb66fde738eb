//! Brokers that registered themselves by the names of their hosts: names are resolved, and followed.

use std::io;
use std::net::IpAddr;
use std::sync::Weak;
use std::time::Duration;

use finback_core::text::Escaped;

use super::{BrokerListeners, Name, State};

/// How often a name is asked for again.
const FOLLOW: Duration = Duration::from_secs(15);
/// The longest name, in bytes (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 253;

/// Where a broker's address leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// To an IP address.
    Ip(IpAddr),
    /// To a host of this name.
    Host(String),
}

impl Target {
    /// `None` if it is no host and port.
    pub(super) fn of(address: &str) -> Option<Self> {
        let (host, port) = address.rsplit_once(':')?;
        let _ = port.parse::<u16>().ok().filter(|port| *port > 0)?;
        // Java writes an IPv6 address as it is, or in brackets.
        let bare = host.strip_prefix('[').and_then(|own| own.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(host).parse() {
            return Some(Self::Ip(ip));
        }
        // What is no host name would still be sent to the name servers of the machine.
        let is_host = !host.is_empty()
            && host.len() <= MAX_HOST
            && host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
        is_host.then(|| Self::Host(host.to_owned()))
    }
}

/// The port of an address.
pub(super) fn port(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

/// Asks for all names again and again, as long as there is somebody who wants to know.
pub(super) async fn follow(brokers: Weak<BrokerListeners>) {
    loop {
        tokio::time::sleep(FOLLOW).await;
        let Some(names) = brokers.upgrade().and_then(|own| own.hosts()) else {
            return;
        };
        for (name, host) in names {
            let found = resolve(&host).await;
            let Some(own) = brokers.upgrade() else {
                return;
            };
            own.resolved(&name, found);
        }
    }
}

async fn resolve(host: &str) -> io::Result<Vec<IpAddr>> {
    let found = tokio::net::lookup_host((host, 0)).await?;
    Ok(found.map(|address| address.ip()).collect())
}

impl BrokerListeners {
    /// Begins to resolve a broker's name; whoever connects to it meanwhile waits.
    pub(super) fn look_up(&self, state: &State, name: Name, host: String) {
        let Some(site) = &state.site else { return };
        let brokers = self.own.clone();
        site.control.spawn(async move {
            let found = resolve(&host).await;
            if let Some(own) = brokers.upgrade() {
                own.resolved(&name, found);
            }
        });
    }

    /// The brokers that are to be followed; `None` once it serves nobody any more.
    fn hosts(&self) -> Option<Vec<(Name, String)>> {
        let state = self.lock();
        state.site.as_ref()?;
        let each = state.brokers.keys();
        let hosts = each.filter_map(|name| match Target::of(&name.address)? {
            Target::Host(host) => Some((name.clone(), host)),
            Target::Ip(_) => None,
        });
        Some(hosts.collect())
    }

    /// Takes what a name resolves to now. A broker that has moved is served at the same port, by a listener of its
    /// own: connections to where it was are told to go.
    fn resolved(&self, name: &Name, found: io::Result<Vec<IpAddr>>) {
        let mut state = self.lock();
        let Some(place) = state.brokers.get(name) else {
            return;
        };
        let (former, slot) = (place.ip, place.slot);
        let found = found.and_then(|ips| {
            // Brokers listen on IPv4 unless they have nothing else.
            let first = ips.iter().find(|ip| ip.is_ipv4()).or(ips.first());
            let kept = former.filter(|own| ips.contains(own));
            let ip = kept.or(first.copied());
            ip.ok_or_else(|| io::Error::other("no address"))
        });
        match (former, found) {
            (Some(former), Ok(ip)) if former == ip => {}
            (None, Ok(ip)) => self.serve(&mut state, name, ip),
            (Some(_), Ok(ip)) => match self.bind(&state, name, slot) {
                Ok((bound, board)) => {
                    let workers = state.workers();
                    if let Some(place) = state.brokers.get_mut(name) {
                        place.end(workers.as_ref());
                        (place.bound, place.board) = (bound, board);
                    }
                    self.serve(&mut state, name, ip);
                }
                Err(error) => {
                    tracing::warn!(broker = %Escaped(&name.address), %error, "cannot follow a broker of RocketMQ to its new address");
                }
            },
            // What is known stays.
            (Some(_), Err(error)) => {
                tracing::debug!(broker = %Escaped(&name.address), %error, "cannot resolve a broker's host any more");
            }
            (None, Err(error)) => {
                tracing::warn!(
                    broker = %Escaped(&name.name), address = %Escaped(&name.address), %error,
                    "cannot resolve the host of a broker of RocketMQ; clients are not told of it for a while"
                );
                state.end(name);
                state.fail(name.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_ip_or_a_host_and_a_port() {
        let ip = |text: &str| text.parse().ok().map(Target::Ip);
        let host = |name: &str| Some(Target::Host(name.to_owned()));
        for (address, wanted) in [
            ("10.0.0.1:10911", ip("10.0.0.1")),
            ("[::1]:10911", ip("::1")),
            ("fd00::1:10911", ip("fd00::1")),
            ("broker-a.mq.svc:10911", host("broker-a.mq.svc")),
            ("broker_a:1", host("broker_a")),
            ("broker", None),
            ("broker:", None),
            (":1", None),
            ("broker:0", None),
            ("broker:65536", None),
            ("bro ker:1", None),
            ("[::x]:1", None),
            ("a/b:1", None),
            (&format!("{}:1", "x".repeat(254)), None),
        ] {
            assert_eq!(Target::of(address), wanted, "{address}");
        }
    }
}
