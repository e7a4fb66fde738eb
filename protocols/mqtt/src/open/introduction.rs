//! The time between CONNECT and CONNACK at one broker: bounded, with the client watched, and with what
//! both say to authenticate passed on (MQTT 5, section 4.12).

use std::future::{pending, poll_fn};
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use finback_core::driver::Caller;
use finback_core::log_limit::LogLimit;
use finback_core::mesh::Lease;
use finback_core::net::Expired;
use tokio::time::Instant;

use crate::Config;
use crate::channel::Channel;
use crate::codec::{Fault, FixedHeader, Level, PacketType, Side, authentication_method, check};
use crate::entry::read_packet;
use crate::reason::Reason;

/// The longest packet of either side before the session begins.
const MAX_PACKET: usize = 64 * 1024;
/// What a client says before it has its CONNACK is kept, up to so many bytes.
const MAX_EARLY: usize = 64 * 1024;

/// A broker's answer to CONNECT.
pub(super) struct Answer {
    /// Its CONNACK, or the DISCONNECT in its place.
    pub(super) packet: Bytes,
    pub(super) reason: Reason,
}

/// What went wrong between CONNECT and CONNACK.
pub(super) enum Failed {
    /// The broker hung up, or said what no broker says.
    Endpoint,
    /// The broker did not answer in time.
    Silent(Expired),
    /// The one or the other after the client had begun to authenticate itself to it: no other broker
    /// can go on with that.
    Halfway(Option<Expired>),
    /// The client went away.
    ClientGone,
    /// The client was asked to authenticate itself, and did not in time.
    ClientSilent,
    /// The client said what no client says.
    Client(Fault),
}

/// One client's introduction to one broker.
pub(super) struct Introduction<'a> {
    pub(super) caller: &'a Rc<Caller>,
    pub(super) config: &'a Config,
    pub(super) level: Level,
    /// How the client authenticates itself, if it does in AUTH packets.
    pub(super) method: Option<&'a str>,
    /// When the attempt is given up.
    pub(super) due: Instant,
    pub(super) lease: &'a Lease,
}

impl Introduction<'_> {
    /// Says CONNECT and waits for CONNACK.
    pub(super) async fn carry(
        &self,
        client: &mut Channel,
        endpoint: &mut Channel,
        said: &[u8],
    ) -> Result<Answer, Failed> {
        endpoint.queue(said);
        let timers = self.caller.worker().timers();
        // When the exchange of AUTH packets must be over, once it has begun.
        let mut over: Option<Instant> = None;
        loop {
            let due = Instant::now() + self.config.connack_timeout;
            let due = due.min(over.unwrap_or(due)).min(self.due);
            let answer = match timers.within(due, self.hear(client, endpoint)).await {
                Ok(Some(answer)) => answer,
                Ok(None) => return Err(Failed::ClientGone),
                Err(expired) if over.is_some() => return Err(Failed::Halfway(Some(expired))),
                Err(expired) => return Err(Failed::Silent(expired)),
            };
            let asked = match answer {
                Heard::Answer(answer) => return Ok(answer),
                Heard::Auth(packet) => packet,
                Heard::Nothing if over.is_some() => return Err(Failed::Halfway(None)),
                Heard::Nothing => return Err(Failed::Endpoint),
            };
            let own = Instant::now() + self.config.auth_timeout;
            let end = *over.get_or_insert(own.min(self.due));
            client.queue(&asked);
            let patience = end.saturating_duration_since(Instant::now());
            match timers
                .patiently(patience, self.reply(client, endpoint))
                .await
            {
                Some(reply) => endpoint.queue(&reply?),
                None => return Err(Failed::ClientSilent),
            }
        }
    }

    /// Waits for a broker's next packet; `None` if the client has gone meanwhile.
    async fn hear(&self, client: &mut Channel, endpoint: &mut Channel) -> Option<Heard> {
        let mut packet = BytesMut::new();
        let head = tokio::select! {
            biased;
            head = next_packet(endpoint, &mut packet, self.level) => head,
            () = gone(client, self.level) => return None,
        };
        Some(match head {
            Some(head) => self.understand(packet.freeze(), &head),
            None => Heard::Nothing,
        })
    }

    fn understand(&self, packet: Bytes, head: &FixedHeader) -> Heard {
        let sound = check(&packet, head, self.level, Side::Server);
        let body = &packet[head.header..];
        match head.kind {
            PacketType::Connack if sound.is_ok() => {
                let code = body.get(1).copied().unwrap_or(0x80);
                let reason = Reason::of_connack(self.level, code);
                return Heard::Answer(Answer { packet, reason });
            }
            // Only those are asked who have named a method (MQTT 5, section 4.12).
            PacketType::Auth if sound.is_ok() && self.method.is_some() => {
                return Heard::Auth(packet);
            }
            // Brokers may refuse without CONNACK (MQTT 5, section 4.13).
            PacketType::Disconnect if sound.is_ok() => {
                let code = body.first().copied().unwrap_or(0x80);
                let reason = Reason::of_connack(self.level, code.max(0x80));
                return Heard::Answer(Answer { packet, reason });
            }
            _ => {}
        }
        static STRANGE: LogLimit = LogLimit::usual();
        let caller = self.caller;
        caller.worker().read_clock();
        if let Some(left_out) = STRANGE.admit(caller.worker().now()) {
            tracing::warn!(
                endpoint = %self.lease.address(), client = %caller.peer(), kind = ?head.kind,
                fault = ?sound.err(), left_out,
                "a broker answered CONNECT with another packet than CONNACK"
            );
        }
        Heard::Nothing
    }

    /// Waits for what a client says who was asked to authenticate itself; nothing if its broker has
    /// something to say before, or is gone.
    async fn reply(&self, client: &mut Channel, endpoint: &mut Channel) -> Result<Bytes, Failed> {
        let mut packet = BytesMut::new();
        let read = tokio::select! {
            biased;
            read = async {
                if poll_fn(|cx| client.poll_flush(cx)).await.is_err() {
                    return Ok(None);
                }
                read_packet(client, &mut packet, self.level, MAX_PACKET).await
            } => read,
            () = poll_fn(|cx| endpoint.poll_gone(cx, MAX_PACKET)) => return Ok(Bytes::new()),
        };
        let head = match read {
            Ok(Some(head)) => head,
            Ok(None) => return Err(Failed::ClientGone),
            Err(fault) => return Err(Failed::Client(fault)),
        };
        // MQTT 5, section 3.1.2.11.9: nothing else is said before CONNACK.
        if !matches!(head.kind, PacketType::Auth | PacketType::Disconnect) {
            let why = "a client that authenticates itself says something else";
            return Err(Failed::Client(Fault::protocol(why)));
        }
        check(&packet, &head, self.level, Side::Client).map_err(Failed::Client)?;
        if head.kind == PacketType::Disconnect {
            // The broker finds out by the end of its connection.
            return Err(Failed::ClientGone);
        }
        check_auth(&packet[head.header..], self.method, 0x18).map_err(Failed::Client)?;
        Ok(packet.freeze())
    }
}

