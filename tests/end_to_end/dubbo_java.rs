//! Dubbo 3 and Dubbo 2.7 for Java through the proxy, in hessian2 and fastjson2.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::finback::Finback;
use crate::support::peer::{Caller, Load, Peer};
use crate::support::world::{GREETER, NODE_GREETER, world};
use crate::support::zookeeper::ZooKeeper;
use crate::support::{eventually, free_port};

fn ask(caller: &Caller<'_>, method: &str, argument: &str) -> Value {
    caller
        .call(method, argument)
        .unwrap_or_else(|failure| panic!("{method}: {failure:?}"))
}

fn dubbo3(listener: &str) -> Caller<'static> {
    let world = world();
    world
        .dubbo_through(world.dubbo3(), listener, GREETER, "hessian2")
        .with("group", "three")
}

fn fast(listener: &str) -> Caller<'static> {
    let world = world();
    let caller = world.dubbo_through(world.dubbo3(), listener, GREETER, "fastjson2");
    caller.with("group", "three").with("version", "2.0.0")
}

fn dubbo2(listener: &str) -> Caller<'static> {
    let world = world();
    world
        .dubbo_through(world.dubbo2(), listener, GREETER, "hessian2")
        .with("group", "two")
}

/// One consumer per way of speaking, with the name of the provider it shall reach.
fn everyone() -> [(Caller<'static>, &'static str); 4] {
    [
        (dubbo3("dubbo"), "dubbo3"),
        (fast("dubbo"), "fast"),
        (dubbo2("dubbo"), "dubbo2"),
        (dubbo2("auto").with("version", "2.0.0"), "second"),
    ]
}

#[test]
fn values_of_every_size_and_shape_pass() {
    for (caller, provider) in everyone() {
        assert_eq!(
            ask(&caller, "sayHello", "世界😀"),
            format!("hello 世界😀 from {provider}")
        );
        assert_eq!(ask(&caller, "add", "20,22"), 42);
        assert_eq!(ask(&caller, "nothing", ""), Value::Null);
        assert_eq!(ask(&caller, "large", "70000"), 70000);
        assert_eq!(ask(&caller, "measure", "70000"), 70000);
        let echo = ask(&caller, "echo", "");
        assert_eq!(echo["same"], true, "{provider}: {echo}");
        assert_eq!(echo["order"]["total"], "9007199254740993");
    }
}

#[test]
fn a_business_exception_arrives_as_itself() {
    for (caller, provider) in everyone() {
        let failure = caller.call("fail", "out of stock").unwrap_err();
        assert_eq!(
            failure.class, "com.acme.GreetingException",
            "{provider}: {failure:?}"
        );
        assert_eq!(failure.text, "out of stock");
    }
}

#[test]
fn a_one_way_call_arrives_and_nothing_comes_back() {
    for (caller, provider) in everyone() {
        let text = format!("to {provider}");
        assert_eq!(ask(&caller, "note", &text), Value::Null);
        eventually("the note", Duration::from_secs(5), || {
            let noted = ask(&caller, "noted", "");
            if noted == text.as_str() {
                Ok(())
            } else {
                Err(noted.to_string())
            }
        });
    }
}

#[test]
fn generic_calls_reach_the_service_and_the_method_they_mean() {
    for (caller, provider) in everyone() {
        let caller = caller.with("arg", "you");
        let hello = caller.with("method", "sayHello").ask("generic");
        assert_eq!(hello.unwrap(), format!("hello you from {provider}"));
        let echo = caller.with("method", "echo").ask("generic").unwrap();
        assert_eq!(echo["count"], 70000, "{provider}: {echo}");
    }
}

#[test]
fn a_health_probe_of_the_framework_passes() {
    for (caller, provider) in everyone() {
        assert_eq!(caller.with("arg", provider).ask("ping").unwrap(), provider);
    }
}

