//! A small server of HTTP/1.1 that does as the path says, and its client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Begins to serve: `/slow/MILLISECONDS` takes its time, `/fail` is a 500, everything else a 200.
pub(crate) fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream));
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?);
    loop {
        let mut first = String::new();
        lines.read_line(&mut first).ok()?;
        let path = first.split_whitespace().nth(1)?.to_owned();
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line).ok()? == 0 || line == "\r\n" {
                break;
            }
        }
        if let Some(millis) = path.strip_prefix("/slow/") {
            thread::sleep(Duration::from_millis(millis.parse().ok()?));
        }
        let status = if path == "/fail" {
            "500 Failed"
        } else {
            "200 OK"
        };
        let text = format!("HTTP/1.1 {status}\r\nContent-Length: 3\r\n\r\nhey");
        stream.write_all(text.as_bytes()).ok()?;
    }
}

/// Asks for a path; the answer's status.
pub(crate) fn get(address: &str, host: &str, path: &str) -> u16 {
    get_with(address, host, path, "")
}

/// The same with more headers, each with its line's end.
pub(crate) fn get_with(address: &str, host: &str, path: &str, headers: &str) -> u16 {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let status = answer.split_whitespace().nth(1);
    status.and_then(|own| own.parse().ok()).unwrap_or(0)
}
