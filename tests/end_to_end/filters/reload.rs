//! Filters that a reload changes, and connections that they close.

use super::*;

#[test]
fn a_filter_or_listener_by_another_name_decides_the_same() {
    use std::io::{Read, Write};
    let (back, port) = (web::serve(), crate::support::free_port());
    let config = |listener: &str, filter: &str| {
        format!(
            r#"
workers: 1
listeners: [ {{ name: {listener}, address: "127.0.0.1:{port}", protocol: http, routes: web, filters: [ {filter} ] }} ]
routes: {{ web: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{back}" ] }} }}
filters:
  {filter}:
    authorization: {{ default: allow, rules: [ {{ effect: deny, match: {{ path: /admin }} }} ] }}
"#
        )
    };
    let finback = Finback::start(&config("one", "first"));
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PROMPT)).unwrap();
    let mut ask = |path: &str| {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).unwrap();
        let head = String::from_utf8_lossy(&bytes[..read]).into_owned();
        head.split(' ').nth(1).unwrap_or_default().to_owned()
    };
    assert_eq!([ask("/"), ask("/admin")], ["200", "403"]);
    finback.reload(&config("one", "second"));
    assert_eq!([ask("/"), ask("/admin")], ["200", "403"]);
    assert_eq!(decided(&finback, "second", "denied"), 1);
    // Who came by a listener that is gone keeps its filters to the end.
    finback.reload(&config("two", "third"));
    assert_eq!(ask("/admin"), "403");
    let url = format!("http://127.0.0.1:{port}/admin");
    eventually("the new listener", PATIENCE, || match curl(&url, &[]).0 {
        403 => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn tcp_connections_are_closed() {
    use std::io::{Read, Write};
    let backend = web::serve().to_string();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: raw, address: "127.0.0.1:0", protocol: tcp, routes: raw, filters: [ once ] }} ]
routes: {{ raw: [ {{ to: {{ cluster: back }} }} ] }}
clusters: {{ back: {{ endpoints: [ "{backend}" ] }} }}
filters: {{ once: {{ rate_limit: {{ rate: 1/m, burst: 1 }} }} }}
"#
    ));
    let ask = || {
        let mut stream = std::net::TcpStream::connect(finback.local("raw")).unwrap();
        let mut answer = [0; 15];
        let _ = stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
        let read = stream.read(&mut answer).unwrap_or(0);
        String::from_utf8_lossy(&answer[..read]).into_owned()
    };
    assert_eq!(ask(), "HTTP/1.1 200 OK");
    assert_eq!(ask(), "");
    assert_eq!(decided(&finback, "once", "limited"), 1);
}
