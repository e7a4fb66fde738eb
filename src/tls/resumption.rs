//! Session resumption that never outlives the certificate that a session rests on.
//!
//! A resumed session shows no certificate: its peer is believed because it was verified once. So a
//! session carries the end of that belief: the first end of a certificate in the chain that was
//! shown, and of a revocation list that it was checked against. RFC 8446, section 4.6.1, recommends
//! such a limit, and one for chains of resumptions, each by the ticket of the last: the end passes
//! from ticket to ticket, and is never later than [`LONGEST`] after the handshake that verified.
//! What is too old is not refused but forgotten: a full handshake follows, so that a client that
//! has a new certificate can show it.
//!
//! Where files change, tickets and sessions made before are worth nothing any more: other
//! authorities and other revocations count at once.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use finback_core::net::Handshake;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::{ProducesTickets, ServerSessionMemoryCache, StoresServerSessions};
use rustls::{NamedGroup, ServerConfig};

/// Seconds for which a verified certificate is believed in resumed sessions, at most.
pub(super) const LONGEST: u64 = 12 * 60 * 60;
/// Sessions that are kept for clients of TLS 1.2 without tickets, and names of servers whose sessions
/// are kept.
const KEPT: usize = 256;
/// The length of the end in front of a session.
const END: usize = size_of::<u64>();

/// Has a server's sessions end with the certificates of their clients.
pub(super) fn bound_sessions(config: &mut ServerConfig, tickets: Arc<dyn ProducesTickets>) {
    config.ticketer = Arc::new(Tickets(tickets));
    // Without tickets TLS 1.2 resumes by an identifier (RFC 5246, section 7.3), from here.
    config.session_storage = Arc::new(Sessions(ServerSessionMemoryCache::new(KEPT)));
}

/// A session with its end in front; `None` outside a handshake, where no end is known.
fn with_end(session: &[u8]) -> Option<Vec<u8>> {
    let end = Handshake::not_after()?;
    Some([&end.to_be_bytes(), session].concat())
}

/// The session without its end, which the handshake then has; `None` if it has ended.
fn still_good(session: Vec<u8>) -> Option<Vec<u8>> {
    let (end, session) = session.split_first_chunk::<END>()?;
    let end = u64::from_be_bytes(*end);
    if UnixTime::now().as_secs() > end {
        return None;
    }
    Handshake::set_not_after(end);
    Some(session.to_vec())
}

/// Tickets that carry the end of their session (RFC 5077 and RFC 8446, section 4.6.1).
#[derive(Debug)]
struct Tickets(Arc<dyn ProducesTickets>);

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        let end = Handshake::not_after().unwrap_or_default();
        let left = end.saturating_sub(UnixTime::now().as_secs());
        u32::try_from(left).map_or(self.0.lifetime(), |left| left.min(self.0.lifetime()))
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(&with_end(plain)?)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        still_good(self.0.decrypt(cipher)?)
    }
}

/// The same for sessions that the server keeps.
#[derive(Debug)]
struct Sessions(Arc<ServerSessionMemoryCache>);

impl StoresServerSessions for Sessions {
    fn put(&self, key: Vec<u8>, value: Vec<u8>) -> bool {
        with_end(&value).is_some_and(|value| self.0.put(key, value))
    }

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        still_good(self.0.get(key)?)
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        still_good(self.0.take(key)?)
    }

    fn can_cache(&self) -> bool {
        self.0.can_cache()
    }
}

/// Sessions with servers, each good for as long as the certificate that its server showed.
pub(super) struct ServersKnown {
    sessions: ClientSessionMemoryCache,
    /// The last second of what each name has shown. Where several servers share a name, the
    /// earliest of them.
    ends: Mutex<HashMap<ServerName<'static>, u64>>,
}

impl ServersKnown {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            sessions: ClientSessionMemoryCache::new(KEPT),
            ends: Mutex::default(),
        })
    }

    /// Notes what a server of this name has shown: it holds up to and including this second.
    pub(super) fn note(&self, name: &ServerName<'_>, not_after: u64) {
        let now = UnixTime::now().as_secs();
        let not_after = not_after.min(now.saturating_add(LONGEST));
        let mut ends = self.ends();
        if ends.len() >= KEPT && !ends.contains_key(name) {
            ends.retain(|_, end| *end >= now);
            // Sessions of names that are not known any more are not resumed.
            if ends.len() >= KEPT {
                ends.clear();
            }
        }
        let end = ends.entry(name.to_owned()).or_insert(not_after);
        *end = not_after.min(*end);
    }

    fn ends(&self) -> MutexGuard<'_, HashMap<ServerName<'static>, u64>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether sessions with this name are good; those that are not are forgotten.
    fn is_good(&self, name: &ServerName<'_>) -> bool {
        let now = UnixTime::now().as_secs();
        let mut ends = self.ends();
        if ends.get(name).is_some_and(|end| now <= *end) {
            return true;
        }
        let name = name.to_owned();
        self.sessions.remove_tls12_session(&name);
        while self.sessions.take_tls13_ticket(&name).is_some() {}
        ends.remove(&name);
        false
    }
}

impl fmt::Debug for ServersKnown {
    /// Never shows a session.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServersKnown").finish_non_exhaustive()
    }
}

impl ClientSessionStore for ServersKnown {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.sessions.set_kx_hint(name, group);
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.kx_hint(name)
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.sessions.set_tls12_session(name, value);
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.is_good(name)
            .then(|| self.sessions.tls12_session(name))?
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        self.sessions.remove_tls12_session(name);
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.sessions.insert_tls13_ticket(name, value);
    }

    fn take_tls13_ticket(&self, name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.is_good(name)
            .then(|| self.sessions.take_tls13_ticket(name))?
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_good_up_to_its_end_and_worth_nothing_outside_a_handshake() {
        let now = UnixTime::now().as_secs();
        let sealed = |end: u64| [&end.to_be_bytes()[..], b"session"].concat();
        assert_eq!(still_good(sealed(now + 60)).unwrap(), b"session");
        assert_eq!(still_good(sealed(u64::MAX)).unwrap(), b"session");
        assert_eq!(still_good(sealed(now - 1)), None);
        assert_eq!(still_good(b"short".to_vec()), None);
        assert_eq!(with_end(b"session"), None);
    }

    #[test]
    fn the_earliest_end_of_a_name_counts_and_another_begins_after_it() {
        let known = ServersKnown::new();
        let name = ServerName::try_from("a.test").unwrap();
        let now = UnixTime::now().as_secs();
        assert!(!known.is_good(&name));
        known.note(&name, now + 60);
        known.note(&name, now - 1);
        known.note(&name, now + 60);
        assert!(!known.is_good(&name));
        known.note(&name, now + 60);
        assert!(known.is_good(&name));
        let far = ServerName::try_from("far.test").unwrap();
        known.note(&far, u64::MAX);
        assert!(known.ends()[&far] <= now + LONGEST + 1);
    }

    #[test]
    fn names_are_bounded() {
        let known = ServersKnown::new();
        for number in 0..3 * KEPT {
            let name = ServerName::try_from(format!("a{number}.test")).unwrap();
            known.note(&name, u64::MAX);
            assert!(known.ends().len() <= KEPT);
        }
    }
}
