//! Bearer tokens in every protocol that has a place for one: what they say, who tries to forge it, and keys that change.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, get_current_timestamp};
use serde_json::{Value, json};

use crate::support::finback::Finback;
use crate::support::peer::Peer;
use crate::support::policy::{Policy, decided, get, status};
use crate::support::{eventually, free_port, host_address, web};

const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const FIRST: &[u8] = b"0123456789abcdef0123456789abcdef";
const SECOND: &[u8] = b"fedcba9876543210fedcba9876543210";

/// A token of this key.
pub(crate) fn token(kid: &str, secret: &[u8], claims: &Value) -> String {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(kid.to_owned());
    encode(&header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

/// What Alice's token of the issuer `far` says, but for one claim.
pub(crate) fn claims(name: &str, value: Value) -> Value {
    let ends = get_current_timestamp() + 600;
    let mut claims = json!({ "iss": "far", "aud": "mesh", "exp": ends, "sub": "alice" });
    claims[name] = value;
    claims
}

pub(crate) fn set(keys: &[(&str, &[u8])]) -> String {
    let keys = keys.iter().map(|(kid, secret)| {
        let k = URL_SAFE_NO_PAD.encode(secret);
        json!({ "kty": "oct", "alg": "HS256", "kid": kid, "k": k })
    });
    json!({ "keys": keys.collect::<Vec<_>>() }).to_string()
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

/// A server of HTTP that answers with a text that may change, and counts.
fn publish(text: &Arc<Mutex<String>>) -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (text, asked) = (text.clone(), Arc::<AtomicU64>::default());
    let counted = asked.clone();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            counted.fetch_add(1, Ordering::SeqCst);
            let text = text.lock().unwrap().clone();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
            let _ = stream.write_all(format!("{head}{text}").as_bytes());
        }
    });
    (port, asked)
}

/// A proxy that lets pass what Alice calls, with two issuers: `far`, whose keys are asked for, and `near`.
fn front(keys: u16, clusters: [String; 4]) -> Finback {
    let [bolt, dubbo, grpc, web] = clusters;
    let config = format!(
        r#"
workers: 2
listeners: [ {{ name: all, address: "0.0.0.0:0", routes: all, filters: [ login, who ] }} ]
routes:
  all:
    - match: {{ protocol: bolt }}
      to: {{ cluster: bolt }}
    - match: {{ protocol: dubbo }}
      to: {{ cluster: dubbo }}
    - match: {{ protocol: grpc }}
      to: {{ cluster: grpc }}
    - to: {{ cluster: web }}
clusters:
  bolt: {{ endpoints: [ "{bolt}" ] }}
  dubbo: {{ endpoints: [ "{dubbo}" ] }}
  grpc: {{ endpoints: [ "{grpc}" ] }}
  web: {{ endpoints: [ "{web}" ] }}
filters:
  login:
    jwt:
      attributes: [ authorization, rpc_req_baggage.bearer, bearer ]
      forward: false
      issuers:
        - {{ issuer: far, audiences: [ mesh ], jwks_url: "http://127.0.0.1:{keys}/keys?of=far" }}
        - {{ issuer: near, audiences: [ mesh ], key: "near.json" }}
  who:
    authorization:
      rules: [ {{ effect: allow, match: {{ attributes: {{ claim.sub: alice }} }} }} ]
"#
    );
    Finback::start_with(&config, &[("near.json", &set(&[("n1", SECOND)]))])
}

