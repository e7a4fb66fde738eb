//! Revoked certificates, the word of authorities about ours, and when certificates end.

use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::authority::Authority;
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::nginx::Nginx;
use crate::support::tls::{WAYS, is_new, is_resumed, s_client, shown};

const PATIENCE: Duration = Duration::from_secs(20);

fn served(said: &str) -> bool {
    said.contains("200 OK")
}

/// A listener whose clients are looked up in a revocation list.
fn listener(authority: &Authority, list: &str) -> Finback {
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
      crl: [ "{f}/{list}" ]
routes: {{ web: [ {{ respond: {{ status: 200, body: "fine" }} }} ] }}
"#
    ))
}

#[test]
fn revoked_clients_are_refused_and_so_are_their_sessions() {
    let authority = Authority::new();
    for name in ["good", "bad"] {
        authority.issue(name, name, "", 1000);
    }
    authority.list_revoked(1000);
    let finback = listener(&authority, "ca.crl");
    let port = finback.port("web");
    let sessions: Vec<_> = (0..WAYS.len())
        .map(|way| authority.path(&format!("session{way}")))
        .collect();
    for (options, session) in WAYS.iter().zip(&sessions) {
        let first = [options, &["-sess_out", session][..]].concat();
        assert!(served(&shown(port, &authority, "bad", &first)));
        let again = [options, &["-sess_in", session, "-sess_out", session][..]].concat();
        let said = shown(port, &authority, "bad", &again);
        assert!(is_resumed(&said) && served(&said), "{said}");
    }
    authority.revoke("bad");
    authority.list_revoked(1000);
    eventually("the list", PATIENCE, || {
        let said = shown(port, &authority, "bad", &[]);
        (!served(&said)).then_some(()).ok_or(said)
    });
    for (options, session) in WAYS.iter().zip(&sessions) {
        let again = [options, &["-sess_in", session][..]].concat();
        let said = shown(port, &authority, "bad", &again);
        assert!(!served(&said), "{options:?}: {said}");
        assert!(served(&shown(port, &authority, "good", options)));
    }
    // A list that cannot be read leaves the former in force.
    std::fs::write(authority.folder.join("ca.crl"), "nonsense").unwrap();
    sleep(Duration::from_secs(2));
    assert!(!served(&shown(port, &authority, "bad", &[])));
    assert!(served(&shown(port, &authority, "good", &[])));
}

/// What no current list could know is refused: by a list that is out of date, or of another authority.
#[test]
fn who_is_on_no_current_list_is_refused() {
    let (authority, other) = (Authority::new(), Authority::new());
    authority.issue("good", "good", "", 1000);
    let begun = Instant::now();
    authority.list_revoked(8);
    // As DER, too.
    let der = Command::new("openssl")
        .args(["crl", "-in", "ca.crl", "-outform", "DER", "-out", "der.crl"])
        .current_dir(&authority.folder)
        .status();
    assert!(der.unwrap().success());
    let finback = listener(&authority, "der.crl");
    let port = finback.port("web");
    let session = authority.path("session");
    let first = ["-sess_out", &session];
    let said = shown(port, &authority, "good", &first);
    assert!(served(&said), "{said}");
    sleep(Duration::from_secs(10).saturating_sub(begun.elapsed()));
    let said = shown(port, &authority, "good", &["-sess_in", &session]);
    assert!(!served(&said) && !is_resumed(&said), "{said}");
    finback
        .process()
        .wait_for("a warning", PATIENCE, 0, |line| {
            line.contains("is out of date").then_some(())
        });
    let name = "finback_revocation_next_update_seconds";
    assert!(
        finback
            .admin("/metrics")
            .1
            .contains(&format!("{name}{{role=\"listener\",owner=\"web\""))
    );
    authority.list_revoked(1000);
    std::fs::copy(authority.path("ca.crl"), authority.path("der.crl")).unwrap();
    eventually("a newer list", PATIENCE, || {
        let said = shown(port, &authority, "good", &[]);
        served(&said).then_some(()).ok_or(said)
    });
    other.list_revoked(1000);
    std::fs::copy(other.path("ca.crl"), authority.path("der.crl")).unwrap();
    eventually("another's list", PATIENCE, || {
        let said = shown(port, &authority, "good", &[]);
        (!served(&said)).then_some(()).ok_or(said)
    });
}

