//! A route's policy that is not MQTT's own refuses its sessions, whatever protocol it says it is for.

use std::sync::Arc;

use crate::support::*;
use finback_core::route::{RoutePolicy, Treatment};
use finback_mqtt::{Config, Mqtt, Policy};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Says that it is MQTT's, and is of another type than MQTT reads.
#[derive(Debug)]
struct Impostor;

impl RoutePolicy for Impostor {
    fn protocol(&self) -> &'static str {
        finback_mqtt::NAME
    }
}

const CONNECT_4: &[u8] = b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04test";
const CONNECT_5: &[u8] = b"\x10\x11\0\x04MQTT\x05\x02\0\x3c\0\0\x04test";

/// The code of CONNACK.
async fn code(treatment: Treatment, connect: &[u8], connack: &'static [u8]) -> u8 {
    let broker = Server::bind().await;
    let mut spec = routing(&[broker.address], policy("1.1"), 2);
    let mut route = (*spec.tables[0].routes[0]).clone();
    route.treatment = Some(treatment);
    spec.tables[0].routes[0] = Arc::new(route);
    let mess = serve(spec, 1, Arc::new(Mqtt::new(Config::default())));
    let mut client = Peer::connect(mess.address).await;
    client.0.write_all(connect).await.unwrap();
    let endpoint = async {
        let mut upstream = broker.accept().await;
        upstream.0.write_all(connack).await.unwrap();
        std::future::pending::<()>().await;
    };
    let mut heard = [0; 4];
    let answered = async {
        tokio::select! {
            heard = client.0.read_exact(&mut heard) => heard.unwrap(),
            () = endpoint => unreachable!("it stays"),
        }
    };
    let answered = tokio::time::timeout(PATIENCE, answered).await;
    answered.expect("CONNACK in time");
    assert_eq!(heard[0], 0x20);
    heard[3]
}

#[tokio::test]
async fn sessions_of_a_route_with_another_types_policy_are_not_authorized() {
    let own = || Treatment::new(Policy::default());
    let (connack_4, connack_5) = (b"\x20\x02\0\0", b"\x20\x03\0\0\0");
    assert_eq!(code(own(), CONNECT_4, connack_4).await, 0);
    assert_eq!(code(own(), CONNECT_5, connack_5).await, 0);
    let other = || Treatment::new(Impostor);
    // MQTT 3.1.1, section 3.2.2.3: return code 5.
    assert_eq!(code(other(), CONNECT_4, connack_4).await, 5);
    // MQTT 5, section 3.2.2.2: reason code 0x87.
    assert_eq!(code(other(), CONNECT_5, connack_5).await, 0x87);
}
