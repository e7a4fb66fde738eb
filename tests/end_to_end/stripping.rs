//! Words that only some callers may say, taken out of what others say.

use std::sync::{Arc, Mutex};

use finback_simulations::speech::Speech;

use crate::lanes::{application, curl, header};
use crate::support::endpoint::{Deed, Endpoint};
use crate::support::finback::Finback;
use crate::support::rpc::{Call, Client};

fn front(bolt: &Endpoint, dubbo: &Endpoint, web: &str, source: &str) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: all, address: "127.0.0.1:0", routes: all, filters: [ no-marks ] }} ]
routes:
  all:
    - {{ match: {{ protocol: bolt }}, to: {{ cluster: bolt }} }}
    - {{ match: {{ protocol: dubbo }}, to: {{ cluster: dubbo }} }}
    - {{ to: {{ cluster: web }} }}
clusters:
  bolt: {{ endpoints: [ "{}" ] }}
  dubbo: {{ endpoints: [ "{}" ] }}
  web: {{ endpoints: [ "{web}" ] }}
filters:
  no-marks: {{ strip: {{ marks: [ sofa, takin ], attributes: [ x-internal ], source: {source} }} }}
"#,
        bolt.address, dubbo.address
    ))
}

/// An endpoint that shows the last frame it got.
fn noting(speech: Speech) -> (Endpoint, Arc<Mutex<String>>) {
    let last = Arc::<Mutex<String>>::default();
    let noted = last.clone();
    let endpoint = Endpoint::scripted(speech, move |frame| {
        *noted.lock().unwrap() = String::from_utf8_lossy(frame).into_owned();
        Deed::Answer
    });
    (endpoint, last)
}

/// What endpoints of Bolt, Dubbo and HTTP get of marked calls.
fn arrived(source: &str) -> [String; 3] {
    let ((bolt, of_bolt), (dubbo, of_dubbo)) = (noting(Speech::Bolt), noting(Speech::Dubbo));
    let (web, heads) = application();
    let finback = front(&bolt, &dubbo, &web, source);
    let at = finback.local("all");
    let call = Call::new("com.acme.Pay", "pay")
        .with(
            "rpc_trace_context.sofaPenAttrs",
            "tenant=north&mark=T&zone=a&",
        )
        .with("p-pradar-cluster-test", "pradar-says")
        .with("x-internal", "inside-says");
    for speech in [Speech::Bolt, Speech::Dubbo] {
        assert!(Client::connect(&at, speech).call(&call).success);
    }
    curl(
        &at,
        &[
            "P-Pradar-Cluster-Test: pradar-says",
            "X-Internal: inside-says",
            "x-own: kept",
        ],
    );
    let head = heads.recv().unwrap();
    assert_eq!(header(&head, "x-own"), Some("kept"), "{head}");
    let of = |own: Arc<Mutex<String>>| own.lock().unwrap().clone();
    [of(of_bolt), of(of_dubbo), head]
}

#[test]
fn marks_of_strangers_are_taken_away_and_the_rest_is_left() {
    let [bolt, dubbo, web] = arrived("192.0.2.0/24");
    for text in [&bolt, &dubbo, &web] {
        assert!(
            !text.contains("pradar-says") && !text.contains("inside-says"),
            "{text}"
        );
    }
    // Of SOFATracer's baggage the mark alone, and in Bolt only: elsewhere the name means nothing.
    assert!(
        bolt.contains("tenant=north&zone=a&") && !bolt.contains("mark=T"),
        "{bolt}"
    );
    assert!(dubbo.contains("tenant=north&mark=T&zone=a&"), "{dubbo}");
}

#[test]
fn marks_of_the_trusted_pass() {
    let [bolt, dubbo, web] = arrived("127.0.0.0/8");
    for text in [&bolt, &dubbo, &web] {
        assert!(
            text.contains("pradar-says") && text.contains("inside-says"),
            "{text}"
        );
    }
    assert!(bolt.contains("tenant=north&mark=T&zone=a&"), "{bolt}");
}
