//! What routes see of a message, and what others make of Finback's own.

use std::process::Command;

use crate::smuggling::Backend;
use crate::support::certificates::certificates;
use crate::support::finback::Finback;
use crate::support::temporary_folder;

/// What a program says that must succeed.
fn run(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}: run `make peers`"));
    let said = [out.stdout, out.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(out.status.success(), "{program} {arguments:?}: {said}");
    said.to_ascii_lowercase()
}

fn curl(arguments: &[&str]) -> String {
    run("curl", &[&["-sS", "--max-time", "20"], arguments].concat())
}

const BOTH: [&str; 2] = ["--http1.1", "--http2-prior-knowledge"];

#[test]
fn what_finback_says_itself_has_a_body_only_where_there_is_one() {
    let finback = Finback::start(
        r#"
listeners: [ { name: web, address: "127.0.0.1:0", protocol: http, routes: web } ]
routes:
  web:
    - { match: { path: /health }, respond: { status: 200, body: fine } }
    - { match: { path: /none }, respond: { status: 204 } }
    - { match: { path: /same }, respond: { status: 304 } }
"#,
    );
    let at = format!("http://{}", finback.local("web"));
    for version in BOTH {
        let said = curl(&[version, "-I", &format!("{at}/health")]);
        assert!(said.contains("content-length: 4\r\n"), "{version}: {said}");
        let said = curl(&[version, "-I", &format!("{at}/nowhere")]);
        assert!(said.contains(" 404"), "{version}: {said}");
        for (path, status) in [("/none", " 204"), ("/same", " 304")] {
            for more in ["-i", "-I"] {
                let said = curl(&[version, more, &format!("{at}{path}")]);
                assert!(said.contains(status), "{version}: {said}");
                assert!(!said.contains("content-length"), "{version}: {said}");
            }
        }
    }
    // nghttp resets what is malformed, and says so.
    let said = run(
        "nghttp",
        &["-v", "-H:method: HEAD", &format!("{at}/health")],
    );
    assert!(
        said.contains(":status: 200") && !said.contains("protocol_error"),
        "{said}"
    );
    for status in [204, 205, 304] {
        let (good, said) = Finback::check(&format!(
            r#"
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ respond: {{ status: {status}, body: fine }} }} ] }}
"#
        ));
        assert!(
            !good && said.contains("has no body") && said.contains(":3:"),
            "{said}"
        );
    }
}

#[test]
fn a_redirect_keeps_the_scheme() {
    let folder = temporary_folder();
    certificates(&folder);
    let f = folder.display();
    let finback = Finback::start(&format!(
        r#"
listeners:
  - {{ name: plain, address: "127.0.0.1:0", protocol: http, routes: web }}
  - name: tls
    address: "127.0.0.1:0"
    protocol: http
    routes: web
    tls: {{ certificates: [ {{ certificate: "{f}/server.pem", key: "{f}/server.key" }} ] }}
routes:
  web:
    - {{ match: {{ path: /up }}, redirect: {{ scheme: https, host: new.test }} }}
    - {{ redirect: {{ host: new.test }} }}
"#
    ));
    for (scheme, listener) in [("http", "plain"), ("https", "tls")] {
        let at = format!("{scheme}://{}", finback.local(listener));
        let versions = [
            "--http1.1",
            if scheme == "http" { BOTH[1] } else { "--http2" },
        ];
        for version in versions {
            let said = curl(&["-k", "-i", version, &format!("{at}/zz?q=1")]);
            let wanted = format!("location: {scheme}://new.test/zz?q=1\r\n");
            assert!(said.contains(&wanted), "{version}: {said}");
            let said = curl(&["-k", "-i", version, &format!("{at}/up")]);
            assert!(said.contains("location: https://new.test/up\r\n"), "{said}");
        }
    }
}

