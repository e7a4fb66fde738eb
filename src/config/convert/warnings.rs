//! Warnings: what a configuration may say, and probably does not mean.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::config::Wrong;
use crate::config::file::{self, File};
use crate::config::units::Placed;

type Place = (u64, u64);

/// The place of a cluster, table or route, and what is odd about it.
pub(super) fn of(file: &File) -> Vec<Wrong> {
    let mut found = Vec::new();
    tables(file, &mut found);
    filters(file, &mut found);
    clusters(file, &mut found);
    subsets(file, &mut found);
    listeners(file, &mut found);
    variables(file, &mut found);
    found
}

fn tables(file: &File, found: &mut Vec<Wrong>) {
    for (name, routes) in &file.routes {
        let listeners: Vec<_> = file.listeners.value.iter().collect();
        let users: Vec<_> = listeners
            .into_iter()
            .filter(|own| own.routes.value == *name)
            .collect();
        if users.is_empty()
            && let Some(first) = routes.first()
        {
            let message = format!("no listener uses the route table `{name}`");
            found.push(Wrong::at(first.place, message));
        }
        let mut taken: Option<Place> = None;
        for Placed { value, place } in routes {
            if let Some((line, _)) = taken {
                let message = format!("no call comes here: the route in line {line} takes all");
                found.push(Wrong::at(*place, message));
                continue;
            }
            match &value.when {
                None => taken = Some(*place),
                Some(when) if takes_all(when) => taken = Some(*place),
                Some(when) => unspoken(when, &users, found),
            }
        }
    }
}

fn filters(file: &File, found: &mut Vec<Wrong>) {
    let of_listeners = file.listeners.value.iter().flat_map(|own| &own.filters);
    let routes = file.routes.values().flatten();
    let of_routes = routes.flat_map(|own| &own.value.filters);
    let used: BTreeSet<&str> = of_listeners
        .chain(of_routes)
        .map(|own| &*own.value)
        .collect();
    for (name, filter) in &file.filters {
        if !used.contains(name.as_str()) {
            let message = format!("no listener and no route uses the filter `{name}`");
            found.push(Wrong::at(filter.place, message));
        }
    }
}

fn takes_all(when: &file::Match) -> bool {
    conditions(when).iter().all(|(_, place)| place.is_none())
        && when.protocol.is_none()
        && when.attributes.is_empty()
        && when.query.is_empty()
        && when.source.is_none()
}

