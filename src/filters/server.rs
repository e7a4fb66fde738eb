//! A server that a filter asks, by gRPC or as a token server of Sentinel: one connection, made when it is needed, and a bound of
//! the questions on it.
//!
//! Workers hand a question over and wait for nothing but its answer; sockets are the control runtime's. A server
//! that is slow, full or gone is trouble within the question's time, never a wait without an end.

use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use finback_core::clock::Clock;
use finback_core::filter::WaitingRoom;
use finback_core::log_limit::LogLimit;
use finback_core::text::Escaped;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::dial::{chain, dial};
use super::{Background, token_server};
use crate::tls::ClientFiles;

/// The most that is read of an answer.
const ANSWER: usize = 256 * 1024;
/// A connection may take so long to be made, whatever questions wait for it.
pub(super) const DIAL: Duration = Duration::from_secs(5);
/// After one that could not be made, the next is not tried sooner: questions fail at once meanwhile.
pub(super) const PAUSE: Duration = Duration::from_millis(500);
/// A server that is silent for so long while questions are open is asked whether it is there, and given up after as
/// long again.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// How a server is asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The filter that asks, for the log.
    pub filter: Arc<str>,
    /// Its host: a name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// What it speaks.
    pub speaks: Speech,
    /// With TLS: by these files, which are read anew for each connection.
    pub tls: Option<ClientFiles>,
    /// An answer may take so long, the connection included.
    pub timeout: Duration,
    /// Questions that may be open at a time; more find no place.
    pub in_flight: usize,
}

/// What a server speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Speech {
    /// gRPC.
    Grpc,
    /// The protocol of Sentinel's token servers.
    Tokens {
        /// For whom tokens are asked.
        namespace: String,
    },
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (&self.speaks, &self.tls) {
            (Speech::Tokens { .. }, _) => "tcp",
            (Speech::Grpc, Some(_)) => "https",
            (Speech::Grpc, None) => "http",
        };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// As many as may be are open, of all or of the client.
    Busy,
    /// None came in time.
    Late,
    /// There was none, or none that can be read.
    Failed(Arc<str>),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("too many questions are open"),
            Self::Late => f.write_str("no answer in time"),
            Self::Failed(why) => write!(f, "{}", Escaped(why)),
        }
    }
}

pub(super) fn failed(why: impl Into<Arc<str>>) -> Trouble {
    Trouble::Failed(why.into())
}

/// A question on its way.
struct Question {
    path: &'static str,
    body: Bytes,
    until: Instant,
    answer: oneshot::Sender<Result<Bytes, Trouble>>,
    place: Place,
}

/// Questions that may be open, shared among the clients whose calls they are about.
type Places = Arc<Mutex<WaitingRoom>>;

/// A question's place; given back when dropped.
struct Place {
    client: IpAddr,
    places: Places,
}

impl Place {
    fn take(places: &Places, client: IpAddr) -> Option<Self> {
        let mut room = places.lock().unwrap_or_else(PoisonError::into_inner);
        let places = places.clone();
        room.enter(client, 1).then(|| Self { client, places })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut room = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        room.leave(self.client, 1);
    }
}

/// A server as workers see it. What it is asked before it is [started](Background::start)
/// waits for that.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    places: Places,
    questions: Sender<Question>,
    waiting: Mutex<Option<Receiver<Question>>>,
    clock: Clock,
    log: LogLimit,
}

impl Server {
    /// One that is asked so.
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        // Whatever has a place has room there.
        let (questions, waiting) = channel(settings.in_flight);
        Arc::new(Self {
            places: Arc::new(Mutex::new(WaitingRoom::new(settings.in_flight))),
            settings,
            questions,
            waiting: Mutex::new(Some(waiting)),
            clock: Clock::start(),
            log: LogLimit::per_second(1),
        })
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Asks about a call of this client; never blocks. The answer, or trouble, is there when its time is over.
    ///
    /// # Errors
    /// If there is no place for the question: clients share them, each as many as it leaves free for others.
    pub(crate) fn ask<A: Message + Default>(
        &self,
        path: &'static str,
        client: IpAddr,
        question: Framed,
    ) -> Result<impl Future<Output = Result<A, Trouble>> + use<A>, Trouble> {
        let told = self.ask_bytes(path, client, question.0)?;
        Ok(async move {
            let unreadable = |error| failed(format!("its answer is unreadable: {error}"));
            A::decode(told.await?).map_err(unreadable)
        })
    }

