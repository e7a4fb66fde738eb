//! Hosts, services and methods of HTTP and gRPC are a caller's to choose, too.

use std::io::{Read, Write};
use std::net::TcpStream;

use finback_simulations::echo::{self, Faults};
use finback_simulations::speech::Protocol;
use tokio::runtime::Runtime;

use crate::support::finback::Finback;
use crate::support::rpc::PATIENCE;

const INVENTED: usize = 12_000;
const KNOWN: &str = "stock.acme.test";

/// A connection that asks one thing after another.
struct Web {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Web {
    fn connect(finback: &Finback) -> Self {
        let stream = TcpStream::connect(finback.local("web")).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            received: Vec::new(),
        }
    }

    /// The status of the answer.
    fn ask(&mut self, request: &str) -> u16 {
        self.stream.write_all(request.as_bytes()).unwrap();
        let head = self.through(b"\r\n\r\n");
        let lower = head.to_lowercase();
        match lower.split("content-length:").nth(1) {
            Some(length) => {
                let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
                while self.received.len() < length {
                    self.more();
                }
                self.received.drain(..length);
            }
            None if lower.contains("chunked") => drop(self.through(b"0\r\n\r\n")),
            None => {}
        }
        head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// Everything up to and with these bytes.
    fn through(&mut self, end: &[u8]) -> String {
        loop {
            let at = self.received.windows(end.len()).position(|own| own == end);
            if let Some(at) = at {
                let all = self.received.drain(..at + end.len()).collect();
                return String::from_utf8(all).unwrap();
            }
            self.more();
        }
    }

    fn more(&mut self) {
        let mut piece = [0; 4096];
        let n = self.stream.read(&mut piece).unwrap();
        assert!(n > 0, "the connection ended");
        self.received.extend_from_slice(&piece[..n]);
    }
}

fn get(host: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// A call of gRPC-Web.
fn grpc(service: &str, method: &str) -> String {
    format!(
        "POST /{service}/{method} HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\n\
         content-type: application/grpc-web+proto\r\n\r\n\0\0\0\0\0"
    )
}

#[test]
fn invented_hosts_and_services_crowd_out_none_that_is_known() {
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"));
    let listener = listener.unwrap();
    let back = listener.local_addr().unwrap();
    runtime.spawn(echo::serve(listener, Protocol::Http, Faults::default()));
    for table in ["{ to: { registry: fixed } }", "{ to: { cluster: all } }"] {
        let by_registry = table.contains("registry");
        for kind in ["host", "service", "method"] {
            let finback = Finback::start(&format!(
                r#"
workers: 1
registries: {{ fixed: {{ memory: [ {{ service: {KNOWN}, endpoints: [ "{back}" ] }} ] }} }}
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: all }} ]
routes: {{ all: [ {table} ] }}
clusters: {{ all: {{ endpoints: [ "{back}" ] }} }}
"#
            ));
            let before = finback.process().rss();
            let mut web = Web::connect(&finback);
            for nth in 0..INVENTED {
                web.ask(&match kind {
                    "host" => get(&format!("host{nth}.invented.test")),
                    "service" => grpc(&format!("invented.S{nth}"), "pay"),
                    _ => grpc("invented.S", &format!("m{nth}")),
                });
            }
            let status = web.ask(&get(KNOWN));
            assert_eq!(status, 200, "{table} {kind}: a known host");
            let (status, page) = finback.admin("/metrics");
            assert_eq!(status, 200);
            let length = page.len() / 1024;
            assert!(length < 2048, "{table} {kind}: {length} KiB of metrics");
            let own = page.contains(&format!("service=\"{KNOWN}\""));
            assert!(own || !by_registry, "{kind}: no series of its own");
            let grown = finback.process().rss().saturating_sub(before) / 1024;
            assert!(grown < 64, "{table} {kind}: {grown} MiB more");
        }
    }
}
