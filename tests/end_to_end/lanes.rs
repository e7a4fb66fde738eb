//! Lanes over hops of several protocols, with applications that pass on their trace and nothing else.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use finback_simulations::speech::Speech;
use serde_json::Value;

use crate::support::endpoint::{Deed, Endpoint};
use crate::support::finback::Finback;
use crate::support::peer::{Caller, Peer};
use crate::support::rpc::{Call, Client};
use crate::support::world::GREETER;
use crate::support::{eventually, free_port, host_address};

const PATIENCE: Duration = Duration::from_secs(20);

/// An application that hands out the head of each request that it gets.
pub(crate) fn application() -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (heads, came) = channel();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut bytes = [0; 4096];
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut bytes) {
                    Ok(read @ 1..) => head.extend_from_slice(&bytes[..read]),
                    _ => break,
                }
            }
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
            // A look whether it is there has none.
            if !head.is_empty() {
                let _ = heads.send(String::from_utf8_lossy(&head).into_owned());
            }
        }
    });
    (address, came)
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (own, value) = line.split_once(':')?;
        own.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

pub(crate) fn curl(at: &str, headers: &[&str]) {
    let headers = headers.iter().flat_map(|own| ["-H", own]);
    let out = Command::new("curl")
        .args([
            "-s",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "15",
        ])
        .args(headers)
        .arg(format!("http://{at}/orders"))
        .output()
        .unwrap();
    assert_eq!(
        String::from_utf8_lossy(&out.stdout),
        "204",
        "{headers:?}",
        headers = at
    );
}

/// Two providers of Dubbo, the second of them in the lane, and where they listen.
fn providers() -> ([Peer; 2], [String; 2]) {
    let ports = [free_port(), free_port()].map(|port| port.to_string());
    let provider = |number: usize, name: &str| {
        let peer = Peer::dubbo3();
        let port = ports[number].as_str();
        peer.export(&[
            ("serialization", "hessian2"),
            ("port", port),
            ("name", name),
        ]);
        peer
    };
    ([provider(0, "base"), provider(1, "gray")], ports)
}

/// Who gets a call of Bolt with these headers.
fn who_by_bolt(at: &str, endpoints: &[Endpoint; 2], headers: &[(&str, &str)]) -> String {
    let before = endpoints.each_ref().map(Endpoint::calls);
    let call = headers
        .iter()
        .fold(Call::new("com.acme.Pay", "pay"), |call, (name, value)| {
            call.with(name, value)
        });
    assert!(Client::connect(at, Speech::Bolt).call(&call).success);
    let gray = endpoints[1].calls() - before[1];
    assert_eq!(endpoints[0].calls() - before[0] + gray, 1);
    (if gray == 1 { "gray" } else { "base" }).to_owned()
}

fn who(caller: &Caller<'_>) -> String {
    match caller.call("who", "") {
        Ok(Value::String(name)) => name,
        other => format!("{other:?}"),
    }
}

#[test]
fn a_call_keeps_its_lane_over_hops_by_its_trace_alone() {
    let (app, heads) = application();
    let (_providers, [dubbo, dubbo_gray]) = providers();
    let bolt = [0, 1].map(|_| Endpoint::start(Speech::Bolt, Deed::Answer));
    let host = host_address();
    let sidecar = Finback::start(&format!(
        r#"
workers: 2
listeners:
  - {{ name: in, address: "127.0.0.1:0", routes: in, filters: [ lanes ] }}
  - {{ name: out, address: "0.0.0.0:0", routes: out, filters: [ lanes ] }}
routes:
  in: [ {{ to: {{ cluster: app }} }} ]
  out:
    - match: {{ protocol: bolt }}
      to: {{ cluster: bolt }}
    - to: {{ cluster: dubbo }}
clusters:
  app: {{ endpoints: [ "{app}" ] }}
  bolt: {{ endpoints: [ "{}", {{ address: "{}", labels: {{ lane: gray }} }} ] }}
  dubbo: {{ endpoints: [ "{host}:{dubbo}", {{ address: "{host}:{dubbo_gray}", labels: {{ lane: gray }} }} ] }}
filters:
  lanes: {{ lane: {{ source: [ 127.0.0.0/8, "{host}" ] }} }}
"#,
        bolt[0].address, bolt[1].address
    ));
    let edge = Finback::start(&format!(
        r#"
workers: 2
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web, filters: [ lanes ] }} ]
routes: {{ web: [ {{ to: {{ cluster: sidecar }} }} ] }}
clusters: {{ sidecar: {{ endpoints: [ "{}" ] }} }}
filters:
  lanes:
    lane:
      rules: [ {{ lane: gray, match: {{ attributes: {{ x-user: {{ prefix: beta- }} }} }} }} ]
      source: 192.0.2.0/24
