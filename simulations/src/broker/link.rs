//! What a session's connection is to it: where its packets go.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use finback_mqtt::codec::properties::id;
use finback_mqtt::codec::{Connect, Level};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{mpsc, oneshot};

/// Bytes that wait to be written to one client, after which messages of quality of service 0 are
/// left out.
const BACKLOG: usize = 1024 * 1024;

/// A connection that a session has. Once it is dropped, what it was given is written, and the
/// connection is closed.
pub(super) struct Link {
    outbox: mpsc::UnboundedSender<Vec<u8>>,
    backlog: Arc<AtomicUsize>,
    /// Ends the reading of the connection when dropped.
    pub(super) end: Option<oneshot::Sender<()>>,
    pub(super) level: Level,
    /// Messages of quality of service 1 and 2 that the client takes at a time.
    pub(super) receive_maximum: usize,
    maximum_packet: usize,
    alias_maximum: u16,
    /// Aliases that stand for topics in what is sent.
    aliases: HashMap<String, u16>,
    /// Aliases of the client's.
    pub(super) topics: HashMap<u16, String>,
}

/// The other end of a link.
pub(super) struct Outbox {
    packets: mpsc::UnboundedReceiver<Vec<u8>>,
    backlog: Arc<AtomicUsize>,
}

/// A link for who says this first, and its other end.
pub(super) fn open(connect: &Connect<'_>) -> (Link, Outbox) {
    let (outbox, packets) = mpsc::unbounded_channel();
    let backlog = Arc::new(AtomicUsize::new(0));
    let number = |id| connect.properties().number(id);
    let link = Link {
        outbox,
        backlog: backlog.clone(),
        end: None,
        level: connect.level,
        receive_maximum: number(id::RECEIVE_MAXIMUM).unwrap_or(65_535) as usize,
        maximum_packet: number(id::MAXIMUM_PACKET).unwrap_or(u32::MAX) as usize,
        alias_maximum: number(id::TOPIC_ALIAS_MAXIMUM)
            .and_then(|most| u16::try_from(most).ok())
            .unwrap_or(0),
        aliases: HashMap::new(),
        topics: HashMap::new(),
    };
    (link, Outbox { packets, backlog })
}

impl Link {
    /// Sends a packet, if the client takes packets of its length; whether it does.
    pub(super) fn send(&self, packet: Vec<u8>) -> bool {
        if packet.len() > self.maximum_packet {
            return false;
        }
        self.backlog.fetch_add(packet.len(), Ordering::Relaxed);
        // Whoever is gone is noticed by the reading side.
        let _ = self.outbox.send(packet);
        true
    }

    /// Whether too much waits to be written for messages that may get lost.
    pub(super) fn is_behind(&self) -> bool {
        self.backlog.load(Ordering::Relaxed) > BACKLOG
    }

    /// The alias that stands for a topic, and whether the client knows it already.
    pub(super) fn alias(&mut self, topic: &str) -> Option<(u16, bool)> {
        if let Some(known) = self.aliases.get(topic) {
            return Some((*known, true));
        }
        let next = u16::try_from(self.aliases.len() + 1).ok()?;
        if next > self.alias_maximum {
            return None;
        }
        self.aliases.insert(topic.to_owned(), next);
        Some((next, false))
    }

    /// Gives the last alias back.
    pub(super) fn forget(&mut self, topic: &str) {
        self.aliases.remove(topic);
    }
}

impl Outbox {
    /// Writes packets until the link is dropped, and closes the connection.
    pub(super) async fn write(mut self, mut to: OwnedWriteHalf) {
        let mut packets = Vec::new();
        let mut bytes = Vec::new();
        while self.packets.recv_many(&mut packets, 64).await > 0 {
            packets.drain(..).for_each(|packet| bytes.extend(packet));
            if to.write_all(&bytes).await.is_err() {
                return;
            }
            self.backlog.fetch_sub(bytes.len(), Ordering::Relaxed);
            bytes.clear();
        }
        // The client may be gone already.
        let _ = to.shutdown().await;
    }
}
