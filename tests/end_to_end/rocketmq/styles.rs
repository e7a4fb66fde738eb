//! Other styles of the Java clients: lite pull, POP, request and reply, message trace, queries, ACL.

use std::time::Duration;

use serde_json::json;

use super::stage::{Outcome, Stage, all_arrived, stored, summary};
use crate::support::eventually;

/// Pulled by a consumer that is given queues by its group, and by one that takes them itself.
pub(crate) fn lite_pull(stage: Stage<'_>) -> Outcome {
    let topic = stage.topic("lite", 2);
    let producer = stage.producer(&topic, &[]);
    let sent = producer.send(&topic, &[("key", "pulled"), ("count", "6")]);
    stored(&sent);
    let both = ["false", "true"].map(|assign| {
        let group = stage.group("lite");
        let options = [("how", "lite"), ("assign", assign)];
        let consumer = stage.consumer(&group, &topic, &options);
        let received = consumer.receive(sent.len());
        all_arrived(&sent, &received);
        consumer.close();
        summary(&received)
    });
    producer.close();
    Outcome::of(json!(both))
}

/// Popped and acknowledged one by one, which is how the broker itself shares queues.
pub(crate) fn pop(stage: Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("pop", 2), stage.group("pop"));
    stage.broker.pop(&topic, &group);
    let consumers = [(); 2].map(|()| stage.consumer(&group, &topic, &[("how", "pop")]));
    let producer = stage.producer(&topic, &[]);
    let sent = producer.send(&topic, &[("key", "popped"), ("count", "8")]);
    stored(&sent);
    let mut received = Vec::new();
    eventually("all messages", Duration::from_secs(30), || {
        for own in &consumers {
            received.extend(own.receive_within(1, 200));
        }
        if received.len() >= sent.len() {
            Ok(())
        } else {
            Err(format!("{received:?}"))
        }
    });
    all_arrived(&sent, &received);
    for own in consumers {
        own.close();
    }
    producer.close();
    Outcome::of(summary(&received))
}

/// A request that is sent as a message, and the reply to it.
pub(crate) fn request_reply(stage: Stage<'_>) -> Outcome {
    let (topic, group) = (stage.topic("asked", 1), stage.group("asked"));
    let replier = stage.consumer(&group, &topic, &[("reply", "true")]);
    let requester = stage.producer(&topic, &[]);
    let fields = [("how", "request"), ("key", "question"), ("count", "3")];
    let sent = requester.send(&topic, &fields);
    let replies: Vec<_> = sent.iter().map(|own| own.all["reply"].clone()).collect();
    let wanted = [0, 1, 2].map(|n| json!(format!("reply to question{n}")));
    assert_eq!(replies, wanted, "{sent:?}");
    replier.close();
    requester.close();
    Outcome::of(json!(replies))
        .took("first reply", sent[0].millis)
        .took("last reply", sent[2].millis)
}

/// The client's own trace of what it sent.
pub(crate) fn traced(stage: Stage<'_>) -> Outcome {
    let topic = stage.topic("traced", 1);
    let producer = stage.producer(&topic, &[("trace", "true")]);
    let sent = producer.send(&topic, &[("key", "watched"), ("count", "2")]);
    stored(&sent);
    // A message of the trace has the keys and ids of those that it tells of.
    let found = eventually("the trace", Duration::from_secs(30), || {
        let id = sent[1].all["id"].as_str().unwrap();
        let fields = [("topic", "RMQ_SYS_TRACE_TOPIC"), ("key", id)];
        match producer.try_ask("find", &fields) {
            Ok(found) if !found.as_array().unwrap().is_empty() => Ok(found),
            other => Err(format!("{other:?}")),
        }
    });
    let keys = found[0]["key"].as_str().unwrap();
    assert!(keys.contains("watched1"), "{found}");
    producer.close();
    Outcome::of(json!(found.as_array().unwrap().len()))
}

/// What was stored, asked for by offset, by key and by identifier.
pub(crate) fn queried(stage: Stage<'_>) -> Outcome {
    let topic = stage.topic("queried", 1);
    let producer = stage.producer(&topic, &[]);
    let sent = producer.send(&topic, &[("key", "wanted"), ("count", "3")]);
    stored(&sent);
    let fields = [("topic", topic.as_str()), ("key", "wanted1")];
    // The index is written a little later.
    let found = eventually(
        "the message by its key",
        Duration::from_secs(20),
        || match producer.try_ask("find", &fields) {
            Ok(found) if !found.as_array().unwrap().is_empty() => Ok(found),
            other => Err(format!("{other:?}")),
        },
    );
    assert_eq!(found[0]["hash"], sent[1].hash.as_str());
    let id = sent[2].all["stored"].as_str().unwrap();
    let seen = producer.ask("view", &[("topic", &topic), ("id", id)]);
    assert_eq!(seen["hash"], sent[2].hash.as_str());
    let offsets = producer.ask("offsets", &[("topic", &topic)]);
    assert_eq!(
        (&offsets[0]["first"], &offsets[0]["next"]),
        (&json!(0), &json!(3))
    );
    producer.close();
    Outcome::of(json!([found, seen, offsets]))
}

/// Signed with the right secret, and with a wrong one, before a broker that asks for it.
pub(crate) fn signed(stage: Stage<'_>) -> Outcome {
    let topic = Stage::fresh("signed");
    let right = [("access", "mesh"), ("secret", "a-long-secret")];
    let producer = stage.producer(&topic, &right);
    // The client gives it three seconds, of which a busy machine takes some for its start.
    eventually("the topic", Duration::from_secs(30), || {
        let made = producer.try_ask("topic", &[("topic", &topic), ("queues", "1")]);
        made.map_err(|failure| format!("{failure:?}"))
    });
    let sent = producer.send(&topic, &[("key", "signed"), ("count", "2")]);
    stored(&sent);
    let consumer = stage.consumer("signed", &topic, &right);
    let received = consumer.receive(2);
    all_arrived(&sent, &received);
    let wrong = [("access", "mesh"), ("secret", "another"), ("retries", "0")];
    let stranger = stage.producer(&topic, &wrong);
    let refused = stranger.send(&topic, &[("key", "forged")]);
    assert_eq!(refused[0].status, "", "{refused:?}");
    consumer.close();
    producer.close();
    stranger.close();
    Outcome::of(json!([summary(&received), refused[0].error["class"]]))
}