/// What a broker says.
enum Heard {
    /// Whether the session begins.
    Answer(Answer),
    /// A question to the client.
    Auth(Bytes),
    /// Nothing that makes sense, or nothing any more.
    Nothing,
}

/// Whether a client's AUTH names the method of its CONNECT (MQTT 5, section 4.12), and does not begin anew
/// where it may only go on: its code is at most `most`.
pub(crate) fn check_auth(body: &[u8], method: Option<&str>, most: u8) -> Result<(), Fault> {
    let Some(method) = method else {
        let why = "AUTH of a client whose CONNECT names no method";
        return Err(Fault::protocol(why));
    };
    // MQTT 5, section 4.12: the same method throughout.
    if authentication_method(body) != Some(method) {
        let why = "AUTH names another method than CONNECT";
        return Err(Fault::protocol(why));
    }
    // MQTT 5, section 4.12.1: not before CONNACK.
    if body.first().is_some_and(|code| *code > most) {
        let why = "a client authenticates itself again that has not yet";
        return Err(Fault::protocol(why));
    }
    Ok(())
}

/// The next packet of a broker, once what is for it has been written; `None` if none comes.
async fn next_packet(
    endpoint: &mut Channel,
    packet: &mut BytesMut,
    level: Level,
) -> Option<FixedHeader> {
    poll_fn(|cx| endpoint.poll_flush(cx)).await.ok()?;
    let read = read_packet(endpoint, packet, level, MAX_PACKET).await;
    read.ok()?
}

/// Waits until a client has gone that has left nothing to be delivered: whoever published before it
/// went, and did not wait for its CONNACK (MQTT 5, section 3.1.4 allows that), is still served.
pub(super) async fn gone(client: &mut Channel, level: Level) {
    poll_fn(|cx| client.poll_gone(cx, MAX_EARLY)).await;
    if client.kept().len() >= MAX_EARLY || has_message(client.kept(), level) {
        pending::<()>().await;
    }
}

fn has_message(mut bytes: &[u8], level: Level) -> bool {
    while let Ok(Some(head)) = FixedHeader::read(bytes, level, MAX_EARLY) {
        if head.kind == PacketType::Publish {
            return true;
        }
        bytes = bytes.get(head.packet()..).unwrap_or_default();
    }
    false
}
