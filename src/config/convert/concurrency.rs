//! Adaptive concurrency, and the breakers of outlier detection: settings of clusters, and what routes say for them.

use std::num::NonZeroU32;

use finback_core::concurrency::{AdaptiveConcurrency, Priority};
use finback_core::outlier::{self, Outlier};

use super::{Result, set};
use crate::config::Wrong;
use crate::config::file::{self, File};
use crate::config::units::{Percent, Placed, Time};

/// Protocols whose calls are sessions and connections: these are left out.
const SESSIONS: [&str; 2] = [finback_mqtt::NAME, finback_tcp::NAME];

pub(super) fn priority(Placed { value, place }: Placed<String>) -> Result<Priority> {
    match &*value {
        "critical" => Ok(Priority::Critical),
        "default" => Ok(Priority::Default),
        "sheddable" => Ok(Priority::Sheddable),
        _ => {
            let message =
                format!("`{value}` is not a priority; write critical, default or sheddable");
            Err(Wrong::at(place, message))
        }
    }
}

pub(super) fn settings(
    Placed { value, place }: Placed<file::AdaptiveConcurrency>,
) -> Result<AdaptiveConcurrency> {
    let mut settings = AdaptiveConcurrency::default();
    set(&mut settings.min, value.min.map(NonZeroU32::get));
    settings.max = settings.max.max(settings.min);
    set(&mut settings.max, value.max.map(NonZeroU32::get));
    if value.min.is_none() {
        settings.min = settings.min.min(settings.max);
    }
    if settings.max < settings.min {
        let message = format!(
            "`max` is below `min`: no limit is between {} and {}",
            settings.min, settings.max
        );
        return Err(Wrong::at(place, message));
    }
    if let Some(Percent(0)) = value.percentile {
        let message = "of 0 percent of the answers nothing can be learnt; write 1 to 100";
        return Err(Wrong::at(place, message));
    }
    let percent = |share: Option<Percent>| share.map(|Percent(share)| share);
    set(&mut settings.percentile, percent(value.percentile));
    set(&mut settings.buffer, percent(value.buffer));
    Ok(settings)
}

/// The parts of outlier detection that count calls in intervals.
pub(super) fn rates(policy: &mut Outlier, from: &file::Outlier) -> Result<()> {
    policy.success_rate = from.success_rate.as_ref().map(success_rate).transpose()?;
    policy.failure_percentage = from.failure_percentage.as_ref().map(failure_percentage);
    if let Some(Placed {
        value: Time(interval),
        place,
    }) = from.interval
    {
        if !policy.is_rated() {
            let message = "nothing is counted in intervals; write `success_rate` or `failure_percentage`, or take \
                           `interval` away";
            return Err(Wrong::at(place, message));
        }
        policy.interval = interval;
    }
    Ok(())
}

fn success_rate(from: &file::SuccessRate) -> Result<outlier::SuccessRate> {
    let mut rule = outlier::SuccessRate::default();
    set(
        &mut rule.min_endpoints,
        from.min_endpoints.map(NonZeroU32::get),
    );
    set(&mut rule.volume, from.volume.map(NonZeroU32::get));
    if let Some(Placed { value, place }) = from.stdev_factor {
        if !(0.0..=100.0).contains(&value) {
            let message = format!("{value} is not a factor; write 0 to 100, such as 1.9");
            return Err(Wrong::at(place, message));
        }
        rule.stdev_factor = (value * 1000.0).round() as u32;
    }
    Ok(rule)
}

fn failure_percentage(from: &file::FailurePercentage) -> outlier::FailurePercentage {
    let mut rule = outlier::FailurePercentage::default();
    let threshold = from.threshold.map(|Percent(share)| share);
    set(&mut rule.threshold, threshold);
    set(
        &mut rule.min_endpoints,
        from.min_endpoints.map(NonZeroU32::get),
    );
    set(&mut rule.volume, from.volume.map(NonZeroU32::get));
    rule
}

