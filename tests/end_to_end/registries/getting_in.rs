//! Certificates, passwords and roots that servers of registries ask for.

use super::*;

#[test]
fn zookeeper_asks_for_a_digest_and_has_a_root_of_ours() {
    let zookeeper_ = ZooKeeper::start();
    let tools = Peer::registry();
    let child = "/acme/dubbo/a.B/providers/dubbo%3A%2F%2F127.0.0.1%3A7%2Fa.B";
    let fields = [
        ("registry", zookeeper_.address.as_str()),
        ("path", child),
        ("digest", "mesh:secret"),
    ];
    tools.ask("create-guarded", &fields).unwrap();
    // The first server of the list is not there.
    let servers = format!("127.0.0.1:{},{}/acme", free_port(), zookeeper_.address);
    let open = format!("{{ zookeeper: \"{servers}\" }}");
    let login = format!("{{ zookeeper: \"{servers}\", user: mesh, password: secret }}");
    let allowed = following(&login, "dubbo", "a.B");
    eventually_following(&allowed, &["127.0.0.1:7"]);
    let denied = following(&open, "dubbo", "a.B");
    eventually_connected(&denied, true);
    eventually_following(&denied, &[]);
}

#[test]
fn zookeeper_asks_for_certificates_and_for_sasl() {
    let (plain, secure, folder) = ZooKeeper::start_guarded();
    let tools = Peer::registry();
    let child = "/dubbo/a.B/providers/dubbo%3A%2F%2F127.0.0.1%3A7%2Fa.B";
    let fields = [
        ("registry", plain.address.as_str()),
        ("path", child),
        ("sasl", "mesh"),
    ];
    tools.ask("create-guarded", &fields).unwrap();
    let login = "user: mesh, password: secret, authentication: sasl";
    let tls = format!(
        "tls: {{ ca: {f}/ca.pem, certificate: {f}/client.pem, key: {f}/client.key }}",
        f = folder.display()
    );
    for config in [
        format!("{{ zookeeper: \"{}\", {login} }}", plain.address),
        format!("{{ zookeeper: \"{secure}\", {login}, {tls} }}"),
    ] {
        eventually_following(&following(&config, "dubbo", "a.B"), &["127.0.0.1:7"]);
    }
    let nobody = following(
        &format!("{{ zookeeper: \"{secure}\", {tls} }}"),
        "dubbo",
        "a.B",
    );
    eventually_connected(&nobody, true);
    eventually_following(&nobody, &[]);
    let bare = format!("tls: {{ ca: {}/ca.pem }}", folder.display());
    let stranger = following(
        &format!("{{ zookeeper: \"{secure}\", {bare} }}"),
        "dubbo",
        "a.B",
    );
    thread::sleep(Duration::from_secs(2));
    eventually_connected(&stranger, false);
}

#[test]
fn etcd_asks_for_certificates_or_passwords() {
    let (secure, folder) = Etcd::start_with_tls();
    let key = "/finback/services/pay/1";
    secure.put(key, r#"{"address":"127.0.0.1:1"}"#);
    let config = format!(
        "{{ etcd: \"https://{}\", tls: {{ ca: {f}/ca.pem, certificate: {f}/client.pem, key: {f}/client.key }} }}",
        secure.address,
        f = folder.display()
    );
    let over_tls = following(&config, "native", "pay");
    let guarded = Etcd::start_with_login();
    guarded.put(key, r#"{"address":"127.0.0.1:1"}"#);
    let config = format!(
        "{{ etcd: \"{}\", user: root, password: secret }}",
        guarded.address
    );
    let logged_in = following(&config, "native", "pay");
    eventually_following(&over_tls, &["127.0.0.1:1"]);
    eventually_following(&logged_in, &["127.0.0.1:1"]);
    // Tokens there live for two seconds: what comes later needs another.
    thread::sleep(Duration::from_secs(3));
    guarded.put("/finback/services/pay/2", r#"{"address":"127.0.0.1:2"}"#);
    eventually_following(&logged_in, &["127.0.0.1:1", "127.0.0.1:2"]);
    let denied = following(&etcd(&guarded), "native", "pay");
    thread::sleep(Duration::from_secs(1));
    assert_eq!(endpoints(&denied, "followed"), None);
}
