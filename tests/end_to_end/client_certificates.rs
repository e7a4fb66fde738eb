//! Client certificates, by openssl's own client: who they say the client is, and for how long.

use std::thread::sleep;
use std::time::{Duration, Instant};

use finback_simulations::speech::Speech;

use crate::support::authority::Authority;
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::mosquitto::Mosquitto;
use crate::support::peer::Peer;
use crate::support::rpc::Call;
use crate::support::tls::{WAYS, held, is_new, is_resumed, s_client, shown};

const PATIENCE: Duration = Duration::from_secs(20);
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

/// A connection ends with the certificate of its client where that is asked for, and only there; in
/// frames and in sessions of MQTT, too.
#[test]
fn connections_end_with_the_certificate_where_that_is_asked_for() {
    let authority = Authority::new();
    let f = authority.folder.display();
    let tls = |more: &str| {
        format!(
            "{{ certificates: [ {{ certificate: \"{f}/server.pem\", key: \"{f}/server.key\" }} ], \
             client_ca: \"{f}/ca.pem\"{more} }}"
        )
    };
    let broker = Mosquitto::start();
    let finback = Finback::start(&format!(
        r#"
workers: 1
limits: {{ drain_grace: 0s, drain: 1s }}
listeners:
  - {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web, tls: {closing} }}
  - {{ name: open, address: "127.0.0.1:0", protocol: http, routes: web, tls: {staying} }}
  - {{ name: rpc, address: "127.0.0.1:0", protocol: bolt, routes: web, tls: {closing} }}
  - {{ name: mqtt, address: "127.0.0.1:0", protocol: mqtt, routes: mqtt, tls: {closing} }}
routes:
  web: [ {{ respond: {{ status: 200, body: "fine" }} }} ]
  mqtt: [ {{ to: {{ cluster: broker }} }} ]
clusters: {{ broker: {{ endpoints: [ "{}" ] }} }}
"#,
        broker.address(),
        closing = tls(", close_expired: true"),
        staying = tls(""),
    ));
    authority.issue("short", "short", "", 8);
    authority.issue("long", "long", "", 1000);
    // Each says something, so that it is in use, and then nothing more. All of them are MQTT's
    // CONNECT of version 5 but those of HTTP and Bolt.
    let http = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    let connect = |id: &str| {
        let head = b"\x10\x0f\0\x04MQTT\x05\x02\0\x3c\0\0\x02";
        [head, id.as_bytes()].concat()
    };
    let call = Call::new("com.acme.Pay", "pay").frame(Speech::Bolt, 1);
    let open = |listener: &str, name: &str, says: &[u8]| {
        held(finback.port(listener), &authority, name, says)
    };
    let mut ending = [
        open("web", "short", &http),
        open("rpc", "short", &call),
        open("mqtt", "short", &connect("ab")),
    ];
    let mut staying = [
        open("web", "long", &http),
        open("rpc", "long", &call),
        open("mqtt", "long", &connect("cd")),
        open("open", "short", &http),
    ];
    sleep(Duration::from_secs(3));
    for own in ending.iter_mut().chain(&mut staying) {
        assert!(own.try_wait().unwrap().is_none(), "it ended too soon");
    }
    for own in &mut ending {
        eventually("its end", PATIENCE, || {
            own.try_wait().unwrap().map(drop).ok_or_else(String::new)
        });
    }
    for own in &mut staying {
        assert!(own.try_wait().unwrap().is_none(), "it ended, too");
        own.kill().unwrap();
        own.wait().unwrap();
    }
}

/// The client of Go keeps its sessions by itself, and shows a certificate as soon as it is asked for one
/// again.
#[test]
fn the_client_of_go_resumes_until_its_certificate_ends() {
    let authority = Authority::new();
    let finback = listener(&authority, "");
    let peer = Peer::go();
    let (address, ca) = (finback.local("web"), authority.path("ca.pem"));
    let ask = |name: &str, version: &str| {
        let (certificate, key) = (
            authority.path(&format!("{name}.pem")),
            authority.path(&format!("{name}.key")),
        );
        let fields = [
            ("address", &*address),
            ("ca", &*ca),
            ("certificate", &*certificate),
            ("key", &*key),
            ("version", version),
            ("client", version),
        ];
        peer.ask("tls-ask", &fields)
    };
    let begun = Instant::now();
    authority.issue("short", "", "URI:spiffe://acme/pay", 10);
    authority.issue("next", "", "URI:spiffe://acme/pay", 1000);
    for version in ["1.2", "1.3"] {
        for number in 0..4 {
            let said = ask("short", version).unwrap();
            assert_eq!(said["resumed"], number > 0, "{version}: {said}");
            assert!(said["said"].as_str().unwrap().contains("it is pay"));
        }
    }
    assert!(
        begun.elapsed() < Duration::from_secs(9),
        "this machine is too slow"
    );
    sleep(Duration::from_secs(12).saturating_sub(begun.elapsed()));
    for version in ["1.2", "1.3"] {
        ask("short", version).unwrap_err();
        // The same client with a new certificate is not held to what it had.
        let said = ask("next", version).unwrap();
        assert_eq!(said["resumed"], false, "{version}: {said}");
        assert!(said["said"].as_str().unwrap().contains("it is pay"));
    }
}
