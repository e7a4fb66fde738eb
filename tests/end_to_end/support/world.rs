//! The services that most tests share: a registry, the proxy, and one peer of each kind.
//!
//! Each part is started by the first test that wants it and lives as long as the tests.

use std::sync::OnceLock;

use super::finback::Finback;
use super::peer::{Caller, Peer};
use super::zookeeper::ZooKeeper;
use super::{free_port, host_address};

/// The interface of the Java providers.
pub(crate) const GREETER: &str = "com.acme.Greeter";
/// The interface of the npm providers.
pub(crate) const NODE_GREETER: &str = "com.acme.node.Greeter";

/// What is shared.
pub(crate) struct World {
    zookeeper: ZooKeeper,
    finback: Finback,
    plain: u16,
    lane_bolt: u16,
    lane_dubbo: u16,
    sofa: OnceLock<Peer>,
    dubbo3: OnceLock<Peer>,
    dubbo2: OnceLock<Peer>,
    node: OnceLock<Peer>,
}

/// The world, made by the first who asks.
pub(crate) fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(World::new)
}

impl World {
    fn new() -> Self {
        let zookeeper = ZooKeeper::start();
        let [plain, lane_bolt, lane_dubbo] = [free_port(), free_port(), free_port()];
        let finback = Finback::start(&format!(
            r#"
workers: 2
registries:
  zk: {{ zookeeper: "{zookeeper}" }}
listeners:
  - {{ name: bolt, address: "127.0.0.1:0", protocol: bolt, routes: rpc }}
  - {{ name: dubbo, address: "0.0.0.0:0", protocol: dubbo, routes: rpc }}
  - {{ name: auto, address: "0.0.0.0:0", protocol: auto, routes: rpc }}
  - {{ name: busy, address: "127.0.0.1:0", protocol: bolt, routes: rpc }}
routes:
  rpc:
    - match: {{ service: com.acme.sofa.Plain }}
      to: {{ cluster: plain }}
    - match: {{ service: com.acme.Greeter, attributes: {{ lane: gray }}, protocol: dubbo }}
      to: {{ cluster: lane-dubbo }}
    - match: {{ service: com.acme.Greeter, attributes: {{ rpc_req_baggage.lane: gray }}, protocol: bolt }}
      to: {{ cluster: lane-bolt }}
    - match: {{ service: {{ prefix: "com.acme." }}, group: two, version: "" }}
      to: {{ cluster: two }}
    - to: {{ registry: zk }}
clusters:
  plain: {{ endpoints: [ "127.0.0.1:{plain}" ] }}
  lane-bolt: {{ endpoints: [ "127.0.0.1:{lane_bolt}" ] }}
  lane-dubbo: {{ endpoints: [ "{host}:{lane_dubbo}" ] }}
  two: {{ discover: {{ registry: zk, layout: dubbo, service: com.acme.Greeter, group: two }} }}
"#,
            zookeeper = zookeeper.address,
            host = host_address(),
        ));
        Self {
            zookeeper,
            finback,
            plain,
            lane_bolt,
            lane_dubbo,
            sofa: OnceLock::new(),
            dubbo3: OnceLock::new(),
            dubbo2: OnceLock::new(),
            node: OnceLock::new(),
        }
    }

    /// The proxy.
    pub(crate) fn finback(&self) -> &Finback {
        &self.finback
    }

    /// The registry's address.
    pub(crate) fn zookeeper(&self) -> &str {
        &self.zookeeper.address
    }

    /// SOFA-RPC for Java, offering [`GREETER`] as `sofa` and, with the unique id `gray`, as `gray`;
    /// also, unregistered, as `lane`.
    pub(crate) fn sofa(&self) -> &Peer {
        self.sofa.get_or_init(|| {
            let peer = Peer::sofa();
            let port = free_port().to_string();
            let provider = [
                ("registry", self.zookeeper()),
                ("host", "127.0.0.1"),
                ("port", &port),
            ];
            peer.export(&[&provider[..], &[("name", "sofa")]].concat());
            peer.export(&[&provider[..], &[("name", "gray"), ("group", "gray")]].concat());
            let lane = self.lane_bolt.to_string();
            peer.export(&[("host", "127.0.0.1"), ("port", &lane), ("name", "lane")]);
            peer.ask("plain-server", &[("port", &self.plain.to_string())])
                .unwrap();
            peer
        })
    }

