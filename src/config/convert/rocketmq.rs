//! Listeners in front of RocketMQ's name servers, from the file's types.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use finback_core::route::{Destination, RouteTable};
use finback_rocketmq::{AclKeys, GroupLanes, Renaming};

use crate::bridges::rocketmq::{Credentials, signer};
use crate::config::file;
use crate::config::folder::Folder;
use crate::rocketmq::{BrokerListeners, Settings};

use super::{Frame, Listeners, Names, Placed, Result, Wrong, Wrongs, expect_spoken, known};

/// The fewest ports that one broker needs.
const LEAST: u16 = 3;
/// The property that names a message's lane.
const LANE: &str = "lane";

/// Brokers of a listener, with where its settings stand.
pub(super) struct OfListener {
    pub(super) name: Arc<str>,
    pub(super) place: (u64, u64),
    pub(super) brokers: Arc<BrokerListeners>,
}

/// What a listener is to do with brokers; `None` unless it speaks RocketMQ.
pub(super) fn settings(
    from: Option<Placed<file::RocketMqListener>>,
    protocol: Option<&Placed<String>>,
    frame: Frame,
    names: &Names,
    folder: &Folder<'_>,
) -> Result<Option<Placed<Settings>>> {
    let spoken = protocol.filter(|own| own.value == finback_rocketmq::NAME);
    let Some(Placed { value, place }) = from else {
        return match spoken {
            None => Ok(None),
            Some(own) => {
                let message = "RocketMQ needs ports for its brokers; write \
                               `rocketmq: { broker_ports: 20000-20299 }`, three for each broker";
                Err(Wrong::at(own.place, message))
            }
        };
    };
    expect_spoken(finback_rocketmq::NAME, protocol, place)?;
    if spoken.is_none() {
        let message = "RocketMQ is not told apart by its first bytes; write `protocol: rocketmq`";
        return Err(Wrong::at(place, message));
    }
    let range = range(&value.broker_ports)?;
    let cluster = match value.broker_cluster {
        None => None,
        Some(cluster) => {
            known(&names.clusters, "cluster", &cluster)?;
            Some(cluster.value.into())
        }
    };
    let advertise = match value.advertise {
        // Clients take addresses apart at colons and commas.
        Some(host) if host.value.is_empty() || host.value.contains([':', ',', ' ', '"']) => {
            let message = format!(
                "`{}` is not a host that clients could dial; write a name or an IPv4 address, without a port",
                host.value
            );
            return Err(Wrong::at(host.place, message));
        }
        host => host.map(|host| host.value.into()),
    };
    let mut topics = renaming(&value.rename)?;
    let lanes = value.lanes.map(lanes).transpose()?;
    if let Some(lane) = lanes.as_ref().and_then(GroupLanes::own) {
        topics.set_lane(lane);
    }
    let keys = keys(value.keys, folder)?;
    let mut config = finback_rocketmq::Config {
        advertise,
        topics: Arc::new(topics),
        administration: value.administration,
        lanes,
        keys: AclKeys::new(keys.iter().map(signer).collect()),
        ..finback_rocketmq::Config::default()
    };
    config.max_frame = frame.most.unwrap_or(config.max_frame.min(frame.queue_hard));
    Ok(Some(Placed {
        value: Settings {
            ports: range,
            cluster,
            config,
            credentials: keys.into_iter().next(),
        },
        place,
    }))
}

/// Ports for brokers.
fn range(ports: &Placed<String>) -> Result<RangeInclusive<u16>> {
    let range = ports
        .value
        .split_once('-')
        .and_then(|(first, last)| Some(first.trim().parse().ok()?..=last.trim().parse().ok()?));
    let range = range.filter(|own: &RangeInclusive<u16>| {
        *own.start() > 0 && own.end().checked_sub(*own.start()) >= Some(LEAST - 1)
    });
    range.ok_or_else(|| {
        let message = format!(
            "`{}` is not a port range; write FIRST-LAST, three for each broker, such as 20000-20299",
            ports.value
        );
        Wrong::at(ports.place, message)
    })
}

