//! A small name server and broker of RocketMQ's remoting protocol that forget everything when they end, and a load
//! generator. For demos and tests only: it knows no users, no transactions and no delays, and reads JSON headers only.

mod frame;
mod load;
mod store;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use frame::Frame;
use store::{Fetched, Message, Store};

pub use load::{RocketMqLoad, run};

/// The cluster and the broker that it says it is.
const CLUSTER: &str = "stand-in";
const BROKER: &str = "stand-in-a";
/// Queues of each topic.
const QUEUES: i32 = 4;
/// Answers that wait to be written to one client, at most: more of its requests are not read.
const ANSWERS: usize = 256;
/// Requests of one client that wait for messages, at most.
const WAITING: usize = 1024;
/// A request that waits for messages waits no longer.
const LONGEST: Duration = Duration::from_secs(30);
/// RocketMQ: PullSysFlag: the broker may keep the request until there is a message.
const SUSPEND: i64 = 2;

/// Codes of requests (RocketMQ: RequestCode).
mod request {
    pub(super) const SEND: i64 = 10;
    pub(super) const PULL: i64 = 11;
    pub(super) const QUERY_OFFSET: i64 = 14;
    pub(super) const UPDATE_OFFSET: i64 = 15;
    pub(super) const SEARCH_OFFSET: i64 = 29;
    pub(super) const MAX_OFFSET: i64 = 30;
    pub(super) const MIN_OFFSET: i64 = 31;
    pub(super) const HEART_BEAT: i64 = 34;
    pub(super) const UNREGISTER: i64 = 35;
    pub(super) const CONSUMERS: i64 = 38;
    pub(super) const CONSUMERS_CHANGED: i64 = 40;
    pub(super) const LOCK: i64 = 41;
    pub(super) const UNLOCK: i64 = 42;
    pub(super) const CHECK_CLIENT: i64 = 46;
    pub(super) const ROUTE: i64 = 105;
    pub(super) const CLUSTER: i64 = 106;
    pub(super) const SEND_V2: i64 = 310;
    pub(super) const SEND_BATCH: i64 = 320;
    pub(super) const LITE_PULL: i64 = 361;
}

/// Codes of answers (RocketMQ: ResponseCode).
mod answer {
    pub(super) const SUCCESS: i64 = 0;
    pub(super) const NOT_SUPPORTED: i64 = 3;
    pub(super) const MESSAGE_ILLEGAL: i64 = 13;
    pub(super) const PULL_NOT_FOUND: i64 = 19;
    pub(super) const PULL_OFFSET_MOVED: i64 = 21;
    pub(super) const QUERY_NOT_FOUND: i64 = 22;
}

/// A name server and the one broker that it knows, at one address.
pub struct StandIn {
    address: SocketAddr,
    state: Mutex<State>,
    connections: AtomicU64,
}

#[derive(Default)]
struct State {
    store: Store,
    /// How far groups are, by group, topic and queue.
    offsets: HashMap<(String, String, i32), i64>,
    /// Who consumes in a group, by the client's own name.
    groups: HashMap<String, BTreeMap<String, Consumer>>,
}

/// A consumer that sends heartbeats.
struct Consumer {
    connection: u64,
    out: mpsc::Sender<Bytes>,
}

/// A client's connection.
struct Session {
    number: u64,
    out: mpsc::Sender<Bytes>,
}

