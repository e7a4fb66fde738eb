//! What a SOFA-RPC application publishes through its sidecar: kept over restarts of the sidecar, and
//! forgotten with the application's process.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::support::finback::Finback;
use crate::support::peer::{Caller, Peer};
use crate::support::world::GREETER;
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port, temporary_folder};

/// Longer than anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A sidecar that may be started again and again, and its application's port.
struct Sidecar<'a> {
    zookeeper: &'a ZooKeeper,
    folder: PathBuf,
    mesh: u16,
    inbound: u16,
    application: u16,
}

impl<'a> Sidecar<'a> {
    fn new(zookeeper: &'a ZooKeeper) -> Self {
        Self {
            zookeeper,
            folder: temporary_folder(),
            mesh: free_port(),
            inbound: free_port(),
            application: free_port(),
        }
    }

    fn start(&self) -> Finback {
        let Self {
            mesh,
            inbound,
            application,
            ..
        } = self;
        Finback::start(&format!(
            r#"
workers: 1
snapshots: {{ folder: "{}" }}
registries: {{ zk: {{ zookeeper: "{}", session: 4s }} }}
mesh_registry:
  address: "127.0.0.1:{mesh}"
  registry: zk
  application: "127.0.0.1:{application}"
  advertise: "127.0.0.1:{inbound}"
listeners: [ {{ name: inbound, address: "127.0.0.1:{inbound}", protocol: bolt, routes: local }} ]
routes: {{ local: [ {{ to: {{ cluster: application }} }} ] }}
clusters: {{ application: {{ endpoints: [ "127.0.0.1:{application}" ] }} }}
"#,
            self.folder.display(),
            self.zookeeper.address,
        ))
    }

    /// Has an application publish itself under this name and group.
    fn export(&self, peer: &Peer, name: &str, group: &str) {
        let mesh = format!("http://127.0.0.1:{}", self.mesh);
        let port = self.application.to_string();
        let mut fields = vec![
            ("registry", mesh.as_str()),
            ("registry-protocol", "mesh"),
            ("host", "127.0.0.1"),
            ("port", &port),
            ("name", name),
        ];
        if !group.is_empty() {
            fields.push(("group", group));
        }
        peer.export(&fields);
    }

    /// The unique ids of what stands in the registry.
    fn entries(&self, tools: &Peer) -> Vec<String> {
        let path = format!("/sofa-rpc/{GREETER}/providers");
        let at = [("registry", &*self.zookeeper.address), ("path", &path)];
        let children = tools.ask("children", &at).unwrap();
        let names = children.as_array().unwrap().iter();
        let id = |name: &str| {
            let rest = name.split("uniqueId%3D").nth(1).unwrap();
            rest.split("%26").next().unwrap().to_owned()
        };
        let mut ids: Vec<String> = names.map(|name| id(name.as_str().unwrap())).collect();
        ids.sort();
        ids
    }

    fn eventually_has(&self, tools: &Peer, wanted: &[&str]) {
        eventually("the entries", PATIENCE, || match self.entries(tools) {
            found if found == wanted => Ok(()),
            found => Err(format!("{found:?}")),
        });
    }
}

fn eventually_answers(caller: &Caller<'_>, name: &str) {
    eventually("the application", PATIENCE, || {
        match caller.call("who", "") {
            Ok(found) if found == name => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

fn kept(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("mesh_registry.application")).unwrap_or_default()
}

#[test]
fn what_an_application_published_holds_after_a_restart_of_its_sidecar() {
    let zookeeper = ZooKeeper::start();
    let tools = Peer::registry();
    let sidecar = Sidecar::new(&zookeeper);
    let mut finback = sidecar.start();
    let application = Peer::sofa();
    sidecar.export(&application, "first", "");
    sidecar.export(&application, "second", "blue");
    let consumer = Peer::sofa();
    let caller = consumer.caller(&[("registry", zookeeper.address.as_str())]);
    eventually_answers(&caller, "first");
    eventually_answers(&caller.with("group", "blue"), "second");
    for signal in ["TERM", "KILL"] {
        finback.process().signal(signal);
        finback.process().wait_for_end(PATIENCE);
        drop(finback);
        sidecar.eventually_has(&tools, &[]);
        finback = sidecar.start();
        sidecar.eventually_has(&tools, &["", "blue"]);
        eventually_answers(&caller, "first");
        eventually_answers(&caller.with("group", "blue"), "second");
    }
    // What it takes back is taken back for good.
    application.ask("unexport", &[("name", "second")]).unwrap();
    sidecar.eventually_has(&tools, &[""]);
    assert!(!kept(&sidecar.folder).contains("blue"));
}

#[test]
fn what_an_application_published_is_forgotten_with_its_process() {
    let zookeeper = ZooKeeper::start();
    let tools = Peer::registry();
    let sidecar = Sidecar::new(&zookeeper);
    let finback = sidecar.start();
    let first = Peer::sofa();
    sidecar.export(&first, "first", "");
    sidecar.export(&first, "old", "blue");
    sidecar.eventually_has(&tools, &["", "blue"]);
    first.process().signal("KILL");
    sidecar.eventually_has(&tools, &[]);
    // Its successor is on the same port, and publishes less.
    let second = Peer::sofa();
    sidecar.export(&second, "second", "");
    sidecar.eventually_has(&tools, &[""]);
    thread::sleep(Duration::from_secs(6));
    assert_eq!(sidecar.entries(&tools), [""]);
    let consumer = Peer::sofa();
    let caller = consumer.caller(&[("registry", zookeeper.address.as_str())]);
    eventually_answers(&caller, "second");
    // The next one comes while the sidecar is away, and publishes nothing at all.
    finback.process().signal("KILL");
    finback.process().wait_for_end(PATIENCE);
    second.process().signal("KILL");
    second.process().wait_for_end(PATIENCE);
    sidecar.eventually_has(&tools, &[]);
    let _third = TcpListener::bind(("127.0.0.1", sidecar.application)).unwrap();
    let _finback = sidecar.start();
    thread::sleep(Duration::from_secs(4));
    assert_eq!(sidecar.entries(&tools), [""; 0]);
}
