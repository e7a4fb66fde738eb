//! TCP passed through: for protocols that nobody here speaks, and for TLS that is not ours to open.
//!
//! A connection is one call: its service is the server name in its TLS, if it begins with TLS, else
//! `(tcp)`. A session owns its upstream connection; both ends are closed as the other is. Nothing tells
//! where one message ends and the next begins, so any moment is a boundary at which a session may move to another
//! worker: with both of its sockets, what was read of one and not yet written to the other, which sides have ended,
//! and its call with its place at the endpoint.

mod hello;

use std::borrow::Cow;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use finback_core::driver::{
    Caller, Connection, DrivenExchange, Protocol, Resume, Served, Sniff, TunnelEnd, Worker,
};
use finback_core::frame::{Metadata, Outcome};
use finback_core::log_limit::LogLimit;
use finback_core::mesh::{AttemptEnd, Lease, Resend, Routed, Underway};
use finback_core::net::{Detached, Relay, Socket};
use finback_core::rejection::Rejection;
use finback_core::text::Escaped;
use tokio::io::AsyncReadExt;

/// The protocol's name.
pub const NAME: &str = "tcp";
/// The service of connections that name none.
const UNNAMED: &str = "(tcp)";
/// How long a client may take to say whom it wants, once it has begun.
const HELLO: Duration = Duration::from_secs(5);
/// A client that says nothing is taken for one whose server speaks first.
const SILENCE: Duration = Duration::from_millis(300);

/// TCP.
pub struct Tcp;

impl Protocol for Tcp {
    fn name(&self) -> &'static str {
        NAME
    }

    fn sniff(&self, _: &[u8]) -> Sniff {
        Sniff::Match
    }

    fn serve(self: Arc<Self>, connection: Connection, worker: Rc<Worker>) -> Served {
        Box::pin(serve(connection, worker))
    }
}

/// A session that is open.
struct Session {
    /// What its client asked for, in its TLS.
    name: Option<String>,
    exchange: DrivenExchange,
    lease: Lease,
    endpoint: Socket,
    relay: Relay,
}

/// What a session takes along to another worker, besides its client's socket.
struct Moved {
    name: Option<String>,
    underway: Underway,
    endpoint: Detached,
    relay: Relay,
}

async fn serve(connection: Connection, worker: Rc<Worker>) {
    let (caller, mut client) = Caller::new(connection, worker);
    if let Some(moved) = caller.take_carried() {
        return moved.resume(caller, client).await;
    }
    let opened = tokio::select! {
        // In a box: what it takes is several times what carrying bytes does.
        opened = Box::pin(open(&caller, &mut client)) => opened,
        () = caller.cut() => return,
    };
    if let Some(session) = opened {
        carry(caller, client, session).await;
    }
}

impl Resume for Moved {
    fn resume(self: Box<Self>, caller: Rc<Caller>, client: Socket) -> Served {
        Box::pin(async move {
            if let Some(session) = go_on(&caller, *self) {
                carry(caller, client, session).await;
            }
        })
    }
}

/// Passes bytes on both ways, until it ends or leaves.
async fn carry(caller: Rc<Caller>, mut client: Socket, mut session: Session) {
    caller.set_movable(true);
    let Session {
        exchange,
        lease,
        endpoint,
        relay,
        ..
    } = &mut session;
    let can_leave =
        |client: &Socket, endpoint: &Socket| client.can_detach() && endpoint.can_detach();
    let began = || exchange.begun(lease);
    let carrying = caller.carry(relay, &mut client, endpoint, began, can_leave);
    match carrying.await {
        Some(end) => session.end(end),
        None => session.leave(&caller, client),
    }
}

/// Goes on with a session that another worker had.
fn go_on(caller: &Caller, moved: Moved) -> Option<Session> {
    let Moved {
        name,
        underway,
        endpoint,
        relay,
    } = moved;
    let endpoint = Socket::attach(endpoint).ok()?;
    let (exchange, lease) = caller.resume(NAME, &metadata(name.as_deref()), underway)?;
    Some(Session {
        name,
        exchange,
        lease,
        endpoint,
        relay,
    })
}

