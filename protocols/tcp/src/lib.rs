//! TCP passed through: for protocols that nobody here speaks, and for TLS that is not ours to open.
//!
//! A connection is one call: its service is the server name in its TLS, if it begins with TLS, else
//! `(tcp)`. A session owns its upstream connection; both ends are closed as the other is. Nothing tells
//! where one message ends and the next begins, so a session never moves to another worker.

mod hello;

use std::borrow::Cow;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use finback_core::driver::{
    Caller, Connection, Protocol, Served, Sniff, Stream, TunnelEnd, Worker,
};
use finback_core::frame::{Metadata, Outcome};
use finback_core::log_limit::LogLimit;
use finback_core::mesh::{AttemptEnd, Lease, Resend, Routed};
use finback_core::net::Socket;
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

async fn serve(connection: Connection, worker: Rc<Worker>) {
    let (caller, mut client) = Caller::new(connection, worker);
    let opened = tokio::select! {
        opened = open(&caller, &mut client) => opened,
        () = caller.cut() => return,
    };
    let Some((mut stream, mut lease, mut endpoint)) = opened else {
        return;
    };
    let tunnel = caller.tunnel(&mut client, &mut endpoint, || stream.begun(&mut lease));
    let carried = tunnel.await;
    stream.add_request_bytes(carried.up);
    let end = match carried.end {
        // It took what the client said and ended without a word.
        TunnelEnd::Broken if carried.down == 0 && carried.up > 0 => {
            stream.answered(Outcome::Failed, 0);
            AttemptEnd::Lost { reused: false }
        }
        TunnelEnd::Draining => {
            stream.rejected(Rejection::Draining);
            AttemptEnd::Draining
        }
        TunnelEnd::Closed | TunnelEnd::Broken | TunnelEnd::Idle => {
            stream.answered(Outcome::Success, carried.down);
            AttemptEnd::Answered(Outcome::Success)
        }
    };
    stream.conclude(&mut lease, end, Resend::Impossible);
}

/// Finds out whom a client wants, and connects to an endpoint of it.
async fn open(caller: &Rc<Caller>, client: &mut Socket) -> Option<(Stream, Lease, Socket)> {
    let name = server_name(caller, client).await.ok()?;
    let metadata = Metadata {
        service: Cow::Borrowed(name.as_deref().unwrap_or(UNNAMED)),
        own: name.is_none(),
        lingers: true,
        ..Metadata::default()
    };
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
    let (mut stream, routed) = caller.open(NAME, &metadata, 0, &mut attributes);
    let refuse = |stream: &mut Stream, rejection| {
        let why = stream.rejected(rejection);
        closed(caller, &why);
        None
    };
    let routed = match routed {
        Ok(Routed::Waits) => stream.admitted(&mut attributes).await,
        decided => decided,
    };
    match routed {
        Ok(Routed::Onward) => {}
        Ok(Routed::Here | Routed::Waits) => return refuse(&mut stream, Rejection::Denied),
        Err(rejection) => return refuse(&mut stream, rejection),
    }
    loop {
        let mut lease = match stream.attempt(&mut attributes).await {
            Ok(lease) => lease,
            Err(rejection) => return refuse(&mut stream, rejection),
        };
        let ends = caller.ends(caller.peer().ip());
        let connecting = caller
            .worker()
            .connect_for(&lease, None, ends, caller.known());
        match Box::pin(connecting).await {
            Ok(endpoint) => return Some((stream, lease, endpoint)),
            Err(error) => {
                tracing::debug!(endpoint = %lease.address(), %error, "cannot connect");
                let end = AttemptEnd::from(&error);
                if !stream.conclude(&mut lease, end, Resend::Possible) {
                    return refuse(&mut stream, Rejection::ConnectFailed);
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
