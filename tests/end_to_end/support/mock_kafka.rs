//! A cluster of librdkafka's mock brokers, in a process of its own.
//!
//! A mock broker that is taken down closes its listener and at once binds the same port again; if
//! that fails, librdkafka aborts the process. It fails where a child is being started at that
//! moment, which holds a copy of every socket until it is another program. These tests start
//! children all the time, so the mock has a process that starts none.

use std::io::{BufRead, Write};
use std::process::{ChildStdin, Command};
use std::sync::Mutex;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::process::Process;

/// Tells this test binary, by the topics that it names, to be the cluster and no test.
const TOPICS: &str = "FINBACK_TEST_MOCK_KAFKA_TOPICS";
const BROKERS: i32 = 3;
const PATIENCE: Duration = Duration::from_secs(30);

/// Three running brokers; dropping them ends them.
pub(crate) struct MockKafka {
    /// Their addresses, as clients are given them.
    pub(crate) brokers: String,
    process: Process,
    stdin: Mutex<ChildStdin>,
}

impl MockKafka {
    /// Starts brokers with these topics, each of two partitions.
    pub(crate) fn start(topics: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([
                "--exact",
                "support::mock_kafka::serves_who_started_it",
                "--nocapture",
            ])
            .env(TOPICS, topics.join(","));
        let (process, stdin) = Process::converse("mock Kafka", &mut command, |_| {});
        let brokers = process.wait_for("address of its brokers", PATIENCE, 0, |line| {
            line.strip_prefix("brokers ").map(str::to_owned)
        });
        Self {
            brokers,
            process,
            stdin: Mutex::new(stdin),
        }
    }

    /// Closes every connection to all brokers, and takes none any more.
    pub(crate) fn take_down(&self) {
        self.command("down");
    }

    /// Takes connections again.
    pub(crate) fn bring_up(&self) {
        self.command("up");
    }

    /// Answers the next three `Produce` requests with an error that passes.
    pub(crate) fn stumble(&self) {
        self.command("stumble");
    }

    /// Answers each request after 100 ms only.
    pub(crate) fn slow_down(&self) {
        self.command("slow");
    }

    fn command(&self, command: &str) {
        let from = self.process.said();
        writeln!(self.stdin.lock().unwrap(), "{command}").unwrap();
        self.process.wait_for(command, PATIENCE, from, |line| {
            (line == format!("done {command}")).then_some(())
        });
    }
}

/// What runs in the cluster's process; without being asked by [`MockKafka::start`], nothing.
#[test]
fn serves_who_started_it() {
    let Ok(topics) = std::env::var(TOPICS) else {
        return;
    };
    let cluster = MockCluster::new(BROKERS).unwrap();
    for topic in topics.split(',') {
        cluster.create_topic(topic, 2, 3).unwrap();
    }
    // The line that libtest has begun may not be at its end.
    println!("\nbrokers {}", cluster.bootstrap_servers());
    for command in std::io::stdin().lock().lines() {
        let command = command.unwrap();
        match &*command {
            "stumble" => {
                let errors = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS; 3];
                cluster.request_errors(RDKafkaApiKey::Produce, &errors);
            }
            command => {
                for broker in 1..=BROKERS {
                    match command {
                        "down" => cluster.broker_down(broker),
                        "up" => cluster.broker_up(broker),
                        "slow" => {
                            cluster.broker_round_trip_time(broker, Duration::from_millis(100))
                        }
                        _ => panic!("a mock Kafka knows no command {command:?}"),
                    }
                    .unwrap();
                }
            }
        }
        println!("done {command}");
    }
}
