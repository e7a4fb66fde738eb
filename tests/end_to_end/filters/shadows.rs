//! Copies of calls for a shadow, which nobody notices.

use super::*;

#[test]
fn rpc_calls_are_copied_to_real_providers_with_their_marks() {
    let world = world();
    let shadow = crate::support::free_port().to_string();
    let sofa = Peer::sofa();
    sofa.export(&[("host", "127.0.0.1"), ("port", &shadow), ("name", "shadow")]);
    let dubbo_port = crate::support::free_port().to_string();
    let dubbo = Peer::dubbo2();
    dubbo.export(&[
        ("serialization", "hessian2"),
        ("port", &dubbo_port),
        ("group", "two"),
        ("name", "shadow"),
    ]);
    let finback = Finback::start(&format!(
        r#"
workers: 2
registries: {{ zk: {{ zookeeper: "{}" }} }}
listeners: [ {{ name: rpc, address: "0.0.0.0:0", protocol: auto, routes: rpc }} ]
routes:
  rpc:
    - match: {{ protocol: bolt }}
      to: {{ registry: zk }}
      shadow: {{ cluster: sofa, mark: sofa }}
    - to: {{ registry: zk }}
      shadow: {{ cluster: dubbo, mark: takin }}
clusters:
  sofa: {{ endpoints: [ "127.0.0.1:{shadow}" ] }}
  dubbo: {{ endpoints: [ "{host}:{dubbo_port}" ] }}
"#,
        world.zookeeper(),
        host = host_address(),
    ));
    let url = format!("bolt://{}", finback.local("rpc"));
    let at = format!("{}:{}", host_address(), finback.port("rpc"));
    let of_dubbo =
        format!("dubbo://{at}/{GREETER}?serialization=hessian2&prefer.serialization=hessian2");
    let direct = format!("bolt://127.0.0.1:{shadow}");
    let to_dubbo = format!(
        "dubbo://{}:{dubbo_port}/{GREETER}?serialization=hessian2&prefer.serialization=hessian2",
        host_address()
    );
    for (caller, shadow) in [
        (
            world.sofa().caller(&[("url", &url)]),
            sofa.caller(&[("url", &direct)]),
        ),
        (
            world
                .dubbo2()
                .caller(&[("url", &of_dubbo), ("group", "two")]),
            dubbo.caller(&[("url", &to_dubbo), ("group", "two")]),
        ),
    ] {
        eventually("an answer", PATIENCE, || {
            caller
                .call("sayHello", "you")
                .map_err(|failure| format!("{failure:?}"))
        });
        // What is noted is noted twice: by the provider, and by its shadow.
        assert_eq!(caller.call("note", "a copy").unwrap(), Value::Null);
        eventually("the copy", PATIENCE, || match shadow.call("noted", "") {
            Ok(noted) if noted == "a copy" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let failure = caller.call("fail", "out of stock").unwrap_err();
        assert_eq!(failure.text, "out of stock");
    }
    // A copy is recorded when its shadow has answered.
    for protocol in ["bolt", "dubbo"] {
        eventually("the copy's record", PATIENCE, || {
            let (_, page) = finback.admin("/metrics");
            let is_own = |line: &str| {
                line.starts_with("finback_requests_total")
                    && line.contains("listener=\"(shadow)\"")
                    && line.contains(&format!("protocol=\"{protocol}\""))
                    && line.contains("method=\"fail\"")
            };
            page.lines().any(is_own).then_some(()).ok_or(page)
        });
    }
}

#[test]
fn web_requests_are_copied_whole_and_a_shadow_that_hangs_is_not_noticed() {
    let seen = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let shadow = seen.local_addr().unwrap();
    let backend = web::serve().to_string();
    let finback = Finback::start(&format!(
        r#"
workers: 1
listeners: [ {{ name: web, address: "127.0.0.1:0", routes: web }} ]
routes: {{ web: [ {{ to: {{ cluster: back }}, shadow: {{ cluster: shadow, mark: {{ x-shadow: "1" }} }} }} ] }}
clusters:
  back: {{ endpoints: [ "{backend}" ] }}
  shadow: {{ endpoints: [ "{shadow}" ] }}
"#
    ));
    let at = finback.local("web");
    let begun = Instant::now();
    // The first is seen, and never answered; the others find the shadow as deaf.
    let post = ["--http1.1", "-d", "amount=7", "-H", "x-shadow: forged"];
    assert_eq!(curl(&format!("http://{at}/pay?x=1"), &post).0, 200);
    seen.set_nonblocking(true).unwrap();
    let (mut stream, _) = eventually("the copy", PATIENCE, || {
        seen.accept().map_err(|error| error.to_string())
    });
    stream.set_nonblocking(false).unwrap();
    let mut head = String::new();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    while !head.ends_with("amount=7") {
        let mut bytes = [0; 1024];
        let read = std::io::Read::read(&mut stream, &mut bytes).unwrap();
        assert!(read > 0, "{head}");
        head.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    assert!(head.starts_with("POST /pay?x=1 HTTP/1.1\r\n"), "{head}");
    assert!(
        head.contains("x-shadow: 1\r\n") && !head.contains("forged"),
        "{head}"
    );
    for _ in 0..20 {
        for version in ["--http1.1", "--http2-prior-knowledge"] {
            assert_eq!(curl(&format!("http://{at}/"), &[version]).0, 200);
        }
    }
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    // Copies go on, and hold no place of their clients, who are gone.
    eventually(
        "places of clients",
        Duration::from_secs(3),
        || match finback.metric("finback_connections", "") {
            0 => Ok(()),
            other => Err(other.to_string()),
        },
    );
    let copies = finback.cluster("shadow").unwrap()["in_flight"].as_u64();
    assert!(copies >= Some(1), "{copies:?}");
    drop((seen, stream));
    assert_eq!(curl(&format!("http://{at}/"), &[]).0, 200);
    let (_, page) = finback.admin("/metrics");
    let own = page
        .lines()
        .find(|line| line.starts_with("finback_cluster_in_flight{cluster=\"back\"}"));
    assert!(own.unwrap().ends_with(" 0"), "{own:?}");
}
