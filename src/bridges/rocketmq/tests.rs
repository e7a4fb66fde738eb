//! The producer against servers that do as they are told.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use finback_bridges::{Failure, Message, Outlet, Place};
use finback_core::codec::Codec;
use finback_rocketmq::{RocketMq, properties};

use super::{Config, Producer, RocketMqOutlet, properties_of, unique};

const PATIENCE: Duration = Duration::from_secs(20);

/// A broker's answer: its code; `None` to say nothing.
type Answers = Arc<Mutex<VecDeque<Option<i32>>>>;

/// A server that knows a route or takes messages.
struct Server {
    address: String,
    /// What it answers next; 0 when that is used up.
    answers: Answers,
    /// What it was sent: topic, queue and body.
    seen: Arc<Mutex<Vec<(String, i32, String)>>>,
}

impl Server {
    /// One that answers requests for routes with this body, and messages as it is told.
    fn start(route: impl Fn() -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Self {
            address: listener.local_addr().unwrap().to_string(),
            answers: Arc::default(),
            seen: Arc::default(),
        };
        let (answers, seen) = (own.answers.clone(), own.seen.clone());
        let route = Arc::new(route);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (answers, seen, route) = (answers.clone(), seen.clone(), route.clone());
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    while let Some(frame) = read(&mut stream) {
                        serve(&mut stream, &frame, &answers, &seen, &route());
                    }
                });
            }
        });
        own
    }

    fn says(&self, answers: &[Option<i32>]) {
        self.answers.lock().unwrap().extend(answers);
    }

    fn bodies(&self) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.iter().map(|(_, _, body)| body.clone()).collect()
    }
}

fn read(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut frame = vec![0; 4];
    stream.read_exact(&mut frame).ok()?;
    let length = u32::from_be_bytes(frame[..4].try_into().unwrap());
    frame.resize(4 + length as usize, 0);
    stream.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

fn serve(
    stream: &mut TcpStream,
    frame: &[u8],
    answers: &Answers,
    seen: &Mutex<Vec<(String, i32, String)>>,
    route: &str,
) {
    let codec = RocketMq::of_broker(finback_rocketmq::Config::default());
    let head = codec.peek(frame).unwrap().unwrap();
    let (code, body) = match finback_rocketmq::Message::read(&head, frame) {
        None if route.is_empty() => (17, ""),
        None => (0, route),
        Some(message) => {
            let body = String::from_utf8(message.body.to_vec()).unwrap();
            let topic = message.topic.into_owned();
            seen.lock().unwrap().push((topic, message.queue, body));
            match answers.lock().unwrap().pop_front() {
                None => (0, ""),
                Some(None) => return,
                Some(Some(code)) => (code, ""),
            }
        }
    };
    let header = format!(
        r#"{{"code":{code},"flag":1,"opaque":{},"remark":"told","extFields":{{"queueId":"1","queueOffset":"7"}}}}"#,
        head.id
    );
    let lengths = [4 + header.len() + body.len(), header.len()];
    let [total, own] = lengths.map(|length| u32::try_from(length).unwrap().to_be_bytes());
    let whole = [&total[..], &own, header.as_bytes(), body.as_bytes()].concat();
    let _ = stream.write_all(&whole);
}

/// A cluster of one name server and two brokers, `a` and `b`, with two queues each of every topic.
struct Cluster {
    brokers: [Server; 2],
    outlet: RocketMqOutlet,
}

impl Cluster {
    fn start(timeout: Duration) -> Self {
        let brokers = [(); 2].map(|()| Server::start(String::new));
        let [a, b] = brokers.each_ref().map(|own| own.address.clone());
        let route = format!(
            r#"{{"brokerDatas":[{{"brokerName":"a","brokerAddrs":{{0:"{a}"}}}},{{"brokerName":"b","brokerAddrs":{{0:"{b}"}}}}],
            "queueDatas":[{{"brokerName":"a","perm":6,"writeQueueNums":2}},{{"brokerName":"b","perm":6,"writeQueueNums":2}}]}}"#
        );
        let names = Server::start(move || route.clone());
        Self {
            brokers,
            outlet: outlet(vec!["127.0.0.1:1".to_owned(), names.address], timeout),
        }
    }

    fn send(&self, key: Option<&str>, body: &str) -> Receiver<Result<Place, Failure>> {
        send(&self.outlet, "topic", key, body).unwrap()
    }
}

