//! The proxy under test, as its users run it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::process::Process;
use super::{eventually, free_port, host_address, temporary_folder};

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

    /// The same with so many file descriptors, which it cannot have raised.
    pub(crate) fn start_limited(descriptors: u32, config: &str) -> Self {
        Self::start_after(&format!("ulimit -n {descriptors}"), config)
    }

    /// The same with so many file descriptors until it asks for more, which it may.
    pub(crate) fn start_limited_softly(descriptors: u32, config: &str) -> Self {
        Self::start_after(&format!("ulimit -S -n {descriptors}"), config)
    }

    /// The same from a shell that does something first.
    fn start_after(first: &str, config: &str) -> Self {
        let mut shell = Command::new("sh");
        let script = format!("{first}; exec \"$0\" \"$@\"");
        shell
            .arg("-c")
            .arg(script)
            .arg(env!("CARGO_BIN_EXE_finback"));
        Self::launch(shell, config, &[])
    }

    /// The same with the folder of this file, which is called `hosts`, in place of /etc: names come from there
    /// and from nowhere else, and may change.
    pub(crate) fn start_with_hosts(hosts: &Path, config: &str) -> Self {
        assert_eq!(hosts.file_name().unwrap(), "hosts");
        let etc = hosts.parent().unwrap();
        std::fs::write(etc.join("nsswitch.conf"), "hosts: files\n").unwrap();
        // A name may stand in several lines.
        std::fs::write(etc.join("host.conf"), "multi on\n").unwrap();
        // A mount that only this process sees: made by root, or by a user who is root in a namespace of its own.
        let alone: &[&str] = &["--mount"];
        let probe = Command::new("unshare").args(alone).arg("true").output();
        let flags = match probe.is_ok_and(|own| own.status.success()) {
            true => alone,
            false => &["--user", "--map-root-user", "--mount"],
        };
        let mut command = Command::new("unshare");
        command
            .args(flags)
            .args(["sh", "-c"])
            .arg(r#"mount --bind "$1" /etc && shift && exec "$@""#)
            .arg("sh")
            .arg(etc)
            .arg(env!("CARGO_BIN_EXE_finback"));
        Self::launch(command, config, &[])
    }

    /// The same with an `admin:` of the test's own, which the other functions here do not ask.
    pub(crate) fn start_with_admin(admin: &str, config: &str, files: &[(&str, &str)]) -> Self {
        let config = format!("admin: {admin}\n{config}");
        let command = Command::new(env!("CARGO_BIN_EXE_finback"));
        Self::launch_as(command, files, |folder, _| {
            replace(&folder.join("finback.yaml"), &config);
        })
    }

    fn launch(command: Command, config: &str, files: &[(&str, &str)]) -> Self {
        Self::launch_as(command, files, |folder, admin| write(folder, admin, config))
    }

    fn launch_as(
        mut command: Command,
        files: &[(&str, &str)],
        write: impl Fn(&Path, SocketAddr),
    ) -> Self {
        let folder = temporary_folder();
        for (name, text) in files {
            std::fs::write(folder.join(name), text).unwrap();
        }
        let admin = SocketAddr::from(([127, 0, 0, 1], free_port()));
        write(&folder, admin);
        command
            .arg("run")
            .arg("-c")
            .arg(folder.join("finback.yaml"));
        let process = Process::start("finback", &mut command);
        process.wait_for("readiness", PATIENCE, 0, |line| {
            // Not whether it waits for registries: tests take those away.
            let listens = line.contains("INFO ready") || line.contains("INFO listening; waiting");
            listens.then_some(())
        });
        Self {
            process,
            folder,
            admin,
        }
    }

    /// What `finback check` says of a configuration, and whether it is good.
    pub(crate) fn check(config: &str) -> (bool, String) {
        let file = temporary_folder().join("finback.yaml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_finback"));
        let out = command.arg("check").arg("-c").arg(file).output().unwrap();
        let said = [out.stdout, out.stderr].concat();
        (
            out.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }

    /// Runs one more, with this configuration as it is, without waiting for anything.
    pub(crate) fn run_beside(config: &str) -> Process {
        let file = temporary_folder().join("finback.yaml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_finback"));
        Process::start("finback", command.arg("run").arg("-c").arg(file))
    }

    /// Replaces its configuration and waits until it is in force.
    pub(crate) fn reload(&self, config: &str) {
        let before = self.metric("finback_reloads_total", "");
        self.write(config);
        self.process.signal("HUP");
        eventually("the reload", PATIENCE, || {
            match self.metric("finback_reloads_total", "") {
                now if now > before => Ok(()),
                now => Err(format!("{now} reloads\n{}", self.process.tail())),
            }
        });
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

    /// A cluster as the admin port shows it, if it is there.
    pub(crate) fn cluster(&self, name: &str) -> Option<Value> {
        let clusters: Value = serde_json::from_str(&self.admin("/clusters").1).unwrap();
        let list = clusters.as_array().unwrap();
        list.iter().find(|own| own["name"] == name).cloned()
    }

    /// The endpoints of a cluster of which this member says this.
    pub(crate) fn endpoints(&self, cluster: &str, member: &str, says: bool) -> Vec<String> {
        let cluster = self.cluster(cluster).unwrap();
        let endpoints = cluster["endpoints"].as_array().unwrap();
        let meant = endpoints.iter().filter(|own| own[member] == says);
        meant
            .map(|own| own["address"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The sum of a metric's samples that have this text in their labels.
    pub(crate) fn metric(&self, name: &str, label: &str) -> u64 {
        let (_, page) = self.admin("/metrics");
        let own = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let labels = series.strip_prefix(name)?;
            let whole = labels.is_empty() || labels.starts_with('{');
            (whole && labels.contains(label)).then(|| value.parse::<f64>().ok())?
        });
        own.sum::<f64>() as u64
    }

    /// The admin port.
    pub(crate) fn admin_port(&self) -> u16 {
        self.admin.port()
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Asks the admin port; the answer's status and body.
    pub(crate) fn admin(&self, path: &str) -> (u16, String) {
        self.admin_at(self.admin.port(), path)
    }

    /// The same at another port of loopback.
    pub(crate) fn admin_at(&self, port: u16, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
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
    let mut config = format!("admin: {{ address: \"{admin}\" }}\n{config}");
    // Only tests of the delay wait for it.
    if !config.contains("drain_delay") {
        match config.find("\nlimits: {") {
            Some(at) => config.insert_str(at + "\nlimits: {".len(), " drain_delay: 0s,"),
            None => config.push_str("\nlimits: { drain_delay: 0s }\n"),
        }
    }
    replace(&folder.join("finback.yaml"), &config);
}

/// Replaces a file in one step, so that nobody reads half of it.
fn replace(path: &Path, text: &str) {
    let draft = path.with_extension("draft");
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, path).unwrap();
}
