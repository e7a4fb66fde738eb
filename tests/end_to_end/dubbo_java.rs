//! Dubbo 3 and Dubbo 2.7 for Java through the proxy, in hessian2 and fastjson2.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::peer::{Caller, Load};
use crate::support::world::{GREETER, NODE_GREETER, world};

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
