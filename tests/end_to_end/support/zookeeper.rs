//! A real ZooKeeper of the tests' own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::process::Process;
use super::{free_port, temporary_folder};

const JAR: &str = "/usr/share/java/zookeeper.jar";

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
        assert!(
            Path::new(JAR).exists(),
            "{JAR} is missing: run `make peers`, or `apt-get install libzookeeper-java`"
        );
        let folder = temporary_folder();
        let port = free_port();
        // A short tick lets sessions of dead clients end within a second or two.
        let config = format!(
            "tickTime=500\ndataDir={}\nclientPortAddress=127.0.0.1\nclientPort={port}\n\
             admin.enableServer=false\n4lw.commands.whitelist=*\nmaxClientCnxns=0\n",
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
        let mut command = Command::new("java");
        command.args([
            "-Xmx128m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            JAR,
        ]);
        command
            .arg("org.apache.zookeeper.server.ZooKeeperServerMain")
            .arg(self.folder.join("zoo.cfg"));
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