"#,
        sidecar.local("in")
    ));
    let at = edge.local("web");
    let asked = |headers: &[&str]| {
        curl(&at, headers);
        heads.recv_timeout(PATIENCE).unwrap()
    };
    let of_dubbo = format!(
        "dubbo://{host}:{}/{GREETER}?serialization=hessian2&prefer.serialization=hessian2",
        sidecar.port("out")
    );
    let consumer = Peer::dubbo3();
    let dubbo = consumer.caller(&[("url", &of_dubbo)]);
    eventually("an answer", PATIENCE, || match &*who(&dubbo) {
        "base" => Ok(()),
        other => Err(other.to_owned()),
    });
    let out = sidecar.local("out");
    let by_bolt = |headers: &[(&str, &str)]| who_by_bolt(&out, &bolt, headers);

    // Chosen where it comes in: it has a name and a trace from there on.
    let head = asked(&["x-user: beta-7"]);
    assert_eq!(header(&head, "x-lane"), Some("gray"), "{head}");
    let traceparent = header(&head, "traceparent").unwrap().to_owned();
    // The application's own calls have nothing but the trace, in other spans of it.
    let own = format!("{}b7ad6b7169203331-00", &traceparent[..36]);
    let laned = dubbo.with("@traceparent", &own);
    for _ in 0..6 {
        assert_eq!(
            (who(&laned), who(&dubbo)),
            ("gray".to_owned(), "base".to_owned())
        );
        assert_eq!(by_bolt(&[("traceparent", &own)]), "gray");
        assert_eq!(by_bolt(&[]), "base");
    }

    // A trace that comes along is kept, in another format, too.
    let head = asked(&[
        "x-user: beta-7",
        "b3: 463ac35c9f6413ad48485a3953bb6124-0020000000000001-0",
    ]);
    assert_eq!(header(&head, "traceparent"), None, "{head}");
    let by_b3 = "463ac35c9f6413ad48485a3953bb6124-0020000000000002-0";
    assert_eq!(who(&dubbo.with("@b3", by_b3)), "gray");
    assert_eq!(by_bolt(&[("b3", by_b3)]), "gray");

    // Nobody is believed whose word is not taken, and who is in no lane is in the base.
    let foreign = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let head = asked(&["x-lane: gray", &format!("traceparent: {foreign}")]);
    assert_eq!(header(&head, "x-lane").unwrap_or_default(), "", "{head}");
    assert_eq!(who(&dubbo.with("@traceparent", foreign)), "base");

    // A lane without endpoints of its own is the base.
    assert_eq!(by_bolt(&[("x-lane", "green")]), "base");
    assert_eq!(by_bolt(&[("x-lane", "gray")]), "gray");
    assert_eq!(who(&dubbo.with("@dubbo.tag", "gray")), "gray");
    told(&sidecar, &edge);
}

/// Operators see which lane it was, and why.
fn told(sidecar: &Finback, edge: &Finback) {
    let (_, page) = edge.admin("/metrics");
    let chosen =
        "finback_filter_decisions_total{filter=\"lanes\",rule=\"gray\",decision=\"chosen\"} 2";
    assert!(page.contains(chosen), "{page}");
    let (_, page) = sidecar.admin("/metrics");
    for (decision, least) in [("kept", 4), ("recalled", 14)] {
        let begin = format!("rule=\"\",decision=\"{decision}\"}} ");
        let line = page.lines().find(|own| own.contains(&begin)).unwrap();
        let count: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(count >= least, "{line}");
    }
    let question = "/explain?listener=out&protocol=bolt&attribute=x-lane%3Dgray";
    let (_, text) = sidecar.admin(question);
    let explained: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(explained["lane"], "gray", "{text}");
    let destination = &explained["destinations"][0];
    assert_eq!(
        destination["endpoints"].as_array().unwrap().len(),
        1,
        "{text}"
    );
    let why = destination["others"][0]["why_not"].as_str().unwrap();
    assert_eq!(why, "it stands in another lane, or in none");
}

#[test]
fn lanes_without_endpoints_are_refused_where_that_is_asked_for() {
    let (app, _heads) = application();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web, filters: [ lanes ] }} ]
routes: {{ web: [ {{ to: {{ cluster: app }} }} ] }}
clusters: {{ app: {{ endpoints: [ "{app}" ] }} }}
filters: {{ lanes: {{ lane: {{ fallback: none, attribute: x-version }} }} }}
"#
    ));
    let at = finback.local("web");
    let status = |header: &str| crate::support::web::get_with(&at, "app.test", "/", header);
    assert_eq!(status(""), 204);
    assert_eq!(status("x-version: gray\r\n"), 503);
    assert_eq!(status("x-lane: gray\r\n"), 204);
    for (wrong, says) in [
        ("rules: [ { lane: \"a b\" } ]", "is not a lane name"),
        ("fallback: any", "not a fallback for lanes"),
        ("attributes: { smtp: x }", "not a protocol"),
    ] {
        let (is_fine, said) = Finback::check(&format!(
            r#"
listeners: [ {{ address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: app }} }} ] }}
clusters: {{ app: {{ endpoints: [ "127.0.0.1:1" ] }} }}
filters: {{ lanes: {{ lane: {{ {wrong} }} }} }}
"#
        ));
        assert!(
            !is_fine && said.contains(says) && said.contains(":5:"),
            "{said}"
        );
    }
}
