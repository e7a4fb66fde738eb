//! What spans say, kind by kind.

use std::net::{IpAddr, SocketAddr};

use finback_core::record::{About, Record};
use finback_core::rejection::Rejection;
use finback_core::trace::{Finished, SpanId, TraceId};

use super::*;

const DUBBO_FAULTS: &[&str] = &["SERVER_ERROR", "SERVICE_ERROR"];
const SYSTEMS: [(&str, System); 5] = [
    (
        "dubbo",
        System::Rpc {
            name: "dubbo",
            server_faults: DUBBO_FAULTS,
        },
    ),
    (
        "bolt",
        System::Rpc {
            name: "sofarpc",
            server_faults: &[],
        },
    ),
    ("http", System::Http),
    ("mqtt", System::Messaging { name: "mqtt" }),
    ("tcp", System::Connection),
];

/// Statuses of a protocol of the test's own.
fn status_name(_: &str, status: Status) -> Option<Cow<'static, str>> {
    Some(Cow::Borrowed(match status.0 {
        0 => "OK",
        1 => "SERVICE_ERROR",
        2 => "SERVICE_NOT_FOUND",
        200 => "200",
        404 => "404",
        503 => "503",
        _ => return None,
    }))
}

fn kind(protocol: &'static str, system: System, method: &str) -> Arc<Kind> {
    let traced = ProtocolConventions {
        system,
        spelling: Spelling::default(),
        status: status_name,
    };
    let called = Called {
        protocol,
        listener: &"rpc".into(),
        service: "com.acme.Pay",
        method,
        version: "1.0",
        group: "blue",
    };
    Arc::new(Kind::new(&traced, &called))
}

fn attempted(target: SpanTarget, error: Option<&'static str>) -> Attempted {
    Attempted {
        span: SpanId(7),
        began: Now(10),
        ended: Now(20),
        target,
        error,
    }
}

fn endpoint() -> SpanTarget {
    let address: SocketAddr = "10.0.0.1:20880".parse().unwrap();
    SpanTarget::Endpoint(address, "pay".into())
}

struct PayRoute;

impl About for PayRoute {
    fn source(&self) -> IpAddr {
        [10, 0, 0, 9].into()
    }

    fn endpoint(&self) -> Option<SocketAddr> {
        None
    }

    fn route(&self) -> &str {
        "pay-route"
    }
}

#[expect(clippy::disallowed_methods, reason = "the process of a test ends soon")]
fn exported(
    kind: &Arc<Kind>,
    ending: Ending,
    status: u16,
    attempts: Vec<Attempted>,
) -> Exported<'_> {
    let record = Box::leak(Box::new(Record {
        status: Status(status),
        ..Record::new(ending, &PayRoute)
    }));
    let note = |name: &'static str, value: &str| (Cow::Borrowed(name), value.into());
    let notes = match kind.system {
        System::Http => vec![note("url.path", "/pay"), note("url.scheme", "https")],
        System::Messaging { .. } => vec![note("messaging.destination.name", "a/b")],
        _ => Vec::new(),
    };
    let mut attempts = attempts;
    let last = attempts.pop();
    let finished = Box::leak(Box::new(Finished {
        record,
        trace: TraceId([1; 16]),
        parent: SpanId(5),
        span: SpanId(6),
        sampled: true,
        began: Now(10),
        ended: Now(30),
        notes,
        earlier: attempts,
        last,
    }));
    Exported::new(kind, finished)
}

fn made<'a>(own: &'a Exported<'_>) -> Vec<Span<'a>> {
    let at = |moment: Now| moment.0;
    let attempts = own.finished.attempts().enumerate();
    let attempts = attempts.map(|(number, attempt)| super::client(own, attempt, number, at));
    std::iter::once(super::server(own, at))
        .chain(attempts)
        .collect()
}

fn text(span: &Span<'_>, name: &str) -> String {
    let mut found = span.attributes.iter().filter(|(own, _)| own == name);
    let value = match found.next() {
        None => return String::new(),
        Some((_, Value::Text(text))) => text.to_string(),
        Some((_, Value::Number(number))) => number.to_string(),
    };
    assert!(found.next().is_none(), "{name} twice in {span:?}");
    value
}

#[test]
fn no_span_says_what_the_guide_does_not_explain() {
    let methods = ["pay", "connect", "publish", "deliver", "GET", "(other)", ""];
    for (protocol, system) in SYSTEMS {
        for method in methods {
            let kind = kind(protocol, system, method);
            let sent = SpanTarget::Destination("kafka", "plant".into());
            for target in [endpoint(), sent] {
                let attempts = vec![
                    attempted(endpoint(), Some("connection_lost")),
                    attempted(target, None),
                ];
                let ending = Ending::Answered(Outcome::Failed);
                let own = exported(&kind, ending, 1, attempts);
                for span in made(&own) {
                    for (name, _) in &span.attributes {
                        let known = ATTRIBUTES.iter().any(|(own, _)| own == name);
                        assert!(known, "{name} of {protocol}");
                        text(&span, name);
                    }
                }
            }
        }
    }
    let names: Vec<&str> = ATTRIBUTES.iter().map(|(name, _)| *name).collect();
    assert!(names.is_sorted());
}

