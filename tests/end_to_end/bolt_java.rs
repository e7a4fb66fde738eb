//! SOFA-RPC for Java through the proxy, in front of Java and npm providers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::peer::{Caller, Load};
use crate::support::world::{NODE_GREETER, world};

fn ask(caller: &Caller<'_>, method: &str, argument: &str) -> Value {
    caller
        .call(method, argument)
        .unwrap_or_else(|failure| panic!("{method}: {failure:?}"))
}

#[test]
fn values_of_every_size_and_shape_pass() {
    for listener in ["bolt", "auto"] {
        let caller = world().sofa_through(listener);
        assert_eq!(ask(&caller, "sayHello", "世界😀"), "hello 世界😀 from sofa");
        assert_eq!(ask(&caller, "add", "20,22"), 42);
        assert_eq!(ask(&caller, "nothing", ""), Value::Null);
        assert_eq!(ask(&caller, "large", "70000"), 70000);
        assert_eq!(ask(&caller, "measure", "70000"), 70000);
        let echo = ask(&caller, "echo", "");
        assert_eq!(echo["same"], true, "{echo}");
        assert_eq!(echo["order"]["total"], "9007199254740993");
        assert_eq!(echo["order"]["parent"]["count"], -1);
    }
}

#[test]
fn a_business_exception_arrives_as_itself() {
    let failure = world()
        .sofa_through("bolt")
        .call("fail", "out of stock")
        .unwrap_err();
    assert_eq!(failure.class, "com.acme.GreetingException");
    assert_eq!(failure.text, "out of stock");
}

#[test]
fn a_one_way_call_arrives_and_nothing_comes_back() {
    let caller = world().sofa_through("bolt").with("group", "gray");
    assert_eq!(ask(&caller, "note", "by one way"), Value::Null);
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
fn futures_and_generic_calls_pass() {
    let caller = world().sofa_through("bolt").with("arg", "you");
    assert_eq!(caller.ask("future").unwrap(), "hello you from sofa");
    let generic = caller.with("method", "sayHello").ask("generic").unwrap();
    assert_eq!(generic, "hello you from sofa");
}

#[test]
fn the_unique_id_chooses_the_provider() {
    let caller = world().sofa_through("bolt");
    assert_eq!(ask(&caller, "who", ""), "sofa");
    assert_eq!(ask(&caller.with("group", "gray"), "who", ""), "gray");
}

#[test]
fn an_attribute_chooses_the_cluster() {
    let caller = world().sofa_through("bolt");
    assert_eq!(ask(&caller.with("@lane", "gray"), "who", ""), "lane");
    assert_eq!(ask(&caller.with("@lane", "grayish"), "who", ""), "sofa");
    let seen = ask(&caller.with("@lane", "blue"), "attachment", "lane");
    assert_eq!(seen, json!("blue"));
}

#[test]
fn an_npm_provider_answers_a_java_consumer() {
    let caller = world().sofa_through("bolt").with("interface", NODE_GREETER);
    world().node();
    assert_eq!(
        ask(&caller, "sayHello", "世界"),
        "hello 世界 from node-bolt"
    );
    assert_eq!(ask(&caller, "add", "1,2"), 3);
    assert_eq!(ask(&caller, "measure", "40000"), 40000);
    // npm's answer to a failure names one class and carries another, which Java cannot read with or
    // without a proxy: it must still be an exception, and soon.
    let failure = caller.call("fail", "out of stock").unwrap_err();
    assert!(failure.class.ends_with("SofaRpcException"), "{failure:?}");
}

#[test]
fn plain_bolt_applications_pass_in_every_version_of_the_protocol() {
    world().sofa();
    let address = world().finback().local("bolt");
    for query in ["", "?_PROTOCOL=2&_VERSION=1", "?_PROTOCOL=2&_VERSION=2"] {
        let url = format!("{address}{query}");
        let answer = world()
            .sofa()
            .ask("plain-call", &[("url", &url), ("arg", query)]);
        assert_eq!(answer.unwrap(), format!("plain {query}"));
    }
}

#[test]
fn many_at_once_get_their_own_answers() {
    // A listener of its own means a connection of its own: Bolt for Java fails small calls at once
    // while a large one of another test waits to be written to the same connection.
    let caller = world().sofa_through("busy").with("threads", "16");
    let load = Load::of(caller.load(1500));
    assert_eq!((load.wrong, load.errors.len()), (0, 0), "{load:?}");
    assert!(load.right > 100, "{load:?}");
}
