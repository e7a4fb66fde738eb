//! A framed protocol made for tests, its clients and its scripted servers.
//!
//! ```text
//! 0      4     5    6        10
//! | len  | kind|flag| id     | text: service SP method { SP key=value }  or  answer text
//! ```
//! `len` counts the whole frame. Kinds: 1 request, 2 one-way, 3 response, 4 ping, 5 pong,
//! 6 goodbye, 7 welcome. The flag of a response is its outcome, of a rejection 100 + its reason.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use finback_core::cluster::{ClusterPolicy, ClusterSpec, Source};
use finback_core::codec::{Codec, Sharing, Signal};
use finback_core::discovery::{Discovery, Instance, Lookup, SnapshotSink, WatchGuard};
use finback_core::driver::{
    Connection, ListenerSpec, Protocol, Served, Sniff, Worker, Workers, serve_framed,
};
use finback_core::frame::{
    Answer, Edit, Head, Kind, MARKS, Malformed, Metadata, Outcome, Reading, Status,
};
use finback_core::mesh::{Limits, Mesh, Pinned, RoutingSpec};
use finback_core::net::ServerTls;
use finback_core::record::{Ending, Observer, Record, Series, SeriesKey};
use finback_core::rejection::Rejection;
use finback_core::route::{Destination, Match, Retry, Route, RouteTable, Weighted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const MAX_FRAME: usize = 1 << 20;
const HEADER: usize = 10;

/// As a codec and a protocol.
#[derive(Default)]
pub(crate) struct Toy {
    /// Whether its upstream connections are each one client's own.
    pub(crate) is_session: bool,
    /// The one text that clients get of answers instead of the endpoint's.
    pub(crate) translation: Option<&'static str>,
    /// Whether its frames keep their attributes, whatever is to be changed about them.
    pub(crate) has_no_room: bool,
}

pub(crate) fn frame(kind: u8, flag: u8, id: u32, text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32(u32::try_from(HEADER + text.len()).unwrap());
    out.put_u8(kind);
    out.put_u8(flag);
    out.put_u32(id);
    out.put_slice(text.as_bytes());
    out
}

impl Codec for Toy {
    fn sharing(&self) -> Sharing {
        match self.is_session {
            false => Sharing::Multiplexed { id_bits: 32 },
            true => Sharing::Session { id_bits: 32 },
        }
    }

    fn peek(&self, bytes: &[u8]) -> Result<Option<Head>, Malformed> {
        let Some(header) = bytes.get(..HEADER) else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
        let kind = match header[4] {
            1 => Kind::Request,
            2 => Kind::OneWay,
            3 => Kind::Response,
            4 => Kind::Ping,
            5 => Kind::Pong,
            6 => Kind::GoAway,
            7 => Kind::Resume,
            _ => return Err(Malformed::Garbage("unknown kind")),
        };
        let id = u64::from(u32::from_be_bytes(header[6..10].try_into().unwrap()));
        let head = Head {
            kind,
            id,
            len,
            variant: 0,
            codec_data: u32::from(header[5]),
            marks: [0; MARKS],
        };
        if len > MAX_FRAME {
            return Err(Malformed::TooLarge {
                head,
                limit: MAX_FRAME,
            });
        }
        if len < HEADER {
            return Err(Malformed::Garbage("length too short"));
        }
        Ok(Some(head))
    }

    fn read<'a>(&self, head: &Head, wire: &'a [u8]) -> Result<Reading<'a>, Malformed> {
        if head.kind == Kind::Response {
            let outcome = match head.codec_data {
                0 => Outcome::Success,
                1 => Outcome::Exception,
                2 => Outcome::Refused,
                _ => Outcome::Failed,
            };
            return Ok(Reading::Answer(Answer {
                outcome,
                status: Status(head.codec_data as u16),
            }));
        }
        let text = std::str::from_utf8(&wire[HEADER..]).map_err(|_| Malformed::Content("text"))?;
        let mut words = text.split(' ');
        let timeout =
            attribute(text, "timeout").map(|ms| Duration::from_millis(ms.parse().unwrap()));
        let metadata = Metadata {
            service: words.next().unwrap_or_default().into(),
            method: words.next().unwrap_or_default().into(),
            timeout,
            lingers: attribute(text, "poll").is_some(),
            codec_data: head.codec_data,
            ..Metadata::default()
        };
        metadata.names_fit()?;
        Ok(Reading::Call(metadata))
    }

    fn attribute<'a>(&self, wire: &'a [u8], _: &Metadata<'_>, name: &str) -> Option<Cow<'a, str>> {
        attribute(std::str::from_utf8(&wire[HEADER..]).ok()?, name).map(Cow::Borrowed)
    }

    fn translate(&self, _: &Head, local: Option<SocketAddr>, _: &[u8]) -> Option<Vec<u8>> {
        let text = self.translation?;
        Some(format!("{text} {}", local.unwrap()).into_bytes())
    }

    fn encode(&self, _: &Head, wire: &[u8], edit: &Edit<'_>, out: &mut BytesMut) -> usize {
        if let Some(body) = edit.body {
            let text = std::str::from_utf8(body).unwrap();
            let id = u32::try_from(edit.id).unwrap();
            out.put_slice(&frame(wire[4], wire[5], id, text));
            return wire.len();
        }
        if !edit.attributes.is_empty() && !self.has_no_room {
            let text = std::str::from_utf8(&wire[HEADER..]).unwrap();
            let is_edited = |word: &&str| {
                let name = word.split('=').next().unwrap();
                edit.attributes.iter().any(|(own, _)| *own == name)
            };
            let kept = text.split(' ').filter(|word| !is_edited(word));
            let mut words: Vec<String> = kept.map(str::to_owned).collect();
            words.extend(
                edit.attributes
                    .iter()
                    .map(|(name, value)| format!("{name}={value}")),
            );
            let id = u32::try_from(edit.id).unwrap();
            out.put_slice(&frame(wire[4], wire[5], id, &words.join(" ")));
            return wire.len();
        }
        out.put_slice(&wire[..6]);
        out.put_u32(u32::try_from(edit.id).unwrap());
        HEADER
    }

    fn signal(&self, signal: Signal<'_>, _: &Head, out: &mut BytesMut) -> bool {
        let frame = match signal {
            Signal::Ping { id } => frame(4, 0, u32::try_from(id).unwrap(), ""),
            Signal::Pong { wire } => {
                let mut pong = wire.to_vec();
                pong[4] = 5;
                pong
            }
            Signal::GoAway { .. } => frame(6, 0, 0, ""),
        };
        out.put_slice(&frame);
        true
    }

    fn reject(
        &self,
        head: &Head,
        rejection: Rejection,
        text: &str,
        out: &mut BytesMut,
    ) -> Option<Status> {
        if head.kind == Kind::OneWay {
            return None;
        }
        let reason = Rejection::ALL
            .iter()
            .position(|each| *each == rejection)
            .unwrap();
        let flag = 100 + u8::try_from(reason).unwrap();
        out.put_slice(&frame(3, flag, u32::try_from(head.id).unwrap(), text));
        Some(Status(flag.into()))
    }
}

fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(' ')
        .skip(2)
        .find_map(|word| word.split_once('=').filter(|(k, _)| *k == name))
        .map(|(_, v)| v)
}

impl Protocol for Toy {
    fn name(&self) -> &'static str {
        "toy"
    }
    fn sniff(&self, head: &[u8]) -> Sniff {
        match head.first() {
            None => Sniff::Undecided,
            Some(0) => Sniff::Match,
            Some(_) => Sniff::Mismatch,
        }
    }
    fn serve(self: Arc<Self>, connection: Connection, worker: Rc<Worker>) -> Served {
        serve_framed(self, "toy", connection, worker)
    }
}

// === The mesh under test ===

#[derive(Default)]
pub(crate) struct Records(Mutex<Vec<(String, Kept)>>);

/// What is looked at of a record.
#[derive(Clone)]
pub(crate) struct Kept {
    pub(crate) ending: Ending,
    pub(crate) status: Status,
    pub(crate) attempts: u32,
    pub(crate) endpoint: Option<SocketAddr>,
    pub(crate) route: String,
    pub(crate) cluster: String,
    pub(crate) filter: String,
}

impl Records {
    /// Endings so far, sorted.
    pub(crate) fn endings(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self
            .0
            .lock()
            .unwrap()
            .iter()
            .map(|(_, record)| record.ending.name())
            .collect();
        names.sort_unstable();
        names
    }
    pub(crate) fn last(&self) -> Kept {
        self.0.lock().unwrap().last().unwrap().1.clone()
    }
}

struct Seen(Arc<Records>, String);

