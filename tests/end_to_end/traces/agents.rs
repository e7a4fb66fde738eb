//! Applications that trace themselves: OpenTelemetry's agent for Java at both ends of a call.

use super::*;
use crate::support::{free_port, host_address};

const GREETER: &str = "com.acme.Greeter";

/// Calls through the proxy from one instrumented application to another.
fn trace(module: &str) -> Vec<Span> {
    let jaeger = Jaeger::start();
    let start = |name| Peer::instrumented(module, name, &jaeger.http);
    let (consumer, provider) = (start("consumer"), start("provider"));
    // Dubbo for Java never connects to loopback.
    let host = match module {
        "sofa" => "127.0.0.1".to_owned(),
        _ => host_address().to_string(),
    };
    let port = free_port().to_string();
    let exported = [
        ("host", &*host),
        ("port", &port),
        ("name", "traced"),
        ("serialization", "hessian2"),
    ];
    provider.export(&exported);
    let finback = Finback::start(&format!(
        r#"
workers: 1
tracing: {{ endpoint: "{}", service_name: mesh, sampling: parent-based, ratio: 0 }}
listeners: [ {{ name: rpc, address: "0.0.0.0:0", routes: rpc }} ]
routes: {{ rpc: [ {{ to: {{ cluster: java }} }} ] }}
clusters: {{ java: {{ endpoints: [ "{host}:{port}" ] }} }}
"#,
        jaeger.grpc
    ));
    let at = format!("{host}:{}", finback.port("rpc"));
    let url = match module {
        "sofa" => format!("bolt://{at}"),
        _ => format!("dubbo://{at}/{GREETER}?serialization=hessian2&prefer.serialization=hessian2"),
    };
    let caller = consumer.caller(&[("url", &url), ("interface", GREETER)]);
    assert_eq!(
        caller.call("sayHello", "you").unwrap(),
        "hello you from traced"
    );
    let mesh = jaeger.service("mesh", 2);
    let trace = &mesh
        .iter()
        .find(|own| own.name.ends_with("sayHello"))
        .unwrap()
        .trace;
    jaeger.trace(trace, 4)
}

/// Each is the child of the one before: the consumer's, ours, the provider's.
fn assert_chain(spans: &mut Vec<Span>) {
    // Ours begin in the same microsecond: what follows what is said by their parents alone.
    let mut chain: Vec<Span> = Vec::new();
    while let Some(next) = spans
        .iter()
        .position(|own| own.parent.as_ref() == chain.last().map(|last| &last.id))
    {
        chain.push(spans.swap_remove(next));
    }
    assert!(
        spans.is_empty(),
        "{chain:#?}, and apart from them {spans:#?}"
    );
    *spans = chain;
    let kinds: Vec<&str> = spans.iter().map(Span::kind).collect();
    assert_eq!(
        kinds,
        ["client", "server", "client", "server"],
        "{spans:#?}"
    );
    assert_eq!(spans[1].name, format!("{GREETER}/sayHello"));
}

#[test]
fn dubbo_for_java_with_opentelemetrys_agent_is_in_the_same_trace() {
    let mut spans = trace("dubbo3");
    assert_chain(&mut spans);
    assert_eq!(spans[1].tag("rpc.system.name"), "dubbo");
}

#[test]
fn sofa_for_java_with_opentelemetrys_agent_is_in_the_same_trace() {
    let mut spans = trace("sofa");
    assert_chain(&mut spans);
    assert_eq!(spans[1].tag("rpc.system.name"), "sofarpc");
}
