//! What is spoken in a world: the toy protocol, or a real one; and the codecs, watched.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use finback_bolt::Bolt;
use finback_core::codec::{Codec, Sharing, Signal};
use finback_core::driver::{Connection, Protocol, Served, Sniff, Worker, serve_framed};
use finback_core::frame::{Edit, Head, Kind, Malformed, Metadata, Reading, Status};
use finback_core::rejection::Rejection;
use finback_dubbo::Dubbo;

use crate::speech::{SERVICE, Speech, TOKEN};

use super::toy::{self, Toy};
use super::web;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tongue {
    Toy,
    Bolt,
    Dubbo,
    Http,
    Http2,
}

/// What tells calls apart wherever their bytes go.
pub(super) type Token = [u8; TOKEN];

/// The token of the call of this number.
pub(super) fn token(number: usize) -> Token {
    let mut token = *b"tok#00000000";
    let digits = format!("{number:08}");
    token[4..].copy_from_slice(digits.as_bytes());
    token
}

/// The number of the call whose token is among these bytes.
pub(super) fn number_in(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(4).position(|window| window == b"tok#")?;
    let digits = bytes.get(at + 4..at + TOKEN)?;
    std::str::from_utf8(digits).ok()?.parse().ok()
}

impl Tongue {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Toy => "toy",
            Self::Bolt => finback_bolt::NAME,
            Self::Dubbo => finback_dubbo::NAME,
            Self::Http | Self::Http2 => finback_http::NAME,
        }
    }

    /// What its frames are read and written by, if it is framed.
    fn codec(self) -> Option<Arc<dyn Codec>> {
        match self {
            Self::Toy => Some(Arc::new(Toy)),
            Self::Bolt => Some(Arc::new(Bolt::default())),
            Self::Dubbo => Some(Arc::new(Dubbo::default())),
            Self::Http | Self::Http2 => None,
        }
    }

    /// The protocol as listeners speak it, which notes the calls that it reads.
    pub(super) fn protocol(self, log: ReadLog) -> Arc<dyn Protocol> {
        match self.codec() {
            Some(codec) => {
                let name = self.name();
                Arc::new(Watched { codec, name, log })
            }
            None => web::protocol(log),
        }
    }

    /// Whole frames at the beginning of these bytes: the head and the bytes of each.
    pub(super) fn take(self, inbox: &mut Vec<u8>) -> Vec<(Head, Vec<u8>)> {
        let (mut used, mut found) = (0, Vec::new());
        let Some(codec) = self.codec() else {
            return found;
        };
        while let Ok(Some(head)) = codec.peek(&inbox[used..]) {
            let Some(message) = inbox.get(used..used + head.len) else {
                break;
            };
            used += head.len;
            found.push((head, message.to_vec()));
        }
        inbox.drain(..used);
        found
    }

    /// Whether answers have no ids, and come in the order of calls.
    pub(super) fn answers_in_order(self) -> bool {
        self == Self::Http
    }

    /// Which version of HTTP it is.
    pub(super) fn version(self) -> &'static str {
        match self {
            Self::Http2 => "2",
            _ => "1.1",
        }
    }

    /// Whether it is a version of HTTP.
    pub(super) fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2)
    }

    fn speech(self) -> Option<Speech> {
        match self {
            Self::Toy | Self::Http | Self::Http2 => None,
            Self::Bolt => Some(Speech::Bolt),
            Self::Dubbo => Some(Speech::Dubbo),
        }
    }

    /// A call as its client writes it. Only the toy protocol has a choice of services, timeouts,
    /// sizes and one-ways.
    pub(super) fn call(self, call: &Call<'_>) -> Vec<u8> {
        let token = token(call.number);
        if let Some(speech) = self.speech() {
            let mut out = Vec::new();
            speech.request(0).put(call.id, &token, &mut out);
            return out;
        }
        let mut text = token.to_vec();
        text.extend_from_slice(format!(" {}", call.service).as_bytes());
        if let Some(millis) = call.timeout {
            text.extend_from_slice(format!(" timeout={millis}").as_bytes());
        }
        text.push(b' ');
        text.resize(text.len() + call.padding, b'.');
        let kind = if call.one_way {
            toy::ONE_WAY
        } else {
            toy::REQUEST
        };
        toy::frame(kind, 0, call.id, &text)
    }

    /// An answer with the token of its call. Only servers of the toy protocol have a choice of flags.
    pub(super) fn answer(self, id: u64, flag: u8, token: &Token, padding: usize) -> Vec<u8> {
        if let Some(speech) = self.speech() {
            let mut out = Vec::new();
            speech.response().put(id, token, &mut out);
            return out;
        }
        let mut text = token.to_vec();
        text.resize(text.len() + padding, b'.');
        toy::frame(toy::RESPONSE, flag, id, &text)
    }

    /// The service of calls whose protocol has only one here.
    pub(super) fn service(self) -> Option<&'static str> {
        self.speech().map(|_| SERVICE)
    }

    /// The answer to a heartbeat.
    pub(super) fn pong(self, ping: &[u8], head: &Head) -> Vec<u8> {
        let mut out = BytesMut::new();
        if let Some(codec) = self.codec() {
            codec.signal(Signal::Pong { wire: ping }, head, &mut out);
        }
        out.to_vec()
    }
}

/// What a call says.
pub(super) struct Call<'a> {
    pub(super) number: usize,
    pub(super) id: u64,
    pub(super) service: &'a str,
    pub(super) timeout: Option<u64>,
    pub(super) padding: usize,
    pub(super) one_way: bool,
}

/// The calls that the mesh read.
pub(super) type ReadLog = Arc<Mutex<BTreeSet<usize>>>;

/// A codec that notes which calls core reads.
struct Watched {
    codec: Arc<dyn Codec>,
    name: &'static str,
    log: ReadLog,
}

impl Codec for Watched {
    fn sharing(&self) -> Sharing {
        self.codec.sharing()
    }

    fn peek(&self, bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        self.codec.peek(bytes)
    }

    fn read<'a>(&self, head: &Head, wire: &'a [u8]) -> Result<Reading<'a>, Malformed> {
        let reading = self.codec.read(head, wire)?;
        if matches!(head.kind, Kind::Request | Kind::OneWay)
            && let Some(number) = number_in(wire)
        {
            let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            log.insert(number);
        }
        Ok(reading)
    }

    fn attribute<'a>(
        &self,
        wire: &'a [u8],
        metadata: &Metadata<'_>,
        name: &str,
    ) -> Option<Cow<'a, str>> {
        self.codec.attribute(wire, metadata, name)
    }

    fn encode(&self, head: &Head, wire: &[u8], edit: &Edit<'_>, out: &mut BytesMut) -> usize {
        self.codec.encode(head, wire, edit, out)
    }

    fn signal(&self, signal: Signal<'_>, last_head: &Head, out: &mut BytesMut) -> bool {
        self.codec.signal(signal, last_head, out)
    }

    fn reject(
        &self,
        head: &Head,
        rejection: Rejection,
        text: &str,
        out: &mut BytesMut,
    ) -> Option<Status> {
        self.codec.reject(head, rejection, text, out)
    }
}

impl Protocol for Watched {
    fn name(&self) -> &'static str {
        self.name
    }

    fn sniff(&self, _: &[u8]) -> Sniff {
        Sniff::Match
    }

    fn serve(self: Arc<Self>, connection: Connection, worker: Rc<Worker>) -> Served {
        let name = self.name;
        serve_framed(self, name, connection, worker)
    }
}
