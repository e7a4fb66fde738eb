//! Endpoints with which no TLS can be spoken: soon told in the client's own protocol, without their
//! addresses, and with the reason in the log.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::authority::Authority;
use crate::support::finback::Finback;
use crate::support::nginx::Nginx;
use crate::support::rpc::{Call, Client};

const PATIENCE: Duration = Duration::from_secs(20);
/// What clients are told, without an address.
const TOLD: &str = "TLS handshake with the endpoint failed";

/// An endpoint that answers whatever it hears with this, if with anything.
fn speaks(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut heard = [0; 4096];
                while !matches!(stream.read(&mut heard), Ok(0) | Err(_)) {
                    if stream.write_all(answer).is_err() || !answer.is_empty() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// Status, text and time of a request.
fn ask(url: &str) -> (String, Duration) {
    let begun = Instant::now();
    let out = Command::new("curl")
        .args(["-sS", "--max-time", "20", "-w", " %{http_code}", url])
        .output()
        .unwrap();
    (
        String::from_utf8_lossy(&out.stdout).into_owned(),
        begun.elapsed(),
    )
}

#[test]
fn the_reason_is_logged_and_clients_are_told_soon() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.issue("far", "far", "DNS:far.test", 1000);
    authority.issue("over", "over", "DNS:far.test", -3600);
    let far = Nginx::start(&authority, "far", "");
    let good = far.port;
    let over = Nginx::start(&authority, "over", "");
    let (plain, silent) = (speaks(b"HTTP/1.1 400 no\r\n\r\n"), speaks(b""));
    let (f, o) = (authority.folder.display(), other.folder.display());
    let ca = format!("ca: \"{f}/ca.pem\"");
    // Endpoint, TLS, version of HTTP, a word of the reason, and how long a call may take.
    let cases = [
        (
            "wrong-name",
            good,
            format!("{ca}, server_name: near.test"),
            "1.1",
            "near.test",
            900,
        ),
        (
            "wrong-ca",
            good,
            format!("ca: \"{o}/ca.pem\", server_name: far.test"),
            "1.1",
            "invalid peer certificate",
            900,
        ),
        (
            "expired",
            over.port,
            format!("{ca}, server_name: far.test"),
            "1.1",
            "expired",
            900,
        ),
        // It speaks HTTP/1.1 only, and says so by an alert (RFC 7301 section 3.2).
        (
            "no-alpn",
            good,
            format!("{ca}, server_name: far.test"),
            "2",
            "NoApplicationProtocol",
            900,
        ),
        (
            "plain",
            plain,
            format!("{ca}, server_name: far.test"),
            "1.1",
            "no TLS",
            900,
        ),
        (
            "silent",
            silent,
            format!("{ca}, server_name: far.test"),
            "1.1",
            "no answer within",
            5000,
        ),
    ];
    let mut routes = String::new();
    let mut clusters = String::new();
    for (name, port, tls, http, ..) in &cases {
        routes += &format!("    - {{ match: {{ path: /{name} }}, to: {{ cluster: {name} }} }}\n");
        clusters += &format!(
            "  {name}: {{ endpoints: [ \"127.0.0.1:{port}\" ], http: \"{http}\", connect_timeout: 1s, \
             tls: {{ {tls} }} }}\n"
        );
    }
    let finback = Finback::start(&format!(
        "workers: 1\nlisteners:\n  - {{ name: web, address: \"127.0.0.1:0\", routes: web }}\n  - {{ name: \
         rpc, address: \"127.0.0.1:0\", protocol: bolt, routes: rpc }}\n  - {{ name: mqtt, address: \
         \"127.0.0.1:0\", protocol: mqtt, routes: rpc }}\nroutes:\n  web:\n{routes}  rpc:\n    - {{ to: {{ \
         cluster: expired }} }}\nclusters:\n{clusters}"
    ));
    for (name, port, _, _, why, most) in &cases {
        let (said, took) = ask(&format!("http://{}/{name}", finback.local("web")));
        assert!(
            said.ends_with(" 502") && said.contains(TOLD),
            "{name}: {said}"
        );
        assert!(!said.contains(&format!(":{port}")), "{name}: {said}");
        assert!(took < Duration::from_millis(*most), "{name}: {took:?}");
        finback
            .process()
            .wait_for("the reason", PATIENCE, 0, |line| {
                let is_it = line.contains("the TLS handshake with an endpoint failed");
                let endpoint = format!("127.0.0.1:{port}");
                (is_it && line.contains(&endpoint) && line.contains(name) && line.contains(why))
                    .then_some(())
            });
    }
    // Frames are answered in their own form.
    let mut client = Client::connect(&finback.local("rpc"), Speech::Bolt);
    let answer = client.call(&Call::new("com.acme.Pay", "pay"));
    assert!(!answer.success && answer.text.contains(TOLD), "{answer:?}");
    assert!(!answer.text.contains("127.0.0.1"), "{answer:?}");
    // So are sessions.
    let port = finback.port("mqtt").to_string();
    let out = Command::new("mosquitto_pub")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-V",
            "5",
            "-t",
            "t",
            "-m",
            "m",
            "-q",
            "1",
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(
        !out.status.success() && said.contains("unavailable"),
        "{said}"
    );
}

/// nginx takes a certificate of ours, and we take its: the whole way, in both versions.
#[test]
fn nginx_is_spoken_to_under_mutual_tls() {
    let authority = Authority::new();
    authority.issue("far", "far", "DNS:far.test", 1000);
    authority.issue("near", "near", "URI:spiffe://acme/near", 1000);
    authority.list_revoked(1000);
    let f = authority.folder.display();
    for version in ["TLSv1.2", "TLSv1.3"] {
        let more = format!(
            "ssl_client_certificate {f}/ca.pem; ssl_crl {f}/ca.crl; ssl_verify_client on; \
             ssl_protocols {version};"
        );
        let far = Nginx::start(&authority, "far", &more);
        let finback = Finback::start(&format!(
            r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: far }} }} ] }}
