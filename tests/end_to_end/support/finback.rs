//! The proxy under test, as its users run it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::Process;
use super::{free_port, host_address, temporary_folder};

/// How long it may take to start or to take up a new configuration.
const PATIENCE: Duration = Duration::from_secs(15);

/// A running proxy; dropping it kills it.
pub(crate) struct Finback {
    process: Process,
    folder: PathBuf,
    admin: SocketAddr,
}

impl Finback {
    /// Runs it with this configuration, to which the admin port is added, and waits until it is
    /// ready.
    pub(crate) fn start(config: &str) -> Self {
        Self::start_with(config, &[])
    }

    /// The same with more files beside the configuration.
    pub(crate) fn start_with(config: &str, files: &[(&str, &str)]) -> Self {
        Self::launch(Command::new(env!("CARGO_BIN_EXE_finback")), config, files)
    }

    /// The same on addresses that another one still listens on.
    pub(crate) fn take_over(config: &str) -> Self {
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg("exec \"$0\" \"$@\" --take-over")
            .arg(env!("CARGO_BIN_EXE_finback"));
        Self::launch(shell, config, &[])
    }

    /// The same with so many file descriptors.
    pub(crate) fn start_limited(descriptors: u32, config: &str) -> Self {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"");
        shell
            .arg("-c")
            .arg(script)
            .arg(env!("CARGO_BIN_EXE_finback"));
        Self::launch(shell, config, &[])
    }

    /// The same with the host names of a file like /etc/hosts, which may change.
    pub(crate) fn start_with_hosts(hosts: &Path, config: &str) -> Self {
        let library = format!(
            "/usr/lib/{}-linux-gnu/libnss_wrapper.so",
            std::env::consts::ARCH
        );
        assert!(
            Path::new(&library).exists(),
            "{library} is missing: run `make peers`, or `apt-get install libnss-wrapper`"
        );
        let mut command = Command::new(env!("CARGO_BIN_EXE_finback"));
        command
            .env("LD_PRELOAD", library)
            .env("NSS_WRAPPER_HOSTS", hosts);
        Self::launch(command, config, &[])
    }

    fn launch(mut command: Command, config: &str, files: &[(&str, &str)]) -> Self {
        let folder = temporary_folder();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        write(&folder, admin, config);
        command
            .arg("run")
            .arg("-c")
            .arg(folder.join("finback.yaml"));
        let process = Process::start("finback", &mut command);
        process.wait_for("readiness", PATIENCE, 0, |line| {
            line.split_whitespace()
                .any(|word| word == "ready")
                .then_some(())
        });
        Self {
            process,
            folder,
            admin,
        }
    }

    /// Replaces its configuration as an editor would; what it makes of it is to be waited for.
    pub(crate) fn write(&self, config: &str) {
        write(&self.folder, self.admin, config);
    }

    /// Replaces a file beside its configuration.
    pub(crate) fn write_file(&self, name: &str, text: &str) {
        replace(&self.folder.join(name), text);
    }

    /// The port of a listener, once it listens.
    pub(crate) fn port(&self, listener: &str) -> u16 {
        self.process
            .wait_for(&format!("listener {listener}"), PATIENCE, 0, |line| {
                let mut words = line
                    .split_whitespace()
                    .skip_while(|word| *word != "listening")
                    .skip(1);
                (words.next()? == listener)
                    .then(|| words.next())??
                    .parse::<SocketAddr>()
                    .ok()
            })
            .port()
    }

    /// The address of a listener on loopback.
    pub(crate) fn local(&self, listener: &str) -> String {
        format!("127.0.0.1:{}", self.port(listener))
    }

    /// The address of a listener as a Java Dubbo consumer can reach it.
    pub(crate) fn public(&self, listener: &str) -> String {
        format!("{}:{}", host_address(), self.port(listener))
    }

    /// Asks the admin port; the answer's status and body.
    pub(crate) fn admin(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split_whitespace().nth(1).unwrap().parse().unwrap();
        let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        (status, body)
    }

    /// Its process.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }
}

fn write(folder: &Path, admin: SocketAddr, config: &str) {
    replace(
        &folder.join("finback.yaml"),
        &format!("admin: {{ address: \"{admin}\" }}\n{config}"),
    );
}

/// Replaces a file in one step, so that nobody reads half of it.
fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, path).unwrap();
}
