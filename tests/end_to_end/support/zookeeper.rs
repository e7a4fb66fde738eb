//! A real ZooKeeper of the tests' own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
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
    _process: Process,
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
        let file = folder.join("zoo.cfg");
        std::fs::write(&file, config).unwrap();
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
            .arg(file);
        let process = Process::start("zookeeper", &mut command);
        let address = format!("127.0.0.1:{port}");
        let end = Instant::now() + Duration::from_secs(30);
        while !serves(&address) {
            assert!(
                Instant::now() < end,
                "ZooKeeper does not serve\n{}",
                process.tail()
            );
            thread::sleep(Duration::from_millis(50));
        }
        Self {
            address,
            _process: process,
        }
    }
}

fn serves(address: &str) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let mut answer = String::new();
    stream.write_all(b"ruok").is_ok()
        && stream.read_to_string(&mut answer).is_ok()
        && answer == "imok"
}
