//! A connection from its first byte to its session: transport, CONNECT, then on.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use finback_core::driver::{Caller, Connection, Worker};
use finback_core::log_limit::LogLimit;
use finback_core::net::{Linger, Socket, scratch};

use crate::channel::Channel;
use crate::codec::reader::variable;
use crate::codec::{Fault, FixedHeader, Level, PacketType};
use crate::open::Begun;
use crate::reason::Reason;
use crate::websocket::{Close, Door};
use crate::{Mqtt, open, session, websocket};

pub(crate) async fn serve(mqtt: Arc<Mqtt>, connection: Connection, worker: Rc<Worker>) {
    let (caller, socket) = Caller::new(connection, worker);
    if let Some(moved) = caller.take_carried() {
        return moved.resume(caller, socket).await;
    }
    // Each step is in a box of its own: what a connection holds while it is idle is what it costs,
    // and in one future all steps together would take the room of the largest.
    let opened = tokio::select! {
        opened = Box::pin(enter(&mqtt, &caller, socket)) => opened,
        () = caller.cut() => return,
    };
    match opened {
        Some((Some(client), Begun::Proxied(opened))) => {
            Box::pin(session::run(&caller, client, opened)).await;
        }
        Some((_, Begun::Here(terminal))) => Box::pin(terminal.run(&mqtt.states)).await,
        _ => {}
    }
}

/// Reads what a client says first, and opens its session.
async fn enter(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    socket: Socket,
) -> Option<(Option<Channel>, Begun)> {
    let patience = mqtt.config.connect_timeout.min(caller.worker().idle());
    let timers = caller.worker().timers().clone();
    let first = timers.patiently(patience, Box::pin(first_packet(mqtt, caller, socket)));
    let (channel, packet) = first.await??;
    let mut client = Some(channel);
    let opening = open::open(mqtt, caller, &mut client, packet);
    let begun = Box::pin(opening).await?;
    Some((client, begun))
}

/// Reads a CONNECT, and opens the WebSocket that it may come over.
async fn first_packet(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    mut socket: Socket,
) -> Option<(Channel, Bytes)> {
    socket.readable().await.ok()?;
    let mut head = BytesMut::new();
    let mut channel = Channel::new(socket);
    if fill(&mut channel, &mut head).await.ok()? == 0 {
        return None;
    }
    if head[0] == b'G' {
        let mut socket = channel.into_socket();
        let door = Door {
            origins: &mqtt.config.origins,
            proxies: caller.proxies(),
            hop: caller.peer().ip(),
        };
        match websocket::shake_hands(&mut socket, &mut head, &door).await {
            Ok(source) => caller.comes_from(source),
            Err(why) => {
                unopened(caller, why);
                return None;
            }
        }
        channel = Channel::websocket(socket, head.split().freeze());
    }
    let limit = mqtt.config.connect_packet;
    let why = match read_packet(&mut channel, &mut head, Level::V5, limit).await {
        Ok(Some(first)) if first.kind == PacketType::Connect => {
            return Some((channel, head.freeze()));
        }
        // MQTT 5, section 3.1.
        Ok(Some(_)) => Some("the first packet is not a CONNECT"),
        Ok(None) => channel.broken(),
        Err(fault)
            if fault.reason == Reason::TOO_LARGE && head[0] == PacketType::Connect.first_byte() =>
        {
            let level = level_of(&mut channel, &mut head).await;
            open::too_long(caller, &mut channel, level).await;
            return None;
        }
        Err(fault) => Some(fault.why),
    };
    if let Some(why) = why {
        nonsense(caller, why);
        channel.set_close(Close::Protocol);
    }
    if channel.is_websocket() {
        farewell(caller, &mut channel, &[]).await;
    }
    None
}

/// The version that a CONNECT names of which only the beginning is read; `None` if it is none.
async fn level_of(channel: &mut Channel, head: &mut BytesMut) -> Option<Level> {
    // A fixed header of five bytes, the protocol's name and its version.
    const ENOUGH: usize = 5 + 2 + 4 + 1;
    while head.len() < ENOUGH && fill(channel, head).await.ok()? > 0 {}
    let (_, length) = variable(head.get(1..)?).ok()??;
    match head.get(1 + length..)? {
        [0, 4, b'M', b'Q', b'T', b'T', 5, ..] => Some(Level::V5),
        _ => None,
    }
}

/// Says why a client's session ended by its own fault.
pub(crate) fn session_ended(caller: &Caller, fault: &Fault) {
    static ENDED: LogLimit = LogLimit::usual();
    if let Some(left_out) = ENDED.admit(caller.worker().now()) {
        tracing::info!(
            source = %caller.peer(), reason = fault.reason.name(), why = fault.why, left_out,
            "session ended"
        );
    }
}

fn unopened(caller: &Caller, why: &str) {
    static UNOPENED: LogLimit = LogLimit::usual();
    caller.count_malformed();
    caller.worker().read_clock();
    if let Some(left_out) = UNOPENED.admit(caller.worker().now()) {
        tracing::info!(source = %caller.peer(), why, left_out, "no WebSocket was opened");
    }
}

fn nonsense(caller: &Caller, why: &str) {
    static CLOSED: LogLimit = LogLimit::usual();
    caller.count_malformed();
    caller.worker().read_clock();
    if let Some(left_out) = CLOSED.admit(caller.worker().now()) {
        tracing::info!(source = %caller.peer(), why, left_out, "connection closed");
    }
}

/// Reads what there is onto the end of `buffer`.
pub(crate) async fn fill(channel: &mut Channel, buffer: &mut BytesMut) -> std::io::Result<usize> {
    poll_fn(|cx| {
        scratch(|bytes| {
            let read = channel.poll_read(cx, bytes);
            if let std::task::Poll::Ready(Ok(length)) = read {
                buffer.extend_from_slice(&bytes[..length]);
            }
            read
        })
    })
    .await
}

/// Reads until `buffer` begins with a whole packet; what follows it is put back. `None` if the
/// peer went away.
///
/// # Errors
/// If no packet begins so.
pub(crate) async fn read_packet(
    channel: &mut Channel,
    buffer: &mut BytesMut,
    level: Level,
    limit: usize,
) -> Result<Option<FixedHeader>, Fault> {
    loop {
        match FixedHeader::read(buffer, level, limit) {
            Err(fault) => return Err(fault),
            Ok(Some(head)) if buffer.len() >= head.packet() => {
                let rest = buffer.split_off(head.packet());
                if !rest.is_empty() {
                    channel.unread(Bytes::copy_from_slice(&rest));
                }
                return Ok(Some(head));
            }
            Ok(_) => {}
        }
        match fill(channel, buffer).await {
            Ok(length) if length > 0 => {}
            _ => return Ok(None),
        }
    }
}

/// Has a peer read its last packet before the connection ends: one that is closed while bytes of
/// the peer wait unread takes with it what was written.
pub(crate) async fn farewell(caller: &Caller, channel: &mut Channel, last: &[u8]) {
    if !last.is_empty() {
        channel.queue(last);
    }
    channel.say_goodbye();
    let mut linger = Linger::begin(caller.worker().timers());
    poll_fn(|cx| channel.poll_close(&mut linger, cx)).await;
}
