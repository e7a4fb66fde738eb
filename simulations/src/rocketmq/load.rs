//! A load generator: pairs of a producer and a consumer that each have a queue of a topic, and check that each message
//! arrives once, in its order and as it was sent.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::frame::Frame;
use super::{QUEUES, answer, request};
use crate::load::{Progress, Summary, Tally, share};

/// Whoever hears nothing for so long gives up.
const PATIENCE: Duration = Duration::from_secs(20);
/// A pull waits for so long, in milliseconds.
const SUSPENDED: u64 = 15_000;
/// The topic whose route tells where one may be made (RocketMQ: TopicValidator).
const MAKES_TOPICS: &str = "TBW102";
/// Messages that a pull asks for.
const PULLED: u32 = 32;

/// What to send where.
#[derive(Clone, Copy, Debug)]
pub struct RocketMqLoad {
    /// The name server.
    pub target: SocketAddr,
    /// Pairs of a producer and a consumer.
    pub pairs: usize,
    /// Messages of each pair on their way at a time.
    pub in_flight: usize,
    /// Messages in all.
    pub count: u64,
    /// Bytes of a message, at least 8.
    pub size: usize,
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

/// Runs a load to its end.
///
/// # Errors
/// If a connection cannot be made or breaks, or a message is refused, lost, doubled or changed.
pub async fn run(load: &RocketMqLoad, progress: &Arc<Progress>) -> io::Result<Summary> {
    let all = Arc::new(Mutex::new(Tally::default()));
    let mut pairs = Vec::new();
    for number in 0..load.pairs {
        pairs.push(Pair::connect(*load, number).await?);
    }
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, mut pair) in pairs.into_iter().enumerate() {
        let share = share(load.count, load.pairs as u64, number as u64);
        let (all, progress) = (all.clone(), progress.clone());
        tasks.spawn(async move {
            pair.run(share, &progress).await?;
            let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
            all.join(&pair.tally);
            Ok::<_, io::Error>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(io::Error::other)??;
    }
    let all = all.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(all.summary(began.elapsed()))
}

/// A connection to a server.
struct Connection {
    stream: TcpStream,
    received: BytesMut,
    out: BytesMut,
    next_id: i64,
}

impl Connection {
    async fn to(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            received: BytesMut::with_capacity(64 * 1024),
            out: BytesMut::new(),
            next_id: 1,
        })
    }

    /// Writes a request into what is sent next.
    fn put(&mut self, code: i64, fields: &[(&str, String)], body: Bytes) {
        let mut own = Frame {
            code,
            id: self.next_id,
            body,
            ..Frame::default()
        };
        for (name, value) in fields {
            own.fields.insert((*name).to_owned(), value.clone().into());
        }
        self.next_id += 1;
        own.put(&mut self.out);
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out.split()).await?;
        }
        Ok(())
    }

    /// The next answer; what the server asks is left alone.
    async fn next(&mut self) -> io::Result<Frame> {
        loop {
            match Frame::take(&mut self.received)? {
                Some(own) if own.is_answer() => return Ok(own),
                Some(_) => {}
                None => {
                    if self.stream.read_buf(&mut self.received).await? == 0 {
                        return Err(invalid("the server has gone away"));
                    }
                }
            }
        }
    }

    async fn ask(&mut self, code: i64, fields: &[(&str, String)], body: &str) -> io::Result<Frame> {
        self.put(code, fields, Bytes::copy_from_slice(body.as_bytes()));
        self.flush().await?;
        tokio::time::timeout(PATIENCE, self.next()).await?
    }
}

/// The address of the broker that has a topic, or will have it at its first message.
async fn broker_of(names: &mut Connection, topic: &str) -> io::Result<(String, bool)> {
    // What makes topics has this one.
    for (topic, is_new) in [(topic, false), (MAKES_TOPICS, true)] {
        let asked = [
            ("topic", topic.to_owned()),
            ("acceptStandardJsonOnly", "true".to_owned()),
        ];
        let route = names.ask(request::ROUTE, &asked, "").await?;
        if let Some(own) = route.json()["brokerDatas"][0]["brokerAddrs"]["0"].as_str() {
            return Ok((own.to_owned(), is_new));
        }
    }
    Err(invalid("no broker has the topic, or makes it"))
}

/// Writes a message to a queue: its number, and dots.
fn put_message(
    producer: &mut Connection,
    (group, topic, queue): (&str, &str, i32),
    number: u64,
    size: usize,
) {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(size.max(8), b'.');
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_millis());
    let text = |text: &str| text.to_owned();
    producer.put(
        request::SEND_V2,
        &[
            ("a", text(group)),
            ("b", text(topic)),
            ("c", text(MAKES_TOPICS)),
            ("d", text("4")),
            ("e", queue.to_string()),
            ("f", text("0")),
            ("g", now.to_string()),
            ("h", text("0")),
            ("i", format!("KEYS\u{1}{number}\u{2}WAIT\u{1}true\u{2}")),
            ("j", text("0")),
            ("k", text("false")),
            ("m", text("false")),
        ],
        body.into(),
    );
}

