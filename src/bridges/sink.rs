//! Messages of MQTT and bodies of HTTP for another system: what each becomes there.

use bytes::Bytes;
use finback_bridges::{BRIDGE, Confirm, Failure, Message, Place, Template, way};
use finback_http::{Handler, Handling};
use finback_mqtt::codec::properties::{Value, id};
use finback_mqtt::{MessageSink, NotTaken, OutgoingMessage, Receipt};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use tokio::sync::oneshot;

use super::BridgeOutlet;

/// The longest body of a request; brokers take no more unless they are told to.
const MAX_BODY: usize = 1024 * 1024;
/// Headers of HTTP that go along, besides those that are asked for as a key.
const KEPT: [&str; 12] = [
    "content-type",
    "traceparent",
    "tracestate",
    "baggage",
    "uber-trace-id",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "sw8",
];
/// Beginnings of headers that only we write, in any case: what clients say under such a name is left out,
/// for most readers take the last of several.
const OURS: [&str; 4] = ["mqtt.", "http.", BRIDGE, CONTENT_TYPE];
const CONTENT_TYPE: &str = "content-type";

/// What decides about a message's partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The client that it comes from.
    ClientId,
    /// Its topic or path.
    Topic,
    /// A user property or header.
    Property(String),
    /// Nothing.
    None,
}

/// What a message is found by, where a system has that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Tag {
    /// Nothing.
    #[default]
    None,
    /// All have this one.
    Fixed(String),
    /// A user property or header.
    Property(String),
}

/// Where messages of one route go.
#[derive(Debug)]
pub struct BridgeSink {
    /// The cluster.
    pub outlet: BridgeOutlet,
    /// The topic there.
    pub topic: Template,
    /// What decides about the partition.
    pub key: Key,
    /// What messages are found by.
    pub tag: Tag,
    /// Headers of HTTP that go along, besides those that always do.
    pub headers: Vec<String>,
}

fn is_ours(name: &str) -> bool {
    let begins = |own: &&str| {
        let begin = name.as_bytes().get(..own.len());
        begin.is_some_and(|begin| begin.eq_ignore_ascii_case(own.as_bytes()))
    };
    OURS.iter().any(begins)
}

fn not_taken(failure: Failure) -> NotTaken {
    match failure {
        Failure::Full => NotTaken::Full,
        Failure::TooLarge => NotTaken::TooLarge,
        Failure::NoTopic => NotTaken::BadTopic,
        Failure::TooManyTopics => NotTaken::TooManyTopics,
        Failure::Loop => NotTaken::Loop,
        Failure::TimedOut | Failure::Failed => NotTaken::Failed,
    }
}

impl MessageSink for BridgeSink {
    fn take(&self, message: &OutgoingMessage<'_>, receipt: Receipt) -> Result<(), NotTaken> {
        let confirm = receipt.is_awaited().then(|| -> Confirm {
            Box::new(move |went| receipt.tell(went.map(drop).map_err(not_taken)))
        });
        self.write_message(message, confirm).map_err(not_taken)
    }

    fn limit(&self) -> usize {
        self.outlet.get().limit()
    }

    fn destination(&self, topic: &str) -> Option<(&'static str, String)> {
        Some((self.outlet.get().system(), self.topic.fill(topic)?))
    }

    fn explain(&self) -> String {
        self.in_words()
    }
}

impl BridgeSink {
    fn in_words(&self) -> String {
        let (system, name) = (self.outlet.get().system(), self.outlet.get().name());
        format!("{system} {name}, topic {}", self.topic)
    }

    /// What a message is found by, whose properties are these.
    fn tag<'a>(&'a self, property: impl Fn(&str) -> Option<&'a str>) -> Option<&'a str> {
        match &self.tag {
            Tag::None => None,
            Tag::Fixed(tag) => Some(tag),
            Tag::Property(name) => property(name),
        }
    }

    /// Hands a message of MQTT to the producer.
    ///
    /// # Errors
    /// Why it is not taken; `confirm` is gone then.
    pub fn write_message(
        &self,
        message: &OutgoingMessage<'_>,
        confirm: Option<Confirm>,
    ) -> Result<(), Failure> {
        let topic = self.topic.fill(message.topic).ok_or(Failure::NoTopic)?;
        let before = message.properties.user(BRIDGE).unwrap_or_default();
        let way = way(before, self.outlet.get(), &topic)?;
        let qos = [b'0' + message.qos];
        let mut headers: Vec<(&str, &[u8])> = vec![
            ("mqtt.topic", message.topic.as_bytes()),
            ("mqtt.qos", &qos),
            (
                "mqtt.retain",
                if message.retain { b"true" } else { b"false" },
            ),
            ("mqtt.client_id", message.client_id.as_bytes()),
            (BRIDGE, way.as_bytes()),
        ];
        for (name, value) in [
            ("mqtt.username", message.username),
            ("mqtt.identity", message.identity),
        ] {
            if !value.is_empty() {
                headers.push((name, value.as_bytes()));
            }
        }
        for (id, value) in message.properties.iter() {
            match (id, value) {
                (id::CONTENT_TYPE, Value::Text(text)) => {
                    headers.push((CONTENT_TYPE, text.as_bytes()));
                }
                (id::RESPONSE_TOPIC, Value::Text(text)) => {
                    headers.push(("mqtt.response_topic", text.as_bytes()));
                }
                (id::CORRELATION_DATA, Value::Binary(bytes)) => {
                    headers.push(("mqtt.correlation_data", bytes));
                }
                (_, Value::Pair(name, value)) if !is_ours(name) => {
                    headers.push((name, value.as_bytes()));
                }
                _ => {}
            }
        }
        let key = match &self.key {
            Key::ClientId => Some(message.client_id),
            Key::Topic => Some(message.topic),
            Key::Property(name) => message.properties.user(name),
            Key::None => None,
        };
        let written = Message {
            topic: &topic,
            owner: message.identity,
            key: key.map(str::as_bytes),
            tag: self.tag(|name| message.properties.user(name)),
            payload: message.payload,
            headers: &headers,
        };
        self.outlet.get().send(&written, confirm)
    }
}