#[test]
fn revoked_endpoints_get_nothing() {
    let authority = Authority::new();
    authority.issue("far", "far", "DNS:far.test", 1000);
    authority.list_revoked(1000);
    let f = authority.folder.display();
    let mut far = Nginx::start(&authority, "far", "");
    let near = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: far }} }} ] }}
clusters:
  far:
    endpoints: [ "127.0.0.1:{}" ]
    tls: {{ ca: "{f}/ca.pem", crl: [ "{f}/ca.crl" ], server_name: far.test }}
"#,
        far.port
    ));
    let url = format!("http://{}/", near.local("web"));
    // A connection of its own for each, so that none is left from before.
    let ask = || {
        let out = Command::new("curl")
            .args(["-sS", "--max-time", "20", "-o", "-", "-w", " %{http_code}"])
            .args(["-H", "connection: close", &url])
            .output()
            .unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let said = ask();
    assert!(said.ends_with("fine 200"), "{said}");
    authority.revoke("far");
    authority.list_revoked(1000);
    near.process().wait_for("the list", PATIENCE, 0, |line| {
        line.contains("certificates read again").then_some(())
    });
    // The connection of before is kept while it is good: the endpoint begins anew.
    far.restart();
    eventually("nothing", PATIENCE, || match ask() {
        said if said.ends_with(" 502") => Ok(()),
        said => Err(said),
    });
    near.process().wait_for("the reason", PATIENCE, 0, |line| {
        (line.contains("TLS handshake") && line.contains("Revoked")).then_some(())
    });
}

#[test]
fn responses_about_certificates_are_stapled_while_they_are_good() {
    let authority = Authority::new();
    for name in ["one", "two"] {
        authority.issue(name, name, &format!("DNS:{name}.test"), 100_000_000);
    }
    authority.respond("one", "one.ocsp", 60);
    // It is about another certificate.
    authority.respond("one", "two.ocsp", 60);
    let f = authority.folder.display();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    routes: web
    tls:
      certificates:
        - {{ certificate: "{f}/one.pem", key: "{f}/one.key", ocsp: "{f}/one.ocsp" }}
        - {{ certificate: "{f}/two.pem", key: "{f}/two.key", ocsp: "{f}/two.ocsp" }}
routes: {{ web: [ {{ respond: {{ status: 200, body: "fine" }} }} ] }}
"#
    ));
    let port = finback.port("web");
    let asked = |name: &str, version: &str| {
        let more = ["-status", "-servername", name, version];
        let said = s_client(port, &authority, &more);
        assert!(served(&said), "{said}");
        said.contains("OCSP Response Status: successful")
    };
    for version in ["-tls1_3", "-tls1_2"] {
        assert!(asked("one.test", version));
        assert!(!asked("two.test", version));
    }
    finback
        .process()
        .wait_for("a warning", PATIENCE, 0, |line| {
            (line.contains("two.ocsp") && line.contains("is about another certificate"))
                .then_some(())
        });
    authority.respond("two", "two.ocsp", 60);
    eventually("the right one", PATIENCE, || {
        asked("two.test", "-tls1_3")
            .then_some(())
            .ok_or(String::new())
    });
    // What is no response at all is refused where it can be.
    std::fs::write(authority.folder.join("two.ocsp"), "nonsense").unwrap();
    let (good, said) = Finback::check(&format!(
        "listeners:\n  - address: \"127.0.0.1:1\"\n    routes: web\n    tls:\n      certificates: [ \
         {{ certificate: \"{f}/two.pem\", key: \"{f}/two.key\", ocsp: \"{f}/two.ocsp\" }} ]\n\
         routes: {{ web: [ {{ respond: {{ status: 200 }} }} ] }}\n"
    ));
    assert!(!good && said.contains(":5:"), "{said}");
    assert!(said.contains("two.ocsp is not an OCSP response"), "{said}");
}