#[test]
fn group_and_version_choose_the_provider() {
    let world = world();
    let bare = world.dubbo_through(world.dubbo3(), "dubbo", GREETER, "hessian2");
    assert_eq!(ask(&bare, "who", ""), "bare");
    for (caller, provider) in everyone() {
        assert_eq!(ask(&caller, "who", ""), provider);
    }
}

/// A proxy with a registry of its own.
fn alone(zookeeper: &ZooKeeper) -> Finback {
    Finback::start(&format!(
        r#"
workers: 1
registries: {{ zk: {{ zookeeper: "{}" }} }}
listeners: [ {{ name: rpc, address: "0.0.0.0:0", protocol: dubbo, routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ registry: zk }} }} ] }}
"#,
        zookeeper.address
    ))
}

/// Who answers a consumer that asks for this group and version.
fn answering(
    consumer: &Peer,
    finback: &Finback,
    (speech, group, version): (&str, &str, &str),
) -> BTreeSet<String> {
    let url = format!(
        "dubbo://{}/{GREETER}?serialization={speech}&prefer.serialization={speech}",
        finback.public("rpc")
    );
    let mut caller = consumer.caller(&[("url", &url)]);
    for (name, value) in [("group", group), ("version", version)] {
        if !value.is_empty() {
            caller = caller.with(name, value);
        }
    }
    let mut names = BTreeSet::new();
    for _ in 0..8 {
        // The first may come before the registry tells of the provider.
        eventually("an answer", Duration::from_secs(20), || {
            let name = caller
                .call("who", "")
                .map_err(|failure| format!("{group} {version}: {failure:?}"))?;
            names.insert(name.as_str().unwrap_or_default().to_owned());
            Ok(())
        });
    }
    names
}

fn export(peer: &Peer, zookeeper: &ZooKeeper, speech: &str, port: &str, more: &[(&str, &str)]) {
    let common = [
        ("registry", &*zookeeper.address),
        ("serialization", speech),
        ("port", port),
    ];
    peer.export(&[&common[..], more].concat());
}

#[test]
fn what_a_provider_asks_of_its_consumers_is_done_for_them() {
    let zookeeper = ZooKeeper::start();
    let finback = alone(&zookeeper);
    let (provider, other) = (Peer::dubbo3(), Peer::dubbo3());
    let [slow, fast, third] = [(); 3].map(|()| free_port().to_string());
    for (peer, speech, port, more) in [
        (
            &provider,
            "hessian2",
            &slow,
            &[("name", "token"), ("group", "t"), ("token", "secret")][..],
        ),
        (
            &provider,
            "fastjson2",
            &fast,
            &[("name", "fast"), ("group", "f"), ("token", "secret")],
        ),
        // A random one for each.
        (
            &provider,
            "hessian2",
            &slow,
            &[("name", "one"), ("group", "r"), ("token", "true")],
        ),
        (
            &other,
            "hessian2",
            &third,
            &[("name", "two"), ("group", "r"), ("token", "true")],
        ),
        (
            &provider,
            "hessian2",
            &slow,
            &[("name", "plain"), ("group", "p")],
        ),
        (
            &other,
            "hessian2",
            &free_port().to_string(),
            &[("name", "ctx"), ("group", "c"), ("context", "ctx")],
        ),
    ] {
        export(peer, &zookeeper, speech, port, more);
    }
    let consumers = [world().dubbo3(), world().dubbo2()];
    for consumer in consumers {
        for (speech, group, names) in [
            ("hessian2", "t", &["token"][..]),
            ("hessian2", "r", &["one", "two"]),
            ("hessian2", "p", &["plain"]),
            ("hessian2", "c", &["ctx"]),
        ] {
            let expected = names.iter().map(|name| (*name).to_owned()).collect();
            let answering = answering(consumer, &finback, (speech, group, ""));
            assert_eq!(answering, expected, "{group}");
        }
    }
    let answering = answering(world().dubbo3(), &finback, ("fastjson2", "f", ""));
    assert_eq!(answering, BTreeSet::from(["fast".to_owned()]));
    // One that the caller sends itself stays as it is.
    let url = format!("dubbo://{}/{GREETER}", finback.public("rpc"));
    let own = world()
        .dubbo3()
        .caller(&[("url", &url), ("group", "t"), ("@token", "wrong")]);
    let refused = own.call("who", "").unwrap_err();
    assert!(refused.text.contains("Invalid token"), "{refused:?}");
}