impl StandIn {
    /// One that tells clients to find its broker at this address.
    #[must_use]
    pub fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self {
            address,
            state: Mutex::default(),
            connections: AtomicU64::new(0),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves until dropped.
    ///
    /// # Errors
    /// If the listener breaks.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let own = self.clone();
            tokio::spawn(async move {
                // A client that goes away is the ordinary end of a connection.
                let _ = own.attend(stream).await;
            });
        }
    }

    async fn attend(self: Arc<Self>, stream: TcpStream) -> io::Result<()> {
        let (mut read, mut write) = stream.into_split();
        let (out, mut answers) = mpsc::channel::<Bytes>(ANSWERS);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Some(own) = answers.recv().await {
                if write.write_all(&own).await.is_err() {
                    break;
                }
            }
        });
        let session = Session {
            number: self.connections.fetch_add(1, Relaxed),
            out,
        };
        let mut received = BytesMut::new();
        let ended = loop {
            match Frame::take(&mut received) {
                Err(error) => break Err(error),
                Ok(Some(asked)) => {
                    while tasks.try_join_next().is_some() {}
                    if tasks.len() > WAITING {
                        break Err(io::Error::other("too many requests wait"));
                    }
                    if let Some(waits) = self.take(&session, asked).await {
                        tasks.spawn(waits);
                    }
                }
                Ok(None) => match read.read_buf(&mut received).await {
                    Ok(0) => break Ok(()),
                    Ok(_) => {}
                    Err(error) => break Err(error),
                },
            }
        };
        self.state().leave(session.number);
        ended
    }

    /// Answers a request; what it gives back answers it later.
    async fn take(
        self: &Arc<Self>,
        session: &Session,
        asked: Frame,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        if asked.is_answer() {
            return None;
        }
        if matches!(asked.code, request::PULL | request::LITE_PULL) {
            let (own, out) = (self.clone(), session.out.clone());
            return Some(async move {
                let answer = own.pull(&asked).await;
                let _ = out.send(answer.bytes()).await;
            });
        }
        let answer = self.answer(session, &asked);
        if !asked.is_one_way() {
            let _ = session.out.send(answer.bytes()).await;
        }
        None
    }

    fn answer(&self, session: &Session, asked: &Frame) -> Frame {
        let mut state = self.state();
        let queue = || (asked.text("topic"), asked.number("queueId") as i32);
        let ok = || asked.answer(answer::SUCCESS, "");
        match asked.code {
            request::ROUTE => ok().with_body(&self.route(&asked.text("topic"))),
            request::CLUSTER => ok().with_body(&json!({
                "brokerAddrTable": { BROKER: self.broker() }, "clusterAddrTable": { CLUSTER: [BROKER] },
            })),
            request::SEND | request::SEND_V2 | request::SEND_BATCH => self.store(&mut state, asked),
            request::QUERY_OFFSET => match state.offset(asked) {
                Some(own) => ok().with("offset", own),
                None => asked.answer(answer::QUERY_NOT_FOUND, "no offset of this group yet"),
            },
            request::UPDATE_OFFSET => {
                let (topic, queue) = queue();
                let key = (asked.text("consumerGroup"), topic, queue);
                state.offsets.insert(key, asked.number("commitOffset"));
                ok()
            }
            request::MAX_OFFSET | request::SEARCH_OFFSET => {
                let (topic, queue) = queue();
                ok().with("offset", state.store.bounds(&topic, queue).1)
            }
            request::MIN_OFFSET => {
                let (topic, queue) = queue();
                ok().with("offset", state.store.bounds(&topic, queue).0)
            }
            request::HEART_BEAT => {
                state.join(session, &asked.json());
                ok()
            }
            request::UNREGISTER => {
                let (group, client) = (asked.text("consumerGroup"), asked.text("clientID"));
                state.unregister(&group, &client);
                ok()
            }
            request::CONSUMERS => {
                let group = state.groups.get(&asked.text("consumerGroup"));
                let all: Vec<&String> = group.into_iter().flat_map(BTreeMap::keys).collect();
                ok().with_body(&json!({ "consumerIdList": all }))
            }
            // Whoever asks has it: there is nobody to share with for long.
            request::LOCK => ok().with_body(&json!({ "lockOKMQSet": asked.json()["mqSet"] })),
            request::UNLOCK | request::CHECK_CLIENT => ok(),
            code => asked.answer(answer::NOT_SUPPORTED, &format!("no code {code} here")),
        }
    }

    fn broker(&self) -> Value {
        json!({ "cluster": CLUSTER, "brokerName": BROKER, "brokerAddrs": { "0": self.address.to_string() } })
    }

    /// Every topic is there.
    fn route(&self, topic: &str) -> Value {
        let queues = store::queues_of(topic);
        json!({
            "brokerDatas": [self.broker()],
            "filterServerTable": {},
            "queueDatas": [{
                "brokerName": BROKER, "perm": 6, "readQueueNums": queues, "topicSysFlag": 0, "writeQueueNums": queues,
            }],
        })
    }

    fn store(&self, state: &mut State, asked: &Frame) -> Frame {
        let Some(own) = Message::read(asked) else {
            return asked.answer(answer::MESSAGE_ILLEGAL, "the message cannot be read");
        };
        if own.is_half() {
            return asked.answer(answer::MESSAGE_ILLEGAL, "no transactions here");
        }
        let queue = own.queue;
        match state.store.put(own, self.address) {
            None => asked.answer(answer::MESSAGE_ILLEGAL, "no such queue, or no room for it"),
            Some((offset, place)) => asked
                .answer(answer::SUCCESS, "")
                .with("queueId", queue)
                .with("queueOffset", offset)
                .with("msgId", store::id(self.address, place)),
        }
    }

    async fn pull(&self, asked: &Frame) -> Frame {
        let (topic, queue) = (asked.text("topic"), asked.number("queueId") as i32);
        let wait = match asked.number("sysFlag") & SUSPEND {
            0 => Duration::ZERO,
            _ => Duration::from_millis(asked.number("suspendTimeoutMillis").max(0) as u64),
        };
        let until = Instant::now() + wait.min(LONGEST);
        let (from, most) = (asked.number("queueOffset"), asked.number("maxMsgNums"));
        loop {
            let arrived = self.state().store.arrivals(&topic, queue);
            let mut arrived = std::pin::pin!(arrived.notified_owned());
            // Before it is looked: what arrives in between is not missed.
            arrived.as_mut().enable();
            let fetched = self.state().store.fetch(&topic, queue, from, most);
            let is_over = Instant::now() >= until;
            match fetched {
                Fetched { is_below: true, .. } => {
                    return fetched.tell(asked.answer(answer::PULL_OFFSET_MOVED, "it is gone"));
                }
                Fetched { ref bytes, .. } if !bytes.is_empty() => {
                    let body = Bytes::copy_from_slice(bytes);
                    let mut answer = fetched.tell(asked.answer(answer::SUCCESS, "FOUND"));
                    answer.body = body;
                    return answer;
                }
                _ if is_over => {
                    return fetched.tell(asked.answer(answer::PULL_NOT_FOUND, "nothing new"));
                }
                _ => {}
            }
            let _ = tokio::time::timeout_at(until, arrived).await;
        }
    }
}

