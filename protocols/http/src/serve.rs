//! Client connections of HTTP: the first bytes tell the version, then requests are served until it closes.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use finback_core::boxed::boxed;
use finback_core::driver::{Caller, Connection, Resume, Worker};
use finback_core::log_limit::LogLimit;
use finback_core::net::{LINGER, Socket, Timer};
use finback_core::text::Escaped;
use http::{Request, Response, StatusCode};
use http_body::Body;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::body::Incoming;
use crate::client::{Client, Guarded};
use crate::http1::{self, Fault, Next};
use crate::http2::{self, Ended, Limits, PREFACE, Reason, Resting};
use crate::interim::Interim;
use crate::rules::Fields;
use crate::{Http, NAME, headers};

/// A connection on which nothing was asked for so long is put aside with no buffer.
const QUIET: Duration = Duration::from_secs(1);
/// What a client hears whose request's head does not come to its end.
const LATE: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
/// What a client hears who may go on in HTTP/2.
const SWITCH: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n";
/// Windows towards a client, in bytes: of a stream at first, and at most; and what all streams of a
/// connection may have more than at first.
const STREAM_WINDOW: u32 = 32 * 1024;
const STREAM_MOST: u32 = 256 * 1024;
const SPARE: u32 = 1024 * 1024;
/// What may be on its way to us on a connection.
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// A client that is told to go is given so long to say that it heard.
const GOODBYE: Duration = Duration::from_secs(10);

/// Serves a connection to its end.
pub(crate) fn serve(
    http: Arc<Http>,
    connection: Connection,
    worker: Rc<Worker>,
) -> finback_core::driver::Served {
    // Not in the future, which would hold all of the connection as long as it lasts.
    let (caller, io) = Caller::new(connection, worker);
    caller.set_movable(true);
    match caller.take_carried() {
        Some(moved) => moved.resume(caller, io),
        None => Box::pin(begin(http, caller, io)),
    }
}

/// Serves a connection from its first byte.
async fn begin(http: Arc<Http>, caller: Rc<Caller>, mut io: Socket) {
    // Whoever agreed to HTTP/2 hears in HTTP/2 what is wrong with its beginning (RFC 9113, section 3.4).
    let agreed = io.application() == Some(b"h2");
    match begins_with_preface(&http, &caller, &mut io).await {
        Ok(begins) if begins || agreed => {
            // A task of its own: this one, with its room for HTTP/1.1, would wait for it as long as it lasts.
            let worker = caller.worker().clone();
            worker.spawn("a client connection", serve_http2(http, caller, io));
        }
        Ok(_) => serve_http1(http, caller, io).await,
        // Gone before it said anything.
        Err(_) => {}
    }
}

/// Whether a connection begins as HTTP/2 does.
async fn begins_with_preface(http: &Http, caller: &Caller, io: &mut Socket) -> io::Result<bool> {
    caller.rest(http.config.idle);
    tokio::select! {
        biased;
        first = io.readable() => first?,
        () = due(caller) => {
            if caller.is_moving() {
                return Ok(false);
            }
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    }
    let timers = caller.worker().timers();
    let reading = timers.patiently(http.config.head_timeout, async {
        let mut head = Vec::new();
        loop {
            let mut piece = [0; PREFACE.len()];
            let room = &mut piece[..PREFACE.len() - head.len()];
            let length = io.read(room).await?;
            head.extend_from_slice(&room[..length]);
            let differs = !PREFACE.starts_with(&head);
            if differs || length == 0 || head.len() == PREFACE.len() {
                io.unread(Bytes::from(head));
                return Ok(!differs && length > 0);
            }
        }
    });
    let read = reading.await;
    read.unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()))
}

