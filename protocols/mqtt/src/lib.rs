//! MQTT 3.1, 3.1.1 and 5: sessions between clients and brokers.
//!
//! A session owns its upstream connection. What a client says first, CONNECT, is read whole and
//! routed; afterwards packets are looked at one by one and passed on as they are, unless the route's
//! [`Policy`] has it otherwise. Over TCP, TLS and WebSocket.

pub mod authentication;
mod channel;
pub mod codec;
mod entry;
mod exercise;
mod filtered;
mod gate;
mod open;
mod policy;
mod probe;
mod propagation;
mod proxied;
mod reason;
mod session;
mod shadow;
mod sink;
mod sticky;
mod takeover;
mod tally;
mod terminal;
mod topic;
mod websocket;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use finback_core::driver::{Connection, Protocol, Served, Sniff, Worker};

use codec::PacketType;

pub use exercise::{exercise, exercise_websocket};
pub use policy::{
    Action, Denied, Duplicates, MessageMirror, NameTemplate, NameTemplateError, Policy, Produce,
    Rewrite, Rule,
};
pub use probe::MqttProbe;
pub use reason::{Reason, status_name};
pub use sink::{MessageSink, NotTaken, OutgoingMessage, Receipt};
pub use topic::{covers, intersect, is_filter};

/// The protocol's name.
pub const NAME: &str = "mqtt";
/// The attribute by which routes and balancers know a session's client.
pub const CLIENT_ID: &str = ":client-id";
/// How a WebSocket's request begins where other protocols share the port.
const WEBSOCKET: &[u8] = b"GET /mqtt";

/// Bounds on what clients send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The longest packet in bytes. Default: 1 MiB.
    pub packet: usize,
    /// The longest CONNECT in bytes. Default: 128 KiB, for a will alone may have 64 KiB.
    pub connect_packet: usize,
    /// How long a client may take to say CONNECT. Default: 5 s.
    pub connect_timeout: Duration,
    /// How long a broker may take to answer CONNECT; then the next one is asked. Default: 4 s.
    pub connack_timeout: Duration,
    /// How long a client and its broker may take to authenticate by AUTH packets. Default: 10 s.
    pub auth_timeout: Duration,
    /// How long a broker may be silent that owes a session an answer. Then it is asked by a PINGREQ,
    /// and after half as long again the session ends. Default: 10 s.
    pub answer_timeout: Duration,
    /// Clients of one worker that may wait for one broker's answer to CONNECT at a time. Default:
    /// 1000.
    pub connecting: usize,
    /// Sessions that one address may begin per second, and at once; `None` = any number.
    pub connect_rate: Option<u32>,
    /// Topic filters that one session may be subscribed to at a time. Default: 10,000.
    pub subscriptions: usize,
    /// Origins whose pages may open a WebSocket; empty: any.
    pub origins: Vec<String>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            packet: 1024 * 1024,
            connect_packet: 128 * 1024,
            connect_timeout: Duration::from_secs(5),
            connack_timeout: Duration::from_secs(4),
            auth_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(10),
            connecting: 1000,
            connect_rate: None,
            subscriptions: 10_000,
            origins: Vec::new(),
        }
    }
}

/// MQTT.
pub struct Mqtt {
    config: Config,
    gate: gate::Gate,
    sticky: sticky::Sticky,
    sessions: takeover::Sessions,
    states: terminal::state::States,
}

impl Mqtt {
    /// With these bounds.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            gate: gate::Gate::new(config.connect_rate),
            config,
            sticky: sticky::Sticky::default(),
            sessions: takeover::Sessions::default(),
            states: terminal::state::States::default(),
        }
    }
}

impl Protocol for Mqtt {
    fn name(&self) -> &'static str {
        NAME
    }

    fn application_protocols(&self) -> &'static [&'static [u8]] {
        // WebSocket begins as HTTP/1.1, and browsers ask for that.
        &[b"mqtt", b"http/1.1"]
    }

    fn sniff(&self, head: &[u8]) -> Sniff {
        sniff(head)
    }

    fn serve(self: Arc<Self>, connection: Connection, worker: Rc<Worker>) -> Served {
        Box::pin(entry::serve(self, connection, worker))
    }
}

/// A CONNECT by its first byte and the name in it, a WebSocket by its path.
fn sniff(head: &[u8]) -> Sniff {
    if head.first() == Some(&b'G') {
        return match head.get(..=WEBSOCKET.len()) {
            Some([path @ .., b' ' | b'?']) if path == WEBSOCKET => Sniff::Match,
            Some(_) => Sniff::Mismatch,
            None if WEBSOCKET.starts_with(head) || head == WEBSOCKET => Sniff::Undecided,
            None => Sniff::Mismatch,
        };
    }
    let Some((first, rest)) = head.split_first() else {
        return Sniff::Undecided;
    };
    if *first != PacketType::Connect.first_byte() {
        return Sniff::Mismatch;
    }
    let length = match codec::reader::variable(rest) {
        Ok(Some((_, length))) => length,
        Ok(None) => return Sniff::Undecided,
        Err(_) => return Sniff::Mismatch,
    };
    let name = &rest[length..];
    let fits = |expected: &[u8]| {
        let length = name.len().min(expected.len());
        (name[..length] == expected[..length]).then_some(name.len() >= expected.len())
    };
    match fits(b"\0\x04MQTT").or_else(|| fits(b"\0\x06MQIsdp")) {
        Some(true) => Sniff::Match,
        Some(false) => Sniff::Undecided,
        None => Sniff::Mismatch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_told_by_its_first_bytes_however_they_are_cut() {
        let connect = b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test";
        let old = b"\x10\x12\0\x06MQIsdp\x03\x02\0\x3c\0\x04test";
        let long = b"\x10\x80\x80\x01\0\x04MQTT\x05";
        for (bytes, decided) in [
            (&connect[..], 8),
            (old, 10),
            (long, 10),
            (b"GET /mqtt HTTP/1.1", 10),
        ] {
            for length in 0..bytes.len() {
                let expected = if length < decided {
                    Sniff::Undecided
                } else {
                    Sniff::Match
                };
                assert_eq!(sniff(&bytes[..length]), expected, "{length}");
            }
        }
        for other in [
            &b"GET / HTTP/1.1"[..],
            b"GET /mqttx",
            b"POST /mqtt",
            b"\x10\xff\xff\xff\xff\x01",
            b"\x10\x10\0\x04HTTP",
            b"\x20\x02\0\0",
            b"\xda\xbb",
        ] {
            assert_eq!(sniff(other), Sniff::Mismatch, "{other:?}");
        }
    }
}