impl Session {
    fn end(self, end: TunnelEnd) {
        let Self {
            mut exchange,
            mut lease,
            relay,
            ..
        } = self;
        exchange.add_request_bytes(relay.up());
        let end = match end {
            // It took what the client said and ended without a word.
            TunnelEnd::Broken if relay.down() == 0 && relay.up() > 0 => {
                exchange.answered(Outcome::Failed, 0);
                AttemptEnd::Lost { reused: false }
            }
            TunnelEnd::Draining => {
                exchange.rejected(Rejection::Draining);
                AttemptEnd::Draining
            }
            TunnelEnd::Closed | TunnelEnd::Broken | TunnelEnd::Idle => {
                exchange.answered(Outcome::Success, relay.down());
                AttemptEnd::Answered(Outcome::Success)
            }
        };
        exchange.conclude(&mut lease, end, Resend::Impossible);
    }

    /// Leaves for another worker.
    fn leave(self, caller: &Caller, client: Socket) {
        let Ok(endpoint) = self.endpoint.detach() else {
            return;
        };
        let moved = Moved {
            name: self.name,
            underway: self.exchange.part(self.lease),
            endpoint,
            relay: self.relay,
        };
        caller.hand_over(client, NAME, Some(Box::new(moved)));
    }
}

/// What routing knows of a session whose client asked for this name.
fn metadata(name: Option<&str>) -> Metadata<'_> {
    Metadata {
        service: Cow::Borrowed(name.unwrap_or(UNNAMED)),
        own: name.is_none(),
        lingers: true,
        ..Metadata::default()
    }
}

/// Finds out whom a client wants, and connects to an endpoint of it.
async fn open(caller: &Rc<Caller>, client: &mut Socket) -> Option<Session> {
    let name = server_name(caller, client).await.ok()?;
    let metadata = metadata(name.as_deref());
    let mut attributes = |asked: &str| match asked {
        ":sni" => name.clone(),
        _ => None,
    };
    if let Err(why) = metadata.names_fit() {
        // There is nothing that says no before the handshake that is not ours to make.
        caller.count_malformed();
        closed(caller, &why.to_string());
        return None;
    }
    let (mut exchange, routed) = caller.open(NAME, &metadata, 0, &mut attributes);
    let refuse = |exchange: &mut DrivenExchange, rejection| {
        let why = exchange.rejected(rejection);
        closed(caller, &why);
        None
    };
    let routed = match routed {
        Ok(Routed::Waits) => exchange.admitted(&mut attributes).await,
        decided => decided,
    };
    match routed {
        Ok(Routed::Onward) => {}
        Ok(Routed::Here | Routed::Waits) => return refuse(&mut exchange, Rejection::Denied),
        Err(rejection) => return refuse(&mut exchange, rejection),
    }
    loop {
        let mut lease = match exchange.attempt(&mut attributes).await {
            Ok(lease) => lease,
            Err(rejection) => return refuse(&mut exchange, rejection),
        };
        let ends = caller.ends(caller.peer().ip());
        let connecting = caller
            .worker()
            .connect_for(&lease, None, ends, caller.known());
        match Box::pin(connecting).await {
            Ok(endpoint) => {
                let relay = Relay::default();
                return Some(Session {
                    name,
                    exchange,
                    lease,
                    endpoint,
                    relay,
                });
            }
            Err(error) => {
                tracing::debug!(endpoint = %lease.address(), %error, "cannot connect");
                let end = AttemptEnd::from(&error);
                if !exchange.conclude(&mut lease, end, Resend::Possible) {
                    return refuse(&mut exchange, Rejection::ConnectFailed);
                }
            }
        }
    }
}

fn closed(caller: &Caller, why: &str) {
    static CLOSED: LogLimit = LogLimit::usual();
    if let Some(left_out) = CLOSED.admit(caller.worker().now()) {
        let why = Escaped(why);
        tracing::info!(source = %caller.peer(), %why, left_out, "connection closed");
    }
}

/// The server name in a client's TLS, if it begins with TLS. What was read stays to be passed on.
async fn server_name(caller: &Caller, client: &mut Socket) -> io::Result<Option<String>> {
    let timers = caller.worker().timers();
    if timers.patiently(SILENCE, client.readable()).await.is_none() {
        return Ok(None);
    }
    let mut head = BytesMut::with_capacity(1024);
    let reading = timers.patiently(HELLO, async {
        loop {
            let read = client.read_buf(&mut head).await?;
            match hello::server_name(&head) {
                hello::Found::Name(name) => return io::Result::Ok(Some(name)),
                hello::Found::Nothing => return Ok(None),
                hello::Found::Undecided if read == 0 => return Ok(None),
                hello::Found::Undecided => {}
            }
        }
    });
    let name = reading
        .await
        .unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))?;
    client.unread(Bytes::from(head));
    Ok(name)
}