#[test]
fn tokens_say_who_calls_in_every_protocol_and_nobody_forges_what_they_say() {
    let policy = Policy::start();
    let (sofa, dubbo) = (Peer::sofa(), Peer::dubbo3());
    let [bolt_port, dubbo_port] = [free_port(), free_port()].map(|own| own.to_string());
    sofa.export(&[("host", "127.0.0.1"), ("port", &bolt_port), ("name", "own")]);
    dubbo.export(&[
        ("serialization", "hessian2"),
        ("port", &dubbo_port),
        ("name", "own"),
    ]);
    let (keys, _) = publish(&Arc::new(Mutex::new(set(&[("k1", FIRST)]))));
    let finback = front(
        keys,
        [
            format!("127.0.0.1:{bolt_port}"),
            format!("{}:{dubbo_port}", host_address()),
            format!("127.0.0.1:{}", policy.port),
            web::serve().to_string(),
        ],
    );
    let at = finback.local("all");
    let alice = token("k1", FIRST, &claims("x", 1.into()));
    let bob = token("k1", FIRST, &claims("sub", "bob".into()));
    // HTTP.
    for _ in 0..2 {
        assert_eq!(status(&get(&at, "/a", &bearer(&alice))), 200);
    }
    let unknown = get(&at, "/a", "");
    assert_eq!(status(&unknown), 401, "{unknown}");
    let head = unknown.to_ascii_lowercase();
    assert!(head.contains("www-authenticate: bearer\r\n"), "{unknown}");
    let forged = format!("{}claim.sub: alice\r\nClaim.Sub: alice\r\n", bearer(&bob));
    assert_eq!(status(&get(&at, "/a", &forged)), 403);
    for bad in [
        token("k1", SECOND, &claims("x", 1.into())),
        token("k1", FIRST, &claims("aud", "other".into())),
        token("k1", FIRST, &claims("exp", 1.into())),
        token("k1", FIRST, &claims("iss", "near".into())),
        token("k1", FIRST, &claims("iss", "evil".into())),
        "x".repeat(20_000),
    ] {
        let answer = get(&at, "/a", &bearer(&bad));
        assert_eq!(status(&answer), 401, "{answer}");
    }
    // gRPC; the token ends here.
    let metadata = format!("authorization=Bearer {alice}");
    let said = policy.call(&at, "/acme.Shop/Buy", &metadata);
    assert!(said["said"].is_object(), "{said}");
    assert!(said["said"].get("authorization").is_none(), "{said}");
    let said = policy.call(&at, "/acme.Shop/Buy", "claim.sub=alice");
    assert_eq!(said["code"], "UNAUTHENTICATED", "{said}");
    // Bolt and Dubbo for Java.
    let bolt = format!("bolt://{at}");
    let dubbo_url = format!(
        "dubbo://{}/com.acme.Greeter?serialization=hessian2",
        finback.public("all")
    );
    for (peer, url) in [(&sofa, &bolt), (&dubbo, &dubbo_url)] {
        let caller = peer.caller(&[("url", url)]);
        let own = caller.with("@bearer", &alice).call("who", "");
        assert_eq!(own.unwrap(), "own", "{url}");
        let bob = caller.with("@bearer", &bob).call("who", "").unwrap_err();
        assert!(bob.text.contains("is not allowed"), "{bob:?}");
        let none = caller.call("who", "").unwrap_err();
        assert!(none.text.contains("no bearer token"), "{none:?}");
    }
    assert_eq!(decided(&finback, "login", "denied"), 10);
    assert_eq!(decided(&finback, "who", "denied"), 3);
}

#[test]
fn keys_that_are_new_are_found_and_those_that_are_gone_prove_nothing() {
    let keys = Arc::new(Mutex::new(set(&[("k1", FIRST)])));
    let (port, fetched) = publish(&keys);
    let back = web::serve().to_string();
    let finback = front(port, [(); 4].map(|()| back.clone()));
    let at = finback.local("all");
    let ask = |token: &str| status(&get(&at, "/a", &bearer(token)));
    assert_eq!(ask(&token("k1", FIRST, &claims("x", 1.into()))), 200);
    // A key that is new is asked for, once; guesses bring no more.
    *keys.lock().unwrap() = set(&[("k1", FIRST), ("k2", SECOND)]);
    thread::sleep(Duration::from_secs(11));
    let before = fetched.load(Ordering::SeqCst);
    assert_eq!(ask(&token("k2", SECOND, &claims("x", 2.into()))), 200);
    for number in 0..20 {
        let guess = format!("guess-{number}");
        assert_eq!(ask(&token(&guess, SECOND, &claims("x", 3.into()))), 401);
    }
    assert_eq!(fetched.load(Ordering::SeqCst), before + 1);
    // One that is taken away from a file proves nothing any more, though its token was remembered.
    let near = token("n1", SECOND, &claims("iss", "near".into()));
    assert_eq!(ask(&near), 200);
    finback.write_file("near.json", &set(&[("n2", FIRST)]));
    eventually("the new file", PATIENCE, || match ask(&near) {
        401 => Ok(()),
        other => Err(other.to_string()),
    });
    // A file that is no good changes nothing.
    finback.write_file("near.json", "{");
    let other = token("n2", FIRST, &claims("iss", "near".into()));
    thread::sleep(Duration::from_secs(2));
    assert_eq!(ask(&other), 200);
}

