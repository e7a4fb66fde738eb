//! A real Kafka of the tests' own: one node, broker and controller at once.

use std::process::Command;
use std::time::Duration;

use super::peer::built;
use super::process::Process;
use super::{eventually, free_port, temporary_folder};

/// A running broker; dropping it kills it.
pub(crate) struct Kafka {
    /// Its address.
    pub(crate) address: String,
    config: std::path::PathBuf,
    process: Option<Process>,
}

impl Kafka {
    /// Starts one and waits until it serves.
    pub(crate) fn start() -> Self {
        let folder = temporary_folder();
        let (port, controller) = (free_port(), free_port());
        let config = folder.join("kraft.properties");
        let f = folder.display();
        std::fs::write(
            &config,
            format!(
                "process.roles=broker,controller\nnode.id=1\n\
                 controller.quorum.voters=1@127.0.0.1:{controller}\n\
                 listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
                 controller.listener.names=CONTROLLER\n\
                 inter.broker.listener.name=PLAINTEXT\n\
                 listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\n\
                 log.dirs={f}/logs\nnum.partitions=2\noffsets.topic.replication.factor=1\n\
                 offsets.topic.num.partitions=1\n\
                 transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
                 group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=true\n"
            ),
        )
        .unwrap();
        let formatted = java()
            .args([
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "MkU3OEVBNTcwNTJENDM2Qg",
                "-c",
            ])
            .arg(&config)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&formatted.stderr).into_owned();
        assert!(formatted.status.success(), "{said}");
        let mut kafka = Self {
            address: format!("127.0.0.1:{port}"),
            config,
            process: None,
        };
        kafka.restart();
        kafka
    }

    /// Kills it without a word; what it had written stays.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Sends it a signal, such as `STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        self.process.as_ref().unwrap().signal(signal);
    }

    /// Starts it (again) with the same data, and waits until it serves.
    pub(crate) fn restart(&mut self) {
        let process = Process::start("kafka", java().arg("kafka.Kafka").arg(&self.config));
        eventually("kafka", Duration::from_secs(60), || {
            let out = Command::new("kcat")
                .args(["-b", &self.address, "-L", "-m", "2"])
                .output()
                .expect("kcat is missing: run `make peers`, or `apt-get install kcat`");
            if out.status.success() {
                Ok(())
            } else {
                Err(process.tail())
            }
        });
        self.process = Some(process);
    }
}

fn java() -> Command {
    let library = built("java/kafka/lib");
    let mut command = Command::new("java");
    command
        .args(["-Xms128m", "-Xmx384m", "-XX:TieredStopAtLevel=1"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(format!("{}/*", library.display()));
    command
}
