//! A client's connection between its streams: what it takes along when another thread goes on with it.

use std::collections::VecDeque;

use super::super::hpack::{Decoder, Encoder};
use super::goaway::Leaving;
use super::{ConnectionState, Greeting, Limits};

/// The state of a client's connection on which no stream is open. With the socket and the bytes that were read of
/// it and not used, it is all that the peer takes for granted.
#[derive(Debug)]
pub(crate) struct Resting {
    /// The tables of headers: what either side has put there, the other may refer to (RFC 7541, section 2.2).
    decoder: Decoder,
    encoder: Encoder,
    /// The highest stream that the client opened, and those that we ended before their time.
    highest: u32,
    forgotten: VecDeque<u32>,
    /// What the client takes: streams, and bytes of a new one.
    peer_streams: u32,
    initial_send_window: i64,
    /// What we may send on the connection, and the most that this has been.
    send_window: i64,
    most_send_window: i64,
    /// What the client may send on the connection, and on a new stream; and what was taken and not given back.
    receive_window: i64,
    initial_receive_window: i64,
    unacked: u32,
    /// What was borne of it lately.
    empty: u32,
    resets: u32,
}

impl ConnectionState {
    /// Has the driver look when no stream is open any more.
    pub(in crate::http2) fn note_moving(&mut self, moving: bool) {
        self.moving = moving;
    }

    /// Whether nothing is under way on a client's connection, in either direction.
    pub(in crate::http2) fn is_resting(&self) -> bool {
        let goes = self.closed || self.last.is_some() || self.leaving != Leaving::No;
        let greeted = self.greeted == Greeting::Settings && self.block.is_none();
        let said = self.unwritten() == 0 && self.accepted.is_empty();
        !self.client && !goes && greeted && said && self.streams.is_empty()
    }

    /// Gives its state away, with the bytes that were read and not used. It must be [resting](Self::is_resting).
    pub(in crate::http2) fn pack(&mut self) -> (Resting, Vec<u8>) {
        let resting = Resting {
            decoder: std::mem::replace(&mut self.decoder, Decoder::new()),
            encoder: std::mem::replace(&mut self.encoder, Encoder::new()),
            highest: self.highest,
            forgotten: std::mem::take(&mut self.forgotten),
            peer_streams: self.peer_streams,
            initial_send_window: self.initial_send_window,
            send_window: self.send_window,
            most_send_window: self.most_send_window,
            receive_window: self.receive_window,
            initial_receive_window: self.initial_receive_window,
            unacked: self.unacked,
            empty: self.empty,
            resets: self.resets,
        };
        (resting, std::mem::take(&mut self.partial))
    }

    /// Goes on from such a state.
    pub(in crate::http2) fn resume(resting: Resting, limits: Limits) -> Self {
        // Both sides have said how they begin.
        let mut core = Self::new(false, limits);
        core.out = Vec::new();
        core.greeted = Greeting::Settings;
        let Resting {
            decoder,
            encoder,
            highest,
            forgotten,
            peer_streams,
            initial_send_window,
            send_window,
            most_send_window,
            receive_window,
            initial_receive_window,
            unacked,
            empty,
            resets,
        } = resting;
        Self {
            decoder,
            encoder,
            highest,
            forgotten,
            peer_streams,
            initial_send_window,
            send_window,
            most_send_window,
            receive_window,
            initial_receive_window,
            unacked,
            empty,
            resets,
            ..core
        }
    }
}
