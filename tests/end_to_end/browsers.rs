//! A real browser's own client of WebSocket, and MQTT.js in it.

use std::process::Command;
use std::time::Duration;

use crate::support::certificates::certificates;
use crate::support::finback::Finback;
use crate::support::mosquitto::{Mosquitto, tool};
use crate::support::peer::{Peer, built};
use crate::support::process::Process;
use crate::support::temporary_folder;

const BROWSER: &str = "/usr/bin/chromium-headless-shell";
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser that shows `page.html`, which is told what follows `?`.
fn show(asked: &str) -> Process {
    assert!(
        std::path::Path::new(BROWSER).exists(),
        "{BROWSER} is missing: run `make peers`, or `apt-get install chromium-headless-shell`"
    );
    let folder = temporary_folder();
    std::fs::write(folder.join("page.html"), include_str!("page.html")).unwrap();
    let library = built("node").join("node_modules/mqtt/dist/mqtt.min.js");
    std::fs::copy(library, folder.join("mqtt.min.js")).unwrap();
    let mut command = Command::new(BROWSER);
    command
        // Its own sandbox wants user namespaces, which containers seldom have.
        .args(["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--ignore-certificate-errors", "--remote-debugging-port=0"])
        .arg("--enable-logging=stderr")
        .arg(format!("--user-data-dir={}", folder.join("own").display()))
        .arg(format!("file://{}/page.html?{asked}", folder.display()));
    Process::start("the browser", &mut command)
}

#[test]
fn a_page_speaks_mqtt_and_websocket_through_one_port() {
    let broker = Mosquitto::start();
    let web = Peer::web();
    let back = web
        .ask("serve", &[("name", "one"), ("version", "1.1")])
        .unwrap();
    let folder = temporary_folder();
    certificates(&folder);
    let f = folder.display();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners:
  - name: all
    address: "127.0.0.1:0"
    protocol: auto
    routes: all
    tls:
      certificates: [ {{ certificate: "{f}/server.pem", key: "{f}/server.key" }} ]
      plain: true
routes:
  all:
    - match: {{ protocol: mqtt }}
      to: {{ cluster: brokers }}
    - to: {{ cluster: web }}
clusters:
  brokers: {{ endpoints: [ "{}" ] }}
  web: {{ endpoints: [ "127.0.0.1:{back}" ], http: "1.1" }}
"#,
        broker.address()
    ));
    let address = finback.local("all");
    for (scheme, version) in [("ws", 4), ("wss", 5)] {
        let page = show(&format!(
            "socket={scheme}://{address}/chat&mqtt={scheme}://{address}/mqtt&version={version}"
        ));
        let says = |words: &str| {
            page.wait_for(words, PATIENCE, 0, |line| {
                let said = line.split_once("\"page: ")?.1;
                assert!(!said.contains("failed"), "{scheme}: {line}");
                said.starts_with(words).then_some(())
            });
        };
        says("socket heard hello socket");
        says("published");
        says("heard large 200000");
        let sent = ["-q", "2", "-t", "to/page", "-m", "made elsewhere"];
        tool("mosquitto_pub", broker.port, &sent);
        says("heard to/page made elsewhere");
        let heard = ["-q", "1", "-t", "from/page", "-C", "1", "-W", "10"];
        let heard = tool("mosquitto_sub", broker.port, &heard);
        assert_eq!(heard, "made in a browser\n");
    }
}
