//! npm's SOFA-RPC through the proxy, in front of npm and Java providers.

use std::time::Duration;

use serde_json::Value;

use crate::support::eventually;
use crate::support::peer::{Caller, Load};
use crate::support::world::{GREETER, NODE_GREETER, world};

fn ask(caller: &Caller<'_>, method: &str, argument: &str) -> Value {
    caller
        .call(method, argument)
        .unwrap_or_else(|failure| panic!("{method}: {failure:?}"))
}

fn values(caller: &Caller<'_>, provider: &str) {
    assert_eq!(
        ask(caller, "sayHello", "世界😀"),
        format!("hello 世界😀 from {provider}")
    );
    assert_eq!(ask(caller, "add", "20,22"), 42);
    assert_eq!(ask(caller, "large", "70000"), 70000);
    assert_eq!(ask(caller, "measure", "70000"), 70000);
    let echo = ask(caller, "echo", "");
    assert_eq!(echo["same"], true, "{echo}");
}

#[test]
fn values_pass_between_npm_peers() {
    for listener in ["bolt", "auto"] {
        values(
            &world().node_through("bolt", listener, NODE_GREETER),
            "node-bolt",
        );
    }
}

#[test]
fn values_pass_from_npm_to_java() {
    world().sofa();
    values(&world().node_through("bolt", "bolt", GREETER), "sofa");
}

#[test]
fn the_second_version_with_its_checksum_passes() {
    values(
        &world().node_through("bolt2", "bolt", NODE_GREETER),
        "node-bolt",
    );
    world().sofa();
    values(&world().node_through("bolt2", "bolt", GREETER), "sofa");
}

#[test]
fn exceptions_arrive() {
    world().sofa();
    let caller = world().node_through("bolt", "bolt", NODE_GREETER);
    let failure = caller.call("fail", "out of stock").unwrap_err();
    assert!(failure.text.contains("out of stock"), "{failure:?}");
    let failure = caller.call("missing", "").unwrap_err();
    assert!(failure.text.contains("Can not find method"), "{failure:?}");
    let failure = world()
        .node_through("bolt", "bolt", GREETER)
        .call("fail", "out of stock")
        .unwrap_err();
    assert_eq!(
        (failure.class.as_str(), failure.text.as_str()),
        ("com.acme.GreetingException", "out of stock")
    );
}

#[test]
fn a_one_way_call_arrives() {
    let caller = world().node_through("bolt", "bolt", NODE_GREETER);
    caller
        .with("method", "note")
        .with("arg", "by one way")
        .ask("one-way")
        .unwrap();
    eventually("the note", Duration::from_secs(5), || {
        let noted = ask(&caller, "noted", "");
        if noted == "by one way" {
            Ok(())
        } else {
            Err(noted.to_string())
        }
    });
}

#[test]
fn many_at_once_get_their_own_answers() {
    let caller = world()
        .node_through("bolt", "auto", NODE_GREETER)
        .with("threads", "32");
    let load = Load::of(caller.load(1000));
    assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
    assert!(load.right > 100, "{load:?}");
}