/// Topics that brokers call otherwise.
fn renaming(from: &BTreeMap<String, Placed<String>>) -> Result<Renaming> {
    let mut topics = Renaming::default();
    for (own, there) in from {
        let added = topics.add(own, &there.value);
        added.map_err(|message| Wrong::at(there.place, message))?;
    }
    Ok(topics)
}

/// Which lane consumers are in, or others.
fn lanes(Placed { value, place }: Placed<file::ConsumerLanes>) -> Result<GroupLanes> {
    let property = value.property.as_deref().unwrap_or(LANE);
    let made = match (&value.own, &value.others[..]) {
        (Some(own), []) => GroupLanes::of_lane(property, own),
        (None, others @ [_, ..]) => GroupLanes::of_base(property, others),
        _ => Err(
            "whose lanes? write either `own`, the lane of this listener's consumers, or `others`, \
             the lanes that consumers elsewhere are in"
                .to_owned(),
        ),
    };
    made.map_err(|message| Wrong::at(place, message))
}

/// Keys of ACLs, by different names.
fn keys(from: Vec<Placed<file::AclKey>>, folder: &Folder<'_>) -> Result<Vec<Credentials>> {
    let mut all: Vec<Credentials> = Vec::new();
    for Placed { value, place } in from {
        let access_key = value.access_key;
        if access_key.is_empty() || all.iter().any(|own| own.access_key == access_key) {
            let message = format!("`{access_key}` is not an access key, or stands there twice");
            return Err(Wrong::at(place, message));
        }
        let secret_key = folder.secret(&value.secret_key_file)?;
        all.push(Credentials {
            access_key,
            secret_key,
        });
    }
    Ok(all)
}

/// Checks what only all listeners and routes together tell.
pub(super) fn settle(all: &mut Listeners, tables: &[RouteTable], wrongs: &mut Wrongs) {
    let mut found = Vec::new();
    for (at, own) in all.rocketmq.iter().enumerate() {
        let ports = own.brokers.ports();
        let meets = |first: u16, last: u16| first <= *ports.end() && last >= *ports.start();
        let listener = all.specs.iter().find(|spec| {
            let port = spec.address.port();
            meets(port, port)
        });
        if let Some(listener) = listener {
            let message = format!(
                "the listener {} has a port among those for brokers; move one",
                listener.name
            );
            wrongs.add(Wrong::at(own.place, message));
        }
        let earlier = all.rocketmq[..at].iter().find(|other| {
            let other = other.brokers.ports();
            meets(*other.start(), *other.end())
        });
        if let Some(earlier) = earlier {
            let message = format!(
                "the listener {} has some of these ports for its brokers; move one",
                earlier.name
            );
            wrongs.add(Wrong::at(own.place, message));
        }
        if own.brokers.cluster().is_none() {
            match only_cluster(all, own, tables) {
                Some(cluster) => found.push((own.name.clone(), own.brokers.clone(), cluster)),
                None => {
                    let message = "its routes lead to several clusters, or to none; write as \
                                   `broker_cluster` the one whose policy holds for brokers";
                    wrongs.add(Wrong::at(own.place, message));
                }
            }
        }
    }
    for (name, brokers, cluster) in found {
        brokers.set_cluster(&cluster);
        // Where that changes, its listener begins anew.
        if let Some(spec) = all.specs.iter_mut().find(|spec| spec.name == name) {
            spec.settings = format!("{} {cluster}", spec.settings).into();
        }
    }
}

/// The cluster that all routes of a listener lead to.
fn only_cluster(all: &Listeners, own: &OfListener, tables: &[RouteTable]) -> Option<Arc<str>> {
    let spec = all.specs.iter().find(|spec| spec.name == own.name)?;
    let table = tables.iter().find(|table| table.name == spec.routes)?;
    let clusters = table.routes.iter().flat_map(|route| match &route.to {
        Destination::Clusters(weighted) => weighted.iter().map(|own| Some(&own.cluster)).collect(),
        Destination::Registry { .. } | Destination::Treatment => vec![None],
    });
    let mut clusters: Vec<_> = clusters.collect();
    clusters.dedup();
    match clusters[..] {
        [Some(only)] => Some(only.clone()),
        _ => None,
    }
}