#[test]
fn routes_are_not_talked_round() {
    let backend = Backend::nginx();
    let finback = Finback::start(&format!(
        r#"
listeners:
  - {{ name: web, address: "127.0.0.1:0", routes: web }}
  - name: raw
    address: "127.0.0.1:0"
    protocol: http
    routes: web
    http: {{ normalize_path: false }}
routes:
  web:
    - {{ match: {{ protocol: http, path: {{ prefix: /private }} }}, respond: {{ status: 403 }} }}
    - {{ to: {{ cluster: back }} }}
clusters: {{ back: {{ endpoints: [ "{}" ], http: "1.1" }} }}
"#,
        backend.address
    ));
    let status = |listener: &str, arguments: &[&str], path: &str| {
        let url = format!("http://{}{path}", finback.local(listener));
        let form = ["-o", "/dev/null", "-w", "%{http_code}", "--path-as-is"];
        curl(&[&form[..], arguments, &[&url]].concat())
    };
    for version in BOTH {
        for path in [
            "/private",
            "//private",
            "/x/../private/y",
            "/%70rivate",
            "/./private",
            "/x/%2e%2E/private",
            "/\\private",
        ] {
            assert_eq!(status("web", &[version], path), "403", "{version} {path}");
            let passed = status("raw", &[version], path);
            assert_eq!(passed == "403", path == "/private", "{version} {path}");
        }
        for headers in [
            &["-H", "content-type: application/grpc"][..],
            &["-H", "content-type: application/grpc-web+proto"],
            &["-H", "tri-x: 1"],
            &["-H", "tri-service-version: 1.0.0"],
            &["-X", "PUT", "-H", "content-type: application/grpc"],
            &[
                "-X",
                "POST",
                "-H",
                "tri-x: 1",
                "-H",
                "content-type: application/json",
            ],
            &[
                "-X",
                "POST",
                "-H",
                "tri-service-version: 1",
                "-H",
                "content-type: text/html",
            ],
        ] {
            let arguments = [&[version], headers].concat();
            assert_eq!(
                status("web", &arguments, "/private"),
                "403",
                "{arguments:?}"
            );
        }
        // And any method is HTTP's on a port of several protocols.
        for method in ["PROPFIND", "REPORT", "PURGE", "QUERY", "M-SEARCH", "x"] {
            let arguments = [version, "-X", method];
            assert_eq!(status("web", &arguments, "/private"), "403", "{method}");
            assert_ne!(status("web", &arguments, "/open"), "000", "{method}");
        }
    }
}

#[test]
fn callers_of_grpc_hear_in_its_words_that_a_head_is_too_large() {
    let finback = Finback::start(
        r#"
listeners:
  - { name: web, address: "127.0.0.1:0", protocol: http, routes: web }
  - { name: wide, address: "127.0.0.1:0", protocol: http, routes: web, http: { header_size: 256KiB } }
routes: { web: [ { match: { service: a.B }, respond: { status: 200, body: fine } } ] }
"#,
    );
    let long = format!("x-long: {}", "x".repeat(40 * 1024));
    let ask = |listener: &str, more: &[&str]| {
        let url = format!("http://{}/a.B/c", finback.local(listener));
        let head = ["-v", "-H", ":method: POST", "-H", &long];
        run("nghttp", &[&head[..], more, &[&url]].concat())
    };
    let kind = ["-H", "content-type: application/grpc"];
    let said = ask("web", &kind);
    assert!(said.contains("grpc-status: 8"), "{said}");
    let said = ask("web", &[]);
    assert!(said.contains(":status: 431"), "{said}");
    for more in [&kind[..], &[]] {
        let said = ask("wide", more);
        assert!(
            !said.contains("grpc-status: 8") && !said.contains("431"),
            "{said}"
        );
    }
    let (good, said) = Finback::check(
        r#"
listeners: [ { name: web, address: "127.0.0.1:0", routes: web, http: { response_header_size: 257KiB } } ]
routes: { web: [ { respond: { status: 204 } } ] }
"#,
    );
    assert!(!good && said.contains("256KiB"), "{said}");
}
