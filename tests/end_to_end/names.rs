//! Names that a caller invents, at the real binary: refused where they are too long, and nothing left
//! of them where nobody has them.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::etcd::Etcd;
use crate::support::finback::Finback;
use crate::support::temporary_folder;

const PATIENCE: Duration = Duration::from_secs(20);
/// Dubbo's statuses of a request that makes no sense, and of a service that is not there.
const BAD_REQUEST: u8 = 40;
const SERVICE_NOT_FOUND: u8 = 60;
/// What names of 7 MiB may leave behind: the buffers of one.
const GROWTH_KIB: u64 = 64 * 1024;

/// A text of hessian2.
fn hessian(text: &str, out: &mut Vec<u8>) {
    let mut chunks = text.as_bytes().chunks(0x8000).peekable();
    if chunks.peek().is_none() {
        out.push(0);
    }
    while let Some(chunk) = chunks.next() {
        out.push(if chunks.peek().is_some() { b'R' } else { b'S' });
        out.extend((chunk.len() as u16).to_be_bytes());
        out.extend_from_slice(chunk);
    }
}

/// A call of Dubbo without arguments.
fn call(id: u64, service: &str, method: &str) -> Vec<u8> {
    let mut body = Vec::new();
    for text in ["2.0.2", service, "", method, ""] {
        hessian(text, &mut body);
    }
    body.extend(b"HZ");
    let mut frame = vec![0xda, 0xbb, 0xc2, 0];
    frame.extend(id.to_be_bytes());
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend_from_slice(&body);
    frame
}

/// The next answer's status, id and length.
fn answer(stream: &mut TcpStream) -> (u8, u64, usize) {
    let mut header = [0; 16];
    stream.read_exact(&mut header).unwrap();
    let length = u32::from_be_bytes(header[12..].try_into().unwrap()) as usize;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    let id = u64::from_be_bytes(header[4..12].try_into().unwrap());
    (header[3], id, length)
}

fn connect(finback: &Finback, listener: &str) -> TcpStream {
    let stream = TcpStream::connect(finback.local(listener)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn names_that_nobody_has_leave_nothing_behind() {
    let etcd = Etcd::start();
    let folder = temporary_folder();
    let finback = Finback::start(&format!(
        r#"
workers: 1
snapshots: {{ folder: "{folder}" }}
registries:
  keys: {{ etcd: [ "{etcd}" ] }}
listeners:
  - {{ name: dubbo, address: "127.0.0.1:0", protocol: dubbo, routes: all }}
routes:
  all: [ {{ to: {{ registry: keys }} }} ]
"#,
        folder = folder.display(),
        etcd = etcd.address,
    ));
    let mut stream = connect(&finback, "dubbo");
    stream.write_all(&call(1, "a.B", "call")).unwrap();
    assert_eq!(answer(&mut stream).0, SERVICE_NOT_FOUND);
    let before = finback.process().rss();
    // Too long: refused, each on its own, and the connection lives on.
    let long = "x".repeat(7 << 20);
    for id in 2..32 {
        let (service, method) = match id % 3 {
            0 => (&long[..], "call"),
            1 => ("a.B", &long[..]),
            _ => (&long[..1025], "call"),
        };
        stream.write_all(&call(id, service, method)).unwrap();
        let (status, answered, length) = answer(&mut stream);
        assert_eq!((status, answered), (BAD_REQUEST, id));
        assert!(length < 4096, "{length} bytes");
    }
    let grown = finback.process().rss().saturating_sub(before);
    assert!(grown < GROWTH_KIB, "{grown} KiB more than before");
    // No names of a registry: unknown at once, though one would lead out of the folder.
    for (id, service) in ["a/../../b", "..", "a\nb\u{0}c"].into_iter().enumerate() {
        stream
            .write_all(&call(40 + id as u64, service, "call"))
            .unwrap();
        assert_eq!(answer(&mut stream).0, SERVICE_NOT_FOUND, "{service:?}");
    }
    // Names like any other that nobody has.
    for id in 100..400 {
        let name = format!("com.invented.S{id}");
        stream.write_all(&call(id, &name, "call")).unwrap();
        let (status, answered, _) = answer(&mut stream);
        assert_eq!((status, answered), (SERVICE_NOT_FOUND, id));
    }
    // Longer than a snapshot takes to be written.
    std::thread::sleep(Duration::from_millis(1500));
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().collect();
    assert!(files.is_empty(), "{} files: {:?}", files.len(), files[0]);
    let (_, metrics) = finback.admin("/metrics");
    let label = "finback_cluster_endpoints{cluster=";
    let clusters = metrics.lines().filter(|line| line.starts_with(label));
    // Of all those nothing is left, not even in one row for the rest.
    assert!(clusters.count() <= 1, "{metrics}");
    let _ = std::fs::remove_dir_all(folder);
}

#[test]
fn hosts_and_paths_that_are_too_long_are_refused_in_http() {
    let finback = Finback::start(
        r#"
workers: 1
listeners:
  - { name: web, address: "127.0.0.1:0", protocol: http, routes: all }
routes:
  all: [ { to: { cluster: nobody } } ]
clusters:
  nobody: { endpoints: [ "127.0.0.1:1" ] }
"#,
    );
    let ask = |method: &str, host: &str, more: &str| {
        let mut stream = connect(&finback, "web");
        let head =
            format!("{method} / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{more}\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert!(heard.len() < 4096, "{} bytes", heard.len());
        heard.split(' ').nth(1).unwrap().to_owned()
    };
    let status = |host: &str, more: &str| ask("GET", host, more);
    assert_eq!(status(&"x".repeat(1024), ""), "502");
    assert_eq!(status(&"x".repeat(1025), ""), "400");
    assert_eq!(status("(none)", ""), "400");
    // A call of Triple is a POST of one of its content types; to any other request it is a header.
    let call = |length: usize| {
        let group = "x".repeat(length);
        let form = "content-type: application/json\r\ncontent-length: 0\r\n";
        ask(
            "POST",
            "a",
            &format!("tri-service-group: {group}\r\n{form}"),
        )
    };
    assert_eq!(call(1025), "400");
    assert_eq!(call(1024), "503");
    let (_, metrics) = finback.admin("/metrics");
    assert!(!metrics.contains(&"x".repeat(1025)), "{metrics}");
}
