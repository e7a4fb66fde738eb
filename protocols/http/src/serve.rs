//! A client's connection.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use finback_core::driver::{Caller, Connection, Socket, Worker};
use futures_util::FutureExt;
use http::Request;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::Http;
use crate::body::Incoming;
use crate::client::Client;
use crate::http2::{self, Ended, Limits, PREFACE, Reason};
use crate::wire::Wire;

/// A connection on which nothing was asked for so long is put aside with no buffer.
const QUIET: Duration = Duration::from_secs(1);
/// What a client hears whose request's head does not come to its end.
const LATE: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// Windows towards a client, in bytes.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A client that is told to go is given so long to say that it heard.
const GOODBYE: Duration = Duration::from_secs(10);

/// Serves a connection to its end.
pub(crate) async fn serve(http: Arc<Http>, connection: Connection, worker: Rc<Worker>) {
    let (caller, mut io) = Caller::new(connection, worker);
    match begins_with_preface(&http, &caller, &mut io).await {
        Ok(true) => Box::pin(serve_http2(http, caller, io)).await,
        Ok(false) => serve_http1(http, caller, io).await,
        // Gone before it said anything.
        Err(_) => {}
    }
}

/// Whether a connection begins as HTTP/2 does.
async fn begins_with_preface(http: &Http, caller: &Caller, io: &mut Socket) -> io::Result<bool> {
    tokio::select! {
        first = tokio::time::timeout(http.config.idle, io.readable()) => first??,
        () = leave_quietly(caller) => return Err(io::ErrorKind::ConnectionAborted.into()),
    }
    let mut head = Vec::new();
    let deadline = Instant::now() + http.config.head_timeout;
    loop {
        let mut piece = [0; PREFACE.len()];
        let room = &mut piece[..PREFACE.len() - head.len()];
        let length = tokio::time::timeout_at(deadline, io.read(room)).await??;
        head.extend_from_slice(&room[..length]);
        let differs = !PREFACE.starts_with(&head);
        if differs || length == 0 || head.len() == PREFACE.len() {
            io.unread(Bytes::from(head));
            return Ok(!differs && length > 0);
        }
    }
}

/// A client without a request in flight is left some time to send one that is on its way.
async fn leave_quietly(caller: &Caller) {
    caller.dismissed().await;
    tokio::select! {
        () = tokio::time::sleep(caller.worker().drain_grace()) => {}
        () = caller.cut() => {}
    }
}

async fn serve_http1(http: Arc<Http>, caller: Rc<Caller>, mut io: Socket) {
    // Since when an unfinished head lies there.
    let mut unfinished: Option<Instant> = None;
    loop {
        tokio::select! {
            first = tokio::time::timeout(http.config.idle, io.readable()) => {
                if !matches!(first, Ok(Ok(()))) {
                    return;
                }
            }
            () = leave_quietly(&caller) => return,
        }
        if unfinished.is_some_and(|since| since.elapsed() >= http.config.head_timeout) {
            caller.is_malformed();
            let late = tokio::time::timeout(QUIET, io.write_all(LATE));
            // It may be gone, or read nothing; either way it is left.
            let _ = late.await;
            tracing::info!(source = %caller.peer(), "connection closed: a request took too long");
            return;
        }
        let Some((mut rest, unused)) = Box::pin(awake(&http, &caller, io)).await else {
            return;
        };
        if unused.is_empty() {
            unfinished = None;
        } else {
            unfinished.get_or_insert_with(|| Instant::now() - QUIET);
            rest.unread(unused);
        }
        io = rest;
    }
}