/// Waits until a client that has nothing in flight is waited for no longer: it has been idle for too
/// long, had its time to send what was on its way when it was dismissed, or is to leave.
async fn due(caller: &Caller) {
    poll_fn(|cx| match is_due(caller, cx) {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}

fn is_due(caller: &Caller, cx: &Context<'_>) -> bool {
    caller.attend(cx);
    caller.is_idle() || caller.is_grace_over() || caller.is_moving()
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

/// What becomes of a connection on which no more requests are served.
enum Ending {
    /// It is gone, or nothing more can be said on it.
    Gone,
    /// It is closed, once its client has what was written.
    Closed,
    /// Its client is told why.
    Refused(&'static [u8]),
    /// Another worker goes on with it.
    Moves,
    /// It goes on in HTTP/2, beginning with this request.
    Http2(Box<Request<http1::Received>>, Vec<u8>),
    /// It is another protocol's from now on, and whoever waits for it has it.
    Switched(Option<oneshot::Sender<Socket>>),
}

/// Serves a connection. All but the wait for the next request stands in futures of their own, so that a
/// connection on which nothing happens is small.
async fn serve_http1(http: Arc<Http>, caller: Rc<Caller>, io: Socket) {
    let caller_is_secure = io.is_secure();
    let client = Client::new(&http, &caller, caller_is_secure);
    let mut server = http1::Server::new(io, http.config.head, answers_continue(&http));
    let mut timer = client.timers.set(Instant::now() + QUIET);
    let may_upgrade = http.config.h2c_upgrade && !caller_is_secure;
    let ending = loop {
        // RFC 9112, section 9.3.2: answers go in the order of requests, so the next one is read after the answer.
        let request = match next(&http, &caller, &mut server, &mut timer).await {
            Some(Next::Request(request)) => request,
            other => break no_request(other, &caller, &server),
        };
        let settings = may_upgrade.then(|| headers::http2_settings(&request));
        if let Some(settings) = settings.flatten() {
            break Ending::Http2(request, settings);
        }
        let exchange = boxed(|| exchange(&http, &client, request, &mut server, &mut timer));
        if let Some(ending) = Box::into_pin(exchange).await {
            break ending;
        }
    };
    Box::pin(end_http1(ending, http, caller, client, server)).await;
}

/// What becomes of a connection of which no request came.
fn no_request(came: Option<Next>, caller: &Caller, server: &http1::Server) -> Ending {
    match came {
        Some(Next::Fault(fault)) => {
            caller.count_malformed();
            closed(caller, &format!("no request that is served: {fault:?}"));
            Ending::Refused(refusal(fault))
        }
        None if caller.is_moving() => Ending::Moves,
        None if server.has_part() => {
            caller.count_malformed();
            closed(caller, "a request took too long");
            Ending::Refused(LATE)
        }
        Some(Next::Closed) => Ending::Gone,
        Some(Next::Request(_)) | None => Ending::Closed,
    }
}

async fn end_http1(
    ending: Ending,
    http: Arc<Http>,
    caller: Rc<Caller>,
    client: Rc<Client>,
    server: http1::Server,
) {
    match ending {
        Ending::Gone => {}
        Ending::Closed => server.close(&client.timers).await,
        Ending::Refused(answer) => server.refuse(answer, &client.timers).await,
        Ending::Moves => {
            if let Some(socket) = server.into_socket() {
                move_on(&client, socket, None).await;
            }
        }
        Ending::Http2(request, settings) => {
            caller.set_movable(false);
            go_on_in_http2(http, caller, server, *request, &settings).await;
        }
        Ending::Switched(upgrade) => {
            caller.set_movable(false);
            if let (Some(upgrade), Some(socket)) = (upgrade, server.into_socket()) {
                // Who wanted it may have gone.
                let _ = upgrade.send(socket);
            }
        }
    }
}

/// Answers one request; `None` if another may follow.
async fn exchange(
    http: &Http,
    client: &Rc<Client>,
    request: Box<Request<http1::Received>>,
    server: &mut http1::Server,
    timer: &mut Timer,
) -> Option<Ending> {
    let caller = &client.caller;
    let (upgrade, request) = upgradable(*request);
    let interim = Interim::http1(server.interim());
    let mut answering = pin!(client.clone().answer(request, interim));
    let mut response: Option<Response<Guarded>> = None;
    timer.reset(caller.worker().instant() + QUIET);
    let done = poll_fn(|cx| {
        caller.attend(cx);
        while timer.poll(cx).is_ready() {
            client.look_after(timer.is_late());
            if server.has_gone() {
                return Poll::Ready(None);
            }
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
            return Poll::Ready(Some(sent.is_ok()));
        }
        if server.poll_gone(cx).is_ready() || caller.is_cut() {
            return Poll::Ready(None);
        }
        if response.is_none() {
            server.flush_interim(cx);
        }
        Poll::Pending
    });
    match done.await {
        Some(true) => {}
        // It hears what was written, and that it is not all.
        Some(false) => return Some(Ending::Closed),
        None => return Some(Ending::Gone),
    }
    let switched = response.take().map(|own| own.status());
    if switched == Some(StatusCode::SWITCHING_PROTOCOLS) {
        return Some(Ending::Switched(upgrade));
    }
    let follows = await_rest(http, caller, server, timer).await;
    (!follows).then_some(Ending::Closed)
}

/// Whether another request may follow: once the rest of the last one is there, which had been answered before. It
/// has as long as a request's head.
async fn await_rest(
    http: &Http,
    caller: &Caller,
    server: &mut http1::Server,
    timer: &mut Timer,
) -> bool {
    let mut waits = false;
    poll_fn(|cx| {
        if let Poll::Ready(follows) = server.poll_next(cx) {
            return Poll::Ready(follows);
        }
        if !std::mem::replace(&mut waits, true) {
            timer.reset(Instant::now() + http.config.head_timeout);
        }
        while timer.poll(cx).is_ready() {
            if !timer.is_late() {
                return Poll::Ready(false);
            }
            timer.reset(Instant::now() + http.config.head_timeout);
        }
        caller.attend(cx);
        match caller.is_idle() || caller.is_grace_over() {
            true => Poll::Ready(false),
            false => Poll::Pending,
        }
    })
    .await
}

/// Waits for a request; `None` if the client is not to be waited for any longer, or to leave for
/// another worker.
async fn next(
    http: &Http,
    caller: &Caller,
    server: &mut http1::Server,
    timer: &mut Timer,
) -> Option<Next> {
    let mut begun = false;
    poll_fn(|cx| {
        // Before the next request is read: it is still whole then.
        caller.attend(cx);
        if caller.is_moving() {
            return Poll::Ready(None);
        }
        if let Poll::Ready(next) = server.poll_request(cx) {
            return Poll::Ready(Some(next));
        }
        if server.has_part() {
            if !std::mem::replace(&mut begun, true) {
                timer.reset(Instant::now() + http.config.head_timeout);
            }
            while timer.poll(cx).is_ready() {
                if !timer.is_late() {
                    return Poll::Ready(None);
                }
                timer.reset(Instant::now() + http.config.head_timeout);
            }
            return match caller.is_grace_over() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            };
        }
        match is_due(caller, cx) {
            true => Poll::Ready(None),
            false => Poll::Pending,
        }
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

/// The answer to a client whose bytes are not a request (RFC 9110, sections 15.5.1 and 15.6.6;
/// RFC 6585, section 5).
fn refusal(fault: Fault) -> &'static [u8] {
    match fault {
        Fault::Malformed => {
            b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
              content-type: text/plain; charset=utf-8\r\n\
              content-length: 38\r\n\r\n[finback] no request that can be read\n"
        }
        Fault::TooLarge => {
            b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\n\
              content-type: text/plain; charset=utf-8\r\n\
              content-length: 47\r\n\r\n[finback] a head that is longer than the limit\n"
        }
        Fault::Version => {
            b"HTTP/1.1 505 HTTP Version Not Supported\r\nconnection: close\r\n\
              content-type: text/plain; charset=utf-8\r\n\
              content-length: 46\r\n\r\n[finback] HTTP/1.1 and HTTP/2 are spoken here\n"
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
    let fields = Fields::of(&head.headers);
    headers::strip(&mut head.headers, fields);
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

/// Whether it is us who tell a client to send its request's body.
fn answers_continue(http: &Http) -> bool {
    !http.config.proxy_100_continue
}

fn limits(http: &Http) -> Limits {
    Limits {
        streams: http.config.streams,
        head: http.config.head,
        stream_window: STREAM_WINDOW,
        stream_most: STREAM_MOST,
        spare: SPARE,
        connection_window: CONNECTION_WINDOW,
        answers_continue: answers_continue(http),
    }
}

async fn serve_http2(http: Arc<Http>, caller: Rc<Caller>, io: Socket) {
    let client = Client::new(&http, &caller, io.is_secure());
    let server = http2::serve(io, limits(&http));
    drive_http2(http, caller, client, server).await;
}

/// What a connection of HTTP/2 takes along to another worker.
struct Moved {
    http: Arc<Http>,
    connection: Resting,
    /// Requests since it connected.
    requests: u64,
}

/// Gives a connection on which nothing is under way to another worker.
async fn move_on(client: &Client, mut socket: Socket, moved: Option<Moved>) {
    // TLS may have something to say on its own, such as that its keys are new.
    let flushed = client.timers.patiently(GOODBYE, socket.flush()).await;
    if let Some(Ok(())) = flushed {
        let state = moved.map(|own| -> Box<dyn Resume> { Box::new(own) });
        client.caller.hand_over(socket, NAME, state);
    }
}

impl Resume for Moved {
    fn resume(self: Box<Self>, caller: Rc<Caller>, io: Socket) -> finback_core::driver::Served {
        Box::pin(async move {
            let Self {
                http,
                connection,
                requests,
            } = *self;
            caller.set_movable(true);
            let client = Client::new(&http, &caller, io.is_secure());
            client.count_requests(requests);
            let server = http2::resume(io, limits(&http), connection);
            drive_http2(http, caller, client, server).await;
        })
    }
}

/// What serving came to.
enum Served {
    Ended(Ended),
    /// Another worker is to go on with it, and can.
    Moves,
}

/// Has requests served as they come.
fn poll_http2(
    client: &Rc<Client>,
    server: &mut http2::Server,
    (most, left): (u64, &Cell<bool>),
    cx: &mut Context<'_>,
) -> Poll<Served> {
    let caller = &client.caller;
    caller.attend(cx);
    server.note_moving(caller.is_moving());
    loop {
        match server.poll_accept(cx) {
            Poll::Pending if caller.is_moving() && server.is_resting() => {
                return Poll::Ready(Served::Moves);
            }
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(ended)) => return Poll::Ready(Served::Ended(ended)),
            Poll::Ready(Ok((_, responder))) if responder.is_lost() => client.took_back(),
            Poll::Ready(Ok((request, responder))) => {
                let interim = Interim::http2(responder.interim());
                let request = request.map(Incoming::Http2);
                // Boxed, because what is spawned is moved about.
                let answering = boxed(|| client.clone().answer(request, interim));
                let answering = boxed(|| responder.answer(Box::into_pin(answering)));
                let worker = caller.worker();
                worker.spawn_boxed("a request", Box::into_pin(answering));
                if client.requests() >= most.saturating_mul(2) && !left.replace(true) {
                    server.leave();
                }
            }
        }
    }
}

/// Closes a connection that has ended, or gives it away.
async fn end_http2(client: &Client, server: http2::Server, served: Served) {
    match served {
        Served::Moves => {
            let requests = client.requests();
            let (connection, socket) = server.pack();
            let moved = Moved {
                http: client.http.clone(),
                connection,
                requests,
            };
            move_on(client, socket, Some(moved)).await;
        }
        Served::Ended(ended) => {
            if let Ended::Fault(Reason(code)) = ended {
                client.caller.count_malformed();
                closed(&client.caller, &format!("HTTP/2 was broken: {code}"));
            }
            server.close().await;
        }
    }
}

async fn drive_http2(
    http: Arc<Http>,
    caller: Rc<Caller>,
    client: Rc<Client>,
    mut server: http2::Server,
) {
    let config = &http.config;
    caller.set_movable(true);
    let mut timer = client.timers.set(Instant::now() + QUIET);
    let mut seen = client.requests();
    let left = Cell::new(false);
    let mut idle_since = None;
    // When it had to end: what waited for an answer is told so, and given a moment to be read.
    let mut cut_at = None;
    let most = match config.requests {
        0 => u64::MAX,
        most => most,
    };
    loop {
        let serving = poll_fn(|cx| poll_http2(&client, &mut server, (most, &left), cx));
        tokio::select! {
            biased;
            served = serving => {
                return Box::pin(end_http2(&client, server, served)).await;
            }
            () = caller.dismissed(), if !left.get() => {
                left.set(true);
                server.leave();
            }
            () = caller.cut(), if cut_at.is_none() => {
                cut_at = Some(Instant::now());
                server.leave();
                server.rouse();
            }
            () = tokio::time::sleep_until(cut_at.unwrap_or_else(Instant::now) + LINGER), if cut_at.is_some() => return,
            () = client.turned_hostile() => {
                caller.count_malformed();
                closed(&caller, "most of its requests were taken back");
                return;
            }
            () = poll_fn(|cx| timer.poll(cx)) => {
                let stalled = timer.is_late();
                timer.reset(Instant::now() + QUIET);
                client.look_after(stalled);
                let head = Duration::from_secs(server.tick(stalled).into());
                if head >= config.head_timeout {
                    caller.count_malformed();
                    closed(&caller, "a request took too long");
                    return;
                }
                let quiet = client.in_flight() == 0 && client.requests() == seen;
                seen = client.requests();
                if quiet && seen >= most && !left.replace(true) {
                    // There are clients that lose what is under way when they are asked to go.
                    server.leave();
                }
                if !quiet || !caller.is_idle() {
                    idle_since = None;
                    continue;
                }
                if !left.replace(true) {
                    server.leave();
                }
                let told = *idle_since.get_or_insert_with(Instant::now);
                if told.elapsed() > GOODBYE {
                    // It does not answer.
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the future of a function takes in memory.
    fn size<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_connection_on_which_nothing_happens_is_small() {
        assert!(size(begin) <= 768, "{}", size(begin));
        assert!(size(serve_http2) <= 1152, "{}", size(serve_http2));
    }
}
