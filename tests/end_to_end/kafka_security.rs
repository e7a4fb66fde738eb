//! Kafka with TLS and SASL: a real broker that lets in nobody else.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::support::certificates::certificates;
use crate::support::device::{Device, Login};
use crate::support::finback::Finback;
use crate::support::kafka::Kafka;

/// A proxy that writes to this broker, with these keys of the cluster.
fn front(kafka: &Kafka, folder: &Path, keys: &str, password: &str) -> Finback {
    let config = format!(
        r##"
workers: 1
kafka:
  events:
    brokers: "{}"
    {keys}
    options: {{ message.timeout.ms: "8000" }}
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all }} ]
routes:
  all:
    - match: {{ protocol: mqtt }}
      produce: {{ kafka: events, topic: "secured" }}
      mqtt: {{ authenticate: none }}
"##,
        kafka.secure
    );
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    // Nobody verifies its signature: this broker's handler takes tokens that have none.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let encoded = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({ "sub": "mesh", "iat": now.as_secs(), "exp": now.as_secs() + 600 });
    let token = format!("{}.{}.", encoded(json!({ "alg": "none" })), encoded(claims));
    let files = ["ca.pem", "client.pem", "client.key"].map(|name| (name, read(name)));
    let mut files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, &**text)).collect();
    files.extend([("password", password), ("token", &*token)]);
    Finback::start_with(&config, &files)
}

/// What PUBACK says; `None` if the session ends without one.
fn publish(finback: &Finback, payload: &str) -> Option<u8> {
    let login = Login {
        level: 4,
        id: "dev",
        clean: true,
        ..Login::default()
    };
    let (mut device, _) = Device::connect(finback, login);
    device.publish(1, 1, "x", payload.as_bytes())
}

#[test]
fn messages_are_written_through_tls_by_whoever_may_log_in() {
    let folder = crate::support::temporary_folder();
    certificates(&folder);
    let kafka = Kafka::start_secure(&folder);
    let tls = "tls: { ca: ca.pem, certificate: client.pem, key: client.key }";
    let password = |mechanism: &str| {
        format!(
            "{tls}\n    sasl: {{ mechanism: {mechanism}, username: mesh, password_file: password }}"
        )
    };
    let token = format!("{tls}\n    sasl: {{ mechanism: OAUTHBEARER, token_file: token }}");
    let mechanisms = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
    let mut ways: Vec<String> = mechanisms.map(password).to_vec();
    ways.push(token);
    for keys in &ways {
        let finback = front(&kafka, &folder, keys, "secret\n");
        let went = publish(&finback, "x");
        assert_eq!(went, Some(0), "{keys}: {}", finback.process().tail());
    }
    // Who is not known, or does not say which certificates are good, writes nothing, and no secret is told.
    let no_authority = ways[1].replace("ca: ca.pem, ", "");
    for (keys, word) in [
        (&ways[0], "hunter2"),
        (&ways[1], "hunter2"),
        (&no_authority, "secret2"),
    ] {
        let finback = front(&kafka, &folder, keys, word);
        assert_eq!(publish(&finback, "lost"), None, "{keys}");
        finback
            .process()
            .await_words("Kafka cannot be reached, or refuses");
        let said = finback.process().tail();
        assert!(!said.contains(word), "{said}");
    }
    let out = std::process::Command::new("kcat")
        .args(["-b", &kafka.address, "-t", "secured", "-C", "-e", "-q"])
        .args(["-o", "beginning", "-f", "%s\n"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(out.stdout).unwrap(), "x\n".repeat(4));
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_place() {
    for (keys, why) in [
        ("sasl: { mechanism: GSSAPI }", "is not a mechanism"),
        (
            "sasl: { mechanism: PLAIN, username: a, password_file: b }",
            "without TLS",
        ),
        (
            "sasl: { mechanism: OAUTHBEARER, token_file: a }",
            "without TLS",
        ),
        (
            "sasl: { mechanism: SCRAM-SHA-256, username: a }",
            "password_file",
        ),
        (
            "sasl: { mechanism: SCRAM-SHA-256, username: a, password_file: missing }",
            "missing",
        ),
        ("tls: { certificate: a }", "belong together"),
        ("tls: { ca: missing.pem }", "missing.pem"),
        (
            "tls: {}, options: { security.protocol: plaintext }",
            "`tls`",
        ),
        ("options: { bootstrap.servers: b }", "`brokers`"),
    ] {
        let config = format!(
            "kafka:\n  events: {{ brokers: \"127.0.0.1:1\", {keys} }}\n\
             listeners: [ {{ address: \"127.0.0.1:0\", protocol: http, routes: all }} ]\n\
             routes: {{ all: [ {{ match: {{ protocol: http }}, produce: {{ kafka: events, topic: x }} }} ] }}\n"
        );
        let (good, said) = Finback::check(&config);
        assert!(!good && said.contains(why), "{keys}: {said}");
        assert!(said.contains(".yaml:2:"), "{keys}: {said}");
    }
}