impl Series for Seen {
    fn record(&self, record: &Record<'_>) {
        let kept = Kept {
            ending: record.ending,
            status: record.status,
            attempts: record.attempts,
            endpoint: record.about.endpoint(),
            route: record.about.route().to_owned(),
            cluster: record.about.cluster().to_owned(),
            filter: record.about.filter().to_owned(),
        };
        self.0.0.lock().unwrap().push((self.1.clone(), kept));
    }
}

pub(crate) struct Watcher(pub Arc<Records>);

impl Observer for Watcher {
    fn series(&self, _: usize, key: &SeriesKey) -> Arc<dyn Series> {
        Arc::new(Seen(
            self.0.clone(),
            format!("{}.{}", key.service, key.method),
        ))
    }
}

/// A registry whose snapshots the test delivers.
#[derive(Default)]
pub(crate) struct Hand(pub Mutex<HashMap<String, Vec<Arc<dyn SnapshotSink>>>>);

struct Handed(Arc<Hand>);

impl Discovery for Handed {
    fn watch(&self, lookup: &Lookup, sink: Arc<dyn SnapshotSink>) -> WatchGuard {
        self.0
            .0
            .lock()
            .unwrap()
            .entry(lookup.service.to_string())
            .or_default()
            .push(sink);
        Box::new(())
    }
}

pub(crate) struct Mess {
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) workers: Workers,
    pub(crate) address: SocketAddr,
    pub(crate) records: Arc<Records>,
    pub(crate) hand: Arc<Hand>,
}

pub(crate) fn instance(address: SocketAddr) -> Instance {
    Instance {
        address,
        weight: 100,
        labels: Default::default(),
        warm_up: None,
        terms: None,
    }
}

pub(crate) fn policy() -> ClusterPolicy {
    ClusterPolicy {
        connect_timeout: Duration::from_millis(500),
        ..ClusterPolicy::default()
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        call_timeout: Duration::from_secs(5),
        drain_grace: Duration::from_millis(300),
        drain: Duration::from_secs(2),
        ..Limits::default()
    }
}

pub(crate) fn retry(attempts: u32) -> Retry {
    Retry {
        attempts,
        ..Retry::default()
    }
}

/// Routing in which every call goes to one cluster of these endpoints.
pub(crate) fn routing(
    endpoints: &[SocketAddr],
    policy: ClusterPolicy,
    retry: Retry,
) -> RoutingSpec {
    let to = Destination::Clusters(vec![Weighted {
        cluster: "all".into(),
        weight: 1,
        subset: None,
        spill: true,
    }]);
    RoutingSpec {
        tables: vec![table(to, retry)],
        clusters: vec![ClusterSpec {
            name: "all".into(),
            source: Source::Listed(endpoints.iter().copied().map(instance).collect()),
            policy,
        }],
        filters: Vec::new(),
        listener_filters: Default::default(),
        registry_policy: ClusterPolicy::default(),
        limits: limits(),
    }
}

pub(crate) fn table(to: Destination, retry: Retry) -> RouteTable {
    let route = Route {
        name: "only".into(),
        when: Match::default(),
        to,
        timeout: None,
        retry,
        priority: Default::default(),
        long_poll: false,
        tracing: None,
        filters: Default::default(),
        shadow: None,
        tap: None,
        treatment: None,
    };
    RouteTable {
        name: "main".into(),
        routes: vec![Arc::new(route)],
    }
}

/// A mesh with one worker and one listener.
pub(crate) fn mess(spec: RoutingSpec) -> Mess {
    mess_of(spec, 1)
}

/// The same with so many workers.
pub(crate) fn mess_of(spec: RoutingSpec, workers: usize) -> Mess {
    mess_with(spec, workers, Toy::default(), None)
}

/// The same with a listener under TLS.
pub(crate) fn mess_under(tls: Arc<ServerTls>, spec: RoutingSpec, workers: usize) -> Mess {
    listen(spec, workers, Toy::default(), (None, Some(tls)))
}

/// The same, with a protocol of the test's own, and a listener that stands for one endpoint.
pub(crate) fn mess_with(
    spec: RoutingSpec,
    workers: usize,
    toy: Toy,
    pinned: Option<Pinned>,
) -> Mess {
    listen(spec, workers, toy, (pinned, None))
}

