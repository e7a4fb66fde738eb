//! A connection from its first byte to its session: transport, CONNECT, then on.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use finback_core::driver::{Caller, Connection, Worker};
use finback_core::log_limit::LogLimit;
use finback_core::net::{Socket, scratch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::channel::Channel;
use crate::codec::{Fault, Head, Kind, Level};
use crate::open::Begun;
use crate::{Mqtt, open, session, websocket};

/// How long the last bytes to a client may take, and how long is waited for it to go.
const FAREWELL: Duration = Duration::from_secs(2);

pub(crate) async fn serve(mqtt: Arc<Mqtt>, connection: Connection, worker: Rc<Worker>) {
    let (caller, socket) = Caller::new(connection, worker);
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
        Some((_, Begun::Here(terminal))) => Box::pin(terminal.run(&mqtt.kept)).await,
        _ => {}
    }
}

/// Reads what a client says first, and opens its session.
async fn enter(
    mqtt: &Mqtt,
    caller: &Rc<Caller>,
    mut socket: Socket,
) -> Option<(Option<Channel>, Begun)> {
    let config = &mqtt.config;
    let deadline = Instant::now() + config.connect_timeout;
    timeout_at(deadline, socket.readable()).await.ok()?.ok()?;
    let mut head = BytesMut::new();
    let mut channel = Channel::new(socket);
    if timeout_at(deadline, fill(&mut channel, &mut head))
        .await
        .ok()?
        .ok()?
        == 0
    {
        return None;
    }
    if head[0] == b'G' {
        let mut socket = channel.into_socket();
        let left = deadline.saturating_duration_since(Instant::now());
        if let Err(why) = websocket::shake_hands(&mut socket, &mut head, left).await {
            static UNOPENED: LogLimit = LogLimit::usual();
            caller.count_malformed();
            caller.worker().read_clock();
            if let Some(left_out) = UNOPENED.admit(caller.worker().now()) {
                tracing::info!(source = %caller.peer(), why, left_out, "no WebSocket was opened");
            }
            return None;
        }
        channel = Channel::websocket(socket, head.split().freeze());
    }
    let limit = config.connect_packet;
    let connect = Kind::Connect;
    match read_packet(&mut channel, &mut head, Level::V5, limit, deadline).await {
        Ok(Some(first)) if first.kind == connect => {}
        Ok(Some(_)) => return nonsense(caller, "the first packet is no CONNECT"),
        Ok(None) => return None,
        Err(why) => return nonsense(caller, why),
    }
    let mut client = Some(channel);
    let opening = open::open(mqtt, caller, &mut client, head.freeze());
    let begun = Box::pin(opening).await?;
    Some((client, begun))
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

fn nonsense<T>(caller: &Caller, why: &str) -> Option<T> {
    static CLOSED: LogLimit = LogLimit::usual();
    caller.count_malformed();
    caller.worker().read_clock();
    if let Some(left_out) = CLOSED.admit(caller.worker().now()) {
        tracing::info!(source = %caller.peer(), why, left_out, "connection closed");
    }
    None
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
/// peer went away, or said too little until the deadline.
///
/// # Errors
/// If no packet begins so.
pub(crate) async fn read_packet(
    channel: &mut Channel,
    buffer: &mut BytesMut,
    level: Level,
    limit: usize,
    deadline: Instant,
) -> Result<Option<Head>, &'static str> {
    loop {
        match Head::read(buffer, level, limit) {
            Err(fault) => return Err(fault.why),
            Ok(Some(head)) if buffer.len() >= head.packet() => {
                let rest = buffer.split_off(head.packet());
                if !rest.is_empty() {
                    channel.unread(Bytes::copy_from_slice(&rest));
                }
                return Ok(Some(head));
            }
            Ok(_) => {}
        }
        match timeout_at(deadline, fill(channel, buffer)).await {
            Ok(Ok(length)) if length > 0 => {}
            _ => return Ok(None),
        }
    }
}

/// Has a client read its last packet before the connection ends: one that is closed while bytes
/// of the peer wait unread takes with it what was written.
pub(crate) async fn farewell(channel: &mut Channel, last: &[u8]) {
    if !last.is_empty() {
        channel.queue(last);
    }
    channel.say_goodbye();
    let said = timeout(FAREWELL, async {
        poll_fn(|cx| channel.poll_flush(cx)).await?;
        poll_fn(|cx| channel.poll_shutdown(cx)).await
    });
    if !matches!(said.await, Ok(Ok(()))) {
        return;
    }
    let gone = async {
        let mut left = 64;
        loop {
            let read = poll_fn(|cx| scratch(|bytes| channel.poll_read(cx, bytes)));
            left -= 1;
            if left == 0 || !matches!(read.await, Ok(1..)) {
                return;
            }
        }
    };
    let _ = timeout(FAREWELL, gone).await;
}
