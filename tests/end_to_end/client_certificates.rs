//! Client certificates, by openssl's own client: who they say the client is, and for how long.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::authority::Authority;
use crate::support::eventually;
use crate::support::finback::Finback;

const PATIENCE: Duration = Duration::from_secs(20);
/// Versions of TLS, and ways in which their sessions are resumed.
const WAYS: [&[&str]; 3] = [&["-tls1_3"], &["-tls1_2"], &["-tls1_2", "-no_ticket"]];

/// What `openssl s_client` says of a connection on which one request is made.
fn s_client(port: u16, authority: &Authority, more: &[&str]) -> String {
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
fn shown(port: u16, authority: &Authority, name: &str, more: &[&str]) -> String {
    let (certificate, key) = (
        authority.path(&format!("{name}.pem")),
        authority.path(&format!("{name}.key")),
    );
    let own = ["-cert", &certificate, "-key", &key];
    s_client(port, authority, &[&own[..], more].concat())
}

fn is_resumed(said: &str) -> bool {
    said.lines().any(|line| line.starts_with("Reused, TLSv1"))
}

fn is_new(said: &str) -> bool {
    said.lines().any(|line| line.starts_with("New, TLSv1"))
}

/// A listener that says who its clients are.
fn listener(authority: &Authority, more: &str) -> Finback {
    let f = authority.folder.display();
    Finback::start(&format!(
        r#"
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    routes: web
    tls:
      certificates: [ {{ certificate: "{f}/server.pem", key: "{f}/server.key" }} ]
      client_ca: "{f}/ca.pem"
      {more}
routes:
  web:
    - match: {{ identity: "spiffe://acme/pay" }}
      respond: {{ status: 200, body: "it is pay" }}
    - respond: {{ status: 200, body: "somebody else" }}
"#
    ))
}

/// Nobody goes on by resumption after the end of the certificate, be it by a ticket of the handshake
/// or by the last of a chain of tickets.
#[test]
fn sessions_end_with_the_certificate_that_they_rest_on() {
    let authority = Authority::new();
    let finback = listener(&authority, "");
    let port = finback.port("web");
    // The versions have a certificate each, so that none waits for another.
    let begun = Instant::now();
    let life = Duration::from_secs(14);
    for way in 0..WAYS.len() {
        authority.issue(&format!("short{way}"), "", "URI:spiffe://acme/pay", 14);
    }
    let sessions: Vec<_> = (0..WAYS.len())
        .map(|way| authority.path(&format!("session{way}")))
        .collect();
    for (way, options) in WAYS.iter().enumerate() {
        let name = format!("short{way}");
        let first = [options, &["-sess_out", &sessions[way]][..]].concat();
        let said = shown(port, &authority, &name, &first);
        assert!(is_new(&said) && said.contains("it is pay"), "{said}");
        // A chain, each by the session of the last.
        let again = ["-sess_in", &sessions[way], "-sess_out", &sessions[way]];
        for _ in 0..3 {
            let said = shown(port, &authority, &name, &[options, &again[..]].concat());
            assert!(is_resumed(&said), "{options:?}: {said}");
            assert!(said.contains("it is pay"), "{said}");
        }
    }
    assert!(begun.elapsed() < life, "this machine is too slow");
    sleep((life + Duration::from_secs(2)).saturating_sub(begun.elapsed()));
    authority.issue("next", "", "URI:spiffe://acme/pay", 1000);
    for (way, options) in WAYS.iter().enumerate() {
        let resumed = [options, &["-sess_in", &sessions[way]][..]].concat();
        let said = shown(port, &authority, &format!("short{way}"), &resumed);
        assert!(!said.contains("it is pay"), "{options:?}: {said}");
        // With a certificate that has not ended, the same client is served after a full handshake.
        let said = shown(port, &authority, "next", &resumed);
        assert!(is_new(&said) && said.contains("it is pay"), "{said}");
    }
}

/// Tickets promise no more than the certificate holds.
#[test]
fn tickets_live_no_longer_than_the_certificate() {
    let authority = Authority::new();
    let finback = listener(&authority, "client_optional: true");
    authority.issue("brief", "", "URI:spiffe://acme/pay", 600);
    let hint = |said: &str| {
        let line = said.lines().find(|line| line.contains("lifetime hint"));
        let words = line.unwrap_or_else(|| panic!("{said}")).split_whitespace();
        words
            .filter_map(|word| word.parse::<u32>().ok())
            .next()
            .unwrap()
    };
    for options in &WAYS[..2] {
        let port = finback.port("web");
        let said = shown(port, &authority, "brief", options);
        assert!((500..=600).contains(&hint(&said)), "{said}");
        // One who shows nothing has nothing that ends.
        let said = s_client(port, &authority, options);
        assert!(hint(&said) > 600, "{said}");
    }
}

/// Another authority counts at once, for sessions too.
#[test]
fn sessions_do_not_outlive_their_authority() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.issue("pay", "", "URI:spiffe://acme/pay", 1000);
    let finback = listener(&authority, "");
    let port = finback.port("web");
    let sessions: Vec<_> = (0..WAYS.len())
        .map(|way| authority.path(&format!("session{way}")))
        .collect();
    for (options, session) in WAYS.iter().zip(&sessions) {
        let first = [options, &["-sess_out", session][..]].concat();
        assert!(shown(port, &authority, "pay", &first).contains("it is pay"));
    }
    std::fs::copy(other.path("ca.pem"), authority.path("ca.pem")).unwrap();
    eventually("the new authority", PATIENCE, || {
        let said = shown(port, &authority, "pay", &["-tls1_3"]);
        (!said.contains("it is pay")).then_some(()).ok_or(said)
    });
    for (options, session) in WAYS.iter().zip(&sessions) {
        let resumed = [options, &["-sess_in", session][..]].concat();
        let said = shown(port, &authority, "pay", &resumed);
        assert!(!said.contains("it is pay"), "{options:?}: {said}");
    }
}

