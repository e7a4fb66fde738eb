//! A real ZooKeeper of the tests' own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use super::certificates::certificates;
use super::java::{Turn, java};
use super::process::Process;
use super::{free_port, temporary_folder};

const JAR: &str = "/usr/share/java/zookeeper.jar";
/// With these: over TLS it speaks by Netty, more of which is needed than the jar itself names.
const CLASSES: &str = "/usr/share/java/zookeeper.jar:/usr/share/java/netty-codec.jar:/usr/share/java/netty-resolver.jar";

/// Whom a guarded server knows.
const JAAS: &str = "jaas.conf";

/// A running server; dropping it kills it.
pub(crate) struct ZooKeeper {
    /// Its address.
    pub(crate) address: String,
    folder: PathBuf,
    process: Option<Process>,
}

impl ZooKeeper {
    /// Starts one and waits until it serves.
    pub(crate) fn start() -> Self {
        Self::start_in(temporary_folder(), "")
    }

    /// The same that also speaks TLS, on a port of its own which is returned, to those with a
    /// certificate; and which knows the user `mesh` of SASL. The folder has the certificates.
    pub(crate) fn start_guarded() -> (Self, String, PathBuf) {
        let folder = temporary_folder();
        certificates(&folder);
        let pair = ["server.key", "server.pem"]
            .map(|name| std::fs::read_to_string(folder.join(name)).unwrap());
        std::fs::write(folder.join("pair.pem"), pair.concat()).unwrap();
        std::fs::write(
            folder.join(JAAS),
            "Server { org.apache.zookeeper.server.auth.DigestLoginModule required user_mesh=\"secret\"; };\n",
        )
        .unwrap();
        let port = free_port();
        let more = format!(
            "secureClientPortAddress=127.0.0.1\nsecureClientPort={port}\n\
             serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory\n\
             ssl.keyStore.type=PEM\nssl.keyStore.location={f}/pair.pem\n\
             ssl.trustStore.type=PEM\nssl.trustStore.location={f}/ca.pem\n\
             authProvider.sasl=org.apache.zookeeper.server.auth.SASLAuthenticationProvider\n",
            f = folder.display()
        );
        let own = Self::start_in(folder.clone(), &more);
        (own, format!("127.0.0.1:{port}"), folder)
    }

    fn start_in(folder: PathBuf, more: &str) -> Self {
        assert!(
            Path::new(JAR).exists(),
            "{JAR} is missing: run `make peers`, or `apt-get install libzookeeper-java`"
        );
        let port = free_port();
        // A short tick lets sessions of dead clients end within a second or two.
        let config = format!(
            "tickTime=500\ndataDir={}\nclientPortAddress=127.0.0.1\nclientPort={port}\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n{more}",
            folder.display()
        );
        std::fs::write(folder.join("zoo.cfg"), config).unwrap();
        let mut zookeeper = Self {
            address: format!("127.0.0.1:{port}"),
            folder,
            process: None,
        };
        zookeeper.restart();
        zookeeper
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    /// Kills it without a word; its data stay.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it (again) on the same port with the same data, and waits until it serves.
    pub(crate) fn restart(&mut self) {
        let mut command = java();
        let jaas = self.folder.join(JAAS);
        if jaas.exists() {
            command.arg(format!(
                "-Djava.security.auth.login.config={}",
                jaas.display()
            ));
        }
        command.args([
            "-Xmx128m",
            // Otherwise every write waits for the machine's disk, and so for whatever else is written
            // to that: nothing here is about a machine that loses power.
            "-Dzookeeper.forceSync=no",
            "-cp",
            CLASSES,
        ]);
        command
            .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
            .arg(self.folder.join("zoo.cfg"));
        let _turn = Turn::take();
        let process = Process::start("zookeeper", &mut command);
        let end = Instant::now() + Duration::from_secs(30);
        while !serves(&self.address) {
            assert!(
                Instant::now() < end,
                "ZooKeeper does not serve\n{}",
                process.tail()
            );
            thread::sleep(Duration::from_millis(50));
        }
        self.process = Some(process);
    }

    /// Forgets everything it was told; for when it does not run.
    pub(crate) fn wipe(&self) {
        std::fs::remove_dir_all(self.folder.join("version-2")).unwrap();
    }
}

fn serves(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let mut answer = String::new();
    stream
        .set_read_timeout(Some(Duration::from_secs(2)))
        .is_ok()
        && stream.write_all(b"ruok").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer == "imok"
}