/// Refuses what could have no effect: a priority where nothing is limited, and a limit where only sessions go.
pub(super) fn check(file: &File) -> Vec<Wrong> {
    let mut found = Vec::new();
    for (table, routes) in &file.routes {
        for Placed { value, .. } in routes {
            let priority = value.priority.as_ref().map(|own| ("priority", own.place));
            let long_poll = value.long_poll.as_ref().map(|own| ("long_poll", own.place));
            for (key, place) in priority.into_iter().chain(long_poll) {
                if let Some(why) = idle(file, table, value) {
                    let message = format!("{why}; take `{key}` away");
                    found.push(Wrong::at(place, message));
                }
            }
        }
    }
    for (name, cluster) in &file.clusters {
        let Some(settings) = &cluster.value.adaptive_concurrency else {
            continue;
        };
        if carries_only_sessions(file, name) {
            let message = "only sessions and connections go there, and these are left out of it; take \
                           `adaptive_concurrency` away";
            found.push(Wrong::at(settings.place, message));
        }
    }
    found
}

/// Why nothing that a route says of adaptive concurrency has an effect, if that is so.
fn idle(file: &File, table: &str, route: &file::Route) -> Option<&'static str> {
    let Some(to) = &route.to else {
        return Some("its calls are answered here, and go to no cluster");
    };
    if is_of_sessions(file, table, route) {
        return Some("sessions and connections are left out of adaptive concurrency");
    }
    let limits = |target: &file::Target| match &target.cluster {
        Some(name) => {
            let cluster = file.clusters.get(&name.value);
            // One that is not there is told of elsewhere.
            cluster.is_none_or(|own| own.value.adaptive_concurrency.is_some())
        }
        None => are_registered_limited(file),
    };
    let is_limited = match &to.value {
        file::To::Word(_) => are_registered_limited(file),
        file::To::One(target) => limits(target),
        file::To::Several(targets) => targets.iter().any(|own| limits(&own.value)),
    };
    (!is_limited).then_some("no cluster that it leads to has `adaptive_concurrency`")
}

fn are_registered_limited(file: &File) -> bool {
    let policy = file.registry_clusters.as_ref();
    policy.is_some_and(|own| own.value.adaptive_concurrency.is_some())
}

/// Whether all calls of a route are sessions or connections.
fn is_of_sessions(file: &File, table: &str, route: &file::Route) -> bool {
    let is_session = |name: &str| SESSIONS.contains(&name);
    let asked = route.when.as_ref().and_then(|when| when.protocol.as_ref());
    if let Some(file::Text::Exact(name)) = asked.map(|own| &own.value) {
        return is_session(name);
    }
    let mut users = file
        .listeners
        .value
        .iter()
        .filter(|own| own.routes.value == table)
        .peekable();
    users.peek().is_some()
        && users.all(|own| {
            let protocol = own.protocol.as_ref();
            protocol.is_some_and(|own| is_session(&own.value))
        })
}

fn carries_only_sessions(file: &File, cluster: &str) -> bool {
    let leads = |target: &file::Target| {
        let name = target.cluster.as_ref();
        name.is_some_and(|own| own.value == cluster)
    };
    let mut users = file.routes.iter().flat_map(|(table, routes)| {
        let routes = routes.iter().filter(|own| match &own.value.to {
            Some(to) => match &to.value {
                file::To::Word(_) => false,
                file::To::One(target) => leads(target),
                file::To::Several(targets) => targets.iter().any(|own| leads(&own.value)),
            },
            None => false,
        });
        routes.map(move |own| (table, &own.value))
    });
    let of_brokers = file.listeners.value.iter().any(|own| {
        let cluster_of_brokers = own.rocketmq.as_ref();
        let name = cluster_of_brokers.and_then(|own| own.value.broker_cluster.as_ref());
        name.is_some_and(|own| own.value == cluster)
    });
    let mut users = users.by_ref().peekable();
    !of_brokers
        && users.peek().is_some()
        && users.all(|(table, route)| is_of_sessions(file, table, route))
}
