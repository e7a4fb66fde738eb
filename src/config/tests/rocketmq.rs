//! Mistakes about messages into RocketMQ, from it, and copies of them.

use std::path::Path;

use crate::config::parse;

const WHOLE: &str = r#"
kafka: { events: { brokers: "127.0.0.1:1" } }
rocketmq: { next: { name_servers: [ "127.0.0.1:2", "names.mq.test:9876" ] } }
groups:
  - { rocketmq: next, group: to-kafka, topics: [ orders, bills ], mirror: { topic: "own.{topic}", kafka: events } }
  - { rocketmq: next, group: other, topics: [ stock ], mirror: { topic: "own.{topic}", kafka: events } }
listeners:
  - { name: mq, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: { broker_ports: 20000-20299 } }
  - { name: in, address: "127.0.0.1:0", protocol: http, routes: in }
routes:
  mq:
    - to: { cluster: names }
      shadow: { rocketmq: next, topic: "SHADOW_{topic}", percent: 10, mark: takin }
      rocketmq: { mirror: { kafka: events, topic: "mq.{topic}", key: queue } }
  in:
    - match: { protocol: http }
      produce: { rocketmq: next, topic: "x-{1}", tag: red, headers: [ X-Tenant ] }
clusters: { names: { endpoints: [ "127.0.0.1:1" ] } }
"#;

/// What is replaced by what, and what is said about it.
const MISTAKES: &[(&str, &str, &str)] = &[
    (
        "broker_ports: 20000-20299",
        "broker_ports: 20000-20299, rename: { a: b, b: c }",
        "`b` is renamed twice",
    ),
    (
        "broker_ports: 20000-20299",
        "broker_ports: 20000-20299, rename: { a: \"%RETRY%g\" }",
        "`%RETRY%g` is not a topic that can be renamed",
    ),
    (
        "names.mq.test:9876",
        "names.mq.test",
        "write name servers as HOST:PORT",
    ),
    (
        "[ \"127.0.0.1:2\", \"names.mq.test:9876\" ]",
        "[]",
        "write name servers as HOST:PORT",
    ),
    (
        "\"names.mq.test:9876\" ]",
        "\"a:1\" ], group: \"a b\"",
        "`a b` is not a group",
    ),
    (
        "\"names.mq.test:9876\" ]",
        "\"a:1\" ], access_key: mesh",
        "belong together",
    ),
    (
        "\"names.mq.test:9876\" ]",
        "\"a:1\" ], longest_message: 16MiB",
        "write 15MiB at most",
    ),
    (
        "{ rocketmq: next, topic: \"SHADOW",
        "{ rocketmq: nex, topic: \"SHADOW",
        "`nex`",
    ),
    (
        "{ rocketmq: next, topic: \"SHADOW",
        "{ cluster: names, rocketmq: next, topic: \"SHADOW",
        "a copy goes to one place",
    ),
    (
        "shadow: { rocketmq: next, topic: \"SHADOW_{topic}\", ",
        "shadow: { ",
        "write `rocketmq` in place of `cluster`",
    ),
    (
        "shadow: { rocketmq: next, topic: \"SHADOW_{topic}\", ",
        "shadow: { cluster: other, ",
        "write `rocketmq` in place of `cluster`",
    ),
    (
        "SHADOW_{topic}",
        "SHADOW",
        "`SHADOW` is not a topic for copies",
    ),
    (
        "SHADOW_{topic}",
        "shadow.{topic}",
        "is not a topic for copies",
    ),
    (
        "mq.{topic}",
        "mq/{topic}",
        "is not a name for a topic of Kafka",
    ),
    (
        "key: queue",
        "key: client-id",
        "write keys, queue, none or { property: NAME }",
    ),
    ("kafka: events, topic", "kafka: event, topic", "`event`"),
    (
        "produce: { rocketmq: next,",
        "produce: {",
        "write either `kafka` or `rocketmq`",
    ),
    (
        "produce: { rocketmq: next,",
        "produce: { rocketmq: next, kafka: events,",
        "write either `kafka` or `rocketmq`",
    ),
    (
        "produce: { rocketmq: next,",
        "produce: { kafka: events,",
        "only messages of RocketMQ have a tag",
    ),
    (
        "topic: \"x-{1}\"",
        "topic: \"x.{1}\"",
        "is not a name for a topic of RocketMQ; write letters, digits, `_` and `-`",
    ),
    (
        "tag: red",
        "tag: \"a || b\"",
        "is not a tag that a consumer could ask for",
    ),
    (
        "[ X-Tenant ]",
        "[ \"x tenant\" ]",
        "`x tenant` is not a header name",
    ),
    (
        "group: other",
        "group: to-kafka",
        "the group `to-kafka` stands here twice",
    ),
    ("group: other", "group: \"a b\"", "`a b` is not a group"),
    (
        "[ orders, bills ]",
        "[ orders, orders ]",
        "write the topics that it consumes, each once",
    ),
    (
        "[ orders, bills ]",
        "[]",
        "write the topics that it consumes, each once",
    ),
    (
        "[ orders, bills ]",
        "[ \"%RETRY%g\" ]",
        "write the topics that it consumes, each once",
    ),
    (
        "protocol: rocketmq, routes: mq, rocketmq: { broker_ports: 20000-20299 }",
        "protocol: dubbo, routes: mq",
        "this is for messages of RocketMQ",
    ),
];

#[test]
fn mistakes_about_messages_of_rocketmq_are_told() {
    let read = |text: &str| parse(text, Path::new("f.yaml")).map(drop);
    read(WHOLE).unwrap();
    for (good, bad, says) in MISTAKES {
        assert_eq!(WHOLE.matches(good).count(), 1, "{good}");
        let error = read(&WHOLE.replace(good, bad)).unwrap_err().to_string();
        assert!(error.contains(says), "{bad}: {error}");
    }
}
