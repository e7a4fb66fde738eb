//! Answers of name servers, with our own listeners in place of the brokers' addresses.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::brokers::{Broker, Brokers};
use crate::code::request;
use crate::rename::Renaming;

/// Rewrites answers for the clients of one connection.
pub(crate) struct Rewriter<'a> {
    /// The host that clients dial.
    pub(crate) host: &'a str,
    pub(crate) brokers: &'a dyn Brokers,
    pub(crate) topics: &'a Renaming,
}

/// Whether the answer to a request tells addresses of brokers.
pub(crate) fn tells_addresses(code: i32) -> bool {
    matches!(
        code,
        request::GET_ROUTEINFO_BY_TOPIC
            | request::GET_BROKER_CLUSTER_INFO
            | request::GET_BROKER_MEMBER_GROUP
            | request::GET_ALL_TOPIC_LIST
            | request::GET_TOPICS_BY_CLUSTER
            | request::GET_SYSTEM_TOPIC_LIST
    )
}

impl Rewriter<'_> {
    /// The body with our addresses in it. One that cannot be read is replaced by one that tells of no broker: an
    /// address must not lead past the mesh.
    pub(crate) fn rewrite(&self, code: i32, body: &[u8]) -> Vec<u8> {
        let Some(Value::Object(mut data)) = read(body) else {
            return b"{}".to_vec();
        };
        match code {
            // TopicRouteData.
            request::GET_ROUTEINFO_BY_TOPIC => self.route(&mut data),
            // ClusterInfo.
            request::GET_BROKER_CLUSTER_INFO => {
                let table = data
                    .get_mut("brokerAddrTable")
                    .and_then(Value::as_object_mut);
                for broker in table.into_iter().flat_map(Map::values_mut) {
                    let own = broker.as_object_mut();
                    if !own.is_some_and(|broker| self.broker(broker)) {
                        *broker = Value::Object(Map::new());
                    }
                }
            }
            // BrokerMemberGroup.
            request::GET_BROKER_MEMBER_GROUP => {
                if !self.broker(&mut data) {
                    data.remove("brokerAddrs");
                }
            }
            // TopicList.
            _ => {
                data.remove("brokerAddr");
                if let Some(Value::Array(topics)) = data.get_mut("topicList") {
                    self.topics.list(topics);
                }
            }
        }
        serde_json::to_vec(&Value::Object(data)).unwrap_or_default()
    }

    fn route(&self, data: &mut Map<String, Value>) {
        // Servers that filter messages are dialled too, and nobody has had one since 4.3.
        data.insert("filterServerTable".to_owned(), Map::new().into());
        let brokers = data.get_mut("brokerDatas").and_then(Value::as_array_mut);
        let Some(brokers) = brokers else { return };
        // A broker without an address would be one that clients wait for.
        brokers.retain_mut(|broker| broker.as_object_mut().is_some_and(|own| self.broker(own)));
        // Nor is one a place to look for messages.
        let left: Vec<Value> = brokers
            .iter()
            .map(|own| own["brokerName"].clone())
            .collect();
        if let Some(queues) = data.get_mut("queueDatas").and_then(Value::as_array_mut) {
            queues.retain(|own| left.contains(&own["brokerName"]));
        }
    }

    /// Rewrites the addresses of one BrokerData; false if none is left.
    fn broker(&self, data: &mut Map<String, Value>) -> bool {
        let name = |key| {
            data.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let (cluster, name) = (name("cluster"), name("brokerName"));
        let addresses = data.get_mut("brokerAddrs").and_then(Value::as_object_mut);
        let Some(addresses) = addresses else {
            return false;
        };
        addresses.retain(|id, address| {
            let (Some(known), Ok(id)) = (address.as_str(), id.parse()) else {
                return false;
            };
            let broker = Broker {
                cluster: &cluster,
                name: &name,
                id,
                address: known,
            };
            let Some(port) = self.brokers.port(&broker) else {
                return false;
            };
            *address = Value::String(format!("{}:{port}", self.host));
            true
        });
        !addresses.is_empty()
    }
}

/// A queue that messages may be sent to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Queue {
    /// The name of its broker.
    pub broker: Arc<str>,
    /// Its number there.
    pub id: i32,
    /// Where that broker's master listens.
    pub address: Arc<str>,
}

/// RocketMQ: PermName, `PERM_WRITE`.
const MAY_WRITE: i64 = 2;
/// Queues of a broker, at most: more are no topic, but a mistake.
const QUEUES: u32 = 4096;