/// The conditions that only some protocols can meet, and the others.
fn conditions(when: &file::Match) -> [(&'static str, Option<Place>); 13] {
    let at = |own: &Option<Placed<file::Text>>| own.as_ref().map(|own| own.place);
    [
        ("path", at(&when.path)),
        ("host", at(&when.host)),
        ("http_method", at(&when.http_method)),
        ("query", when.query.values().next().map(|own| own.place)),
        ("client_id", at(&when.client_id)),
        ("will_topic", at(&when.will_topic)),
        ("username", at(&when.username)),
        ("service", at(&when.service)),
        ("method", at(&when.method)),
        ("version", at(&when.version)),
        ("group", at(&when.group)),
        ("sni", at(&when.sni)),
        ("identity", at(&when.identity)),
    ]
}

/// A condition that no protocol of the table's listeners can meet.
fn unspoken(when: &file::Match, users: &[&file::Listener], found: &mut Vec<Wrong>) {
    let spoken: Option<BTreeSet<&str>> = users
        .iter()
        .map(|own| own.protocol.as_ref().map(|own| own.value.as_str()))
        .collect();
    // Whoever tells protocols by their first bytes speaks all of them.
    let Some(spoken) = spoken.filter(|own| !own.is_empty() && !own.contains("auto")) else {
        return;
    };
    for (key, place) in conditions(when) {
        let protocol = match key {
            "path" | "host" | "http_method" | "query" => finback_http::NAME,
            "client_id" | "will_topic" | "username" => finback_mqtt::NAME,
            _ => continue,
        };
        if let Some(place) = place
            && !spoken.contains(protocol)
        {
            let spoken = spoken.iter().copied().collect::<Vec<_>>().join(", ");
            let message = format!(
                "`{key}` is of {protocol}, and the listeners of this table speak {spoken}: no call matches"
            );
            found.push(Wrong::at(place, message));
        }
    }
}

/// The clusters that a destination leads to, with the subsets that are wanted of them.
fn targets(to: &file::To) -> Vec<&file::Target> {
    match to {
        file::To::Word(_) => Vec::new(),
        file::To::One(target) => vec![target],
        file::To::Several(targets) => targets.iter().map(|own| &own.value).collect(),
    }
}

fn all_targets(file: &File) -> impl Iterator<Item = &file::Target> {
    let routes = file.routes.values().flatten();
    let to = routes.filter_map(|route| route.value.to.as_ref());
    to.flat_map(|to| targets(&to.value))
}

fn clusters(file: &File, found: &mut Vec<Wrong>) {
    // Brokers of RocketMQ are reached by no route.
    let listeners = file.listeners.value.iter();
    let of_brokers =
        listeners.filter_map(|own| own.rocketmq.as_ref()?.value.broker_cluster.as_ref());
    let routes = file.routes.values().flatten();
    let of_shadows = routes.filter_map(|own| own.value.shadow.as_ref()?.value.cluster.as_ref());
    let used: BTreeSet<&str> = all_targets(file)
        .filter_map(|target| target.cluster.as_ref())
        .chain(of_brokers)
        .chain(of_shadows)
        .map(|own| own.value.as_str())
        .collect();
    for (name, Placed { value, place }) in &file.clusters {
        if !used.contains(name.as_str()) {
            let message = format!("no route leads to the cluster `{name}`");
            found.push(Wrong::at(*place, message));
        }
        let Some(endpoints) = &value.endpoints else {
            continue;
        };
        let takes_calls = |own: &Placed<file::Endpoint>| match &own.value {
            file::Endpoint::Address(_) => true,
            file::Endpoint::Full(full) => full.weight != Some(0),
        };
        if !endpoints.iter().any(takes_calls) {
            let why = match endpoints.is_empty() {
                true => "it has no endpoint",
                false => "all its endpoints have the weight 0",
            };
            let message = format!("the cluster `{name}` takes no call: {why}");
            found.push(Wrong::at(*place, message));
        }
    }
}

/// Subsets of listed endpoints that none of them has the labels of.
fn subsets(file: &File, found: &mut Vec<Wrong>) {
    for target in all_targets(file) {
        let (Some(cluster), Some(labels)) = (&target.cluster, &target.subset) else {
            continue;
        };
        let listed = file.clusters.get(&cluster.value);
        let Some(endpoints) = listed.and_then(|own| own.value.endpoints.as_ref()) else {
            continue;
        };
        let none = BTreeMap::new();
        let has = |own: &Placed<file::Endpoint>| {
            let own = match &own.value {
                file::Endpoint::Address(_) => &none,
                file::Endpoint::Full(full) => &full.labels,
            };
            labels
                .iter()
                .all(|(name, value)| own.get(name) == Some(value))
        };
        if !endpoints.is_empty() && !endpoints.iter().any(has) {
            let labels = labels
                .iter()
                .map(|(name, value)| format!("{name}: {value}"));
            let labels = labels.collect::<Vec<_>>().join(", ");
            let message = format!(
                "no endpoint of the cluster `{}` has the labels of this subset ({labels})",
                cluster.value
            );
            found.push(Wrong::at(cluster.place, message));
        }
    }
}

/// Listeners of which one takes what comes to a single address, and another the rest of the port.
fn listeners(file: &File, found: &mut Vec<Wrong>) {
    let address = |own: &file::Listener| own.address.value.parse::<SocketAddr>().ok();
    let all = &file.listeners.value;
    for (number, own) in all.iter().enumerate() {
        let Some(at) = address(own).filter(|own| own.port() != 0) else {
            continue;
        };
        let overlaps = |other: &&file::Listener| {
            address(other).is_some_and(|other| {
                let covers = |wide: IpAddr, narrow: IpAddr| {
                    wide.is_unspecified() && !narrow.is_unspecified()
                };
                let both = [at.ip(), other.ip()];
                other.port() == at.port() && (covers(both[0], both[1]) || covers(both[1], both[0]))
            })
        };
        if let Some(other) = all[..number].iter().find(overlaps) {
            let message = format!(
                "{at} and {} in line {} are one port: each connection goes to the listener whose address it names",
                other.address.value, other.address.place.0
            );
            found.push(Wrong::at(own.address.place, message));
        }
    }
}

/// Passwords and the like that look as if the environment were put in.
fn variables(file: &File, found: &mut Vec<Wrong>) {
    for Placed { value, place } in file.registries.values() {
        let user = value.user.as_ref().map(|own| own.value.as_str());
        for text in [user, value.password.as_deref()].into_iter().flatten() {
            if text.contains("${") {
                let message = format!(
                    "`{text}` is taken as it is: variables of the environment are not put in; write `password_file`"
                );
                found.push(Wrong::at(*place, message));
            }
        }
    }
}
