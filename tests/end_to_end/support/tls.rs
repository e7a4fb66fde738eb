//! The client of openssl, which says whether it resumed a session.

use std::io::Write;
use std::process::{Child, Command, Stdio};

use super::authority::Authority;

/// Versions of TLS, and ways in which their sessions are resumed.
pub(crate) const WAYS: [&[&str]; 3] = [&["-tls1_3"], &["-tls1_2"], &["-tls1_2", "-no_ticket"]];

/// What `openssl s_client` says of a connection on which one request is made.
pub(crate) fn s_client(port: u16, authority: &Authority, more: &[&str]) -> String {
    let address = format!("127.0.0.1:{port}");
    let ca = authority.path("ca.pem");
    let mut client = Command::new("timeout")
        .args(["10", "openssl", "s_client", "-connect", &address])
        .args(["-CAfile", &ca, "-ign_eof"])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    // It may have been refused already.
    let _ = client.stdin.take().unwrap().write_all(request);
    let out = client.wait_with_output().unwrap();
    let said = [out.stdout, out.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// The same with a client's certificate.
pub(crate) fn shown(port: u16, authority: &Authority, name: &str, more: &[&str]) -> String {
    let (certificate, key) = (
        authority.path(&format!("{name}.pem")),
        authority.path(&format!("{name}.key")),
    );
    let own = ["-cert", &certificate, "-key", &key];
    s_client(port, authority, &[&own[..], more].concat())
}

/// Whether the client resumed a session.
pub(crate) fn is_resumed(said: &str) -> bool {
    said.lines().any(|line| line.starts_with("Reused, TLSv1"))
}

/// Whether there was a full handshake.
pub(crate) fn is_new(said: &str) -> bool {
    said.lines().any(|line| line.starts_with("New, TLSv1"))
}

/// A connection with a client's certificate that says something and then waits for its end.
pub(crate) fn held(port: u16, authority: &Authority, name: &str, says: &[u8]) -> Child {
    let file = |kind: &str| authority.path(&format!("{name}.{kind}"));
    // When nobody holds its input any more, it ends.
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-no_ign_eof", "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .args(["-CAfile", &authority.path("ca.pem")])
        .args(["-cert", &file("pem"), "-key", &file("key")])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    client.stdin.as_mut().unwrap().write_all(says).unwrap();
    client
}