fn listen(
    spec: RoutingSpec,
    workers: usize,
    toy: Toy,
    (pinned, tls): (Option<Pinned>, Option<Arc<ServerTls>>),
) -> Mess {
    let records = Arc::new(Records::default());
    let hand = Arc::new(Hand::default());
    let mesh = Mesh::new(
        spec,
        HashMap::from([("toy", Arc::from("by-hand"))]),
        Arc::new(Handed(hand.clone())),
        Arc::new(Watcher(records.clone())),
    );
    let workers = Workers::start(&mesh, workers).unwrap();
    let bound = workers
        .bind(ListenerSpec {
            pinned,
            stats: Arc::default(),
            tls,
            proxies: Arc::default(),
            reveal_endpoints: false,
            name: "front".into(),
            address: "127.0.0.1:0".parse().unwrap(),
            protocols: vec![Arc::new(toy)],
            routes: "main".into(),
            settings: "".into(),
        })
        .unwrap();
    let address = bound.address();
    workers.listen(bound);
    Mess {
        mesh,
        workers,
        address,
        records,
        hand,
    }
}

// === Peers ===

pub(crate) struct Peer(pub(crate) TcpStream);

#[derive(Debug, PartialEq, Eq, Clone)]
pub(crate) struct Got {
    pub(crate) kind: u8,
    pub(crate) flag: u8,
    pub(crate) id: u32,
    pub(crate) text: String,
}

impl Got {
    /// The rejection that this is, if it is one.
    pub(crate) fn rejection(&self) -> Option<Rejection> {
        self.flag
            .checked_sub(100)
            .map(|n| Rejection::ALL[usize::from(n)])
    }
}

impl Peer {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }
    pub(crate) async fn send(&mut self, kind: u8, id: u32, text: &str) {
        self.0.write_all(&frame(kind, 0, id, text)).await.unwrap();
    }
    pub(crate) async fn answer(&mut self, to: &Got, flag: u8, text: &str) {
        self.0
            .write_all(&frame(3, flag, to.id, text))
            .await
            .unwrap();
    }
    /// The next frame, or `None` at the end of the stream.
    pub(crate) async fn get(&mut self) -> Option<Got> {
        let mut header = [0; HEADER];
        let read = tokio::time::timeout(Duration::from_secs(10), self.0.read_exact(&mut header));
        read.await.expect("a frame within 10 s").ok()?;
        let len = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
        let mut text = vec![0; len - HEADER];
        self.0.read_exact(&mut text).await.ok()?;
        Some(Got {
            kind: header[4],
            flag: header[5],
            id: u32::from_be_bytes(header[6..].try_into().unwrap()),
            text: String::from_utf8(text).unwrap(),
        })
    }
    pub(crate) async fn call(&mut self, id: u32, text: &str) -> Got {
        self.send(1, id, text).await;
        let got = self.get().await.expect("an answer");
        assert_eq!((got.kind, got.id), (3, id));
        got
    }
    pub(crate) async fn get_nothing(&mut self, within: Duration) {
        let mut byte = [0];
        let read = tokio::time::timeout(within, self.0.read(&mut byte)).await;
        assert!(read.is_err(), "nothing was to come, but {read:?} did");
    }
}

pub(crate) struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
}

impl Server {
    pub(crate) async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }
    pub(crate) async fn accept(&self) -> Peer {
        let accepted = tokio::time::timeout(Duration::from_secs(10), self.listener.accept());
        Peer(accepted.await.expect("a connection within 10 s").unwrap().0)
    }
}

/// A server that answers every request with its own text and counts them.
pub(crate) async fn echo() -> (SocketAddr, Arc<AtomicUsize>) {
    let server = Server::bind().await;
    let count = Arc::new(AtomicUsize::new(0));
    let (address, counted) = (server.address, count.clone());
    tokio::spawn(async move {
        loop {
            let mut peer = Peer(server.listener.accept().await.unwrap().0);
            let counted = counted.clone();
            tokio::spawn(async move {
                while let Some(got) = peer.get_forever().await {
                    match got.kind {
                        1 => {
                            counted.fetch_add(1, Ordering::SeqCst);
                            let text = got.text.clone();
                            if peer.0.write_all(&frame(3, 0, got.id, &text)).await.is_err() {
                                return;
                            }
                        }
                        2 => {
                            counted.fetch_add(1, Ordering::SeqCst);
                        }
                        4 => peer.0.write_all(&frame(5, 0, got.id, "")).await.unwrap(),
                        _ => {}
                    }
                }
            });
        }
    });
    (address, count)
}

impl Peer {
    async fn get_forever(&mut self) -> Option<Got> {
        let mut byte = [0];
        self.0.peek(&mut byte).await.ok()?;
        self.get().await
    }
}