/// Serves requests until the connection ends, or is quiet; then gives it back with what was read
/// but not used.
async fn awake(http: &Arc<Http>, caller: &Rc<Caller>, io: Socket) -> Option<(Socket, Bytes)> {
    let client = Client::new(http, caller, io.is_secure());
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let answering = client.clone().answer(request.map(Incoming::Http1));
        // Boxed, because hyper moves it about.
        Box::pin(answering.map(Ok::<_, Infallible>))
    });
    let connection = http1::Builder::new()
        // How long a head may take is looked at when a connection is quiet: no timer per request.
        .header_read_timeout(None)
        .max_headers(http.config.headers)
        .max_buf_size(http.config.head)
        .serve_connection(TokioIo::new(Wire::new(io)), service)
        .with_upgrades();
    let mut connection = pin!(Some(connection));
    let mut tick = tokio::time::interval_at(Instant::now() + QUIET, QUIET);
    let mut seen = 0;
    let mut leaving = pin!(leave_quietly(caller));
    let mut left = false;
    loop {
        enum Event {
            Ended(hyper::Result<()>),
            Tick,
            Leave,
        }
        let event = poll_fn(|cx| {
            if let Some(own) = connection.as_mut().as_pin_mut()
                && let Poll::Ready(ended) = own.poll(cx)
            {
                return Poll::Ready(Event::Ended(ended));
            }
            if !left && leaving.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Event::Leave);
            }
            tick.poll_tick(cx).map(|_| Event::Tick)
        })
        .await;
        match event {
            Event::Ended(Err(error)) if error.is_parse() || error.is_timeout() => {
                caller.is_malformed();
                tracing::info!(source = %caller.peer(), %error, "connection closed");
                return None;
            }
            Event::Ended(_) => return None,
            Event::Leave => {
                left = true;
                if let Some(own) = connection.as_mut().as_pin_mut() {
                    own.graceful_shutdown();
                }
            }
            Event::Tick if client.in_flight() > 0 || client.requests() > seen || left => {
                seen = client.requests();
                client.look_after();
            }
            Event::Tick => {
                // No request is in flight, and none came for a while: nothing can be lost.
                let parts = take(&mut connection)?;
                if !parts.0.is_flushed() {
                    return None;
                }
                return Some(parts);
            }
        }
    }
}

type Awake<S> = http1::UpgradeableConnection<TokioIo<Wire>, S>;

fn take<S, B>(connection: &mut Pin<&mut Option<Awake<S>>>) -> Option<(Socket, Bytes)>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Awake<S>: Unpin,
{
    let parts = connection.as_mut().get_mut().take()?.into_parts()?;
    Some((parts.io.into_inner().into_inner(), parts.read_buf))
}

async fn serve_http2(http: Arc<Http>, caller: Rc<Caller>, io: Socket) {
    let client = Client::new(&http, &caller, io.is_secure());
    let config = &http.config;
    let limits = Limits {
        streams: config.streams,
        head: config.head,
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
    };
    let mut server = http2::serve(io, limits);
    let mut tick = tokio::time::interval_at(Instant::now() + QUIET, QUIET);
    let (mut seen, mut since) = (0, Instant::now());
    let mut left = false;
    let source = caller.peer();
    loop {
        let serving = poll_fn(|cx| {
            loop {
                match ready!(server.poll_accept(cx)) {
                    Ok((_, responder)) if responder.is_lost() => client.took_back(),
                    Ok((request, responder)) => {
                        let answering = client.clone().answer(request.map(Incoming::Http2));
                        // Boxed, because what is spawned is moved about.
                        tokio::task::spawn_local(responder.answer(Box::pin(answering)));
                    }
                    Err(ended) => return Poll::Ready(ended),
                }
            }
        });
        tokio::select! {
            ended = serving => {
                if let Ended::Fault(Reason(code)) = ended {
                    caller.is_malformed();
                    tracing::info!(%source, code, "connection closed: HTTP/2 was broken");
                }
                server.close().await;
                return;
            }
            () = caller.dismissed(), if !left => {
                left = true;
                server.leave();
            }
            () = caller.cut() => return,
            () = client.is_hostile() => {
                caller.is_malformed();
                tracing::info!(%source, "connection closed: most of its requests were taken back");
                return;
            }
            _ = tick.tick() => {
                client.look_after();
                let head = Duration::from_secs(server.tick().into());
                if head >= config.head_timeout {
                    caller.is_malformed();
                    tracing::info!(%source, "connection closed: a request took too long");
                    return;
                }
                if client.in_flight() > 0 || client.requests() > seen {
                    (seen, since) = (client.requests(), Instant::now());
                } else if since.elapsed() > config.idle + GOODBYE {
                    // It does not answer.
                    return;
                } else if since.elapsed() > config.idle && !left {
                    left = true;
                    server.leave();
                }
            }
        }
    }
}