/// The queues that the answer to 105 has for messages, ordered by broker and number; of each broker `most` at most. The same
/// order as in Java's clients, so that both take the same queue for a key.
#[must_use]
pub fn queues(body: &[u8], most: u32) -> Vec<Queue> {
    let Some(data) = read(body) else {
        return Vec::new();
    };
    let list = |key: &str| {
        data.get(key)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let mut all = Vec::new();
    for own in list("queueDatas") {
        let number = |key: &str| own[key].as_i64().unwrap_or_default();
        let master = list("brokerDatas").find(|broker| broker["brokerName"] == own["brokerName"]);
        // Messages are taken by masters only.
        let address = master.and_then(|broker| broker["brokerAddrs"]["0"].as_str());
        let (Some(broker), Some(address)) = (own["brokerName"].as_str(), address) else {
            continue;
        };
        if number("perm") & MAY_WRITE == 0 {
            continue;
        }
        let (broker, address): (Arc<str>, Arc<str>) = (broker.into(), address.into());
        let count = u32::try_from(number("writeQueueNums")).unwrap_or_default();
        let numbers = 0..i32::try_from(count.min(most).min(QUEUES)).unwrap_or_default();
        all.extend(numbers.map(|id| Queue {
            broker: broker.clone(),
            id,
            address: address.clone(),
        }));
    }
    all.sort();
    all
}

/// Whether the answer to 106 tells of any broker: a name server that has just started knows none, and no topic.
#[must_use]
pub fn has_brokers(body: &[u8]) -> bool {
    let data = read(body);
    let table = data
        .as_ref()
        .and_then(|own| own["brokerAddrTable"].as_object());
    table.is_some_and(|own| !own.is_empty())
}

/// The body of an answer or request, as leniently as it may be written.
pub(crate) fn read(body: &[u8]) -> Option<Value> {
    serde_json::from_str(&quoted(str::from_utf8(body).ok()?)).ok()
}

/// JSON with the keys quoted that fastjson writes without quotes: those of maps whose keys are numbers.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let (mut in_text, mut escaped) = (false, false);
    // Whether each open bracket is that of an object; whether a key may come.
    let (mut open, mut key) = (Vec::new(), false);
    let mut number = false;
    for char in text.chars() {
        if in_text {
            in_text = escaped || char != '"';
            escaped = !escaped && char == '\\';
            out.push(char);
            continue;
        }
        let is_digit = char.is_ascii_digit() || char == '-';
        if number && !is_digit {
            out.push('"');
            number = false;
        }
        match char {
            '"' => (in_text, key) = (true, false),
            '{' => {
                open.push(true);
                key = true;
            }
            '[' => {
                open.push(false);
                key = false;
            }
            '}' | ']' => {
                open.pop();
                key = false;
            }
            ',' => key = open.last() == Some(&true),
            _ if key && is_digit => {
                out.push('"');
                (number, key) = (true, false);
            }
            char if char.is_whitespace() => {}
            _ => key = false,
        }
        out.push(char);
    }
    out
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// Gives brokers 0 to 9 with an address the port 9000 and their number.
    struct Toy;

    impl Brokers for Toy {
        fn port(&self, broker: &Broker<'_>) -> Option<u16> {
            assert_eq!((broker.cluster, broker.name), ("c1", "b1"));
            let id = u16::try_from(broker.id).ok().filter(|id| *id < 10)?;
            broker.address.parse::<std::net::SocketAddr>().ok()?;
            Some(9000 + id)
        }
    }

    fn rewrite(code: i32, body: &str) -> Value {
        let rewriter = Rewriter {
            host: "mesh",
            brokers: &Toy,
            topics: &Renaming::default(),
        };
        serde_json::from_slice(&rewriter.rewrite(code, body.as_bytes())).unwrap()
    }

    #[test]
    fn no_address_of_a_broker_is_left() {
        let data = r#"{"brokerAddrs":{0:"127.0.0.1:26110",-1 :"no.such.host:1","1":"10.0.0.2:1",12:"10.0.0.3:1"},"brokerName":"b1","cluster":"c1"}"#;
        let own: Value = serde_json::from_str(
            r#"{"brokerAddrs":{"0":"mesh:9000","1":"mesh:9001"},"brokerName":"b1","cluster":"c1"}"#,
        )
        .unwrap();
        let route = rewrite(
            105,
            &format!(
                r#"{{"brokerDatas":[{data},{{"brokerAddrs":{{2:"x:1"}},"brokerName":"b1","cluster":"c1"}}],"filterServerTable":{{"a":["10.0.0.9:1"]}},"queueDatas":[{{"brokerName":"b0"}},{{"brokerName":"b1","perm":6,"a":[1,2]}}]}}"#
            ),
        );
        assert_eq!(route["brokerDatas"], Value::Array(vec![own.clone()]));
        assert_eq!(route["queueDatas"][0]["a"], serde_json::json!([1, 2]));
        assert_eq!(route["queueDatas"].as_array().unwrap().len(), 1);
        assert_eq!(route["filterServerTable"], serde_json::json!({}));
        let info = rewrite(
            106,
            &format!(r#"{{"brokerAddrTable":{{"b1":{data}}},"clusterAddrTable":{{"c1":["b1"]}}}}"#),
        );
        assert_eq!(info["brokerAddrTable"]["b1"], own);
        assert_eq!(info["clusterAddrTable"]["c1"][0], "b1");
        assert_eq!(rewrite(901, data), own);
        let odd = r#"{"brokerAddrs":"10.0.0.1:1","brokerName":"b1","cluster":"c1"}"#;
        assert_eq!(rewrite(901, odd)["brokerAddrs"], Value::Null);
        let info = rewrite(106, &format!(r#"{{"brokerAddrTable":{{"b1":{odd}}}}}"#));
        assert_eq!(info["brokerAddrTable"]["b1"], serde_json::json!({}));
        for code in [206, 224, 304] {
            let list = r#"{"brokerAddr":"10.0.0.1:1","topicList":["T"]}"#;
            assert_eq!(
                rewrite(code, list),
                serde_json::json!({ "topicList": ["T"] })
            );
        }
    }

    #[test]
    fn what_cannot_be_read_tells_nothing() {
        for body in ["", "x", "[1]", "\"10.0.0.1:1\"", "{\"a\":}"] {
            assert_eq!(rewrite(105, body), serde_json::json!({}), "{body}");
        }
        let deep = "[".repeat(200_000);
        assert_eq!(rewrite(105, &deep), serde_json::json!({}));
    }
}