    /// The same of a token server; the answer is what follows its number.
    ///
    /// # Errors
    /// As of [`ask`](Self::ask).
    pub(crate) fn ask_for_token(
        &self,
        client: IpAddr,
        question: Bytes,
    ) -> Result<impl Future<Output = Result<Bytes, Trouble>> + use<>, Trouble> {
        self.ask_bytes("", client, question)
    }

    fn ask_bytes(
        &self,
        path: &'static str,
        client: IpAddr,
        body: Bytes,
    ) -> Result<impl Future<Output = Result<Bytes, Trouble>> + use<>, Trouble> {
        let place = Place::take(&self.places, client).ok_or(Trouble::Busy)?;
        let (tell, told) = oneshot::channel();
        let until = Instant::now() + self.settings.timeout;
        let sent = self.questions.try_send(Question {
            path,
            body,
            until,
            answer: tell,
            place,
        });
        sent.map_err(|_| failed("the process stops"))?;
        Ok(async move {
            let told = timeout_at(until, told).await.map_err(|_| Trouble::Late)?;
            told.map_err(|_| failed("the process stops"))?
        })
    }

    /// Says in the log, at a bounded rate, that an answer was none.
    pub(crate) fn complain(&self, why: &dyn fmt::Display) {
        if let Some(left_out) = self.log.admit(self.clock.now()) {
            let (filter, server) = (&self.settings.filter, &self.settings);
            tracing::warn!(%filter, %server, %why, left_out, "a filter's server does not answer as it should");
        }
    }
}

impl Background for Server {
    fn start(self: Arc<Self>) {
        let waiting = &mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut waiting) = waiting.take() {
            let settings = self.settings.clone();
            let link = Arc::new(match &self.settings.speaks {
                Speech::Grpc => AnyLink::Grpc(Link::new(settings)),
                Speech::Tokens { namespace } => {
                    AnyLink::Tokens(token_server::Link::new(settings, namespace.clone()))
                }
            });
            tokio::spawn(async move {
                while let Some(question) = waiting.recv().await {
                    tokio::spawn(ask(link.clone(), question));
                }
            });
        }
    }
}

/// A message as gRPC frames it: not compressed, and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(crate) struct Framed(Bytes);

impl Framed {
    pub(crate) fn of(message: &impl Message) -> Self {
        let message = message.encode_to_vec();
        let mut body = BytesMut::with_capacity(5 + message.len());
        body.put_u8(0);
        // Filters bound what they ask far below 4 GiB.
        body.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        body.extend_from_slice(&message);
        Self(body.freeze())
    }
}

/// The connection to a server, whatever it speaks.
enum AnyLink {
    Grpc(Link),
    Tokens(token_server::Link),
}

impl AnyLink {
    async fn call(
        &self,
        path: &'static str,
        body: &Bytes,
        until: Instant,
    ) -> Result<Bytes, Trouble> {
        match self {
            Self::Grpc(link) => link.call(path, body, until).await,
            Self::Tokens(link) => link.call(body).await,
        }
    }
}

async fn ask(link: Arc<AnyLink>, question: Question) {
    let Question {
        path,
        body,
        until,
        mut answer,
        place,
    } = question;
    let told = tokio::select! {
        biased;
        // Its caller has gone.
        () = answer.closed() => return,
        told = timeout_at(until, link.call(path, &body, until)) => told.unwrap_or(Err(Trouble::Late)),
    };
    drop(place);
    // The same.
    let _ = answer.send(told);
}

type Calls = SendRequest<Full<Bytes>>;
/// A connection that is made, or being made; made to its end though nobody waits for it any more.
type Dialling = Shared<BoxFuture<'static, Result<Calls, Trouble>>>;

