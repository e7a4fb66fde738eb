//! A route's policy that is not HTTP's own refuses its requests, whatever protocol it says it is for.

use std::sync::Arc;

use crate::support::*;
use finback_core::route::{RoutePolicy, Treatment};
use finback_http::{Config, Http, HttpPolicy};

/// Says that it is HTTP's, and is of another type than HTTP reads.
#[derive(Debug)]
struct Impostor;

impl RoutePolicy for Impostor {
    fn protocol(&self) -> &'static str {
        finback_http::NAME
    }
}

async fn answer(treatment: Treatment) -> String {
    let server = Server::bind().await;
    let mut spec = routing(&[server.address], policy("1.1"), 2);
    let mut route = (*spec.tables[0].routes[0]).clone();
    route.treatment = Some(treatment);
    spec.tables[0].routes[0] = Arc::new(route);
    let http = Http::new(Config::default(), Vec::new());
    let mess = serve(spec, 1, Arc::new(http));
    let mut client = Peer::connect(mess.address).await;
    client.say("GET /a HTTP/1.1\r\nhost: x\r\n\r\n").await;
    let endpoint = async {
        let mut upstream = server.accept().await;
        upstream.hear("\r\n\r\n").await;
        upstream.say(&response("well")).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        heard = client.hear("\r\n\r\n") => heard,
        () = endpoint => unreachable!("it stays"),
    }
}

#[tokio::test]
async fn requests_of_a_route_with_another_types_policy_are_forbidden() {
    let own = answer(Treatment::new(HttpPolicy::default())).await;
    assert!(own.starts_with("HTTP/1.1 200 "), "{own}");
    let refused = answer(Treatment::new(Impostor)).await;
    assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
}
