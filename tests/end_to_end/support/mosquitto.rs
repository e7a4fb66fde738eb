//! A real Mosquitto of the tests' own.

use std::process::Command;
use std::time::Duration;

use super::process::Process;
use super::{eventually, free_port, temporary_folder};

/// A running broker; dropping it kills it.
pub(crate) struct Mosquitto {
    /// Its port on loopback.
    pub(crate) port: u16,
    config: std::path::PathBuf,
    process: Option<Process>,
}

impl Mosquitto {
    /// Starts one that lets everybody in.
    pub(crate) fn start() -> Self {
        Self::start_with("allow_anonymous true")
    }

    /// The same with these lines of configuration.
    pub(crate) fn start_with(lines: &str) -> Self {
        let port = free_port();
        let folder = temporary_folder();
        let config = folder.join("mosquitto.conf");
        let f = folder.display();
        // Not 0, for no bound: Mosquitto 2.0.11 takes that for a full queue when it refuses a message, and
        // ends the session.
        std::fs::write(
            &config,
            format!(
                "listener {port} 127.0.0.1\nuser root\nlog_dest stderr\n\
                 persistence_location {f}/\nautosave_interval 0\nmax_queued_messages 1000000\n{lines}\n"
            ),
        )
        .unwrap();
        let mut mosquitto = Self {
            port,
            config,
            process: None,
        };
        mosquitto.restart();
        mosquitto
    }

    /// Its address.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    /// Kills it without a word.
    pub(crate) fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it (again) on the same port, and waits until it serves.
    pub(crate) fn restart(&mut self) {
        let program = "/usr/sbin/mosquitto";
        assert!(
            std::path::Path::new(program).exists(),
            "{program} is missing: run `make peers`, or `apt-get install mosquitto`"
        );
        let process = Process::start(
            "mosquitto",
            Command::new(program).arg("-v").arg("-c").arg(&self.config),
        );
        eventually("mosquitto", Duration::from_secs(10), || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).map_err(|e| e.to_string())
        });
        self.process = Some(process);
    }
}

/// Runs a program of Debian's mosquitto-clients.
pub(crate) fn tool(name: &str, port: u16, arguments: &[&str]) -> String {
    let out = Command::new(name)
        .args(["-h", "127.0.0.1", "-p", &port.to_string()])
        .args(arguments)
        .output()
        .unwrap_or_else(|_| {
            panic!("{name} is missing: run `make peers`, or `apt-get install mosquitto-clients`")
        });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{name}: {}", text(&out.stderr));
    text(&out.stdout)
}