    /// Dubbo 3 for Java, offering [`GREETER`] as `bare`; in group `three`, as `dubbo3` without a
    /// version and as `fast` (fastjson2) in version 2.0.0; also, unregistered, as `lane`.
    pub(crate) fn dubbo3(&self) -> &Peer {
        self.dubbo3.get_or_init(|| {
            let peer = Peer::dubbo3();
            let hessian2 = free_port().to_string();
            let fastjson2 = free_port().to_string();
            let slow = [("serialization", "hessian2"), ("port", hessian2.as_str())];
            let fast = [("serialization", "fastjson2"), ("port", fastjson2.as_str())];
            let registry = [("registry", self.zookeeper())];
            let lane = self.lane_dubbo.to_string();
            peer.export(&[
                ("serialization", "hessian2"),
                ("port", &lane),
                ("name", "lane"),
            ]);
            for provider in [
                [&registry[..], &slow[..], &[("name", "bare")]].concat(),
                [
                    &registry[..],
                    &slow[..],
                    &[("name", "dubbo3"), ("group", "three")],
                ]
                .concat(),
                [
                    &registry[..],
                    &fast[..],
                    &[("name", "fast"), ("group", "three"), ("version", "2.0.0")],
                ]
                .concat(),
            ] {
                peer.export(&provider);
            }
            peer
        })
    }

    /// Dubbo 2.7 for Java, offering [`GREETER`] in group `two`: as `dubbo2` without a version and
    /// as `second` in version 2.0.0.
    pub(crate) fn dubbo2(&self) -> &Peer {
        self.dubbo2.get_or_init(|| {
            let peer = Peer::dubbo2();
            let port = free_port().to_string();
            let provider = [
                ("registry", self.zookeeper()),
                ("serialization", "hessian2"),
                ("port", port.as_str()),
                ("group", "two"),
            ];
            peer.export(&[&provider[..], &[("name", "dubbo2")]].concat());
            peer.export(&[&provider[..], &[("name", "second"), ("version", "2.0.0")]].concat());
            peer
        })
    }

    /// The npm libraries, offering [`NODE_GREETER`] over Bolt and, in version 1.0.0, over Dubbo.
    pub(crate) fn node(&self) -> &Peer {
        self.node.get_or_init(|| {
            let peer = Peer::node();
            for (protocol, name) in [("bolt", "node-bolt"), ("dubbo", "node-dubbo")] {
                peer.export(&[
                    ("registry", self.zookeeper()),
                    ("interface", NODE_GREETER),
                    ("version", "1.0.0"),
                    ("protocol", protocol),
                    ("port", &free_port().to_string()),
                    ("name", name),
                ]);
            }
            peer
        })
    }

    /// Calls of SOFA-RPC for Java through a listener.
    pub(crate) fn sofa_through(&self, listener: &str) -> Caller<'_> {
        let url = format!("bolt://{}", self.finback.local(listener));
        self.sofa().caller(&[("url", &url)])
    }

    /// Calls of a Dubbo for Java through a listener; `serialization` as the framework names it.
    pub(crate) fn dubbo_through<'a>(
        &self,
        peer: &'a Peer,
        listener: &str,
        interface: &str,
        serialization: &str,
    ) -> Caller<'a> {
        let address = format!("{}:{}", host_address(), self.finback.port(listener));
        let url = format!(
            "dubbo://{address}/{interface}?serialization={serialization}\
             &prefer.serialization={serialization}"
        );
        peer.caller(&[("url", &url), ("interface", interface)])
    }

    /// Calls of the npm libraries through a listener.
    pub(crate) fn node_through(
        &self,
        protocol: &str,
        listener: &str,
        interface: &str,
    ) -> Caller<'_> {
        let address = self.finback.local(listener);
        self.node().caller(&[
            ("protocol", protocol),
            ("address", &address),
            ("interface", interface),
        ])
    }
}