clusters:
  far:
    endpoints: [ "127.0.0.1:{}" ]
    tls:
      ca: "{f}/ca.pem"
      crl: [ "{f}/ca.crl" ]
      certificate: "{f}/near.pem"
      key: "{f}/near.key"
      server_name: far.test
"#,
            far.port
        ));
        let (said, _) = ask(&format!("http://{}/", finback.local("web")));
        assert_eq!(said, "fine 200", "{version}");
    }
}

/// Towards endpoints, too, no session outlives the certificate that it rests on.
#[test]
fn sessions_end_with_the_certificate_of_the_endpoint() {
    let authority = Authority::new();
    let life = Duration::from_secs(10);
    let begun = Instant::now();
    authority.issue("far", "far", "DNS:far.test", 10);
    let f = authority.folder.display();
    let far: Vec<_> = ["TLSv1.2", "TLSv1.3"]
        .into_iter()
        .map(|version| {
            // A connection for each request, resumed if possible.
            let more = format!(
                "keepalive_timeout 0; add_header x-reused \"<$ssl_session_reused>\" always; \
                 ssl_protocols {version}; ssl_session_cache shared:a:1m;"
            );
            Nginx::start(&authority, "far", &more)
        })
        .collect();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes:
  web:
    - match: {{ path: /0 }}
      to: {{ cluster: old }}
    - to: {{ cluster: new }}
clusters:
  old: {{ endpoints: [ "127.0.0.1:{}" ], tls: {{ ca: "{f}/ca.pem", server_name: far.test }} }}
  new: {{ endpoints: [ "127.0.0.1:{}" ], tls: {{ ca: "{f}/ca.pem", server_name: far.test }} }}
"#,
        far[0].port, far[1].port
    ));
    let ask = |number: usize| {
        let url = format!("http://{}/{number}", finback.local("web"));
        let out = Command::new("curl").args(["-sS", "-i", &url]).output();
        String::from_utf8_lossy(&out.unwrap().stdout).into_owned()
    };
    for number in 0..far.len() {
        for reused in ["<.>", "<r>", "<r>", "<r>"] {
            let said = ask(number);
            assert!(
                said.contains("200") && said.contains(reused),
                "{number}: {said}"
            );
        }
    }
    assert!(begun.elapsed() < life, "this machine is too slow");
    std::thread::sleep((life + Duration::from_secs(2)).saturating_sub(begun.elapsed()));
    for number in 0..far.len() {
        let said = ask(number);
        assert!(
            said.contains("502") && said.contains(TOLD),
            "{number}: {said}"
        );
    }
}
