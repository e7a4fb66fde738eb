//! A real etcd of the tests' own.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::certificates::certificates;
use super::process::Process;
use super::{eventually, free_port, temporary_folder};

/// A running server; dropping it kills it.
pub(crate) struct Etcd {
    /// Its address.
    pub(crate) address: String,
    name: &'static str,
    folder: PathBuf,
    peer_port: u16,
    /// Who is of its cluster, itself included.
    peers: String,
    /// What clients must pass: flags for the server and for `etcdctl`.
    secure: Option<[PathBuf; 3]>,
    login: Option<&'static str>,
    process: Option<Process>,
}

impl Etcd {
    /// Starts one and waits until it serves.
    pub(crate) fn start() -> Self {
        Self::launch(None)
    }

    /// The same with TLS, asking clients for a certificate; the folder holds `ca.pem`,
    /// `client.pem` and `client.key`.
    pub(crate) fn start_with_tls() -> (Self, PathBuf) {
        let folder = temporary_folder();
        certificates(&folder);
        let etcd = Self::launch(Some(
            ["ca.pem", "server.pem", "server.key"].map(|name| folder.join(name)),
        ));
        (etcd, folder)
    }

    /// The same with a user `root` whose password is `secret`.
    pub(crate) fn start_with_login() -> Self {
        let mut etcd = Self::launch(None);
        etcd.control(&["user", "add", "root:secret"]);
        etcd.control(&["user", "grant-role", "root", "root"]);
        etcd.control(&["auth", "enable"]);
        etcd.login = Some("root:secret");
        etcd
    }

    /// Three that are one cluster.
    pub(crate) fn start_three() -> [Self; 3] {
        let mut three = ["one", "two", "three"].map(|name| Self::new(name, None));
        let peers = three.each_ref().map(|own| own.as_peer()).join(",");
        for etcd in &mut three {
            etcd.peers.clone_from(&peers);
            // None of them serves before the second is there.
            etcd.spawn();
        }
        three.iter().for_each(Self::until_serving);
        three
    }

    fn launch(secure: Option<[PathBuf; 3]>) -> Self {
        let mut etcd = Self::new("one", secure);
        etcd.peers = etcd.as_peer();
        etcd.restart();
        etcd
    }

    fn new(name: &'static str, secure: Option<[PathBuf; 3]>) -> Self {
        Self {
            address: format!("127.0.0.1:{}", free_port()),
            name,
            folder: temporary_folder(),
            peer_port: free_port(),
            peers: String::new(),
            secure,
            login: None,
            process: None,
        }
    }

    fn as_peer(&self) -> String {
        format!("{}=http://127.0.0.1:{}", self.name, self.peer_port)
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
        self.spawn();
        self.until_serving();
    }

    fn until_serving(&self) {
        eventually("etcd to serve", Duration::from_secs(20), || {
            self.try_control(&["get", "nothing"]).map(|_| ())
        });
    }

    fn spawn(&mut self) {
        let scheme = if self.secure.is_some() {
            "https"
        } else {
            "http"
        };
        let client = format!("{scheme}://{}", self.address);
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let mut command = Command::new("etcd");
        command
            // Nothing here is about a machine that loses power: its disk is not waited for.
            .args(["--unsafe-no-fsync", "--name", self.name, "--data-dir"])
            .arg(&self.folder);
        for (flag, value) in [
            ("--listen-client-urls", &client),
            ("--advertise-client-urls", &client),
            ("--listen-peer-urls", &peer),
            ("--initial-advertise-peer-urls", &peer),
            ("--initial-cluster", &self.peers),
            // Tokens that end within a test.
            ("--auth-token-ttl", &"2".to_owned()),
        ] {
            command.arg(flag).arg(value);
        }
        if let Some([ca, certificate, key]) = &self.secure {
            command.arg("--client-cert-auth");
            command.arg("--trusted-ca-file").arg(ca);
            command.arg("--cert-file").arg(certificate);
            command.arg("--key-file").arg(key);
        }
        let missing =
            "etcd is missing: run `make peers`, or `apt-get install etcd-server etcd-client`";
        assert!(
            Command::new("etcd").arg("--version").output().is_ok(),
            "{missing}"
        );
        self.process = Some(Process::start("etcd", &mut command));
    }

    /// Writes a key.
    pub(crate) fn put(&self, key: &str, value: &str) {
        self.control(&["put", "--", key, value]);
    }

    /// Removes a key.
    pub(crate) fn delete(&self, key: &str) {
        self.control(&["del", "--", key]);
    }

    /// The keys that begin so.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        let out = self.control(&["get", "--prefix", "--keys-only", "--", prefix]);
        out.lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect()
    }

    /// Forgets the history of all keys.
    pub(crate) fn compact(&self) {
        let out = self.control(&["get", "nothing", "-w", "json"]);
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        let revision = value["header"]["revision"].to_string();
        self.control(&["compact", "--physical", &revision]);
    }

    /// What `etcdctl` makes of a command.
    pub(crate) fn control(&self, arguments: &[&str]) -> String {
        self.try_control(arguments).unwrap()
    }

    fn try_control(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new("etcdctl");
        command
            .env("ETCDCTL_API", "3")
            .args(["--dial-timeout=1s", "--command-timeout=5s"]);
        if let Some([ca, certificate, key]) = &self.secure {
            command.arg("--cacert").arg(ca);
            command
                .arg("--cert")
                .arg(certificate.with_file_name("client.pem"));
            command.arg("--key").arg(key.with_file_name("client.key"));
            command.arg(format!("--endpoints=https://{}", self.address));
        } else {
            command.arg(format!("--endpoints={}", self.address));
        }
        if let Some(login) = self.login {
            command.arg(format!("--user={login}"));
        }
        let out = command.args(arguments).output().map_err(|error| {
            format!("etcdctl: {error}: run `make peers`, or `apt-get install etcd-client`")
        })?;
        if !out.status.success() {
            return Err(String::from_utf8_lossy(&out.stderr).into_owned());
        }
        Ok(String::from_utf8(out.stdout).unwrap())
    }
}