/// One name may have certificates of several types of keys, and every client gets one that it can
/// verify.
#[test]
fn clients_get_a_certificate_of_a_key_that_they_verify() {
    let authority = Authority::new();
    authority.issue_of("rsa", "rsa", "a", "DNS:a.test,DNS:*.b.test", 1000);
    authority.issue_of("ec", "ec", "a", "DNS:*.b.test,DNS:a.test", 1000);
    authority.issue_of("rsa", "other", "c", "DNS:c.test", 1000);
    let f = authority.folder.display();
    let start = |first: &str, second: &str| {
        Finback::start(&format!(
            r#"
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    routes: web
    tls:
      certificates:
        - {{ certificate: "{f}/{first}.pem", key: "{f}/{first}.key" }}
        - {{ certificate: "{f}/other.pem", key: "{f}/other.key" }}
        - {{ certificate: "{f}/{second}.pem", key: "{f}/{second}.key" }}
routes: {{ web: [ {{ respond: {{ status: 200, body: "fine" }} }} ] }}
"#
        ))
    };
    let clients: [(&[&str], &str); 4] = [
        (&["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"], "RSA-PSS"),
        (&["-tls1_3", "-sigalgs", "ecdsa_secp256r1_sha256"], "ECDSA"),
        (
            &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"],
            "RSA",
        ),
        (
            &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"],
            "ECDSA",
        ),
    ];
    for (first, second) in [("rsa", "ec"), ("ec", "rsa")] {
        let finback = start(first, second);
        let port = finback.port("web");
        for name in [
            &["-servername", "a.test"][..],
            &["-servername", "x.b.test"],
            &["-servername", "unknown.test"],
            &["-noservername"],
        ] {
            for (options, kind) in clients {
                let said = s_client(port, &authority, &[options, name].concat());
                let is_kind = said.contains(&format!("Peer signature type: {kind}"));
                assert!(
                    is_new(&said) && served(&said) && is_kind,
                    "{name:?} {options:?}: {said}"
                );
            }
        }
        let said = s_client(port, &authority, &["-servername", "c.test"]);
        assert!(said.contains("CN = c"), "{said}");
    }
}

#[test]
fn certificates_that_end_soon_are_told_of() {
    let authority = Authority::new();
    let (soon, late) = (5 * 86_400 - 3600, 300 * 86_400);
    authority.issue("soon", "soon", "DNS:soon.test", soon);
    authority.issue("late", "late", "DNS:late.test", late);
    authority.issue("over", "over", "DNS:over.test", -3600);
    let f = authority.folder.display();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - name: web
    address: "127.0.0.1:0"
    routes: web
    tls:
      certificates:
        - {{ certificate: "{f}/soon.pem", key: "{f}/soon.key" }}
        - {{ certificate: "{f}/late.pem", key: "{f}/late.key" }}
        - {{ certificate: "{f}/over.pem", key: "{f}/over.key" }}
routes: {{ web: [ {{ to: {{ cluster: far }} }} ] }}
clusters:
  far:
    endpoints: [ "127.0.0.1:1" ]
    tls: {{ ca: "{f}/ca.pem", certificate: "{f}/late.pem", key: "{f}/late.key" }}
"#
    ));
    let now = std::time::SystemTime::now();
    let now = now
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs_f64();
    let page = finback.admin("/metrics").1;
    for (owner, name, left) in [
        ("role=\"listener\",owner=\"web\"", "soon", soon as f64),
        ("role=\"listener\",owner=\"web\"", "late", late as f64),
        ("role=\"listener\",owner=\"web\"", "over", -3600.0),
        ("role=\"cluster\",owner=\"far\"", "late", late as f64),
    ] {
        let sample = format!(
            "finback_certificate_not_after_seconds{{{owner},file=\"{f}/{name}.pem\",name=\"{name}.test\"}} "
        );
        let line = page.lines().find_map(|line| line.strip_prefix(&sample));
        let end: f64 = line
            .unwrap_or_else(|| panic!("{sample}: {page}"))
            .parse()
            .unwrap();
        assert!((end - now - left).abs() < 100.0, "{name}: {end}");
    }
    for (name, ends) in [("soon", "in 4 days"), ("over", "1 hours ago")] {
        finback
            .process()
            .wait_for("a warning", PATIENCE, 0, |line| {
                let file = format!("{name}.pem");
                (line.contains("must be renewed") && line.contains(&file) && line.contains(ends))
                    .then_some(())
            });
    }
    let told = finback.process().tail_of(1000);
    assert!(
        !told.iter().any(|line| line.contains("late.pem")),
        "{told:?}"
    );
}
