//! Services whose names are host names: the system's resolver knows their endpoints.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use finback_core::discovery::{Instance, Lookup, Sink, Snapshot};
use finback_core::log_limit::LogLimit;
use finback_core::text::Escaped;

/// A name that does not resolve is asked for again after this, then ever more rarely.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
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
    config: DnsConfig,
    /// Since when names do not resolve that did.
    failing: Mutex<Option<Instant>>,
    followed: AtomicUsize,
}

impl Dns {
    pub(crate) fn new(config: DnsConfig) -> Self {
        Self {
            config,
            failing: Mutex::default(),
            followed: AtomicUsize::new(0),
        }
    }

    /// For how long names have not been resolved.
    pub(crate) fn stale(&self) -> Option<Duration> {
        self.failing().map(|since| since.elapsed())
    }

    /// Services that are followed.
    pub(crate) fn followed(&self) -> usize {
        self.followed.load(Ordering::Relaxed)
    }

    fn failing(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delivers a snapshot now and with each change of the name's addresses. A name that cannot
    /// be resolved any more keeps those it had.
    pub(crate) async fn follow(&self, lookup: &Lookup, sink: &dyn Sink) {
        if !is_host(&lookup.service) {
            return sink.update(Snapshot::default());
        }
        let _counted = Counted::new(&self.followed);
        let name = with_port(&lookup.service, self.config.port);
        let mut last: Option<Vec<SocketAddr>> = None;
        let mut pause = RETRY.0;
        loop {
            match resolve(&name).await {
                Ok(addresses) => {
                    *self.failing() = None;
                    pause = self.config.refresh;
                    if last.as_ref() != Some(&addresses) {
                        sink.update(snapshot(&addresses));
                        last = Some(addresses);
                    }
                }
                Err(why) => {
                    if pause == self.config.refresh || pause == RETRY.0 {
                        unresolved(&name, &why);
                        pause = RETRY.0;
                    }
                    if last.is_none() {
                        // Nobody shall wait for what may never be.
                        sink.update(Snapshot::default());
                        last = Some(Vec::new());
                    }
                    // A name that never was one tells nothing of the resolver.
                    if last.as_ref().is_some_and(|own| !own.is_empty()) {
                        self.failing().get_or_insert_with(Instant::now);
                    }
                    pause = (pause * 2).min(RETRY.1);
                }
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// Whether a name, perhaps with a port, may be asked for: what is no host name would still be sent
/// to the name servers.
fn is_host(service: &str) -> bool {
    let sound = |char: char| char.is_ascii_alphanumeric() || "-_.:[]%".contains(char);
    !service.is_empty() && service.len() <= MAX_HOST && service.chars().all(sound)
}

fn unresolved(name: &str, why: &str) {
    static UNRESOLVED: LogLimit = LogLimit::usual();
    if let Some(left_out) = UNRESOLVED.admit(crate::now()) {
        let name = Escaped(name);
        tracing::warn!(%name, why, left_out, "cannot resolve; what is known stays");
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// `host:port`, with this port if none is stated.
fn with_port(service: &str, port: u16) -> String {
    let stated = match service.rsplit_once(':') {
        // An IPv6 address has colons of its own.
        Some((host, port)) => !host.contains(':') || host.ends_with(']') && !port.is_empty(),
        None => false,
    };
    if stated {
        service.to_owned()
    } else {
        format!("{service}:{port}")
    }
}

/// The addresses of a name, in order, all of the family that the system prefers.
async fn resolve(name: &str) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host(name).await;
    let mut found: Vec<SocketAddr> = found.map_err(|error| error.to_string())?.collect();
    let Some(first) = found.first().copied() else {
        return Err("no address".to_owned());
    };
    found.retain(|address| address.is_ipv4() == first.is_ipv4());
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

fn snapshot(addresses: &[SocketAddr]) -> Snapshot {
    let instance = |address: &SocketAddr| Instance {
        address: *address,
        weight: WEIGHT,
        labels: Default::default(),
        warm_up: None,
        terms: None,
    };
    Snapshot {
        known: true,
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
            ("a.test", "a.test:80"),
            ("a.test:8080", "a.test:8080"),
            ("[::1]", "[::1]:80"),
            ("[::1]:90", "[::1]:90"),
        ] {
            assert_eq!(with_port(service, 80), wanted);
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

    #[tokio::test]
    async fn this_machine_has_a_name() {
        let found = resolve("localhost:7").await;
        let found = found.unwrap_or_default();
        assert!(!found.is_empty(), "{found:?}");
        assert!(
            found
                .iter()
                .all(|own| own.port() == 7 && own.ip().is_loopback())
        );
        assert!(resolve("nobody.invalid:7").await.is_err());
    }
}
