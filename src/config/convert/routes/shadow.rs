//! Shadow traffic: a table of its own for the copies of each route.

use std::sync::Arc;

use finback_core::concurrency::Priority;
use finback_core::driver::ListenerSpec;
use finback_core::rng::Share;
use finback_core::route::{Destination, Mark, Match, Retry, Route, RouteTable, Shadow, Weighted};

use super::super::{Names, Result, known};
use crate::config::Wrong;
use crate::config::file;
use crate::config::units::{self, Placed, Time};

/// Protocols whose calls cannot be copied.
const UNCOPIED: [&str; 2] = [finback_rocketmq::NAME, finback_tcp::NAME];

/// Refuses a shadow of a route that no call can take which could be copied.
pub(super) fn check(
    table: &str,
    route: &Route,
    place: (u64, u64),
    listeners: &[ListenerSpec],
) -> Result<()> {
    let spoken = crate::protocols::reaching(listeners, table, route);
    if !spoken.is_empty() && spoken.iter().all(|own| UNCOPIED.contains(own)) {
        if spoken == [finback_rocketmq::NAME] {
            let message = "copies of messages need a RocketMQ cluster of their own; write `rocketmq` in place of `cluster`";
            return Err(Wrong::at(place, message));
        }
        let spoken = spoken.join(", ");
        let message =
            format!("what is spoken there cannot be copied: {spoken}; take `shadow` away");
        return Err(Wrong::at(place, message));
    }
    Ok(())
}

/// A route's shadow, and the table that its copies take.
pub(super) fn shadow(
    (table, route): (&str, &Arc<str>),
    from: Placed<file::Shadow>,
    to: &Destination,
    names: &Names,
) -> Result<(Shadow, RouteTable)> {
    let Placed { value, place } = from;
    let Some(cluster) = value.cluster else {
        let message = "where to? write `cluster`, or `rocketmq` for messages of RocketMQ";
        return Err(Wrong::at(place, message));
    };
    if let Some(topic) = value.topic {
        let message = "only copies for a RocketMQ cluster have a topic; take `topic` away";
        return Err(Wrong::at(topic.place, message));
    }
    known(&names.clusters, "cluster", &cluster)?;
    let cluster: Arc<str> = cluster.value.into();
    let is_own = match to {
        Destination::Clusters(all) => all.iter().any(|own| own.cluster == cluster),
        Destination::Registry { .. } => false,
        Destination::Treatment => {
            let message = "a route that answers itself sends nothing that could be copied; take `shadow` away";
            return Err(Wrong::at(place, message));
        }
    };
    if is_own {
        let message = "the route leads there itself, and copies must not be counted with its calls; write another cluster";
        return Err(Wrong::at(place, message));
    }
    let name: Arc<str> = format!("{table}/{route} (shadow)").into();
    let own = Route {
        name: route.clone(),
        when: Match::default(),
        to: Destination::Clusters(vec![Weighted {
            cluster,
            weight: 1,
            subset: None,
            spill: true,
        }]),
        timeout: value.timeout.map(|Time(own)| own),
        retry: Retry {
            attempts: 1,
            ..Retry::default()
        },
        tracing: None,
        filters: Arc::default(),
        priority: Priority::Sheddable,
        long_poll: false,
        shadow: None,
        tap: None,
        treatment: None,
    };
    let shadow = Shadow {
        table: name.clone(),
        share: value
            .percent
            .map_or(Share::ALL, |units::FractionalPercent(own)| own),
        marks: value.mark.map_or(Ok(Arc::default()), marks)?,
    };
    let routes = vec![Arc::new(own)];
    Ok((shadow, RouteTable { name, routes }))
}

pub(super) fn marks(from: Placed<file::ShadowMark>) -> Result<Arc<[Mark]>> {
    let mark = |protocol: Option<&str>, name: &str, value: &str, appends| Mark {
        protocol: protocol.map(Into::into),
        name: name.into(),
        value: value.into(),
        appends,
    };
    let word = match from.value {
        file::ShadowMark::Attributes(all) => {
            let all = all.iter();
            return Ok(all
                .map(|(name, value)| mark(None, name, value, false))
                .collect());
        }
        file::ShadowMark::Word(word) => word,
    };
    // SOFATracer's business baggage stands in one header of Bolt, as pairs that each end with `&`; over Triple it has a
    // header of its own (SOFA-RPC: PressureMarkTransformFilter). Takin's agents look for one name everywhere.
    let sofa = mark(
        Some(finback_bolt::NAME),
        "rpc_trace_context.sofaPenAttrs",
        "mark=T&",
        true,
    );
    let triple = |protocol| mark(Some(protocol), "tri-traffic-type", "pressure", false);
    match &*word {
        "sofa" => Ok(Arc::new([sofa, triple(finback_grpc::TRIPLE)])),
        "triple-pressure" => Ok(Arc::new([triple(finback_grpc::TRIPLE)])),
        "takin" => Ok(Arc::new([mark(None, "p-pradar-cluster-test", "1", false)])),
        other => {
            let message = format!(
                "`{other}` is not a mark; write sofa, takin, triple-pressure or {{ NAME: VALUE }}"
            );
            Err(Wrong::at(from.place, message))
        }
    }
}
