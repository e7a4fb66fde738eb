//! The producer against librdkafka's own mock of a cluster.

#![expect(
    clippy::disallowed_methods,
    reason = "librdkafka's time cannot be paused"
)]

use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use finback_bridges::{Failure, Message, Place};

use super::{Config, Producer};

const PATIENCE: Duration = Duration::from_secs(20);

fn config(brokers: &str, options: BTreeMap<String, String>) -> Config {
    Config {
        brokers: brokers.to_owned(),
        tls: None,
        sasl: None,
        topics: 1000,
        topic_idle: Duration::from_secs(600),
        options,
    }
}

fn producer(brokers: &str, options: &[(&str, &str)]) -> std::sync::Arc<Producer> {
    let options = options
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    let config = config(brokers, options.collect());
    config.check().unwrap();
    Producer::start("test", config).unwrap()
}

fn message<'a>(payload: &'a [u8]) -> Message<'a> {
    Message {
        topic: "events",
        owner: "",
        key: Some(b"k"),
        tag: None,
        payload,
        headers: &[("a", b"1"), ("a", b"2")],
    }
}

#[test]
fn messages_are_confirmed_in_order_though_brokers_stumble() {
    let cluster = MockCluster::new(3).unwrap();
    cluster.create_topic("events", 1, 3).unwrap();
    let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 2];
    cluster.request_errors(RDKafkaApiKey::Produce, &errors);
    let producer = producer(&cluster.bootstrap_servers(), &[]);
    let (tell, told) = channel();
    for _ in 0..500 {
        let tell = tell.clone();
        let confirm = Box::new(move |went| tell.send(went).unwrap());
        producer.send(&message(b"x"), Some(confirm)).unwrap();
    }
    for offset in 0..500 {
        let place: Place = told.recv_timeout(PATIENCE).unwrap().unwrap();
        assert_eq!(place.offset, offset);
    }
    producer.flush(PATIENCE);
}

#[test]
fn a_full_queue_takes_nothing_and_silence_ends_in_time() {
    // Nobody listens there.
    let limits = [
        ("queue.buffering.max.messages", "10"),
        ("message.timeout.ms", "1000"),
    ];
    let producer = producer("127.0.0.1:1", &limits);
    let (tell, told) = channel();
    let began = Instant::now();
    let mut taken = 0;
    let refused = loop {
        let tell = tell.clone();
        let confirm = Box::new(move |went| tell.send(went).unwrap());
        match producer.send(&message(b"x"), Some(confirm)) {
            Ok(()) => taken += 1,
            Err(failure) => break failure,
        }
    };
    assert_eq!((taken, refused), (10, Failure::Full));
    for _ in 0..taken {
        assert_eq!(told.recv_timeout(PATIENCE).unwrap(), Err(Failure::TimedOut));
    }
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(
        producer
            .counts
            .failed
            .load(std::sync::atomic::Ordering::Relaxed),
        10
    );
}

#[test]
fn what_is_too_large_is_said_at_once() {
    let cluster = MockCluster::new(1).unwrap();
    let producer = producer(
        &cluster.bootstrap_servers(),
        &[("message.max.bytes", "2000")],
    );
    let sent = producer.send(&message(&[0; 3000]), None);
    assert_eq!(sent, Err(Failure::TooLarge));
}

#[test]
fn settings_that_there_are_not_are_named() {
    for (name, value) in [("no.such", "1"), ("linger.ms", "soon"), ("acks", "7777777")] {
        let options = BTreeMap::from([(name.to_owned(), value.to_owned())]);
        let why = config("a:1", options).check().unwrap_err();
        assert!(why.contains(name), "{why}");
    }
}

#[test]
fn what_has_a_key_of_its_own_is_no_option_and_no_secret_is_shown() {
    let options = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
    let why = config("a:1", options("bootstrap.servers", "b:1")).check();
    assert!(why.unwrap_err().contains("`brokers`"));
    let tls = Config {
        tls: Some(crate::Tls::default()),
        ..config("a:1", options("security.protocol", "plaintext"))
    };
    assert!(tls.check().unwrap_err().contains("`tls`"));
    assert!(
        config("a:1", options("security.protocol", "ssl"))
            .check()
            .is_ok()
    );
}

#[test]
fn topics_beyond_the_bound_are_refused_and_their_memory_is_given_back() {
    let cluster = MockCluster::new(1).unwrap();
    let limited = Config {
        topics: 20,
        topic_idle: Duration::from_millis(100),
        ..config(&cluster.bootstrap_servers(), BTreeMap::new())
    };
    let producer = Producer::start("test", limited).unwrap();
    let (tell, told) = channel();
    let send = |n: usize| {
        let topic = format!("t{n}");
        let own = Message {
            topic: &topic,
            ..message(b"x")
        };
        let tell = tell.clone();
        let confirm = Box::new(move |went| tell.send(went).unwrap());
        producer.send(&own, Some(confirm))
    };
    for n in 0..20 {
        send(n).unwrap();
    }
    assert_eq!(send(20), Err(Failure::TooManyTopics));
    let mut written = 20;
    for n in 20..100 {
        loop {
            match send(n) {
                Ok(()) => break,
                Err(failure) => assert!(
                    matches!(failure, Failure::Full | Failure::TooManyTopics),
                    "{failure:?}"
                ),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        written += 1;
    }
    for _ in 0..written {
        assert!(told.recv_timeout(PATIENCE).unwrap().is_ok());
    }
    let rebuilt = producer
        .counts
        .rebuilt
        .load(std::sync::atomic::Ordering::Relaxed);
    assert!((2..=5).contains(&rebuilt), "{rebuilt}");
}
