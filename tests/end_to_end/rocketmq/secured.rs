//! TLS on both sides: of RocketMQ's own clients to Finback, and of Finback to name servers and brokers that take nothing
//! else, and ask for a certificate.

use std::time::Duration;

use super::bridged::status;
use super::mesh::range;
use super::stage::{Stage, all_arrived, stored};
use crate::support::authority::Authority;
use crate::support::eventually;
use crate::support::finback::Finback;
use crate::support::remoting;
use crate::support::rocketmq::{Broker, NameServer, Release, Setup};
use crate::support::rocketmq_clients::{Client, Encoding, Kind};

const PATIENCE: Duration = Duration::from_secs(120);
/// GET_ROUTEINFO_BY_TOPIC: RequestCode.java.
const ROUTE: i64 = 105;

/// Arguments of a server that speaks TLS (TlsSystemConfig.java), in this mode.
fn arguments(authority: &Authority, mode: &str) -> Vec<String> {
    let path = |file| authority.path(file);
    let properties = format!(
        "tls.test.mode.enable=false\n\
         tls.server.need.client.auth=require\ntls.server.authClient=true\n\
         tls.server.keyPath={key}\ntls.server.certPath={certificate}\ntls.server.trustCertPath={ca}\n\
         tls.client.keyPath={key}\ntls.client.certPath={certificate}\n\
         tls.client.authServer=true\ntls.client.trustCertPath={ca}\n",
        key = path("server.key"),
        certificate = path("server.pem"),
        ca = path("ca.pem"),
    );
    std::fs::write(path("tls.properties"), properties).unwrap();
    vec![
        "-Dtls.enable=true".to_owned(),
        format!("-Dtls.server.mode={mode}"),
        format!("-Dtls.config.file={}", path("tls.properties")),
    ]
}

fn front(authority: &Authority, names: &str, own: &str) -> Finback {
    let folder = authority.folder.display();
    let both = range(24);
    let first: u16 = both.split_once('-').unwrap().0.parse().unwrap();
    Finback::start(&format!(
        r#"
workers: 2
rocketmq:
  there: {{ name_servers: "{names}", timeout: 5s, tls: {{ {own} }} }}
listeners:
  - {{ name: base, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {base}, lanes: {{ others: [ gray ] }} }},
      tls: {{ certificates: [ {{ certificate: "{folder}/server.pem", key: "{folder}/server.key" }} ], plain: true }} }}
  - {{ name: gray, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {gray}, lanes: {{ own: gray }} }} }}
  - {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web }}
routes:
  mq: [ {{ to: {{ cluster: names }} }} ]
  web: [ {{ match: {{ protocol: http }}, produce: {{ rocketmq: there, topic: secured }} }} ]
clusters: {{ names: {{ endpoints: [ "{names}" ], tls: {{ {own} }} }} }}
"#,
        base = format_args!("{first}-{}", first + 11),
        gray = format_args!("{}-{}", first + 12, first + 23),
    ))
}

#[test]
fn name_servers_and_brokers_are_spoken_to_in_tls() {
    let authority = Authority::new();
    // The test itself asks the name server without TLS, until the broker is there.
    let mut names = NameServer::start_in(Release::V55, &arguments(&authority, "permissive"));
    let enforcing = arguments(&authority, "enforcing");
    let setup = Setup {
        jvm: &enforcing,
        ..Setup::default()
    };
    let broker = Broker::start_with(&[&names], setup);
    names.kill();
    names.set_jvm(&enforcing);
    names.restart();
    for server in [&names.address, &broker.address] {
        assert!(remoting::ask(server, ROUTE, &[("topic", "TBW102")], b"").is_err());
    }
    let folder = authority.folder.display();
    let pair = format!(
        r#"ca: "{folder}/ca.pem", certificate: "{folder}/server.pem", key: "{folder}/server.key""#
    );
    let finback = front(&authority, &names.address, &pair);
    let [base, gray] = ["base", "gray"].map(|name| finback.local(name));
    for (kind, encoding, tls) in [
        (Kind::Java49, Encoding::Json, "true"),
        (Kind::Java55, Encoding::Binary, "false"),
    ] {
        let topic = Stage::fresh("secured");
        let client = Client::start_writing(kind, encoding);
        let producer = client.producer(&base, &Stage::fresh("p"), &[("tls", tls)]);
        // A broker registers anew within half a minute.
        let mut sent = Vec::new();
        eventually("a message sent", PATIENCE, || {
            sent = producer.send(&topic, &[("key", "k"), ("count", "1")]);
            match sent[0].status.as_str() {
                "SEND_OK" => Ok(()),
                _ => Err(format!("{sent:?}")),
            }
        });
        let group = Stage::fresh("secured");
        let consumer = client.consumer(&base, &group, &topic, &[("tls", tls)]);
        all_arrived(&sent, &consumer.receive(1));
        // Finback asks the broker itself who is in the lane, in TLS too.
        let lane = client.consumer(&gray, &group, &topic, &[]);
        eventually("the lane's message in the lane alone", PATIENCE, || {
            let sent = producer.send(&topic, &[("key", "g"), ("count", "1"), ("@lane", "gray")]);
            stored(&sent);
            assert!(!lane.receive(1).is_empty());
            match consumer.receive_within(1, 500) {
                none if none.is_empty() => Ok(()),
                some => Err(format!("{some:?}")),
            }
        });
    }
    let at = |finback: &Finback| format!("http://{}/", finback.local("web"));
    assert_eq!(status(&["-d", "x", &at(&finback)]), "200");
    // Without a certificate there is no way in.
    let stranger = front(
        &authority,
        &names.address,
        &format!(r#"ca: "{folder}/ca.pem""#),
    );
    assert_eq!(status(&["-d", "x", &at(&stranger)]), "504");
}
