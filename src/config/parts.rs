//! Recovery from mistakes: where a file cannot be read whole, each part is read alone and tells its own first mistake.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::file;
use super::units::Placed;
use super::words::explain;
use super::{Wrong, options};

/// A file that is longer is not read again and again.
const LONGEST: usize = 1 << 20;

/// Reads one part of the file, as if nothing else stood there, and tells what is wrong with it.
macro_rules! parts {
    ($text:expr, $wrong:ident, $($key:ident: $type:ty),+ $(,)?) => {
        $({
            #[derive(Deserialize)]
            #[expect(dead_code, reason = "it is only read to see whether it can be")]
            struct Part {
                $key: Option<$type>,
            }
            let read: Result<Part, _> = serde_saphyr::from_str_with_options($text, options());
            if let Err(error) = read
                && let (Some(place), message) = explain(&error, $text)
            {
                $wrong.push(Wrong::at(place, message));
            }
        })+
    };
}

/// The first mistake of every part, besides the `first` that was found, by their places.
pub(super) fn all(text: &str, first: Wrong) -> Vec<Wrong> {
    let mut wrong = vec![first];
    if text.len() > LONGEST {
        return wrong;
    }
    parts!(
        text, wrong,
        workers: Placed<usize>,
        admin: Placed<file::Admin>,
        registries: BTreeMap<String, Placed<file::Registry>>,
        snapshots: file::Snapshots,
        register: Vec<file::Register>,
        bridges: Vec<file::Bridge>,
        mesh_registry: file::MeshRegistry,
        kafka: BTreeMap<String, Placed<file::Kafka>>,
        rocketmq: BTreeMap<String, Placed<file::RocketMqCluster>>,
        subscriptions: Vec<file::MqttSubscription>,
        groups: Vec<file::RocketMqGroup>,
        listeners: Placed<Vec<file::Listener>>,
        routes: BTreeMap<String, Vec<Placed<file::Route>>>,
        clusters: BTreeMap<String, Placed<file::Cluster>>,
        registry_clusters: Placed<file::Policy>,
        limits: file::Limits,
        log: file::Log,
    );
    wrong.sort_by_key(|own| own.place);
    // What breaks YAML itself is found by every part, and so is what was found first.
    wrong.dedup_by_key(|own| own.place);
    wrong
}
