//! The laws of filters, of those that ask others.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use finback_core::filter::rate_limit::Per;
use finback_core::filter::{Filter, conformance};

use super::Background;
use super::external_authorization::{self, ExternalAuthorization};
use super::jwt::{Issuer, Jwt};
use super::keys::{KeyRing, KeySource as Keys};
use super::rate_limit_service::{self, DescriptorSource, RateLimitService};
use super::sentinel::{self, Sentinel};
use super::server::{Server, Settings};

fn server(port: u16) -> Arc<Server> {
    Server::new(Settings {
        filter: "f".into(),
        host: "::1".to_owned(),
        port,
        speaks: super::server::Speech::Grpc,
        tls: None,
        timeout: Duration::from_millis(200),
        in_flight: 100,
    })
}

fn authorization(failure_mode_allow: bool) -> Box<dyn Filter> {
    let policy = external_authorization::Policy {
        attributes: vec!["a".into()],
        context: BTreeMap::new(),
        failure_mode_allow,
        dry_run: false,
    };
    Box::new(ExternalAuthorization::new(policy, server(1)))
}

fn limits(port: u16) -> Box<dyn Filter> {
    let per = DescriptorSource::Call(Per::Attribute("a".into()));
    let policy = rate_limit_service::Policy {
        domain: "d".to_owned(),
        descriptors: vec![vec![("k".into(), per)]],
        failure_mode_deny: true,
    };
    Box::new(RateLimitService::new(policy, server(port)))
}

fn tokens(rule: i64, failure_mode_deny: bool) -> Box<dyn Filter> {
    let policy = sentinel::Policy {
        rule,
        values: vec![DescriptorSource::Call(Per::Attribute("a".into()))],
        prioritized: false,
        failure_mode_deny,
    };
    Box::new(Sentinel::new(policy, server(1)))
}

fn jwt(attribute: &str) -> Box<dyn Filter> {
    let issuer = Issuer {
        name: "i".to_owned(),
        audiences: vec!["a".to_owned()],
        keys: KeyRing::new(Keys::File("keys.json".into())),
    };
    Box::new(Jwt::new(super::jwt::Policy {
        issuers: vec![issuer],
        attributes: vec![attribute.into()],
        clock_skew: Duration::from_secs(60),
        optional: false,
        forward: true,
    }))
}

#[test]
fn filters_that_ask_keep_the_laws_though_nobody_sends_what_they_ask() {
    conformance::check(&|| authorization(false));
    conformance::check(&|| authorization(true));
    conformance::check(&|| limits(1));
    conformance::check(&|| tokens(1, true));
    conformance::check(&|| tokens(1, false));
    conformance::check(&|| jwt("authorization"));
    conformance::check(&|| jwt("token"));
}

#[test]
fn another_server_or_another_policy_is_another_filter() {
    assert!(!authorization(false).is_same(&*authorization(true)));
    assert!(!limits(1).is_same(&*limits(2)));
    assert!(!limits(1).is_same(&*authorization(true)));
    assert!(!tokens(1, true).is_same(&*tokens(2, true)));
    assert!(!tokens(1, true).is_same(&*tokens(1, false)));
    assert!(!tokens(1, true).is_same(&*limits(1)));
    assert!(!jwt("a").is_same(&*jwt("b")));
    assert!(limits(1).describe()[0].starts_with("asks http://[::1]:1,"));
}

#[test]
fn an_operator_is_told_whom_a_filter_asks_and_what_silence_means() {
    let asks = "asks http://[::1]:1, for up to 200ms, 100 calls at a time";
    let (pass, refused) = (
        "calls pass where it does not answer",
        "calls are refused where it does not answer",
    );
    for (filter, kind, begin, silence) in [
        (authorization(true), "external_authorization", "", pass),
        (authorization(false), "external_authorization", "", refused),
        (
            limits(1),
            "rate_limit_service",
            ", in the domain d",
            refused,
        ),
        (
            tokens(7, false),
            "sentinel",
            ", for a token of the rule 7",
            pass,
        ),
        (
            tokens(7, true),
            "sentinel",
            ", for a token of the rule 7",
            refused,
        ),
    ] {
        assert_eq!(filter.kind(), kind);
        let lines = filter.describe();
        assert_eq!(lines[0], format!("{asks}{begin}"));
        assert_eq!(lines.last().unwrap(), silence, "{kind}");
    }
}

#[tokio::test]
async fn what_nobody_answers_is_trouble_in_time_and_gives_its_place_back() {
    let own = server(1);
    let clients = [1, 2].map(|own| IpAddr::from([10, 0, 0, own]));
    for _ in 0..3 {
        let asked: Vec<_> = (0..101)
            .map(|number| {
                let client = clients[number / 100];
                let question = super::server::Framed::of(&super::messages::Seconds::default());
                own.ask::<super::messages::Seconds>("/a/B", client, question)
            })
            .collect();
        let places = asked.iter().filter(|own| own.is_ok()).count();
        assert!(
            asked[49].is_ok() && asked[50].is_err(),
            "half is for one alone"
        );
        assert!(asked[100].is_ok() && places == 51, "another finds a place");
        // Port 1 of loopback: nobody is there.
        own.clone().start();
        for answer in asked.into_iter().flatten() {
            answer.await.unwrap_err();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
