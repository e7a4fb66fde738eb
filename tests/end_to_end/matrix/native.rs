//! What each library tells its application of a refusal: data.

use super::Protocol;

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It is not allowed.
    Denied,
    /// The same where a session or connection begins.
    NotLetIn,
    /// It does not prove who it is.
    Unauthenticated,
    /// It calls too often.
    Limited,
    /// A limit of the mesh is reached.
    Overloaded,
    /// Nothing is heard of it.
    Silence,
}

/// How the library of a protocol sorts it.
pub(super) fn native(protocol: Protocol, why: Why) -> &'static str {
    use Protocol::{Bolt, Dubbo, Grpc, Http1, Http2, Mqtt3, Mqtt5, RocketMq, Tcp, Triple};
    use Why::{Denied, Limited, NotLetIn, Overloaded, Silence, Unauthenticated};
    match (protocol, why) {
        (Bolt, Overloaded) => "SofaRpcException 100",
        (Bolt, Silence) => "SofaTimeOutException 200",
        (Bolt, _) => "SofaRpcException 199",
        (Dubbo, Overloaded) => "RpcException 1",
        (Dubbo, Silence) => "RpcException 2",
        (Dubbo, _) => "RuntimeException",
        (Triple, Denied | NotLetIn) => "StatusRpcException PERMISSION_DENIED",
        (Triple, Unauthenticated) => "StatusRpcException UNAUTHENTICATED",
        (Triple, Limited | Overloaded) => "StatusRpcException RESOURCE_EXHAUSTED",
        (Triple, Silence) => "StatusRpcException DEADLINE_EXCEEDED",
        (Grpc, Denied | NotLetIn) => "PERMISSION_DENIED",
        (Grpc, Unauthenticated) => "UNAUTHENTICATED",
        (Grpc, Limited | Overloaded) => "RESOURCE_EXHAUSTED",
        (Grpc, Silence) => "DEADLINE_EXCEEDED",
        (Http1 | Http2, Denied | NotLetIn) => "403",
        (Http1 | Http2, Unauthenticated) => "401",
        (Http1 | Http2, Limited) => "429",
        (Http1 | Http2, Overloaded) => "503",
        // The operation timed out.
        (Http1 | Http2, Silence) => "exit 28",
        (Mqtt3, Denied) => "SUBACK Unspecified error",
        (Mqtt3, NotLetIn) => "CONNACK Not authorized",
        (Mqtt3, Unauthenticated) => "CONNACK Bad user name or password",
        (Mqtt3, Limited | Overloaded) => "CONNACK Server unavailable",
        (Mqtt5, Denied) => "SUBACK Not authorized",
        (Mqtt5, NotLetIn) => "CONNACK Not authorized",
        (Mqtt5, Unauthenticated) => "CONNACK Bad user name or password",
        (Mqtt5, Limited) => "CONNACK Connection rate exceeded",
        (Mqtt5, Overloaded) => "CONNACK Server busy",
        // Sent three times.
        (RocketMq, Denied | NotLetIn | Unauthenticated) => "MQClientException 16",
        (RocketMq, Limited) => "MQBrokerException 215",
        (RocketMq, Overloaded) => "MQClientException 2",
        (RocketMq, Silence) => "MQClientException 10002",
        (Mqtt3 | Mqtt5, Silence) => "Empty",
        // An empty reply.
        (Tcp, _) => "exit 52",
    }
}