#[test]
fn an_attempt_is_an_error_sooner_than_its_call() {
    use Outcome::{Exception, Failed, Invalid, Success};
    let ok = Ending::Answered(Success);
    // Protocol, ending, status; the error of the call, and of its last attempt.
    let table = [
        ("dubbo", ok, 0, None, None),
        // The application's own exception comes with a good status.
        ("dubbo", Ending::Answered(Exception), 0, None, None),
        (
            "dubbo",
            Ending::Answered(Failed),
            1,
            Some("SERVICE_ERROR"),
            Some("SERVICE_ERROR"),
        ),
        (
            "dubbo",
            Ending::Answered(Invalid),
            2,
            None,
            Some("SERVICE_NOT_FOUND"),
        ),
        (
            "bolt",
            Ending::Answered(Failed),
            1,
            Some("SERVICE_ERROR"),
            Some("SERVICE_ERROR"),
        ),
        (
            "bolt",
            Ending::Answered(Invalid),
            2,
            None,
            Some("SERVICE_NOT_FOUND"),
        ),
        ("bolt", Ending::Sent, 0, None, None),
        ("http", ok, 200, None, None),
        ("http", Ending::Answered(Exception), 404, None, Some("404")),
        (
            "http",
            Ending::Answered(Failed),
            503,
            Some("503"),
            Some("503"),
        ),
        (
            "mqtt",
            Ending::Answered(Failed),
            u16::MAX,
            Some("failed"),
            Some("failed"),
        ),
        ("tcp", Ending::Abandoned, u16::MAX, None, Some("abandoned")),
        (
            "http",
            Ending::Rejected(Rejection::DeadlineExceeded),
            503,
            Some("deadline_exceeded"),
            Some("deadline_exceeded"),
        ),
        (
            "dubbo",
            Ending::Rejected(Rejection::BadRequest),
            1,
            None,
            Some("bad_request"),
        ),
    ];
    for (protocol, ending, status, call, attempt) in table {
        let (_, system) = SYSTEMS.iter().find(|(own, _)| *own == protocol).unwrap();
        let kind = kind(protocol, *system, "pay");
        let attempts = vec![attempted(endpoint(), None)];
        let own = exported(&kind, ending, status, attempts);
        let spans = made(&own);
        let errors: Vec<Option<&str>> = spans.iter().map(|own| own.error.as_deref()).collect();
        assert_eq!(errors, [call, attempt], "{protocol} {ending:?} {status}");
        for (span, error) in spans.iter().zip(errors) {
            assert_eq!(text(span, "error.type"), error.unwrap_or_default());
        }
    }
}

#[test]
fn spans_are_named_as_the_conventions_have_it() {
    let ok = Ending::Answered(Outcome::Success);
    let of = |protocol: &'static str, method: &str| {
        let (_, system) = SYSTEMS.iter().find(|(own, _)| *own == protocol).unwrap();
        let kind = kind(protocol, *system, method);
        let own = exported(&kind, ok, 0, vec![attempted(endpoint(), None)]);
        let spans = made(&own);
        (spans[0].name.to_string(), spans[0].role, spans[1].role)
    };
    use Role::{Client, Producer, Server};
    let table = [
        ("dubbo", "pay", "com.acme.Pay/pay", Client),
        ("dubbo", "", "com.acme.Pay", Client),
        ("http", "GET", "GET", Client),
        ("http", "(other)", "HTTP", Client),
        ("mqtt", "publish", "publish", Producer),
        ("mqtt", "connect", "connect", Client),
        ("tcp", "", "tcp", Client),
    ];
    for (protocol, method, name, role) in table {
        assert_eq!(of(protocol, method), (name.to_owned(), Server, role));
    }
}

#[test]
fn attempts_say_where_they_went_and_which_one_they_are() {
    let ok = Ending::Answered(Outcome::Success);
    let http = kind("http", System::Http, "GET");
    let attempts = vec![
        attempted(endpoint(), Some("connection_lost")),
        attempted(endpoint(), None),
    ];
    let own = exported(&http, ok, 200, attempts);
    let spans = made(&own);
    assert_eq!(text(&spans[1], "error.type"), "connection_lost");
    assert_eq!(text(&spans[1], "http.response.status_code"), "");
    assert_eq!(text(&spans[2], "http.response.status_code"), "200");
    assert_eq!(text(&spans[2], "http.request.resend_count"), "1");
    assert_eq!(text(&spans[2], "url.full"), "https://com.acme.Pay/pay");
    assert_eq!(text(&spans[2], "network.peer.address"), "10.0.0.1");
    assert_eq!((spans[2].parent, spans[0].parent), (SpanId(6), SpanId(5)));
    assert_eq!(
        (spans[0].began, spans[0].ended, spans[1].ended),
        (10, 30, 20)
    );
    let mqtt = kind("mqtt", System::Messaging { name: "mqtt" }, "publish");
    let sent = SpanTarget::Destination("kafka", "plant".into());
    let own = exported(&mqtt, ok, 0, vec![attempted(sent, None)]);
    let spans = made(&own);
    assert_eq!(
        (&*spans[1].name, spans[1].role),
        ("send plant", Role::Producer)
    );
    assert_eq!(text(&spans[1], "messaging.system"), "kafka");
    assert_eq!(text(&spans[1], "messaging.destination.name"), "plant");
    assert_eq!(text(&spans[0], "messaging.destination.name"), "a/b");
}