#[test]
fn calls_for_any_version_or_group_are_those_of_the_provider_they_reach() {
    let zookeeper = ZooKeeper::start();
    let finback = alone(&zookeeper);
    let provider = Peer::dubbo3();
    let [slow, fast] = [(); 2].map(|()| free_port().to_string());
    for (speech, port, name, group, version) in [
        ("hessian2", &slow, "one", "g1", "1.0.0"),
        ("hessian2", &slow, "two", "g2", "2.0.0"),
        ("hessian2", &slow, "bare", "", "5.0.0"),
        ("fastjson2", &fast, "fast", "gf", "3.0.0"),
    ] {
        let mut more = vec![("name", name), ("version", version)];
        more.extend((!group.is_empty()).then_some(("group", group)));
        export(&provider, &zookeeper, speech, port, &more);
    }
    for consumer in [world().dubbo3(), world().dubbo2()] {
        for (group, version, names) in [
            ("*", "1.0.0", &["one"][..]),
            ("*", "2.0.0", &["two"]),
            ("*", "5.0.0", &["bare"]),
            ("g1", "*", &["one"]),
            ("g1,g2", "1.0.0", &["one"]),
            ("g1,g2", "*", &["one"]),
        ] {
            let expected: BTreeSet<_> = names.iter().map(|name| (*name).to_owned()).collect();
            let answering = answering(consumer, &finback, ("hessian2", group, version));
            // Of several on one port, the first version is the endpoint.
            assert_eq!(answering, expected, "{group} {version}");
        }
    }
    for (group, version) in [("*", "3.0.0"), ("gf", "*"), ("gx,gf", "3.0.0")] {
        let answering = answering(world().dubbo3(), &finback, ("fastjson2", group, version));
        assert_eq!(
            answering,
            BTreeSet::from(["fast".to_owned()]),
            "{group} {version}"
        );
    }
}

#[test]
fn generations_understand_each_other() {
    let world = world();
    world.dubbo2();
    let caller = world.dubbo_through(world.dubbo3(), "dubbo", GREETER, "hessian2");
    assert_eq!(ask(&caller.with("group", "two"), "who", ""), "dubbo2");
    world.dubbo3();
    let caller = world.dubbo_through(world.dubbo2(), "dubbo", GREETER, "hessian2");
    assert_eq!(ask(&caller.with("group", "three"), "who", ""), "dubbo3");
    world.node();
    let caller = world.dubbo_through(world.dubbo3(), "dubbo", NODE_GREETER, "hessian2");
    let hello = ask(&caller.with("version", "1.0.0"), "sayHello", "you");
    assert_eq!(hello, "hello you from node-dubbo");
}

#[test]
fn an_attachment_chooses_the_cluster_and_arrives() {
    let world = world();
    let caller = world.dubbo_through(world.dubbo3(), "dubbo", GREETER, "hessian2");
    assert_eq!(ask(&caller.with("@lane", "gray"), "who", ""), "lane");
    assert_eq!(ask(&caller.with("@lane", "grayish"), "who", ""), "bare");
    assert_eq!(
        ask(&caller.with("@lane", "blue"), "attachment", "lane"),
        json!("blue")
    );
}

#[test]
fn many_at_once_get_their_own_answers() {
    for (caller, provider) in everyone() {
        let load = Load::of(caller.with("threads", "16").load(1000));
        assert_eq!(
            (load.wrong, load.errors.len()),
            (0, 0),
            "{provider}: {load:?}"
        );
        assert!(load.right > 100, "{provider}: {load:?}");
        assert!(
            load.who.keys().all(|name| name == provider),
            "{provider}: {load:?}"
        );
    }
}
