//! Messages of MQTT and bodies of HTTP for Kafka: what each becomes there.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use finback_http::{Taker, Taking};
use finback_kafka::{Confirm, Failure, Message, Place, Producer, Template};
use finback_mqtt::codec::properties::{Value, id};
use finback_mqtt::{NotTaken, Outgoing, Receipt, Sink};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode, header};
use tokio::sync::oneshot;

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
/// The header by which messages tell into which topics of Kafka they have been written, each as
/// `CLUSTER/TOPIC`, so that those that are brought back into the mesh do not go round for ever.
const BRIDGE: &str = "x-mesh-bridge";
/// Beginnings of headers that only we write, in any case: what clients say under such a name is left out,
/// for most readers take the last of several.
const OURS: [&str; 4] = ["mqtt.", "http.", BRIDGE, CONTENT_TYPE];
const CONTENT_TYPE: &str = "content-type";
/// Through so many bridges a message may go.
const MAX_BRIDGES: usize = 8;

/// A Kafka cluster of the configuration, and its producer once that has been started.
pub struct Outlet {
    /// Its name.
    pub name: String,
    /// How it is spoken to.
    pub config: finback_kafka::Config,
    /// Bytes of the longest message.
    limit: usize,
    producer: OnceLock<Arc<Producer>>,
}

impl fmt::Debug for Outlet {
    /// Options may hold passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outlet")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Outlet {
    /// One that has not been started.
    #[must_use]
    pub fn new(name: &str, config: finback_kafka::Config) -> Self {
        Self {
            name: name.to_owned(),
            limit: config.message_limit(),
            config,
            producer: OnceLock::new(),
        }
    }

    /// Starts its producer, or goes on with that of one that was configured in the same way.
    ///
    /// # Errors
    /// If no producer can be made of its configuration.
    pub fn start(&self, before: &[Arc<Self>]) -> anyhow::Result<()> {
        let same = before
            .iter()
            .find(|own| own.name == self.name && own.config == self.config)
            .and_then(|own| own.producer.get().cloned());
        let producer = match same {
            Some(producer) => producer,
            None => Producer::start(&self.name, self.config.clone()).map_err(anyhow::Error::msg)?,
        };
        let _ = self.producer.set(producer);
        Ok(())
    }

    /// Its producer, if it has been started.
    #[must_use]
    pub fn producer(&self) -> Option<&Arc<Producer>> {
        self.producer.get()
    }
}

/// Writes what is still on its way; waits no longer than this for each. Blocks.
pub fn flush(outlets: &[Arc<Outlet>], limit: Duration) {
    for producer in outlets.iter().filter_map(|own| own.producer()) {
        producer.flush(limit);
    }
}

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

/// Where messages of one route go.
#[derive(Debug)]
pub struct KafkaSink {
    /// The cluster.
    pub outlet: Arc<Outlet>,
    /// The topic of Kafka.
    pub topic: Template,
    /// What decides about the partition.
    pub key: Key,
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

/// The way of a message that has come along `before` and goes to `topic` now.
fn way(before: &str, outlet: &Outlet, topic: &str) -> Result<String, Failure> {
    let here = format!("{}/{topic}", outlet.name);
    if before.is_empty() {
        return Ok(here);
    }
    let bridges = before.split(',').map(str::trim);
    if bridges.clone().count() >= MAX_BRIDGES || bridges.clone().any(|bridge| bridge == here) {
        return Err(Failure::Loop);
    }
    Ok(format!("{before},{here}"))
}

impl Sink for KafkaSink {
    fn take(&self, message: &Outgoing<'_>, receipt: Receipt) -> Result<(), NotTaken> {
        let confirm = receipt.is_awaited().then(|| -> Confirm {
            Box::new(move |went| receipt.tell(went.map(drop).map_err(not_taken)))
        });
        self.write_message(message, confirm).map_err(not_taken)
    }

    fn limit(&self) -> usize {
        self.outlet.limit
    }

    fn destination(&self, topic: &str) -> Option<(&'static str, String)> {
        Some(("kafka", self.topic.fill(topic)?))
    }
}

impl KafkaSink {
    /// Hands a message of MQTT to the producer.
    ///
    /// # Errors
    /// Why it is not taken; `confirm` is gone then.
    pub fn write_message(
        &self,
        message: &Outgoing<'_>,
        confirm: Option<Confirm>,
    ) -> Result<(), Failure> {
        let topic = self.topic.fill(message.topic).ok_or(Failure::NoTopic)?;
        let producer = self.outlet.producer().ok_or(Failure::Failed)?;
        let before = message.properties.user(BRIDGE).unwrap_or_default();
        let way = way(before, &self.outlet, &topic)?;
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
            payload: message.payload,
            headers: &headers,
        };
        producer.send(&written, confirm)
    }
}

fn plain(status: StatusCode, text: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
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

impl KafkaSink {
    /// Hands a request's body to the producer.
    fn write(&self, head: &Parts, body: &[u8], confirm: Option<Confirm>) -> Result<(), Failure> {
        let path = head.uri.path().trim_matches('/');
        let topic = self.topic.fill(path).ok_or(Failure::NoTopic)?;
        let producer = self.outlet.producer().ok_or(Failure::Failed)?;
        let own = |name: &str| head.headers.get(name).map(HeaderValue::as_bytes);
        let before = own(BRIDGE).map(std::str::from_utf8).transpose();
        let before = before.map_err(|_| Failure::Loop)?.unwrap_or_default();
        let way = way(before, &self.outlet, &topic)?;
        let mut headers: Vec<(&str, &[u8])> =
            vec![("http.path", path.as_bytes()), (BRIDGE, way.as_bytes())];
        headers.extend(KEPT.iter().filter_map(|name| Some((*name, own(name)?))));
        let key = match &self.key {
            Key::Topic => Some(path.as_bytes()),
            Key::Property(name) => own(name),
            Key::ClientId | Key::None => None,
        };
        let written = Message {
            topic: &topic,
            owner: "",
            key,
            payload: body,
            headers: &headers,
        };
        producer.send(&written, confirm)
    }
}

impl Taker for KafkaSink {
    fn limit(&self) -> usize {
        MAX_BODY
    }

    fn destination(&self, head: &Parts) -> Option<(&'static str, String)> {
        let path = head.uri.path().trim_matches('/');
        let topic = (head.method == Method::POST).then(|| self.topic.fill(path));
        Some(("kafka", topic??))
    }

    fn take(&self, head: &Parts, body: Bytes) -> Taking {
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
                Ok(Place { partition, offset }) => {
                    let place = serde_json::json!({ "partition": partition, "offset": offset });
                    plain(StatusCode::OK, place.to_string())
                }
                Err(failure) => failed(failure),
            }
        })
    }
}
