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

use super::{Config, Failure, Message, Place, Producer};

const PATIENCE: Duration = Duration::from_secs(20);

fn producer(brokers: &str, options: &[(&str, &str)]) -> std::sync::Arc<Producer> {
    let options = options
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()));
    let config = Config {
        brokers: brokers.to_owned(),
        options: options.collect(),
    };
    config.check().unwrap();
    Producer::start("test", config).unwrap()
}

fn message<'a>(payload: &'a [u8]) -> Message<'a> {
    Message {
        topic: "events",
        key: Some(b"k"),
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
        let config = Config {
            brokers: "a:1".to_owned(),
            options,
        };
        let why = config.check().unwrap_err();
        assert!(why.contains(name), "{why}");
    }
}
