//! Members of groups against brokers that say what they are told to.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use serde_json::{Value, json};

use super::*;
use crate::bridges::rocketmq::scripted::{Asked, Said, Scripted};

/// RocketMQ: RequestCode.
const PULL: i32 = 11;
const HEART_BEAT: i32 = 34;
const CONSUMERS: i32 = 38;
const LOCK: i32 = 41;
const UNLOCK: i32 = 42;
/// RocketMQ: ResponseCode.
const SYSTEM_ERROR: i32 = 1;

/// What a broker says in place of an answer when it is asked this.
type Failing = (i32, fn() -> Option<Said>);

/// A cluster of two brokers, with two queues each of every topic.
struct Stage {
    brokers: [Scripted; 2],
    /// Which of them fail.
    fail: [Arc<AtomicBool>; 2],
    member: Member,
    /// Whoever is in the group.
    clients: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Stage {
    fn start((code, failure): Failing) -> Self {
        let fail: [Arc<AtomicBool>; 2] = Default::default();
        let clients = Arc::new(std::sync::Mutex::new(vec!["own".to_owned()]));
        let brokers = fail.each_ref().map(|fail| {
            let (fail, clients) = (fail.clone(), clients.clone());
            Scripted::start(move |asked| match asked.code {
                own if own == code && fail.load(SeqCst) => failure(),
                CONSUMERS => {
                    let clients = json!({ "consumerIdList": *clients.lock().unwrap() });
                    Some(Said::body(clients.to_string()))
                }
                LOCK => Some(given(asked)),
                // Nothing comes, and not at once.
                PULL => Some(Said::error(SYSTEM_ERROR, "not now")),
                _ => Some(Said::yes()),
            })
        });
        let [a, b] = brokers.each_ref().map(|own| &own.address);
        let route = format!(
            r#"{{"brokerDatas":[{{"brokerName":"a","brokerAddrs":{{0:"{a}"}}}},{{"brokerName":"b","brokerAddrs":{{0:"{b}"}}}}],
            "queueDatas":[{{"brokerName":"a","perm":6,"writeQueueNums":2}},{{"brokerName":"b","perm":6,"writeQueueNums":2}}]}}"#
        );
        let names = Scripted::start(move |_| Some(Said::body(route.clone())));
        let member = Member {
            client: "own".to_owned(),
            ..Member::new(Arc::new(group(&names.address)), Counted::default())
        };
        Self {
            brokers,
            fail,
            member,
            clients,
        }
    }

    /// How many queues of each broker it has.
    fn queues(&self) -> [usize; 2] {
        let of = |name: &str| {
            let own = self.member.queues.iter();
            let held = own.filter(|(queue, held)| *queue.broker == *name && !held.is_empty());
            held.count()
        };
        ["a", "b"].map(of)
    }
}

/// A broker gives all locks that it is asked for.
fn given(asked: &Asked) -> Said {
    let wanted: Value = serde_json::from_slice(&asked.body).unwrap();
    Said::body(json!({ "lockOKMQSet": wanted["mqSet"] }).to_string())
}

fn group(names: &str) -> ConsumerGroup {
    let text = format!(
        r#"
kafka: {{ events: {{ brokers: "127.0.0.1:1" }} }}
rocketmq: {{ orders: {{ name_servers: "{names}" }} }}
groups: [ {{ rocketmq: orders, group: g, topics: [ t ], mirror: {{ kafka: events, topic: "{{topic}}" }} }} ]
listeners: []
"#
    );
    let config = crate::config::parse(&text, Path::new("f.yaml"));
    config.unwrap().groups.remove(0)
}

/// Each way in which a broker may fail.
const FAILURES: [Failing; 5] = [
    (HEART_BEAT, || Some(Said::error(SYSTEM_ERROR, "busy"))),
    (HEART_BEAT, || None),
    (LOCK, || Some(Said::error(SYSTEM_ERROR, "busy"))),
    (LOCK, || None),
    (LOCK, || Some(Said::body("{"))),
];

#[tokio::test]
async fn a_broker_that_fails_holds_up_no_other() {
    for failure in FAILURES {
        // Whichever of them is asked first.
        for failing in [0, 1] {
            let mut stage = Stage::start(failure);
            stage.fail[failing].store(true, SeqCst);
            stage.member.share("t").await.unwrap_err();
            let mut wanted = [2, 2];
            wanted[failing] = 0;
            assert_eq!(stage.queues(), wanted, "{failure:?}");
            stage.fail[failing].store(false, SeqCst);
            stage.member.share("t").await.unwrap();
            assert_eq!(stage.queues(), [2, 2], "{failure:?}");
        }
    }
}

#[tokio::test]
async fn each_topic_that_fails_is_told_of_once() {
    let mut member = Stage::start(FAILURES[0]).member;
    let failed = || Err("no such topic".to_owned());
    let mut told = Vec::new();
    for _ in 0..2 {
        told.extend([
            member.tell("t", failed()),
            member.tell("u", Ok(())),
            member.tell("v", failed()),
        ]);
    }
    assert_eq!(told, [true, false, true, false, false, false]);
    member.tell("t", Ok(()));
    assert!(member.tell("t", failed()));
    assert!(!member.tell("v", failed()));
}

#[tokio::test]
async fn what_is_consumed_of_a_broker_that_fails_stays_as_it_is() {
    for failure in FAILURES {
        for failing in [0, 1] {
            let mut stage = Stage::start(failure);
            stage.member.share("t").await.unwrap();
            stage.fail[failing].store(true, SeqCst);
            stage.member.share("t").await.unwrap_err();
            assert_eq!(stage.queues(), [2, 2], "{failure:?}");
            for broker in &stage.brokers {
                assert!(broker.asked_with(UNLOCK).is_empty(), "{failure:?}");
            }
            // Another member comes: half of the queues are its own as soon as their broker can be asked.
            stage.clients.lock().unwrap().push("z".to_owned());
            stage.fail[failing].store(false, SeqCst);
            stage.member.share("t").await.unwrap();
            assert_eq!(stage.queues(), [2, 0], "{failure:?}");
            assert_eq!(stage.brokers[1].asked_with(UNLOCK).len(), 2);
        }
    }
}

#[test]
fn members_share_all_queues_and_none_twice() {
    let queue = |id| Queue {
        broker: "b".into(),
        id,
        address: "a".into(),
    };
    let all: Vec<_> = (0..7).map(queue).collect();
    for count in 1..10 {
        let members: Vec<_> = (0..count).map(|own| format!("m{own}")).collect();
        let shares = members
            .iter()
            .map(|own| share_of(&all, &members, own).collect::<Vec<_>>());
        let together: Vec<_> = shares.flatten().collect();
        assert_eq!(together, all.iter().collect::<Vec<_>>(), "{count}");
    }
    assert_eq!(share_of(&all, &["m".to_owned()], "other").count(), 0);
}