fn outlet(names: Vec<String>, timeout: Duration) -> RocketMqOutlet {
    let outlet = RocketMqOutlet::new(
        "test",
        Config {
            tls: None,
            names,
            group: "g".to_owned(),
            credentials: None,
            timeout,
            longest: 1 << 20,
            topics: 3,
            topic_idle: PATIENCE,
        },
    );
    outlet.start(&[]).unwrap();
    outlet
}

fn send(
    outlet: &RocketMqOutlet,
    topic: &str,
    key: Option<&str>,
    body: &str,
) -> Result<Receiver<Result<Place, Failure>>, Failure> {
    let (tell, told) = channel();
    let message = Message {
        topic,
        key: key.map(str::as_bytes),
        payload: body.as_bytes(),
        ..Message::default()
    };
    let confirm = Box::new(move |went| drop(tell.send(went)));
    outlet.send(&message, Some(confirm))?;
    Ok(told)
}

fn went(told: &Receiver<Result<Place, Failure>>) -> Result<Place, Failure> {
    told.recv_timeout(PATIENCE).unwrap()
}

#[test]
fn a_broker_that_refuses_is_left_for_another_one() {
    let cluster = Cluster::start(PATIENCE);
    // Flow control, no permission, and going away: whatever it is, the other one is asked.
    for code in [215, 16, 1500] {
        cluster.brokers[0].says(&[Some(code)]);
        // "a".hashCode() is 97: the second of four queues, which is of the first broker.
        let place = went(&cluster.send(Some("a"), "moved")).unwrap();
        assert_eq!(place.broker.as_deref(), Some("b"));
        assert_eq!((place.partition, place.offset), (1, 7));
    }
    assert_eq!(
        went(&cluster.send(Some("a"), "stays"))
            .unwrap()
            .broker
            .as_deref(),
        Some("a")
    );
    // What nobody takes is given up at once.
    cluster.brokers[0].says(&[Some(13)]);
    assert_eq!(
        went(&cluster.send(Some("a"), "bad")),
        Err(Failure::TooLarge)
    );
    // Those without a key take turns.
    let told: Vec<_> = (0..8).map(|n| cluster.send(None, &n.to_string())).collect();
    let brokers = told.iter().map(|told| went(told).unwrap().broker);
    let of_a = brokers.filter(|own| own.as_deref() == Some("a")).count();
    assert_eq!(of_a, 4);
}

#[test]
fn messages_of_one_key_come_in_their_order_whatever_becomes_of_each() {
    let cluster = Cluster::start(PATIENCE);
    cluster.brokers[0].says(&[Some(2), Some(0), Some(1)]);
    cluster.brokers[1].says(&[Some(2), Some(0), Some(14)]);
    let told: Vec<_> = (0..50)
        .map(|n| cluster.send(Some("a"), &n.to_string()))
        .collect();
    told.iter().for_each(|told| drop(went(told).unwrap()));
    let mut order: Vec<u32> = Vec::new();
    let [a, b] = cluster.brokers.each_ref().map(Server::bodies);
    for bodies in [&a, &b] {
        let numbers = bodies.iter().map(|own| own.parse::<u32>().unwrap());
        let numbers: Vec<_> = numbers.collect();
        assert!(numbers.is_sorted(), "{numbers:?}");
        order.extend(numbers);
    }
    order.sort_unstable();
    order.dedup();
    assert_eq!(order, (0..50).collect::<Vec<_>>());
}

#[test]
fn what_no_broker_answers_is_told_in_time() {
    let cluster = Cluster::start(Duration::from_secs(1));
    for broker in &cluster.brokers {
        broker.says(&[None; 4]);
    }
    let began = tokio::time::Instant::now();
    let told = [
        cluster.send(Some("a"), "one"),
        cluster.send(Some("a"), "two"),
    ];
    for own in &told {
        assert_eq!(went(own), Err(Failure::TimedOut));
    }
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(cluster.brokers[0].bodies()[0], "one");
}