fn plain(status: StatusCode, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// A place in the words of its system.
fn as_json(place: &Place) -> serde_json::Value {
    let Place {
        broker,
        partition,
        offset,
    } = place;
    match broker {
        None => serde_json::json!({ "partition": partition, "offset": offset }),
        Some(broker) => {
            serde_json::json!({ "broker": **broker, "queue": partition, "offset": offset })
        }
    }
}

fn failed(failure: Failure) -> Response<Bytes> {
    let status = match failure {
        Failure::Full | Failure::TooManyTopics => StatusCode::TOO_MANY_REQUESTS,
        Failure::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Failure::NoTopic => StatusCode::NOT_FOUND,
        Failure::Loop => StatusCode::LOOP_DETECTED,
        Failure::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        Failure::Failed => StatusCode::SERVICE_UNAVAILABLE,
    };
    plain(
        status,
        serde_json::json!({ "error": failure.to_string() }).to_string(),
    )
}

impl BridgeSink {
    /// Hands a request's body to the producer.
    fn write(&self, head: &Parts, body: &[u8], confirm: Option<Confirm>) -> Result<(), Failure> {
        let path = head.uri.path().trim_matches('/');
        let topic = self.topic.fill(path).ok_or(Failure::NoTopic)?;
        let own = |name: &str| head.headers.get(name).map(HeaderValue::as_bytes);
        let before = own(BRIDGE).map(std::str::from_utf8).transpose();
        let before = before.map_err(|_| Failure::Loop)?.unwrap_or_default();
        let way = way(before, self.outlet.get(), &topic)?;
        let mut headers: Vec<(&str, &[u8])> =
            vec![("http.path", path.as_bytes()), (BRIDGE, way.as_bytes())];
        headers.extend(KEPT.iter().filter_map(|name| Some((*name, own(name)?))));
        let asked = self.headers.iter().map(String::as_str);
        let asked = asked.filter(|name| !KEPT.contains(name));
        headers.extend(asked.filter_map(|name| Some((name, own(name)?))));
        let key = match &self.key {
            Key::Topic => Some(path.as_bytes()),
            Key::Property(name) => own(name),
            Key::ClientId | Key::None => None,
        };
        let written = Message {
            topic: &topic,
            owner: "",
            key,
            tag: self.tag(|name| str::from_utf8(own(name)?).ok()),
            payload: body,
            headers: &headers,
        };
        self.outlet.get().send(&written, confirm)
    }
}

impl Handler for BridgeSink {
    fn limit(&self) -> usize {
        MAX_BODY
    }

    fn destination(&self, head: &Parts) -> Option<(&'static str, String)> {
        let path = head.uri.path().trim_matches('/');
        let topic = (head.method == Method::POST).then(|| self.topic.fill(path));
        Some((self.outlet.get().system(), topic??))
    }

    fn explain(&self) -> String {
        self.in_words()
    }

    fn take(&self, head: &Parts, body: Bytes) -> Handling {
        if head.method != Method::POST {
            let mut response = plain(
                StatusCode::METHOD_NOT_ALLOWED,
                "{\"error\":\"messages are sent by POST\"}".to_owned(),
            );
            let allowed = HeaderValue::from_static("POST");
            response.headers_mut().insert(header::ALLOW, allowed);
            return Box::pin(std::future::ready(response));
        }
        // RFC 7240, section 4.1: the caller does not wait for what comes of it.
        let prefers = head.headers.get_all("prefer").iter();
        let careless = prefers
            .filter_map(|value| value.to_str().ok())
            .flat_map(|list| list.split(','))
            .any(|word| word.trim().eq_ignore_ascii_case("respond-async"));
        if careless {
            let written = self.write(head, &body, None);
            let response = match written {
                Ok(()) => plain(StatusCode::ACCEPTED, "{}".to_owned()),
                Err(failure) => failed(failure),
            };
            return Box::pin(std::future::ready(response));
        }
        let (tell, told) = oneshot::channel::<Result<Place, Failure>>();
        let confirm: Confirm = Box::new(move |went| {
            // Who does not wait any more has been told that it took too long.
            let _ = tell.send(went);
        });
        let written = self.write(head, &body, Some(confirm));
        Box::pin(async move {
            let went = match written {
                Ok(()) => told.await.unwrap_or(Err(Failure::Failed)),
                Err(failure) => Err(failure),
            };
            match went {
                Ok(place) => plain(StatusCode::OK, as_json(&place).to_string()),
                Err(failure) => failed(failure),
            }
        })
    }
}
