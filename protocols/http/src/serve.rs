//! A client's connection.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use finback_core::driver::{Caller, Connection, Worker};
use finback_core::log_limit::LogLimit;
use finback_core::net::{Socket, Timer};
use finback_core::text::Escaped;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::body::Incoming;
use crate::client::{Client, Guarded};
use crate::http1::{self, Fault, Next};
use crate::http2::{self, Ended, Limits, PREFACE, Reason};
use crate::{Http, headers};

/// A connection on which nothing was asked for so long is put aside with no buffer.
const QUIET: Duration = Duration::from_secs(1);
/// What a client hears whose request's head does not come to its end.
const LATE: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// What a client hears who may go on in HTTP/2.
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
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

/// Says why a client's connection is closed by its own fault.
fn closed(caller: &Caller, why: &str) {
    static CLOSED: LogLimit = LogLimit::usual();
    caller.worker().read_clock();
    if let Some(left_out) = CLOSED.admit(caller.worker().now()) {
        let why = Escaped(why);
        tracing::info!(source = %caller.peer(), %why, left_out, "connection closed");
    }
}

async fn serve_http1(http: Arc<Http>, caller: Rc<Caller>, io: Socket) {
    let caller_is_secure = io.is_secure();
    let client = Client::new(&http, &caller, caller_is_secure);
    let mut server = http1::Server::new(io, http.config.head);
    let mut timer = client.timers.set(Instant::now() + http.config.idle);
    let mut cut = pin!(caller.cut());
    let mut leaving = pin!(leave_quietly(&caller));
    loop {
        let request = match next(&http, &caller, &mut server, &mut timer, leaving.as_mut()).await {
            Some(Next::Request(request)) => request,
            Some(Next::Fault(fault)) => {
                caller.count_malformed();
                closed(&caller, &format!("no request that is served: {fault:?}"));
                return server.refuse(refusal(fault)).await;
            }
            None if server.has_part() => {
                caller.count_malformed();
                closed(&caller, "a request took too long");
                return server.refuse(LATE).await;
            }
            Some(Next::Closed) => return,
            None => return server.close().await,
        };
        let request = match headers::http2_settings(&request) {
            Some(settings) if !caller_is_secure => {
                return go_on_in_http2(http.clone(), caller.clone(), server, *request, &settings)
                    .await;
            }
            _ => *request,
        };
        let (upgrade, request) = upgradable(request);
        let mut answering = Box::pin(client.clone().answer(request));
        let mut response: Option<Response<Guarded>> = None;
        let worker = caller.worker();
        timer.reset(worker.instant() + QUIET);
        let done = poll_fn(|cx| {
            while timer.poll(cx).is_ready() {
                client.look_after();
                timer.reset(Instant::now() + QUIET);
            }
            if response.is_none()
                && let Poll::Ready(answered) = answering.as_mut().poll(cx)
            {
                let (head, body) = answered.into_parts();
                server.respond(&head, &body);
                response = Some(Response::from_parts(head, body));
            }
            if let Some(response) = &mut response
                && let Poll::Ready(sent) = server.poll_body(response.body_mut(), cx)
            {
                return Poll::Ready(sent.is_ok());
            }
            let gone = server.poll_gone(cx).is_ready() || cut.as_mut().poll(cx).is_ready();
            if gone {
                return Poll::Ready(false);
            }
            Poll::Pending
        });
        let whole = done.await;
        drop(answering);
        let switched = response.as_ref().map(Response::status);
        drop(response);
        if !whole {
            return;
        }
        if switched == Some(StatusCode::SWITCHING_PROTOCOLS) {
            if let (Some(upgrade), Some(socket)) = (upgrade, server.into_socket()) {
                // Who wanted it may have gone.
                let _ = upgrade.send(socket);
            }
            return;
        }
        if !poll_fn(|cx| Poll::Ready(matches!(server.poll_next(cx), Poll::Ready(true)))).await {
            return server.close().await;
        }
    }
}