#[test]
fn topics_that_are_nowhere_or_too_many_are_refused() {
    // A name server that knows brokers, but no topic.
    let names = Server::start(String::new);
    let known = outlet(vec![names.address.clone()], Duration::from_secs(1));
    // It does not say that there are brokers, so that it may just have started.
    assert_eq!(
        went(&send(&known, "t", None, "x").unwrap()),
        Err(Failure::TimedOut)
    );
    for n in 0..2 {
        send(&known, &n.to_string(), None, "x").unwrap();
    }
    assert_eq!(
        send(&known, "more", None, "x").unwrap_err(),
        Failure::TooManyTopics
    );
    let large = "x".repeat(1 << 20);
    assert_eq!(
        send(&known, "t", None, &large).unwrap_err(),
        Failure::TooLarge
    );
}

#[test]
fn there_is_room_for_so_much_and_it_is_given_back() {
    let cluster = Cluster::start(Duration::from_secs(1));
    for broker in &cluster.brokers {
        broker.says(&[None; 200]);
    }
    let body = "x".repeat(1 << 19);
    let taken = (0..200).map_while(|_| send(&cluster.outlet, "topic", None, &body).ok());
    let taken: Vec<_> = taken.collect();
    // Of 64 MiB, each takes half of one and a little more.
    assert_eq!(taken.len(), 127);
    assert_eq!(
        send(&cluster.outlet, "topic", None, &body).unwrap_err(),
        Failure::Full
    );
    for told in &taken {
        assert_eq!(went(told), Err(Failure::TimedOut));
    }
    for broker in &cluster.brokers {
        broker.answers.lock().unwrap().clear();
    }
    assert!(went(&cluster.send(None, "again")).is_ok());
    let counts = &cluster.outlet.producer().unwrap().counts;
    let read =
        |count: &std::sync::atomic::AtomicU64| count.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(
        (
            read(&counts.taken),
            read(&counts.confirmed),
            read(&counts.failed)
        ),
        (128, 1, 127)
    );
    assert_eq!(read(&counts.full), 2);
}

#[test]
fn a_producer_that_is_given_up_still_tells_what_became_of_its_messages() {
    let cluster = Cluster::start(Duration::from_secs(1));
    cluster.brokers[0].says(&[None; 9]);
    cluster.brokers[1].says(&[None; 9]);
    let told = cluster.send(Some("a"), "last");
    let Cluster {
        outlet,
        brokers: _brokers,
    } = cluster;
    let producer: Arc<Producer> = outlet.producer().unwrap().clone();
    drop((outlet, producer));
    assert_eq!(went(&told), Err(Failure::TimedOut));
}

fn told(headers: &[(&str, &[u8])]) -> Vec<(String, String)> {
    let text = properties_of(&Message {
        key: Some(b"k1 k2"),
        tag: Some("red"),
        headers,
        ..Message::default()
    });
    let all = properties::each(&text).map(|(a, b)| (a.to_owned(), b.to_owned()));
    all.filter(|(name, _)| name != "UNIQ_KEY").collect()
}

#[test]
fn headers_become_properties_but_never_rocketmqs_own() {
    let found = told(&[
        ("traceparent", b"00-1"),
        ("DELAY", b"3"),
        ("TRAN_MSG", b"true"),
        ("__STARTDELIVERTIME", b"1"),
        ("KEYS", b"x"),
        ("a", b"1"),
        ("a", b"2"),
        ("raw", b"\xff\x00"),
        ("cut", b"x\x02TAGS\x01blue"),
        ("a\u{1}b", b"1"),
    ]);
    let found: Vec<_> = found.iter().map(|(a, b)| (&**a, &**b)).collect();
    assert_eq!(
        found,
        [
            ("WAIT", "true"),
            ("KEYS", "k1 k2"),
            ("TAGS", "red"),
            ("traceparent", "00-1"),
            ("a", "1"),
            ("raw.base64", "/wA="),
            ("cut.base64", "eAJUQUdTAWJsdWU="),
        ]
    );
}

#[test]
fn no_two_messages_are_taken_for_one() {
    let (one, other) = (unique(), unique());
    assert_ne!(one, other);
    assert_eq!((one.len(), &one[..16]), (32, &other[..16]));
}
