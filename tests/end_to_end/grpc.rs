//! gRPC where it is registered, reflected, and spoken by browsers; HTTP services by their names.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::peer::{Peer, built};
use crate::support::temporary_folder;
use crate::support::zookeeper::ZooKeeper;

const PATIENCE: Duration = Duration::from_secs(20);
/// The service of gRPC's interoperability tests.
const SERVICE: &str = "grpc.testing.TestService";

fn server(go: &Peer) -> String {
    let address = go.ask("grpc-serve", &[]).unwrap();
    address.as_str().unwrap().to_owned()
}

fn grpcurl(arguments: &[&str]) -> Result<String, String> {
    let out = Command::new(built("go/grpcurl"))
        .args(["-plaintext", "-max-time", "10"])
        .args(arguments)
        .output()
        .unwrap();
    if out.status.success() {
        return Ok(String::from_utf8(out.stdout).unwrap());
    }
    Err(String::from_utf8_lossy(&out.stderr).into_owned())
}

fn front(backend: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes:
  web:
    - match: {{ protocol: grpc }}
      to: {{ cluster: back }}
      retry: {{ attempts: 2 }}
clusters: {{ back: {{ endpoints: [ "{backend}" ] }} }}
"#
    ))
}

#[test]
fn reflection_passes_so_that_grpcurl_needs_no_files() {
    let go = Peer::go();
    let finback = front(&server(&go));
    let at = finback.local("web");
    let said = eventually("reflection", PATIENCE, || grpcurl(&[&at, "list"]));
    assert!(
        said.contains(SERVICE) && said.contains("grpc.health.v1.Health"),
        "{said}"
    );
    let said = grpcurl(&[&at, "describe", SERVICE]).unwrap();
    assert!(said.contains("rpc UnaryCall"), "{said}");
    let body = r#"{"payload":{"body":"YWJj"},"responseSize":3}"#;
    let method = format!("{SERVICE}/UnaryCall");
    let said = grpcurl(&["-d", body, &at, &method]).unwrap();
    assert!(said.contains("AAAA"), "{said}");
    let (_, metrics) = finback.admin("/metrics");
    let series = format!("service=\"{SERVICE}\",method=\"UnaryCall\",outcome=\"success\"");
    assert!(metrics.contains(&series), "{metrics}");
}

#[test]
fn a_service_in_etcd_is_found_by_the_name_in_the_path() {
    let etcd = Etcd::start();
    let go = Peer::go();
    let address = server(&go);
    let registered = [
        ("registry", etcd.address.as_str()),
        ("target", SERVICE),
        ("address", &address),
    ];
    go.ask("grpc-register", &registered).unwrap();
    let finback = Finback::start(&format!(
        r#"
workers: 1
registries: {{ r: {{ etcd: "{}" }} }}
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ match: {{ protocol: grpc }}, to: {{ registry: r }} }} ] }}
"#,
        etcd.address
    ));
    let at = finback.local("web");
    let proto = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/go");
    // Reflection is another service, which nobody registered: the client is told so.
    let error = grpcurl(&[&at, "list"]).unwrap_err();
    assert!(
        error.contains("Unimplemented") || error.contains("reflection"),
        "{error}"
    );
    let arguments = [
        "-import-path",
        proto.to_str().unwrap(),
        "-proto",
        "test.proto",
        &at,
        "grpc.testing.TestService/EmptyCall",
    ];
    eventually("an answer", PATIENCE, || grpcurl(&arguments));
    go.ask("grpc-unregister", &registered).unwrap();
    // Its only provider went by its own hand: that is believed.
    eventually("a refusal", PATIENCE, || match grpcurl(&arguments) {
        Err(why) if why.contains("knows no provider") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_spring_service_is_found_by_its_host() {
    let zookeeper = ZooKeeper::start();
    let (tools, web) = (Peer::registry(), Peer::web());
    let port = web.ask("serve", &[("name", "one")]).unwrap().to_string();
    // The second as applications call themselves after Eureka: a host's name arrives in small letters.
    for (service, id) in [("orders", "a"), ("OrderService", "b")] {
        let fields = [
            ("registry", zookeeper.address.as_str()),
            ("service", service),
            ("id", id),
            ("host", "127.0.0.1"),
            ("port", &port),
            ("status", "UP"),
        ];
        tools.ask("register", &fields).unwrap();
    }
    let finback = Finback::start(&format!(
        r#"
workers: 1
registries: {{ r: {{ zookeeper: "{}" }} }}
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ to: {{ registry: r }} }} ] }}
"#,
        zookeeper.address
    ));
    for host in ["orders", "OrderService", "ORDERSERVICE"] {
        eventually("an answer", PATIENCE, || {
            let said = get(&finback, host, "/x")?;
            said.starts_with("HTTP/1.1 200").then_some(()).ok_or(said)
        });
    }
    let unknown = get(&finback, "nobody", "/x").unwrap();
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
}

