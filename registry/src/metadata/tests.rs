//! Who is asked for metadata, and when.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Mutex;

use super::*;
use crate::lock;

/// What an instance does that is asked.
#[derive(Clone, Copy)]
enum Kind {
    Answers,
    Refuses,
    Hangs,
}

/// Instances by the last number of their address.
struct Service {
    kinds: Mutex<Vec<Kind>>,
    asked: Mutex<Vec<u16>>,
}

impl MetadataService for Service {
    fn ask<'a>(&'a self, address: SocketAddr, _: &'a str, _: &'a str) -> InstanceAsked<'a> {
        lock(&self.asked).push(address.port());
        let kind = lock(&self.kinds)[usize::from(address.port())];
        Box::pin(async move {
            match kind {
                Kind::Answers => Ok(b"services".to_vec()),
                Kind::Refuses => Err("refused".to_owned()),
                Kind::Hangs => std::future::pending().await,
            }
        })
    }
}

struct World {
    service: Arc<Service>,
    instances: watch::Sender<Instances>,
    followed: Followed,
}

fn instances(ports: &[u16]) -> Instances {
    ports
        .iter()
        .map(|port| ("127.0.0.1".to_owned(), *port))
        .collect()
}

/// Port 0 has the first kind, and so on.
fn world(kinds: &[Kind]) -> World {
    let service = Arc::new(Service {
        kinds: Mutex::new(kinds.to_vec()),
        asked: Mutex::default(),
    });
    let ports: Vec<u16> = (0..).take(kinds.len()).collect();
    let (sender, receiver) = watch::channel(instances(&ports));
    let metadata = Metadata(service.clone());
    World {
        followed: metadata.follow(&Handle::current(), &Bell::default(), "app", "r1", receiver),
        instances: sender,
        service,
    }
}

impl World {
    /// The first answer, and how long it took.
    async fn first(&mut self) -> (Answer, Duration) {
        let begin = Instant::now();
        while self.followed.latest().is_none() {
            self.followed.changed().await;
        }
        (self.followed.latest().unwrap(), begin.elapsed())
    }

    async fn value(&mut self) -> Duration {
        let begin = Instant::now();
        while !matches!(self.followed.latest(), Some(Answer::Value(_))) {
            self.followed.changed().await;
        }
        begin.elapsed()
    }
}

use Kind::{Answers, Hangs, Refuses};

#[tokio::test]
async fn dead_instances_cost_nothing() {
    for kinds in [
        vec![Refuses, Answers],
        vec![Hangs, Answers],
        vec![Hangs, Refuses, Refuses, Answers],
    ] {
        let mut world = world(&kinds);
        let (answer, after) = world.first().await;
        assert_eq!(answer, Answer::Value("services".into()));
        assert!(after < Duration::from_millis(1500), "{after:?}");
    }
}

#[tokio::test]
async fn who_left_is_asked_no_more_and_who_came_is() {
    let mut world = world(&[Refuses, Answers]);
    world.instances.send_replace(instances(&[0]));
    // Before the first round, perhaps: then the second never was there.
    let (answer, _) = world.first().await;
    assert_eq!(answer, Answer::Missing);
    world.instances.send_replace(instances(&[1]));
    assert!(world.value().await < Duration::from_millis(1500));
    let asked = lock(&world.service.asked).clone();
    assert_eq!(asked.last(), Some(&1));
}

#[tokio::test]
async fn an_instance_that_comes_back_is_asked_again() {
    let mut world = world(&[Refuses]);
    assert_eq!(world.first().await.0, Answer::Missing);
    lock(&world.service.kinds)[0] = Answers;
    world.value().await;
}

#[tokio::test]
async fn nobody_waits_long_for_those_that_hang() {
    let mut world = world(&[Hangs, Hangs]);
    let (answer, after) = world.first().await;
    assert_eq!(answer, Answer::Missing);
    assert!(after < PATIENCE, "{after:?}");
    // While it is asked, another comes, and is not waited for in vain.
    lock(&world.service.kinds).push(Answers);
    world.instances.send_replace(instances(&[0, 1, 2]));
    assert!(world.value().await < Duration::from_millis(1500));
}

#[tokio::test]
async fn tries_are_spread_over_time_and_instances() {
    let world = world(&[Refuses, Refuses, Refuses]);
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let asked = lock(&world.service.asked).clone();
    // At 0, 200, 600 ms: three each time, and another one first.
    assert!((6..=9).contains(&asked.len()), "{asked:?}");
    assert_eq!((asked[0], asked[3]), (0, 1));
}