/// A producer and a consumer of one queue.
struct Pair {
    load: RocketMqLoad,
    topic: String,
    group: String,
    queue: i32,
    producer: Connection,
    consumer: Connection,
    /// Where the consumer goes on.
    offset: i64,
    /// Messages that were sent and did not arrive yet, by number, and when.
    begun: VecDeque<(u64, Instant)>,
    tally: Tally,
}

impl Pair {
    async fn connect(load: RocketMqLoad, number: usize) -> io::Result<Self> {
        let topic = format!("load-{}", number / QUEUES as usize);
        let queue = (number % QUEUES as usize) as i32;
        let mut names = Connection::to(&load.target.to_string()).await?;
        let (broker, is_new) = broker_of(&mut names, &topic).await?;
        let (mut producer, mut consumer) = (
            Connection::to(&broker).await?,
            Connection::to(&broker).await?,
        );
        let group = format!("load-{}-{number}", std::process::id());
        if is_new {
            // A broker makes a topic at its first message.
            put_message(&mut producer, (&group, &topic, queue), 0, 8);
            producer.flush().await?;
            let made = tokio::time::timeout(PATIENCE, producer.next()).await??;
            if made.code != answer::SUCCESS {
                return Err(invalid(format!("no topic: {}", made.remark)));
            }
        }
        // From now on: rounds before this one left their messages there.
        let fields = [("topic", topic.clone()), ("queueId", queue.to_string())];
        let end = consumer.ask(request::MAX_OFFSET, &fields, "").await?;
        if end.code != answer::SUCCESS {
            return Err(invalid(format!("no end of the queue: {}", end.remark)));
        }
        Ok(Self {
            load,
            topic,
            group,
            queue,
            producer,
            consumer,
            offset: end.number("offset"),
            begun: VecDeque::new(),
            tally: Tally::default(),
        })
    }

    fn send(&mut self, number: u64) {
        let to = (&*self.group, &*self.topic, self.queue);
        put_message(&mut self.producer, to, number, self.load.size);
        self.begun.push_back((number, Instant::now()));
    }

    fn pull(&mut self) {
        self.consumer.put(
            request::PULL,
            &[
                ("consumerGroup", self.group.clone()),
                ("topic", self.topic.clone()),
                ("queueId", self.queue.to_string()),
                ("queueOffset", self.offset.to_string()),
                ("maxMsgNums", PULLED.to_string()),
                // It may wait, and says its subscription itself: there are no heartbeats.
                ("sysFlag", "6".to_owned()),
                ("commitOffset", "0".to_owned()),
                ("suspendTimeoutMillis", SUSPENDED.to_string()),
                ("subscription", "*".to_owned()),
                ("subVersion", "0".to_owned()),
            ],
            Bytes::new(),
        );
    }

    async fn run(&mut self, count: u64, progress: &Progress) -> io::Result<()> {
        let (mut sent, mut stored, mut heard) = (0, 0, 0);
        while sent < count && sent < self.load.in_flight as u64 {
            self.send(sent);
            sent += 1;
        }
        if count > 0 {
            self.pull();
        }
        while heard < count || stored < count {
            self.producer.flush().await?;
            self.consumer.flush().await?;
            let next = async {
                tokio::select! {
                    own = self.producer.next(), if stored < count => (true, own),
                    own = self.consumer.next(), if heard < count => (false, own),
                }
            };
            let (is_send, answered) = tokio::time::timeout(PATIENCE, next).await?;
            let answered = answered?;
            if is_send {
                if answered.code != answer::SUCCESS {
                    return Err(invalid(format!("not stored: {}", answered.remark)));
                }
                stored += 1;
                continue;
            }
            let arrived = self.take(&answered, progress)?;
            heard += arrived;
            for _ in 0..arrived.min(count - sent) {
                self.send(sent);
                sent += 1;
            }
            if heard < count {
                self.pull();
            }
        }
        Ok(())
    }

    /// Counts what arrived.
    fn take(&mut self, answered: &Frame, progress: &Progress) -> io::Result<u64> {
        match answered.code {
            answer::SUCCESS => {}
            answer::PULL_NOT_FOUND => return Ok(0),
            code => return Err(invalid(format!("pull: {code} {}", answered.remark))),
        }
        self.offset = answered.number("nextBeginOffset");
        let mut rest = answered.body.clone();
        let mut arrived = 0;
        while rest.len() > 96 {
            let size = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
            if size < 96 || size > rest.len() {
                return Err(invalid("a message cannot be read"));
            }
            let message = rest.split_to(size);
            // Behind the fixed part of 84 bytes its length.
            let mut body = &message[84..];
            let length = body.get_u32() as usize;
            let Some((&number, _)) = body.get(..length).and_then(<[u8]>::split_first_chunk::<8>)
            else {
                return Err(invalid("a message is not as it was sent"));
            };
            let number = u64::from_be_bytes(number);
            let (wanted, began) = self
                .begun
                .pop_front()
                .ok_or_else(|| invalid("a message comes twice"))?;
            let is_right = number == wanted && length == self.load.size.max(8);
            self.tally.add(began.elapsed(), is_right, progress);
            arrived += 1;
        }
        Ok(arrived)
    }
}
