//! Explain: which route and endpoint a call would take, and why, in the running process or by a file alone.

mod question;

use std::borrow::Cow;
use std::time::Duration;

use finback_core::mesh::{Explained, Led, Mesh, Passed};
use finback_core::route::{Call, Destination, Route};
use finback_registry::{LayoutKind, Registries};
use serde_json::{Value, json};

use super::clusters::endpoint;
use question::is_http;

pub use question::{Entrance, ExplainQuestion};

/// How long a registry may take to say who provides a service.
const PATIENCE: Duration = Duration::from_secs(2);
/// Providers that are listed, at most.
const PROVIDERS: usize = 100;

/// The way of a call. What a registry has not been asked for yet is asked for, where there are
/// registries.
///
/// # Errors
/// What is wrong with the question.
pub async fn explain(
    question: &ExplainQuestion,
    entrances: &[Entrance],
    mesh: &Mesh,
    registries: Option<&Registries>,
) -> Result<Value, String> {
    let entrance = question.entrance(entrances)?;
    let protocol = question.protocol(entrance)?;
    let attributes = question.attributes(&protocol)?;
    let client = question.client()?;
    let routing = mesh.routing();
    let table = routing
        .table(&entrance.table)
        .ok_or_else(|| format!("there is no route table `{}`", entrance.table))?;
    let call = Call {
        protocol: &protocol,
        service: &question.service,
        method: &question.method,
        version: &question.version,
        group: &question.group,
        source: question.source,
    };
    // Headers of HTTP are the same in any case (RFC 9110, section 5.1).
    let folds = is_http(&protocol);
    let is = |own: &str, name: &str| own == name || folds && own.eq_ignore_ascii_case(name);
    let mut read = |name: &str| {
        let found = attributes.iter().find(|(own, _)| is(own, name));
        found.map(|(_, value)| Cow::Borrowed(value.as_str()))
    };
    let listener = entrance.name.as_str().into();
    let explained = mesh.explain(&listener, table, &call, client.as_ref(), &mut read);
    let mut told = told(question, entrance, &protocol, &explained);
    if let Some(registries) = registries {
        ask_registry(&explained, registries, &mut told).await;
    }
    Ok(told)
}

fn told(question: &ExplainQuestion, entrance: &Entrance, protocol: &str, all: &Explained) -> Value {
    let passed = all.passed.iter();
    let passed: Vec<_> = passed
        .map(|(route, why)| json!({ "route": &**route, "why": why }))
        .collect();
    let total: u64 = all
        .destinations
        .iter()
        .map(|own| u64::from(own.weight))
        .sum();
    let destinations = all.destinations.iter();
    let destinations: Vec<_> = destinations.map(|own| destination(own, total)).collect();
    json!({
        "call": {
            "service": question.service, "method": question.method,
            "version": question.version, "group": question.group,
            "protocol": protocol, "source": question.source.to_string(),
        },
        "listener": entrance.name,
        "table": entrance.table,
        "passed": passed,
        "route": all.route.as_deref().map(route),
        "lane": all.lane.as_ref().and_then(|own| own.lane.as_deref()),
        "filters": all.filters.iter().map(filter).collect::<Vec<_>>(),
        "destinations": destinations,
        "served": is_served(all, protocol),
        "verdict": verdict(all, &entrance.table, protocol),
    })
}

fn filter(own: &Passed) -> Value {
    json!({
        "name": &*own.name,
        "kind": own.kind,
        "refuses": own.refusal.as_ref().map(|refusal| json!({
            "outcome": refusal.why.name(), "rule": &*refusal.rule,
        })),
    })
}

/// A route, without what its protocol does beyond routing.
pub(super) fn route(own: &Route) -> Value {
    let to = match &own.to {
        Destination::Treatment => taken(own).unwrap_or_else(|| "itself".to_owned()),
        Destination::Clusters(weighted) => {
            let names = weighted.iter().map(|own| match own.weight {
                1 => own.cluster.to_string(),
                weight => format!("{} x {weight}", own.cluster),
            });
            names.collect::<Vec<_>>().join(", ")
        }
        Destination::Registry { registry, layout } => match layout {
            Some(layout) => format!("registry {registry}, layout {layout}"),
            None => format!("registry {registry}"),
        },
    };
    let clusters: Vec<&str> = match &own.to {
        Destination::Clusters(weighted) => weighted.iter().map(|own| &*own.cluster).collect(),
        Destination::Registry { .. } | Destination::Treatment => Vec::new(),
    };
    json!({
        "name": &*own.name,
        "conditions": own.when.conditions(),
        "to": to,
        "clusters": clusters,
        "filters": own.filters.iter().map(|own| &**own).collect::<Vec<_>>(),
        "timeout_ms": own.timeout.map(|own| own.as_secs_f64() * 1000.0),
        "attempts": own.retry.attempts.max(1),
        "idempotent": own.retry.idempotent,
        "hedging_delay_ms": own.retry.hedging_delay.map(|own| own.as_secs_f64() * 1000.0),
        "copies": copies(own),
    })
}

/// Where messages go that a route takes in the place of an endpoint.
fn taken(route: &Route) -> Option<String> {
    route.treatment.as_ref()?.destination()
}