/// Waits for a request; `None` if the client is not to be waited for any longer.
async fn next(
    http: &Http,
    caller: &Caller,
    server: &mut http1::Server,
    timer: &mut Timer,
    mut leaving: Pin<&mut impl Future<Output = ()>>,
) -> Option<Next> {
    let mut begun = false;
    timer.reset(caller.worker().instant() + http.config.idle);
    poll_fn(|cx| {
        if let Poll::Ready(next) = server.poll_request(cx) {
            return Poll::Ready(Some(next));
        }
        if !begun && server.has_part() {
            begun = true;
            timer.reset(Instant::now() + http.config.head_timeout);
        }
        if leaving.as_mut().poll(cx).is_ready() || timer.poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// A request's body, or the way to its connection if it shall become another protocol's.
fn upgradable(
    request: Request<http1::Received>,
) -> (Option<oneshot::Sender<Socket>>, Request<Incoming>) {
    let (head, body) = request.into_parts();
    if !body.is_end_stream() {
        return (None, Request::from_parts(head, Incoming::Http1(body)));
    }
    if headers::wants_upgrade(&head) {
        let (sender, receiver) = oneshot::channel();
        let request = Request::from_parts(head, Incoming::Upgrade(receiver));
        return (Some(sender), request);
    }
    (None, Request::from_parts(head, Incoming::Nothing))
}

/// What a client hears that says no request.
fn refusal(fault: Fault) -> &'static [u8] {
    match fault {
        Fault::Malformed => {
            b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        }
        Fault::TooLarge => {
            b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
              content-length: 0\r\n\r\n"
        }
    }
}

/// Serves the rest of a connection in HTTP/2, from a request that asks for it.
async fn go_on_in_http2(
    http: Arc<Http>,
    caller: Rc<Caller>,
    server: http1::Server,
    request: Request<http1::Received>,
    settings: &[u8],
) {
    let (mut head, _) = request.into_parts();
    headers::strip(&mut head.headers);
    headers::aim(&mut head, true, false);
    let limits = limits(&http);
    let Some(io) = server.switch(SWITCH).await else {
        return;
    };
    let client = Client::new(&http, &caller, false);
    match http2::upgrade(io, limits, settings, head) {
        Some(server) => Box::pin(drive_http2(http, caller, client, server)).await,
        None => caller.count_malformed(),
    }
}

fn limits(http: &Http) -> Limits {
    Limits {
        streams: http.config.streams,
        head: http.config.head,
        stream_window: STREAM_WINDOW,
        connection_window: CONNECTION_WINDOW,
    }
}

async fn serve_http2(http: Arc<Http>, caller: Rc<Caller>, io: Socket) {
    let client = Client::new(&http, &caller, io.is_secure());
    let server = http2::serve(io, limits(&http));
    drive_http2(http, caller, client, server).await;
}

async fn drive_http2(
    http: Arc<Http>,
    caller: Rc<Caller>,
    client: Rc<Client>,
    mut server: http2::Server,
) {
    let config = &http.config;
    let mut tick = tokio::time::interval_at(Instant::now() + QUIET, QUIET);
    let (mut seen, mut since) = (0, Instant::now());
    let left = Cell::new(false);
    let most = match config.requests {
        0 => u64::MAX,
        most => most,
    };
    loop {
        let serving = poll_fn(|cx| {
            loop {
                match ready!(server.poll_accept(cx)) {
                    Ok((_, responder)) if responder.is_lost() => client.took_back(),
                    Ok((request, responder)) => {
                        let answering = client.clone().answer(request.map(Incoming::Http2));
                        // Boxed, because what is spawned is moved about.
                        tokio::task::spawn_local(responder.answer(Box::pin(answering)));
                        if client.requests() >= most.saturating_mul(2) && !left.replace(true) {
                            server.leave();
                        }
                    }
                    Err(ended) => return Poll::Ready(ended),
                }
            }
        });
        tokio::select! {
            ended = serving => {
                if let Ended::Fault(Reason(code)) = ended {
                    caller.count_malformed();
                    closed(&caller, &format!("HTTP/2 was broken: {code}"));
                }
                server.close().await;
                return;
            }
            () = caller.dismissed(), if !left.get() => {
                left.set(true);
                server.leave();
            }
            () = caller.cut() => return,
            () = client.is_hostile() => {
                caller.count_malformed();
                closed(&caller, "most of its requests were taken back");
                return;
            }
            _ = tick.tick() => {
                client.look_after();
                let head = Duration::from_secs(server.tick().into());
                if head >= config.head_timeout {
                    caller.count_malformed();
                    closed(&caller, "a request took too long");
                    return;
                }
                let quiet = client.in_flight() == 0 && client.requests() == seen;
                if quiet && seen >= most && !left.replace(true) {
                    // There are clients that lose what is under way when they are asked to go.
                    server.leave();
                }
                if !quiet {
                    (seen, since) = (client.requests(), Instant::now());
                } else if since.elapsed() > config.idle + GOODBYE {
                    // It does not answer.
                    return;
                } else if since.elapsed() > config.idle && !left.replace(true) {
                    server.leave();
                }
            }
        }
    }
}
