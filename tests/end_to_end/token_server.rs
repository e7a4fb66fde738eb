//! Global rate limits by Sentinel's own token server.

use std::time::Duration;

use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::policy::{decided, get, status};
use crate::support::{eventually, free_port, web};

const PATIENCE: Duration = Duration::from_secs(30);

/// A token server, and how it is asked.
pub(crate) struct TokenServer {
    peer: Peer,
    pub(crate) address: String,
    pub(crate) namespace: &'static str,
}

impl TokenServer {
    pub(crate) fn start() -> Self {
        Self::start_at(free_port())
    }

    fn start_at(port: u16) -> Self {
        let (peer, port) = (Peer::sentinel(), port.to_string());
        let namespace = "mesh";
        let fields = [("namespace", namespace), ("port", &*port)];
        peer.ask("serve", &fields).unwrap();
        let address = format!("127.0.0.1:{port}");
        eventually("the token server", PATIENCE, || {
            std::net::TcpStream::connect(&address).map_err(|error| error.to_string())
        });
        Self {
            peer,
            address,
            namespace,
        }
    }

    /// So many tokens by a rule for flows, and for each value by a rule for parameters.
    pub(crate) fn rules(&self, flow: &str, values: &str, tokens: &str) {
        let fields = [
            ("namespace", self.namespace),
            ("flow", flow),
            ("values", values),
            ("tokens", tokens),
        ];
        self.peer.ask("rules", &fields).unwrap();
    }
}

/// HTTP whose calls ask `server` for tokens.
fn front(server: &str, more: &str) -> Finback {
    let back = web::serve();
    Finback::start(&format!(
        r#"
workers: 2
listeners: [ {{ name: web, address: "127.0.0.1:0", protocol: http, routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: back }}, filters: [ tokens ] }} ] }}
clusters: {{ back: {{ endpoints: [ "{back}" ] }} }}
filters: {{ tokens: {{ sentinel: {{ server: "{server}", namespace: mesh, timeout: 5s, {more} }} }} }}
"#
    ))
}

fn ask(finback: &Finback, headers: &str) -> u16 {
    status(&get(&finback.local("web"), "/a", headers))
}

#[test]
fn meshes_share_the_tokens_of_a_rule_and_each_value_has_its_own() {
    let tokens = TokenServer::start();
    tokens.rules("101", "201", "4");
    let both = [0, 1].map(|_| front(&tokens.address, "flow_id: 101"));
    let codes: Vec<u16> = (0..6).map(|n| ask(&both[n % 2], "")).collect();
    assert_eq!(codes, [200, 200, 200, 200, 429, 429]);
    let limited = both.iter().map(|own| decided(own, "tokens", "limited"));
    assert_eq!(limited.sum::<u64>(), 2);

    let values = front(
        &tokens.address,
        "flow_id: 201, values: [ { attribute: x-tenant } ]",
    );
    for tenant in ["x-tenant: a\r\n", "x-tenant: b\r\n"] {
        let codes: Vec<u16> = (0..5).map(|_| ask(&values, tenant)).collect();
        assert_eq!(codes, [200, 200, 200, 200, 429], "{tenant}");
    }
    // Who has none is not counted; who has two is nobody's to count.
    assert!((0..6).all(|_| ask(&values, "") == 200));
    assert_eq!(ask(&values, "x-tenant: a\r\nx-tenant: c\r\n"), 400);
}

#[test]
fn who_may_take_a_token_of_the_time_to_come_waits_for_it() {
    let tokens = TokenServer::start();
    tokens.rules("101", "201", "2");
    let usual = front(&tokens.address, "flow_id: 101");
    let first = front(&tokens.address, "flow_id: 101, prioritized: true");
    assert_eq!([&usual, &first].map(|own| ask(own, "")), [200, 200]);
    assert_eq!(ask(&usual, ""), 429);
    // The server has it wait for a second.
    let begun = std::time::Instant::now();
    assert_eq!(ask(&first, ""), 200);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(decided(&first, "tokens", "limited"), 0);
}

#[test]
fn calls_that_get_no_answer_pass_or_are_refused_as_configured() {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let open = front(&address, "flow_id: 101");
    let closed = front(&address, "flow_id: 101, failure_mode_deny: true");
    let unknown = front(&address, "flow_id: 999, failure_mode_deny: true");
    assert_eq!([&open, &closed].map(|own| ask(own, "")), [200, 503]);
    assert!(decided(&open, "tokens", "error_allowed") >= 1);
    // It comes, and is found.
    let tokens = TokenServer::start_at(port);
    tokens.rules("101", "201", "1000");
    eventually("an answer", PATIENCE, || match ask(&closed, "") {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
    // A rule that it does not have is no answer.
    assert_eq!(ask(&unknown, ""), 503);
    unknown.process().await_words("no such rule");
    // It stops in mid-air, and goes.
    tokens.peer.process().signal("STOP");
    let begun = std::time::Instant::now();
    assert_eq!([&open, &closed].map(|own| ask(own, "")), [200, 503]);
    assert!(begun.elapsed() >= Duration::from_secs(5));
    drop(tokens);
    assert_eq!([&open, &closed].map(|own| ask(own, "")), [200, 503]);
    let again = TokenServer::start_at(port);
    again.rules("101", "201", "1000");
    eventually("an answer", PATIENCE, || match ask(&closed, "") {
        200 => Ok(()),
        other => Err(other.to_string()),
    });
    let (is_good, said) = Finback::check(
        "listeners: [ { address: \"127.0.0.1:0\", routes: r } ]\nroutes: { r: [ { to: { cluster: c }, filters: [ f ] } ] }\nclusters: { c: { endpoints: [ \"127.0.0.1:1\" ] } }\nfilters: { f: { sentinel: { server: \"http://a:1\", flow_id: 1, values: [ source, method, route, service ] } } }\n",
    );
    assert!(!is_good && said.contains("by 3 values at most"), "{said}");
}
