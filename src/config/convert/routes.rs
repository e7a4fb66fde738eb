//! Route tables: which calls, where to, how often.

mod authentication;
mod http;
mod identity;
pub(super) mod mqtt;
pub(super) mod produce;
mod shadow;
pub(super) mod taps;

use std::sync::Arc;
use std::time::Duration;

use finback_core::concurrency::Priority;
use finback_core::driver::ListenerSpec;
use finback_core::route::{self, Destination, RouteTable, Text, Treatment, Weighted};
use finback_core::subset::{self, Subset};
use finback_core::tap::Tap;

use super::{Names, Result, Wrongs, concurrency, filters, known, several, tracing};
use crate::config::Wrong;
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::{Placed, Time};

/// Protocols whose calls have no answer that could be waited for twice: sessions and connections.
const UNHEDGED: [&str; 3] = [
    finback_mqtt::NAME,
    finback_rocketmq::NAME,
    finback_tcp::NAME,
];
/// The attribute that has the name by which a client asked for us in TLS.
const SNI: &str = ":sni";

pub(super) fn table(
    name: &str,
    routes: Vec<Placed<file::Route>>,
    listeners: &[ListenerSpec],
    (names, folder): (&Names, &Folder<'_>),
    wrongs: &mut Wrongs,
) -> Vec<RouteTable> {
    let mut shadows = Vec::new();
    let routes = routes.into_iter().enumerate();
    let routes = routes.map(|(number, Placed { mut value, place })| {
        let (copied, mirrored) = (value.shadow.take(), value.rocketmq.take());
        let retry = value.retry.as_ref();
        let hedging = retry.and_then(|own| Some(own.value.hedging_delay.as_ref()?.place));
        let mut own = route(name, number, value, place, names, folder)?;
        treated(name, &own, place, listeners)?;
        hedged(name, &own, hedging.unwrap_or(place), listeners)?;
        let taps = taps::of(copied.as_ref(), mirrored, (name, &own), listeners, names)?;
        own.tap = taps.map(|taps| -> Arc<dyn Tap> { Arc::new(taps) });
        if let Some(copied) = copied.filter(|own| own.value.rocketmq.is_none()) {
            shadow::check(name, &own, copied.place, listeners)?;
            let (shadow, table) = shadow::shadow((name, &own.name), copied, &own.to, names)?;
            own.shadow = Some(Arc::new(shadow));
            shadows.push(table);
        }
        Ok(Arc::new(own))
    });
    let table = RouteTable {
        name: name.into(),
        routes: wrongs.all(routes),
    };
    std::iter::once(table).chain(shadows).collect()
}

/// Refuses what only one protocol does with calls, on a route that calls of others may take: they would be refused.
/// A route that answers itself does so for its protocol by intent, and so does one whose conditions only that one meets.
fn treated(
    table: &str,
    route: &route::Route,
    place: (u64, u64),
    listeners: &[ListenerSpec],
) -> Result<()> {
    let untreated = crate::protocols::untreated(listeners, table, route);
    let is_particular =
        |(name, _): &(String, Text)| name.starts_with('?') || name.starts_with(':') && name != SNI;
    if untreated.is_empty()
        || matches!(route.to, Destination::Treatment)
        || route.when.attributes.iter().any(is_particular)
    {
        return Ok(());
    }
    let spoken = untreated.join(", ");
    let message = format!(
        "calls of {spoken} may take this route, and what it does beyond routing is not done with them; have it `match` \
         a protocol with which it is"
    );
    Err(Wrong::at(place, message))
}

fn route(
    table: &str,
    number: usize,
    mut from: file::Route,
    place: (u64, u64),
    names: &Names,
    folder: &Folder<'_>,
) -> Result<route::Route> {
    let produced = from.produce.take();
    let name = from
        .name
        .take()
        .unwrap_or_else(|| format!("{table}[{number}]"));
    let answers = from.respond.is_some() || from.redirect.is_some() || produced.is_some();
    let protocol = from.when.as_ref().and_then(|when| when.protocol.clone());
    let session = from.mqtt.take();
    let is_mqtt = session.is_some() || protocol.as_ref().is_some_and(is_mqtt);
    no_idle_bounds(&from, produced.is_some(), is_mqtt)?;
    from.when.as_ref().map_or(Ok(()), no_claims)?;
    let request = http::treatment(&mut from)?;
    if let (Some(_), Some(session)) = (&request, &session) {
        let message = "a route is for HTTP or for MQTT; make two of it";
        return Err(Wrong::at(session.place, message));
    }
    let session = session
        .map(|own| mqtt::policy(own, produced.is_some(), folder, names))
        .transpose()?;
    let treatment = match produced {
        None => match (request, session) {
            (Some(request), _) => Some(Treatment::new(request)),
            (None, Some((session, _))) => Some(Treatment::new(session)),
            (None, None) => None,
        },
        Some(produced) => Some(produce::treatment(
            &name, produced, protocol, request, session, names,
        )?),
    };
    Ok(route::Route {
        name: name.into(),
        when: from.when.map(conditions).transpose()?.unwrap_or_default(),
        to: destination_of(from.to, answers, place, names)?,
        timeout: from.timeout.map(
            |Placed {
                 value: Time(timeout),
                 ..
             }| timeout,
        ),
        retry: from.retry.map(retry).transpose()?.unwrap_or_default(),
        filters: filters::named(from.filters, &names.filters)?,
        shadow: None,
        tap: None,
        priority: from
            .priority
            .map_or(Ok(Priority::Default), concurrency::priority)?,
        long_poll: from.long_poll.is_some_and(|own| own.value),
        tracing: from
            .tracing
            .map(|own| tracing::choice(own, names.tracing.as_ref()))
            .transpose()?,
        treatment,
    })
}

/// Refuses retries and timeouts of routes where nothing is sent again, or nothing waited for.
fn no_idle_bounds(from: &file::Route, is_produced: bool, is_mqtt: bool) -> Result<()> {
    if let (true, Some(retry)) = (is_produced, &from.retry) {
        let message = "the producer tries again by itself; take `retry` away";
        return Err(Wrong::at(retry.place, message));
    }
    let at_once = from.respond.is_some() || from.redirect.is_some();
    if let (true, Some(retry)) = (at_once, &from.retry) {
        let message = "no endpoint is called here, so nothing can be retried; take `retry` away";
        return Err(Wrong::at(retry.place, message));
    }
    if let (true, Some(timeout)) = (at_once, &from.timeout) {
        let message = "it is answered at once; take `timeout` away";
        return Err(Wrong::at(timeout.place, message));
    }
    if let (true, true, Some(timeout)) = (is_produced, is_mqtt, &from.timeout) {
        let message = "a session is not bounded, and its messages are by `message.timeout.ms` of Kafka, or `timeout` of the \
                       RocketMQ cluster; take `timeout` away";
        return Err(Wrong::at(timeout.place, message));
    }
    Ok(())
}

/// Where a route leads that answers by itself, or does not.
fn destination_of(
    to: Option<Placed<file::To>>,
    answers: bool,
    place: (u64, u64),
    names: &Names,
) -> Result<Destination> {
    match (to, answers) {
        (Some(to), false) => destination(to, names),
        (None, true) => Ok(Destination::Treatment),
        (Some(to), true) => {
            let message = "a route that answers itself leads nowhere; take `to` away";
            Err(Wrong::at(to.place, message))
        }
        (None, false) => {
            let message = "where to? write `to`, `respond`, `redirect` or `produce`";
            Err(Wrong::at(place, message))
        }
    }
}

fn is_mqtt(protocol: &Placed<file::Text>) -> bool {
    matches!(&protocol.value, file::Text::Exact(name) if name == finback_mqtt::NAME)
}

/// Refuses conditions that only filters can ask for: a route is chosen before anything is proved.
fn no_claims(when: &file::Match) -> Result<()> {
    let mut attributes = when.attributes.iter();
    let is_claim = |name: &str| name.to_ascii_lowercase().starts_with("claim.");
    match attributes.find(|(name, _)| is_claim(name)) {
        None => Ok(()),
        Some((name, own)) => {
            let message = format!(
                "`{name}` is proved by a filter, and a route is chosen before; write it in a rule of `authorization`"
            );
            Err(Wrong::at(own.place, message))
        }
    }
}

pub(super) fn conditions(when: file::Match) -> Result<route::Match> {
    let optional = |placed: Option<Placed<file::Text>>| placed.map_or(Ok(Text::Any), text);
    let mut attributes = Vec::new();
    for (name, condition) in when.attributes {
        attributes.push((name, text(condition)?));
    }
    // Parts of HTTP, MQTT and TLS are attributes too, by names that no header can have.
    for (name, condition) in [
        (SNI, when.sni),
        (":authority", when.host),
        (":path", when.path),
        (":method", when.http_method),
        (finback_mqtt::CLIENT_ID, when.client_id),
        (":username", when.username),
        (":will-topic", when.will_topic),
    ] {
        if let Some(condition) = condition {
            attributes.push((name.to_owned(), text(condition)?));
        }
    }
    for (name, condition) in when.query {
        attributes.push((format!("?{name}"), text(condition)?));
    }
    Ok(route::Match {
        protocol: optional(when.protocol)?,
        service: optional(when.service)?,
        method: optional(when.method)?,
        version: optional(when.version)?,
        group: optional(when.group)?,
        attributes,
        identity: when.identity.map(identity::identity).transpose()?,
        sources: when.source.map_or(Ok(Vec::new()), sources)?,
    })
}

fn text(Placed { value, place }: Placed<file::Text>) -> Result<Text> {
    match value {
        file::Text::Exact(text) => Ok(Text::Exact(text.into())),
        file::Text::Rule(file::TextRule {
            prefix: Some(text),
            regex: None,
        }) => Ok(Text::Prefix(text.into())),
        file::Text::Rule(file::TextRule {
            prefix: None,
            regex: Some(text),
        }) => Text::regex(&text).map_err(|error| {
            let error = error.to_string();
            let last = error.lines().last().unwrap_or_default().trim().to_owned();
            Wrong::at(
                place,
                format!("`{text}` is not a regular expression: {last}"),
            )
        }),
        file::Text::Rule(_) => Err(Wrong::at(
            place,
            "write a text, or exactly one of `prefix` and `regex`",
        )),
    }
}

pub(super) fn sources(
    Placed { value, place }: Placed<file::OneOrMany>,
) -> Result<Vec<route::Cidr>> {
    let texts = match value {
        file::OneOrMany::One(text) => vec![text],
        file::OneOrMany::Many(texts) => texts,
    };
    if texts.is_empty() {
        let message = "an empty list matches no address; leave it out, or fill it";
        return Err(Wrong::at(place, message));
    }
    texts
        .iter()
        .map(|text| text.parse())
        .collect::<std::result::Result<_, route::CidrError>>()
        .map_err(|error| Wrong::at(place, error.to_string()))
}

fn destination(Placed { value, place }: Placed<file::To>, names: &Names) -> Result<Destination> {
    match value {
        file::To::Word(word) if word == "registry" => match &*names.registries {
            [only] => Ok(Destination::Registry {
                registry: only.as_str().into(),
                layout: None,
            }),
            [] => Err(Wrong::at(
                place,
                "no registry is configured; add one under `registries`",
            )),
            several => {
                let several = several.join(", ");
                let message =
                    format!("which registry? write {{ registry: NAME }}, one of: {several}");
                Err(Wrong::at(place, message))
            }
        },
        file::To::Word(word) => {
            let message = format!(
                "`{word}` is not a destination; write registry, {{ registry: NAME }} or {{ cluster: NAME }}"
            );
            Err(Wrong::at(place, message))
        }
        file::To::One(target) if target.registry.is_some() => registry(target, place, names),
        file::To::One(target) => clusters(
            vec![Placed {
                value: target,
                place,
            }],
            place,
            names,
        ),
        file::To::Several(targets) => clusters(targets, place, names),
    }
}

fn registry(target: file::Target, place: (u64, u64), names: &Names) -> Result<Destination> {
    let file::Target {
        registry: Some(registry),
        layout,
        cluster: None,
        weight: None,
        subset: None,
        fallback: None,
        spill: None,
    } = target
    else {
        let message = "beside `registry` only `layout` has a meaning; take the other keys away";
        return Err(Wrong::at(place, message));
    };
    let registry = several::asked(registry, names)?;
    if let Some(name) = &layout {
        super::layout(name)?;
    }
    Ok(Destination::Registry {
        registry: registry.into(),
        layout: layout.map(|layout| layout.value.into()),
    })
}

fn clusters(
    targets: Vec<Placed<file::Target>>,
    place: (u64, u64),
    names: &Names,
) -> Result<Destination> {
    let spills: Vec<_> = targets.iter().map(|own| own.value.spill.clone()).collect();
    let weighted = targets
        .into_iter()
        .map(|target| weighted(target, names))
        .collect::<Result<Vec<_>>>()?;
    for (number, spill) in spills.into_iter().enumerate() {
        let Some(spill) = spill else { continue };
        if weighted[number].weight == 0 {
            let message = "with a weight of 0 it has no share to hand on; take `spill` away";
            return Err(Wrong::at(spill.place, message));
        }
        let mut others = weighted.iter().enumerate();
        if !others.any(|(other, own)| other != number && own.weight > 0) {
            let message = "no other cluster could take its share; take `spill` away";
            return Err(Wrong::at(spill.place, message));
        }
    }
    if weighted.iter().all(|destination| destination.weight == 0) {
        let message =
            "no cluster has a weight above 0, so calls could go nowhere; write one that has";
        return Err(Wrong::at(place, message));
    }
    Ok(Destination::Clusters(weighted))
}

fn weighted(Placed { value, place }: Placed<file::Target>, names: &Names) -> Result<Weighted> {
    let file::Target {
        registry: None,
        layout: None,
        cluster: Some(cluster),
        weight,
        subset,
        fallback,
        spill,
    } = value
    else {
        let message = "a destination needs a `cluster`; `registry` and `layout` stand alone";
        return Err(Wrong::at(place, message));
    };
    known(&names.clusters, "cluster", &cluster)?;
    let subset = match (subset, fallback) {
        (None, None) => None,
        (None, Some(fallback)) => {
            let message = "`fallback` needs a `subset` to fall back from";
            return Err(Wrong::at(fallback.place, message));
        }
        (Some(labels), given) => {
            let fallback = given.map(self::fallback).transpose()?.unwrap_or_default();
            Some(Arc::new(Subset { labels, fallback }))
        }
    };
    Ok(Weighted {
        cluster: cluster.value.into(),
        weight: weight.unwrap_or(1),
        subset,
        spill: spill.is_none_or(|own| own.value),
    })
}

fn fallback(Placed { value, place }: Placed<file::Fallback>) -> Result<subset::Fallback> {
    match value {
        file::Fallback::Word(word) => match &*word {
            "none" => Ok(subset::Fallback::None),
            "any" => Ok(subset::Fallback::Any),
            _ => Err(Wrong::at(
                place,
                format!("`{word}` is not a fallback; write none, any, or {{ LABEL: VALUE }}"),
            )),
        },
        file::Fallback::Labels(labels) => Ok(subset::Fallback::Labels(labels)),
    }
}

/// After what time a second attempt is made; refused where there is none to be made.
fn hedging_delay(from: &file::Retry) -> Result<Option<Duration>> {
    let Some(Placed {
        value: Time(delay),
        place,
    }) = &from.hedging_delay
    else {
        return Ok(None);
    };
    let message = if !from.idempotent {
        "the call would run twice; write `idempotent: true` where it may, or take `hedging_delay` away"
    } else if from.attempts.as_ref().is_some_and(|own| own.value == 1) {
        "a route with one attempt has no second one; take `hedging_delay` away, or write 2 or more `attempts`"
    } else if delay.is_zero() {
        "every call would be sent twice; write a time above zero"
    } else {
        return Ok(Some(*delay));
    };
    Err(Wrong::at(*place, message))
}

/// Refuses hedging on a route that no call can take which could have a second attempt.
fn hedged(
    table: &str,
    route: &route::Route,
    place: (u64, u64),
    listeners: &[ListenerSpec],
) -> Result<()> {
    if route.retry.hedging_delay.is_none() {
        return Ok(());
    }
    let spoken = crate::protocols::reaching(listeners, table, route);
    if !spoken.is_empty() && spoken.iter().all(|own| UNHEDGED.contains(own)) {
        let spoken = spoken.join(", ");
        let message = format!(
            "what is spoken there has no second attempt: {spoken}; take `hedging_delay` away"
        );
        return Err(Wrong::at(place, message));
    }
    Ok(())
}

fn retry(Placed { value, .. }: Placed<file::Retry>) -> Result<route::Retry> {
    let default = route::Retry::default();
    let hedging_delay = hedging_delay(&value)?;
    let attempts = match value.attempts {
        Some(Placed { value: 0, place }) => {
            let message = "`attempts` counts the first one too; write 1 or more";
            return Err(Wrong::at(place, message));
        }
        given => given.map_or(default.attempts, |given| given.value),
    };
    Ok(route::Retry {
        attempts,
        idempotent: value.idempotent,
        refused: value.refused.unwrap_or(default.refused),
        per_try_timeout: value.per_try_timeout.map(|Time(time)| time),
        hedging_delay,
    })
}