/// A GET of a host by curl, with the response's head.
fn get(finback: &Finback, host: &str, path: &str) -> Result<String, String> {
    let out = Command::new("curl")
        .args(["-sSi", "--max-time", "10", "-H", &format!("Host: {host}")])
        .arg(format!("http://{}{path}", finback.local("web")))
        .output()
        .expect("curl is missing: run `make peers`, or `apt-get install curl`");
    if out.status.success() {
        return Ok(String::from_utf8(out.stdout).unwrap());
    }
    Err(String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn host_names_are_followed_as_they_change() {
    let web = Peer::web();
    let port = web.ask("serve", &[("name", "one")]).unwrap().to_string();
    let hosts = temporary_folder().join("hosts");
    std::fs::write(&hosts, "127.0.0.2 orders.test\n").unwrap();
    let finback = Finback::start_with_hosts(
        &hosts,
        &format!(
            r#"
workers: 1
registries: {{ names: {{ dns: {{ port: {port}, refresh: 200ms }} }} }}
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes:
  web:
    - match: {{ host: fixed.test }}
      to: {{ cluster: fixed }}
    - to: {{ registry: names }}
clusters:
  fixed: {{ discover: {{ registry: names, service: "orders.test:{port}" }}, connect_timeout: 300ms }}
registry_clusters: {{ connect_timeout: 300ms }}
"#
        ),
    );
    let status = |host: &str| get(&finback, host, "/x").map(|said| said[9..12].to_owned());
    // Nothing listens at that address.
    assert_eq!(status("orders.test").unwrap(), "502");
    let rewrite = |line: &str| {
        // The wrapper sees that a file has changed by its time in seconds.
        std::thread::sleep(Duration::from_millis(1100));
        std::fs::write(&hosts, line).unwrap();
    };
    rewrite("127.0.0.1 orders.test\n");
    for host in ["orders.test", "fixed.test"] {
        eventually("the new address", PATIENCE, || match &*status(host)? {
            "200" => Ok(()),
            other => Err(other.to_owned()),
        });
    }
    // A name that is gone keeps what it had; one that never was is not there.
    rewrite("127.0.0.1 other.test\n");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(status("orders.test").unwrap(), "200");
    assert_eq!(status("nobody.test").unwrap(), "404");
    let (_, registries) = finback.admin("/registries");
    let registries: Value = serde_json::from_str(&registries).unwrap();
    assert_eq!(registries[0]["connected"], json!(false), "{registries}");
}

#[test]
fn browsers_speak_grpc_web_in_both_forms() {
    let (go, peer) = (Peer::go(), Peer::web());
    let finback = front(&server(&go));
    let url = format!("http://{}", finback.local("web"));
    let call = |format: &str, kind: &str, method: &str, message: &str| {
        let method = format!("/{SERVICE}/{method}");
        let fields = [
            ("url", url.as_str()),
            ("format", format),
            ("kind", kind),
            ("method", &method),
            ("message", message),
        ];
        peer.ask("grpcweb", &fields).unwrap()
    };
    // SimpleRequest: response_size = 3; its answer has a payload of three zeros.
    let three = "1003";
    // StreamingOutputCallRequest: responses of 2 and of 3 bytes.
    let several = "12020802".to_owned() + "12020803";
    for format in ["text", "binary"] {
        let said = call(format, "unary", "UnaryCall", three);
        assert_eq!(
            said,
            json!({ "code": 0, "messages": ["0a051203000000"] }),
            "{format}"
        );
        // response_status: code 5, message "no".
        let said = call(
            format,
            "unary",
            "UnaryCall",
            "3a0608051202 6e6f".replace(' ', "").as_str(),
        );
        assert_eq!(said["code"], 5, "{format} {said}");
        assert_eq!(said["text"], "no");
        let said = call(format, "unary", "UnimplementedCall", "");
        assert_eq!(said["code"], 12, "{format} {said}");
    }
    // Streams are for the text form: XMLHttpRequest gives binary bodies whole.
    let said = call("text", "server_streaming", "StreamingOutputCall", &several);
    assert_eq!(
        said["messages"],
        json!(["0a0412020000", "0a051203000000"]),
        "{said}"
    );
    assert_eq!(said["code"], 0);
    // A body that is no Base64 is the client's fault, and the endpoint's in no way.
    let out = Command::new("curl")
        .args(["-sSi", "--max-time", "10", "-d", "***not base64***"])
        .args(["-H", "content-type: application/grpc-web-text"])
        .arg(format!("{url}/{SERVICE}/UnaryCall"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(said.contains("grpc-status: 13"), "{said}");
    drop(go);
    let said = call("text", "unary", "UnaryCall", three);
    assert_eq!(said["code"], 14, "{said}");
}
