//! The attributes of spans, by their names.

/// Every attribute that a span may have, and what it says. The guide prints them.
pub const ATTRIBUTES: &[(&str, &str)] = &[
    ("client.address", "who called"),
    (
        "error.type",
        "why it failed: a status, an HTTP status code, or an outcome of the proxy's own",
    ),
    (
        "finback.cluster",
        "the cluster of the endpoint that was asked",
    ),
    (
        "finback.filter",
        "the filter that refused it, or that it waited for to its end",
    ),
    ("finback.group", "the called service's group"),
    (
        "finback.kept",
        "`tail`: it was not sampled, and kept because it was slow or failed",
    ),
    ("finback.lane", "the lane that a filter put it into"),
    ("finback.listener", "the listener that it came through"),
    ("finback.outcome", "how it ended, as in the metrics"),
    ("finback.route", "the route that it took"),
    ("finback.version", "the called service's version"),
    ("http.request.method", "the method, or `_OTHER`"),
    (
        "http.request.resend_count",
        "which repetition an attempt is, from 1",
    ),
    ("http.response.status_code", "the status"),
    ("messaging.client.id", "the client identifier"),
    ("messaging.destination.name", "the topic"),
    (
        "messaging.operation.name",
        "`connect`, `publish`, `deliver` or `send`",
    ),
    (
        "messaging.operation.type",
        "`send`, where a message is sent",
    ),
    ("messaging.system", "`mqtt` or `kafka`"),
    ("network.peer.address", "the endpoint that was asked"),
    ("network.peer.port", "its port"),
    (
        "network.protocol.name",
        "`tcp`, of connections that are passed through",
    ),
    (
        "network.protocol.version",
        "the version of HTTP that the client speaks: `1.0`, `1.1` or `2`",
    ),
    ("rpc.method", "service and method, with a slash between"),
    (
        "rpc.status_code",
        "the status, by the name that its protocol gives it",
    ),
    ("rpc.system.name", "`sofarpc`, `dubbo` or `grpc`"),
    (
        "server.address",
        "the host that was asked for, or the cluster",
    ),
    ("sofa.rpc_id", "SOFATracer's path, as it came"),
    ("sofa.trace_id", "SOFATracer's trace, as it came"),
    ("sw8.trace_id", "SkyWalking's trace, as it came"),
    ("url.full", "the URL of an attempt, without its query"),
    ("url.path", "the path"),
    ("url.scheme", "`http` or `https`"),
    ("user_agent.original", "what the client says it is"),
];