/// What becomes of a route's calls besides, in words.
fn copies(route: &Route) -> Vec<String> {
    let shadow = route.shadow.as_ref().map(|own| {
        let share = own.share.as_percent();
        format!(
            "{share} % of its calls are copied, by route table {}",
            own.table
        )
    });
    let told = route.tap.iter().flat_map(|own| own.explain());
    shadow.into_iter().chain(told).collect()
}

fn destination(own: &Led, total: u64) -> Value {
    let share = if total == 0 {
        0.0
    } else {
        f64::from(own.weight) * 100.0 / total as f64
    };
    let chosen: Vec<_> = own.chosen.iter().map(endpoint).collect();
    let others = own.others.iter().map(|(status, why)| {
        let mut value = endpoint(status);
        value["why_not"] = why.as_str().into();
        value
    });
    let labels = own.subset.as_ref().map(|subset| &subset.labels);
    json!({
        "cluster": &*own.cluster,
        "lookup": own.lookup.as_ref().map(|lookup| json!({
            "registry": &*lookup.registry, "layout": &*lookup.layout, "service": &*lookup.service,
        })),
        "share_percent": share,
        "subset": labels,
        "fallback": own.fallback(),
        "exists": own.exists,
        "ready": own.ready,
        "known": own.known,
        "endpoints": chosen,
        "others": others.collect::<Vec<_>>(),
    })
}

fn is_served(all: &Explained, protocol: &str) -> bool {
    if all.filters.iter().any(|own| own.refusal.is_some()) {
        return false;
    }
    match &all.route {
        None => false,
        Some(route) if is_for_another(route, protocol) => false,
        Some(route) if matches!(route.to, Destination::Treatment) => true,
        Some(_) => all
            .destinations
            .iter()
            .any(|own| own.weight > 0 && own.chosen.iter().any(|endpoint| endpoint.available)),
    }
}

/// Whether what a route does beyond routing is not done with calls of this protocol.
fn is_for_another(route: &Route, protocol: &str) -> bool {
    let treatment = route.treatment.as_ref();
    treatment.is_some_and(|own| !crate::protocols::treats(protocol, own))
}

/// What becomes of the call, in a sentence.
fn verdict(all: &Explained, table: &str, protocol: &str) -> String {
    let Some(route) = &all.route else {
        return format!("refused as no_route: no route of table {table} matches");
    };
    if is_for_another(route, protocol) {
        return format!("refused as denied: the route is not made for {protocol}");
    }
    let refused = all
        .filters
        .iter()
        .find_map(|own| Some((own, own.refusal.as_ref()?)));
    if let Some((by, refusal)) = refused {
        let why = match &*refusal.rule {
            "" => "no rule allows it".to_owned(),
            rule => format!("rule {rule}"),
        };
        let outcome = refusal.why.name();
        return format!("refused as {outcome} by filter {}: {why}", by.name);
    }
    if matches!(route.to, Destination::Treatment) {
        return match taken(route) {
            Some(to) => format!("goes to {to}"),
            None => "answered here: the route has no endpoints".to_owned(),
        };
    }
    if let Some(asked) = all
        .destinations
        .iter()
        .find(|own| !own.exists || !own.ready)
    {
        return match &asked.lookup {
            Some(lookup) => format!(
                "registry {} is asked for {} when a call comes",
                lookup.registry, lookup.service
            ),
            None => format!(
                "the endpoints of cluster {} are not known yet",
                asked.cluster
            ),
        };
    }
    let (mut all_chosen, mut available) = (0, 0);
    for own in all.destinations.iter().filter(|own| own.weight > 0) {
        all_chosen += own.chosen.len();
        available += own
            .chosen
            .iter()
            .filter(|endpoint| endpoint.available)
            .count();
    }
    match (all_chosen, available) {
        (0, _) if all.destinations.iter().any(|own| !own.known) => {
            "refused as no_service: the registry knows no provider".to_owned()
        }
        (0, _) => "refused as no_endpoint: no endpoint may take it".to_owned(),
        (_, 0) => format!("none of {all_chosen} endpoints is available; in panic all are tried"),
        _ => format!("goes to one of {available} endpoints, of {all_chosen} that may take it"),
    }
}

/// What a registry says of a service that no call has asked for yet.
async fn ask_registry(all: &Explained, registries: &Registries, told: &mut Value) {
    for (number, own) in all.destinations.iter().enumerate() {
        let Some(lookup) = own.lookup.as_ref().filter(|_| !own.exists) else {
            continue;
        };
        let offers = LayoutKind::named(&lookup.layout)
            .and_then(|layout| registries.offers(&lookup.registry, layout, &lookup.service));
        let Some(mut offers) = offers else { continue };
        let waiting = async {
            loop {
                if let Some(offer) = offers.latest() {
                    return offer;
                }
                offers.changed().await;
            }
        };
        let says = match tokio::time::timeout(PATIENCE, waiting).await {
            Err(_) => json!({ "answers": false }),
            Ok(offer) => {
                let providers = offer.providers.iter().take(PROVIDERS).map(|own| {
                    json!({
                        "address": own.address.to_string(), "protocol": own.protocol,
                        "version": own.version, "group": own.group, "weight": own.weight,
                        "labels": own.labels.to_map(),
                    })
                });
                json!({ "answers": true, "known": offer.known, "providers": providers.collect::<Vec<_>>() })
            }
        };
        told["destinations"][number]["registry_says"] = says;
    }
}
