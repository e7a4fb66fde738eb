//! A real Kafka of the tests' own: one node, broker and controller at once.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::java::{Turn, java};
use super::peer::built;
use super::process::Process;
use super::{eventually, free_port, temporary_folder};

/// A running broker; dropping it kills it.
pub(crate) struct Kafka {
    /// Its address.
    pub(crate) address: String,
    /// Its address for those who speak TLS, have a certificate, and log in as `mesh`, `secret`.
    pub(crate) secure: String,
    config: std::path::PathBuf,
    process: Option<Process>,
}

impl Kafka {
    /// Starts one and waits until it serves.
    pub(crate) fn start() -> Self {
        Self::start_with(&temporary_folder(), false)
    }

    /// The same with a listener for `SASL_SSL`, and the certificates of this folder.
    pub(crate) fn start_secure(certificates: &Path) -> Self {
        let read = |name: &str| std::fs::read_to_string(certificates.join(name)).unwrap();
        let both = read("server.key") + &read("server.pem");
        std::fs::write(certificates.join("broker.pem"), both).unwrap();
        Self::start_with(certificates, true)
    }

    fn start_with(folder: &Path, is_secure: bool) -> Self {
        let (port, controller, secure) = (free_port(), free_port(), free_port());
        let config = folder.join("kraft.properties");
        let f = folder.display();
        let (listener, more) = match is_secure {
            true => (format!(",SASL_SSL://localhost:{secure}"), security(folder)),
            false => (String::new(), String::new()),
        };
        std::fs::write(
            &config,
            format!(
                "process.roles=broker,controller\nnode.id=1\n\
                 controller.quorum.voters=1@127.0.0.1:{controller}\n\
                 listeners=PLAINTEXT://127.0.0.1:{port}{listener},CONTROLLER://127.0.0.1:{controller}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{port}{listener}\n\
                 controller.listener.names=CONTROLLER\n\
                 inter.broker.listener.name=PLAINTEXT\n\
                 listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL\n\
                 log.dirs={f}/logs\nnum.partitions=2\noffsets.topic.replication.factor=1\n\
                 offsets.topic.num.partitions=1\n\
                 transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
                 group.initial.rebalance.delay.ms=0\nauto.create.topics.enable=true\n{more}"
            ),
        )
        .unwrap();
        let turn = Turn::take();
        let formatted = kafka()
            .args([
                "kafka.tools.StorageTool",
                "format",
                "-t",
                "MkU3OEVBNTcwNTJENDM2Qg",
                "-c",
            ])
            .arg(&config)
            .args(["256", "512"].iter().flat_map(|length| {
                let user = format!("SCRAM-SHA-{length}=[name=mesh,password=secret]");
                ["--add-scram".to_owned(), user]
            }))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&formatted.stderr).into_owned();
        drop(turn);
        assert!(formatted.status.success(), "{said}");
        let mut kafka = Self {
            address: format!("127.0.0.1:{port}"),
            secure: format!("localhost:{secure}"),
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
        let _turn = Turn::take();
        let process = Process::start("kafka", kafka().arg("kafka.Kafka").arg(&self.config));
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

/// What a listener for `SASL_SSL` needs: every mechanism, and clients with certificates only.
fn security(folder: &Path) -> String {
    let f = folder.display();
    let module = "org.apache.kafka.common.security";
    let listener = "listener.name.sasl_ssl";
    format!(
        "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER\n\
         {listener}.plain.sasl.jaas.config={module}.plain.PlainLoginModule required user_mesh=\"secret\";\n\
         {listener}.scram-sha-256.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
         {listener}.scram-sha-512.sasl.jaas.config={module}.scram.ScramLoginModule required;\n\
         {listener}.oauthbearer.sasl.jaas.config={module}.oauthbearer.OAuthBearerLoginModule required \
         unsecuredLoginStringClaim_sub=\"broker\";\n\
         {listener}.ssl.client.auth=required\n\
         ssl.keystore.type=PEM\nssl.keystore.location={f}/broker.pem\n\
         ssl.truststore.type=PEM\nssl.truststore.location={f}/ca.pem\n"
    )
}

fn kafka() -> Command {
    let library = built("java/kafka/lib");
    let mut command = java();
    command
        .args(["-Xms128m", "-Xmx384m"])
        .arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
        .arg("-cp")
        .arg(format!("{}/*", library.display()));
    command
}
