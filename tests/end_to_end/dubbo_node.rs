//! npm's Dubbo libraries through the proxy, in front of npm and Java providers.

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
    for listener in ["dubbo", "auto"] {
        let caller = world().node_through("dubbo", listener, NODE_GREETER);
        values(&caller.with("version", "1.0.0"), "node-dubbo");
    }
}

#[test]
fn values_pass_from_npm_to_both_generations_of_java() {
    world().dubbo3();
    world().dubbo2();
    let caller = world().node_through("dubbo", "dubbo", GREETER);
    values(&caller, "bare");
    values(&caller.with("group", "three"), "dubbo3");
    values(&caller.with("group", "two"), "dubbo2");
    values(
        &caller.with("group", "two").with("version", "2.0.0"),
        "second",
    );
}

#[test]
fn exceptions_arrive() {
    world().dubbo3();
    let caller = world()
        .node_through("dubbo", "dubbo", NODE_GREETER)
        .with("version", "1.0.0");
    let failure = caller.call("fail", "out of stock").unwrap_err();
    assert!(failure.text.contains("out of stock"), "{failure:?}");
    let failure = world()
        .node_through("dubbo", "dubbo", GREETER)
        .call("fail", "out of stock")
        .unwrap_err();
    assert_eq!(
        (failure.class.as_str(), failure.text.as_str()),
        ("com.acme.GreetingException", "out of stock")
    );
}

#[test]
fn dubbo2_js_finds_the_proxy_in_the_registry_and_java_behind_it() {
    world().dubbo2();
    let node = world().node();
    let address = world().finback().local("dubbo");
    let place = [
        ("protocol", "dubbo"),
        ("registry", world().zookeeper()),
        ("root", "mesh"),
        ("interface", GREETER),
        ("version", "2.0.0"),
        ("group", "two"),
    ];
    node.ask("announce", &[&place[..], &[("address", &address)]].concat())
        .unwrap();
    let caller = node.caller(&place);
    // The library reads the registry once, then two seconds after each change.
    let hello = eventually("a first answer", Duration::from_secs(20), || {
        caller
            .with("method", "sayHello")
            .with("arg", "世界")
            .ask("dubbo2")
            .map_err(|failure| failure.text)
    });
    assert_eq!(hello, "hello 世界 from second");
    assert_eq!(
        caller
            .with("method", "add")
            .with("arg", "20,22")
            .ask("dubbo2")
            .unwrap(),
        42
    );
    assert_eq!(
        caller
            .with("method", "large")
            .with("arg", "50000")
            .ask("dubbo2")
            .unwrap(),
        50000
    );
    assert_eq!(
        caller
            .with("method", "measure")
            .with("arg", "50000")
            .ask("dubbo2")
            .unwrap(),
        50000
    );
    let failure = caller
        .with("method", "fail")
        .with("arg", "out of stock")
        .ask("dubbo2")
        .unwrap_err();
    assert!(failure.text.contains("out of stock"), "{failure:?}");
}

#[test]
fn many_at_once_get_their_own_answers() {
    let caller = world()
        .node_through("dubbo", "auto", NODE_GREETER)
        .with("version", "1.0.0");
    let load = Load::of(caller.with("threads", "32").load(1000));
    assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
    assert!(load.right > 100, "{load:?}");
}
