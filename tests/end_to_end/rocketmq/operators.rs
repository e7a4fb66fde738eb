//! What operators see of RocketMQ's topics, and what they may do to them through Finback.

use std::time::Duration;

use super::mesh::{Mesh, configuration, range};
use super::stage::{Cluster, Stage};
use super::through::brokers_of;
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::remoting;

const PATIENCE: Duration = Duration::from_secs(60);

/// SEND_MESSAGE, PULL_MESSAGE, DELETE_TOPIC_IN_BROKER, DELETE_TOPIC_IN_NAMESRV: RequestCode.java.
const SEND: i64 = 10;
const PULL: i64 = 11;
const DELETE_IN_BROKER: i64 = 215;
const DELETE_IN_NAMES: i64 = 216;
/// ResponseCode.java.
const NO_PERMISSION: i64 = 16;

#[test]
fn operators_requests_pass_where_the_listener_says_so() {
    let cluster = Cluster::v55();
    let topic = Stage::fresh("administered");
    cluster.broker.topic(&topic, 1);
    for allowed in [false, true] {
        let key = format!("administration: {allowed}, broker_ports:");
        let text = configuration(&cluster.names.address, &range(12), "");
        let mesh = Mesh::of(Finback::start(&text.replace("broker_ports:", &key)));
        let broker = brokers_of(&mesh.names, &topic)[0].1.clone();
        let wanted = if allowed { 0 } else { NO_PERMISSION };
        for (address, code) in [(&broker, DELETE_IN_BROKER), (&mesh.names, DELETE_IN_NAMES)] {
            let reply = remoting::ask(address, code, &[("topic", &topic)], &[]).unwrap();
            assert_eq!(reply.code, wanted, "{code}: {}", reply.remark);
        }
        let metrics = mesh.finback.admin("/metrics").1;
        let is_denied = |line: &str| {
            line.contains("method=\"DELETE_TOPIC_IN_NAMESRV\"")
                && line.contains("outcome=\"denied\"")
        };
        assert_eq!(metrics.lines().any(is_denied), !allowed, "{metrics}");
        assert_eq!(cluster.names.route(&topic).is_some(), !allowed);
    }
}

#[test]
fn a_group_that_is_behind_is_seen() {
    let cluster = Cluster::v55();
    let topic = Stage::fresh("behind");
    cluster.broker.topic(&topic, 2);
    let group = Stage::fresh("slow");
    cluster.broker.group(&group);
    let mesh = Mesh::start(&cluster.names.address);
    let broker = brokers_of(&mesh.names, &topic)[0].1.clone();
    for (queue, messages) in [("0", 5), ("1", 3)] {
        for _ in 0..messages {
            let fields = [
                ("producerGroup", "p"),
                ("topic", &topic),
                ("defaultTopic", "TBW102"),
                ("defaultTopicQueueNums", "4"),
                ("queueId", queue),
                ("sysFlag", "0"),
                ("bornTimestamp", "0"),
                ("flag", "0"),
                ("properties", ""),
            ];
            let reply = remoting::ask(&broker, SEND, &fields, b"body").unwrap();
            assert_eq!(reply.code, 0, "{}", reply.remark);
        }
    }
    let pull = |queue: &str, offset: &str| {
        let fields = [
            ("consumerGroup", &*group),
            ("topic", &topic),
            ("queueId", queue),
            ("queueOffset", offset),
            ("maxMsgNums", "2"),
            // The subscription is in the request.
            ("sysFlag", "4"),
            ("commitOffset", "0"),
            ("suspendTimeoutMillis", "0"),
            ("subscription", "*"),
            ("subVersion", "0"),
            ("expressionType", "TAG"),
        ];
        remoting::ask(&broker, PULL, &fields, &[]).unwrap().code
    };
    let lag = || {
        let metrics = mesh.finback.admin("/metrics").1;
        let own = format!("service=\"{topic}\",group=\"{group}\"");
        let mut lines = metrics.lines();
        let line =
            lines.find(|line| line.starts_with("finback_consumer_lag{") && line.contains(&own));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
    };
    assert_eq!(lag(), None);
    // What was sent can be fetched a moment later.
    eventually("messages", PATIENCE, || match (pull("0", "0"), lag()) {
        (0, Some(3)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    eventually("more", PATIENCE, || match (pull("1", "0"), lag()) {
        (0, Some(4)) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(pull("0", "4"), 0);
    assert_eq!(lag(), Some(1));
}
