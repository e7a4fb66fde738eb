//! Envoy's external authorization and rate limit service by grpcio, and what is asked of a proxy before them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::finback::Finback;
use super::free_port;
use super::peer::{Peer, built};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server of both protocols, and of gRPC's services under `acme.`.
pub(crate) struct Policy {
    peer: Peer,
    pub(crate) port: u16,
}

impl Policy {
    /// Starts one.
    pub(crate) fn start() -> Self {
        Self::start_at(&[&free_port().to_string()])
    }

    /// The same with these arguments, the first of which is its port.
    pub(crate) fn start_at(arguments: &[&str]) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command
            .env("PYTHONPATH", built("envoy"))
            .arg("tests/peers/envoy/policy.py")
            .args(arguments);
        let port = arguments[0].parse().unwrap();
        let peer = Peer::start("policy", &mut command);
        Self { peer, port }
    }

    /// Its address as filters name it.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it was asked since it was last looked at, and how much at a time ever.
    pub(crate) fn asked(&self) -> (Vec<Value>, u64) {
        let said = self.peer.ask("asked", &[]).unwrap();
        let asked = said["asked"].as_array().unwrap().clone();
        (asked, said["most"].as_u64().unwrap())
    }

    /// Says how it answers from now on.
    pub(crate) fn set(&self, fields: &[(&str, &str)]) {
        self.peer.ask("set", fields).unwrap();
    }

    /// Calls a method by grpcio's client.
    pub(crate) fn call(&self, address: &str, method: &str, metadata: &str) -> Value {
        self.call_within("10", address, method, metadata)
    }

    /// The same with a deadline in seconds.
    pub(crate) fn call_within(
        &self,
        seconds: &str,
        address: &str,
        method: &str,
        metadata: &str,
    ) -> Value {
        let fields = [
            ("address", address),
            ("method", method),
            ("metadata", metadata),
            ("timeout", seconds),
        ];
        self.peer.ask("call", &fields).unwrap()
    }
}

/// The whole answer to a request of HTTP.
pub(crate) fn get(address: &str, path: &str, headers: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: shop.test\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// The status of an answer.
pub(crate) fn status(answer: &str) -> u16 {
    let status = answer.split_whitespace().nth(1);
    status.and_then(|own| own.parse().ok()).unwrap_or(0)
}

/// What a filter decided so far.
pub(crate) fn decided(finback: &Finback, filter: &str, decision: &str) -> u64 {
    let (_, page) = finback.admin("/metrics");
    let labels = format!("filter=\"{filter}\",rule=\"\",decision=\"{decision}\"");
    let line = page
        .lines()
        .find(|line| line.starts_with("finback_filter_decisions_total{") && line.contains(&labels));
    let count = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    count.unwrap_or_default()
}