impl State {
    fn offset(&self, asked: &Frame) -> Option<i64> {
        let key = (
            asked.text("consumerGroup"),
            asked.text("topic"),
            asked.number("queueId") as i32,
        );
        self.offsets.get(&key).copied()
    }

    /// Takes note of the groups that a client consumes in.
    fn join(&mut self, session: &Session, said: &Value) {
        let client = said["clientID"].as_str().unwrap_or_default();
        let groups = said["consumerDataSet"].as_array();
        for group in groups.into_iter().flatten() {
            let name = group["groupName"].as_str().unwrap_or_default();
            let consumer = Consumer {
                connection: session.number,
                out: session.out.clone(),
            };
            let group = self.groups.entry(name.to_owned()).or_default();
            if group.insert(client.to_owned(), consumer).is_none() {
                tell_of_change(name, group);
            }
        }
    }

    fn unregister(&mut self, name: &str, client: &str) {
        let Some(group) = self.groups.get_mut(name) else {
            return;
        };
        if group.remove(client).is_some() {
            tell_of_change(name, group);
        }
    }

    /// A connection is gone, and whoever consumed over it.
    fn leave(&mut self, connection: u64) {
        for (name, group) in &mut self.groups {
            let before = group.len();
            group.retain(|_, own| own.connection != connection);
            if group.len() < before {
                tell_of_change(name, group);
            }
        }
    }
}

/// Has all of a group share its queues anew.
fn tell_of_change(name: &str, group: &BTreeMap<String, Consumer>) {
    let notice = Frame::one_way(request::CONSUMERS_CHANGED).with("consumerGroup", name);
    let notice = notice.bytes();
    for consumer in group.values() {
        // Whoever has no room for it asks again by itself.
        let _ = consumer.out.try_send(notice.clone());
    }
}