/// Each kind of name is matched by conditions on its own kind only, and certificates that are no
/// proper SVID are refused.
#[test]
fn no_kind_of_name_passes_for_another() {
    let authority = Authority::new();
    let f = authority.folder.display();
    let texts = [
        ("spiffe", r#""spiffe://acme/pay""#),
        ("dns", "pay.acme.test"),
        ("cn", r#""cn:pay""#),
        ("odd-cn", r#""cn:spiffe://acme/pay""#),
        ("workloads", r#"{ prefix: "spiffe://" }"#),
        ("hosts", r#"{ regex: ".*[.]test" }"#),
        ("others", r#"{ prefix: "cn:" }"#),
    ];
    let routes: String = texts
        .iter()
        .map(|(says, text)| {
            format!(
                "    - {{ match: {{ identity: {text} }}, respond: {{ status: 200, body: \"<{says}>\" }} }}\n"
            )
        })
        .collect();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    routes: web
    tls:
      certificates: [ {{ certificate: "{f}/server.pem", key: "{f}/server.key" }} ]
      client_ca: "{f}/ca.pem"
routes:
  web:
{routes}    - {{ respond: {{ status: 200, body: "<nobody>" }} }}
"#
    ));
    let port = finback.port("web");
    for (name, common_name, names, said) in [
        ("pay", "x", "URI:spiffe://acme/pay", "spiffe"),
        ("ship", "x", "URI:spiffe://acme/ship", "workloads"),
        ("spoof", "spiffe://acme/pay", "", "odd-cn"),
        ("host", "pay", "DNS:a.acme.test,DNS:PAY.acme.test", "dns"),
        ("other-host", "pay", "DNS:b.test", "hosts"),
        (
            "both",
            "x",
            "URI:spiffe://acme/ship,DNS:pay.acme.test",
            "dns",
        ),
        ("cn", "pay", "", "cn"),
        ("cn-mail", "pay", "email:pay@acme.test", "cn"),
        ("cn-host", "pay.acme.test", "", "others"),
        ("cn-uri", "pay", "URI:https://acme.test/x", "nobody"),
        ("dns-spoof", "x", "DNS:spiffe://acme/pay", "nobody"),
        ("dns-cn", "", "DNS:cn:pay", "nobody"),
        ("none", "", "", "nobody"),
    ] {
        authority.issue(name, common_name, names, 1000);
        let heard = shown(port, &authority, name, &[]);
        assert!(heard.contains(&format!("<{said}>")), "{name}: {heard}");
    }
    for (name, names) in [
        ("two", "URI:spiffe://acme/pay,URI:spiffe://acme/ship"),
        ("url", "URI:https://acme.test,URI:spiffe://acme/pay"),
        ("capital", "URI:SPIFFE://acme/pay"),
        ("domain", "URI:spiffe://Acme/pay"),
        ("port", "URI:spiffe://acme:1/pay"),
        ("dots", "URI:spiffe://acme/../pay"),
        ("query", "URI:spiffe://acme/pay?x"),
        ("slash", "URI:spiffe://acme/pay/"),
    ] {
        authority.issue(name, "x", names, 1000);
        let heard = shown(port, &authority, name, &[]);
        assert!(!heard.contains("200 OK"), "{name}: {heard}");
    }
}
