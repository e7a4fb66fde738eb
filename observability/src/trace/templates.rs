//! Templates: spans as they were written, to be copied for those that say the same but for ids and times.
//!
//! Exchanges of one kind that ended alike, asked by the same client and answered by the same endpoint, have spans
//! with the same attributes. One worker's templates are a table of fixed size; each new one takes the place of
//! what stood there.

use std::net::SocketAddr;

use finback_core::frame::Status;
use finback_core::record::Ending;

use super::otlp::{self, Ids};

/// How many there are; each is a span, of about 300 bytes.
const PLACES: usize = 512;
/// A longer span is none that others resemble.
const LONGEST: usize = 4096;

/// All that a span without notes says, but for ids and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key<'a> {
    /// The number of the kind of call.
    pub(super) kind: u64,
    /// Whether it is the span of an attempt.
    pub(super) client: bool,
    pub(super) ending: Ending,
    pub(super) status: Status,
    pub(super) sampled: bool,
    pub(super) has_parent: bool,
    /// Who called, with port 0, or who was asked.
    pub(super) peer: Option<SocketAddr>,
    /// The route, or the cluster.
    pub(super) name: &'a str,
}

impl Key<'_> {
    fn place(&self) -> usize {
        let peer = match self.peer {
            Some(SocketAddr::V4(own)) => {
                u64::from(own.ip().to_bits()) << 16 | u64::from(own.port())
            }
            Some(SocketAddr::V6(own)) => {
                let [_, _, _, _, low @ ..] = own.ip().segments();
                let low = low.iter().fold(0, |sum, part| sum << 16 | u64::from(*part));
                low ^ u64::from(own.port())
            }
            None => 0,
        };
        let told = self.kind << 1 | u64::from(self.client);
        let told = told ^ peer.rotate_left(20) ^ u64::from(self.status.0) << 40;
        // The highest nine bits, of which 512 places are made, depend on all others.
        (told.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize
    }
}

struct Template {
    key: Key<'static>,
    name: Box<str>,
    bytes: Box<[u8]>,
}

/// One worker's.
#[derive(Default)]
pub(super) struct Templates(Vec<Option<Template>>);

impl Templates {
    /// Appends the span of this key with these ids. Where there is no template, `write` writes the span.
    pub(super) fn put(
        &mut self,
        key: &Key<'_>,
        ids: &Ids,
        out: &mut Vec<u8>,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let at = out.len();
        let place = key.place();
        if let Some(Some(own)) = self.0.get(place)
            && *own.name == *key.name
            && own.key == (Key { name: "", ..*key })
        {
            out.extend_from_slice(&own.bytes);
            if otlp::put_ids(&mut out[at..], ids).is_some() {
                return;
            }
            out.truncate(at);
        }
        write(out);
        let bytes = &out[at..];
        if bytes.len() > LONGEST {
            return;
        }
        if self.0.is_empty() {
            self.0.resize_with(PLACES, || None);
        }
        self.0[place] = Some(Template {
            key: Key {
                name: "",
                kind: key.kind,
                client: key.client,
                ending: key.ending,
                status: key.status,
                sampled: key.sampled,
                has_parent: key.has_parent,
                peer: key.peer,
            },
            name: key.name.into(),
            bytes: bytes.into(),
        });
    }
}
