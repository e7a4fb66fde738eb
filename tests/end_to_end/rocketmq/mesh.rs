//! Finback between RocketMQ's clients and servers, and how a test reaches them through it.

use super::stage::{Cluster, Stage};
use crate::support::finback::Finback;
use crate::support::free_ports;
use crate::support::rocketmq_clients::{Client, Kind};

/// Finback in front of name servers, and of RocketMQ's proxy where there is one.
pub(crate) struct Mesh {
    /// The process.
    pub(crate) finback: Finback,
    /// What clients on remoting take for a name server.
    pub(crate) names: String,
    /// What clients on gRPC take for RocketMQ's proxy.
    pub(crate) grpc: String,
}

/// So many ports one after another that nobody has, as a range of a configuration.
pub(crate) fn range(ports: u16) -> String {
    let first = free_ports(ports);
    format!("{first}-{}", first + ports - 1)
}

/// A configuration in front of this name server, with these keys added to its listener.
pub(crate) fn configuration(names: &str, ports: &str, more: &str) -> String {
    configuration_with(names, "127.0.0.1:1", ports, more)
}

fn configuration_with(names: &str, proxy: &str, ports: &str, more: &str) -> String {
    format!(
        r#"
workers: 2
listeners:
  - {{ name: mq, address: "127.0.0.1:0", protocol: rocketmq, routes: mq, rocketmq: {{ broker_ports: {ports} }} }}
  - {{ name: grpc, address: "127.0.0.1:0", protocol: http, routes: grpc }}
routes:
  mq: [ {{ to: {{ cluster: names }} }} ]
  grpc: [ {{ to: {{ cluster: proxy }} }} ]
clusters:
  names: {{ endpoints: [ "{names}" ] }}
  proxy: {{ endpoints: [ "{proxy}" ] }}
{more}
"#
    )
}

impl Mesh {
    /// In front of a name server.
    pub(crate) fn start(names: &str) -> Self {
        Self::of(Finback::start(&configuration(names, &range(12), "")))
    }

    /// In front of a cluster; of its proxy, too, where the client needs it.
    pub(crate) fn before(cluster: &Cluster, kind: Kind) -> Self {
        let proxy = match kind {
            Kind::Grpc => &cluster.proxy().grpc,
            _ => "127.0.0.1:1",
        };
        let names = &cluster.names.address;
        Self::of(Finback::start(&configuration_with(
            names,
            proxy,
            &range(12),
            "",
        )))
    }

    pub(crate) fn of(finback: Finback) -> Self {
        Self {
            names: finback.local("mq"),
            grpc: finback.local("grpc"),
            finback,
        }
    }

    /// The stage on which a client is connected through it.
    pub(crate) fn stage<'a>(&'a self, cluster: &'a Cluster, client: &'a Client) -> Stage<'a> {
        Stage {
            address: match client.kind {
                Kind::Grpc => &self.grpc,
                _ => &self.names,
            },
            broker: &cluster.broker,
            client,
        }
    }
}