#[test]
fn a_token_that_was_good_ends_and_whoever_sends_a_bad_one_is_not_let_in_as_one_without() {
    let back = web::serve().to_string();
    let config = format!(
        r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all, filters: [ login ] }} ]
routes: {{ all: [ {{ to: {{ cluster: web }} }} ] }}
clusters: {{ web: {{ endpoints: [ "{back}" ] }} }}
filters:
  login:
    jwt:
      optional: true
      clock_skew: 0s
      attributes: [ authorization, x-token ]
      issuers: [ {{ issuer: far, audiences: [ mesh ], key: "far.json" }} ]
"#
    );
    let keys = set(&[("k1", FIRST)]);
    let finback = Finback::start_with(&config, &[("far.json", &keys)]);
    let at = finback.local("all");
    let ask = |headers: &str| status(&get(&at, "/a", headers));
    let short = claims("exp", (get_current_timestamp() + 3).into());
    let short = bearer(&token("k1", FIRST, &short));
    // It is remembered, and ends all the same.
    assert_eq!([ask(&short), ask(&short)], [200, 200]);
    let good = bearer(&token("k1", FIRST, &claims("x", 1.into())));
    let bad = bearer(&token("k1", SECOND, &claims("x", 1.into())));
    assert_eq!([ask(""), ask(&good), ask(&bad)], [200, 200, 401]);
    // Which of two its endpoint reads, nobody knows.
    for two in [[&good, &bad], [&bad, &good], [&good, &good]] {
        assert_eq!(ask(&two.map(String::as_str).concat()), 401);
    }
    let alice = token("k1", FIRST, &claims("x", 1.into()));
    assert_eq!(ask(&format!("X-Token: {alice}\r\n")), 200);
    assert_eq!(ask(&format!("X-Token: {alice}\r\nX_Token: other\r\n")), 401);
    thread::sleep(Duration::from_secs(4));
    assert_eq!(ask(&short), 401);
}

#[test]
fn without_keys_no_token_is_good_and_the_caller_is_not_to_blame() {
    let back = web::serve().to_string();
    let finback = front(free_port(), [(); 4].map(|()| back.clone()));
    let at = finback.local("all");
    let alice = token("k1", FIRST, &claims("x", 1.into()));
    assert_eq!(status(&get(&at, "/a", &bearer(&alice))), 503);
    assert_eq!(status(&get(&at, "/a", "")), 401);
    assert_eq!(decided(&finback, "login", "error"), 1);
    // What cannot be honoured is refused at load.
    for (wrong, why) in [
        (
            "routes: { r: [ { match: { attributes: { claim.sub: x } }, to: { cluster: c } } ] }",
            "a route is chosen before",
        ),
        (
            "routes: { r: [ { match: { protocol: mqtt }, to: { cluster: c }, filters: [ j ] } ] }",
            "no protocol there has a place",
        ),
    ] {
        let config = format!(
            "listeners: [ {{ address: \"127.0.0.1:0\", routes: r }} ]\n{wrong}\n\
             clusters: {{ c: {{ endpoints: [ \"127.0.0.1:1\" ] }} }}\n\
             filters: {{ j: {{ jwt: {{ issuers: [ {{ issuer: i, audiences: [ a ], \
             jwks_url: \"http://127.0.0.1:1\" }} ] }} }} }}\n"
        );
        let (good, said) = Finback::check(&config);
        assert!(!good && said.contains(why), "{said}");
    }
}