/// The one connection to a server.
struct Link {
    settings: Settings,
    current: Mutex<Option<(Instant, Dialling)>>,
}

impl Link {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            current: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Instant, Dialling)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that there is, or another one where it is no good.
    fn connection(&self) -> Dialling {
        let current = &mut *self.lock();
        if let Some((begun, dialling)) = current {
            let is_good = match dialling.peek() {
                None => true,
                Some(Ok(sender)) => !sender.is_closed(),
                Some(Err(_)) => begun.elapsed() < PAUSE,
            };
            if is_good {
                return dialling.clone();
            }
        }
        let settings = self.settings.clone();
        let made = tokio::spawn(async move {
            let made = timeout(DIAL, connect(&settings)).await;
            made.unwrap_or_else(|_| Err(failed("cannot connect in time")))
        });
        let made = made.map(|made| made.unwrap_or_else(|_| Err(failed("the process stops"))));
        let dialling = made.boxed().shared();
        *current = Some((Instant::now(), dialling.clone()));
        dialling
    }

    /// Sends a call and gives the message of its answer. One that was not sent, because the connection ended just
    /// then, is sent once more.
    async fn call(
        &self,
        path: &'static str,
        body: &Bytes,
        until: Instant,
    ) -> Result<Bytes, Trouble> {
        let mut is_first = true;
        loop {
            let mut sender = self.connection().await?;
            if sender.ready().await.is_ok() {
                let request = self.request(path, body.clone(), until)?;
                match sender.try_send_request(request).await {
                    Ok(response) => return read(response).await,
                    Err(error) if error.message().is_none() || !is_first => {
                        return Err(failed(chain(error.error())));
                    }
                    Err(_) => {}
                }
            }
            if !std::mem::take(&mut is_first) {
                return Err(failed("the connection ended"));
            }
        }
    }

    fn request(
        &self,
        path: &str,
        body: Bytes,
        until: Instant,
    ) -> Result<Request<Full<Bytes>>, Trouble> {
        let left = until.saturating_duration_since(Instant::now());
        let request = Request::post(format!("{}{path}", self.settings))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header("grpc-timeout", format!("{}m", left.as_millis().max(1)))
            .header(
                header::USER_AGENT,
                concat!("finback/", env!("CARGO_PKG_VERSION")),
            )
            .body(Full::new(body));
        request.map_err(|error| failed(error.to_string()))
    }
}

async fn connect(settings: &Settings) -> Result<Calls, Trouble> {
    let address = (settings.host.as_str(), settings.port);
    let socket = dial(address, settings.tls.as_ref(), b"h2").await;
    let socket = socket.map_err(failed)?;
    let made = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .handshake(TokioIo::new(socket))
        .await;
    let (sender, connection) = made.map_err(|error| failed(chain(&error)))?;
    tokio::spawn(connection);
    Ok(sender)
}

/// The message of an answer (gRPC over HTTP/2, "Responses").
async fn read(response: Response<Incoming>) -> Result<Bytes, Trouble> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(failed(format!("it answers {}", head.status)));
    }
    let collected = Limited::new(body, ANSWER).collect().await;
    let collected = collected.map_err(|error| failed(error.to_string()))?;
    // Without a message, what trails it stands in the head.
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let told = |name: &str| text(&trailers, name).or_else(|| text(&head.headers, name));
    match told("grpc-status").as_deref() {
        Some("0") => {}
        Some(status) => {
            let message = told("grpc-message").unwrap_or_default();
            return Err(failed(format!("it answers status {status} {message}")));
        }
        None => return Err(failed("its answer has no status of gRPC's")),
    }
    let mut message = collected.to_bytes();
    let length = message.get(1..5).and_then(|own| own.try_into().ok());
    let length = length.map(|own| u32::from_be_bytes(own) as usize);
    match (message.first(), length) {
        (Some(0), Some(length)) if length == message.len() - 5 => Ok(message.split_off(5)),
        _ => Err(failed("its answer is not one message")),
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?;
    Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
}
