//! Merged providers: one set of parameters for an entry that stands for several providers.
//!
//! A consumer acts on what the entry says, and its calls may reach any of the providers. So it
//! waits for the slowest, retries only as often as all of them bear, and sends no more than the
//! smallest takes; anything else is said only if all say the same.

use std::collections::{BTreeMap, BTreeSet};

use crate::layout::{LayoutKind, Unsaid};

type Parameters = BTreeMap<String, String>;

/// What is true of one process on one host only.
const OWN: &[&str] = &["pid", "timestamp", "ipv6", "hostMachine"];
/// How the names of those begin that say what a provider binds to.
const BINDING: &str = "bind.";
/// Ends as the timeout of a method does, and is none.
const HEARTBEAT: &str = "heartbeat.timeout";
/// Dubbo 2.6 writes what a whole provider is configured with under this prefix.
const DEFAULT: &str = "default.";
/// The longest message that Dubbo takes unless told otherwise (`Constants.DEFAULT_PAYLOAD`).
const PAYLOAD: u64 = 8 * 1024 * 1024;

/// The parameters of an entry at an address of ours that stands for providers of a framework.
pub(crate) fn merged(layout: LayoutKind, all: &[Parameters]) -> Parameters {
    let usual = &layout.conventions().unsaid;
    let names: BTreeSet<&String> = all.iter().flat_map(BTreeMap::keys).collect();
    names
        .into_iter()
        .filter(|name| !OWN.contains(&name.as_str()) && !name.starts_with(BINDING))
        .filter_map(|name| Some((name.clone(), value(name, all, usual)?)))
        .collect()
}

/// The value that all of these have in common.
pub(crate) fn agreed<T: PartialEq>(mut all: impl Iterator<Item = T>) -> Option<T> {
    let first = all.next()?;
    all.all(|other| other == first).then_some(first)
}

fn value(name: &str, all: &[Parameters], usual: &Unsaid) -> Option<String> {
    if let Some(same) = agreed(all.iter().map(|own| own.get(name))) {
        return same.cloned();
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    match (name, last) {
        ("methods", _) => Some(either(name, all)),
        ("prefer.serialization", _) => both(name, all),
        ("payload", _) => least(name, all, PAYLOAD),
        (_, "actives") => least(name, all, u64::MAX),
        (_, "retries") => Some(fewest(name, all, usual.retries)),
        (_, "timeout") if name != HEARTBEAT => longest(name, all, usual.timeout),
        _ => None,
    }
}

/// What a provider says under a name, or for all its methods where that is a method's.
fn said<T: std::str::FromStr>(own: &Parameters, name: &str) -> Option<T> {
    let last = name.rsplit('.').next().unwrap_or(name);
    let default = format!("{DEFAULT}{last}");
    let mut places = [name, last, &default].into_iter();
    places.find_map(|place| own.get(place)?.parse().ok())
}

/// Left out if one says nothing and what consumers wait for then is longer.
fn longest(name: &str, all: &[Parameters], usual: u64) -> Option<String> {
    // Zero is said by who says nothing.
    let said = |own| said::<u64>(own, name).filter(|timeout| *timeout > 0);
    let longest = all.iter().filter_map(said).max()?;
    let unsaid = all.iter().any(|own| said(own).is_none());
    (!unsaid || longest >= usual).then(|| longest.to_string())
}

fn fewest(name: &str, all: &[Parameters], usual: i64) -> String {
    let retries = all.iter().map(|own| said(own, name).unwrap_or(usual));
    retries.min().unwrap_or(usual).to_string()
}

/// The smallest limit; one of zero or less is none.
fn least(name: &str, all: &[Parameters], usual: u64) -> Option<String> {
    let limit = |own: &Parameters| match own.get(name).and_then(|text| text.parse::<i64>().ok()) {
        None => usual,
        Some(limit) => u64::try_from(limit)
            .ok()
            .filter(|limit| *limit > 0)
            .unwrap_or(u64::MAX),
    };
    let least = all.iter().map(limit).min()?;
    Some(if least == u64::MAX { 0 } else { least }.to_string())
}

/// What stands in any of the lists.
fn either(name: &str, all: &[Parameters]) -> String {
    let lists = all.iter().filter_map(|own| own.get(name));
    let words: BTreeSet<&str> = lists.flat_map(|list| words(list)).collect();
    words.into_iter().collect::<Vec<_>>().join(",")
}

/// What stands in all of the lists, in the order of the first.
fn both(name: &str, all: &[Parameters]) -> Option<String> {
    let (first, others) = all.split_first()?;
    let in_all = |word: &&str| {
        let mut others = others.iter().map(|own| own.get(name));
        others.all(|list| list.is_some_and(|list| words(list).any(|own| own == *word)))
    };
    let common: Vec<&str> = words(first.get(name)?).filter(in_all).collect();
    (!common.is_empty()).then(|| common.join(","))
}

fn words(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(query: &str) -> Parameters {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect()
    }

    /// What providers with these queries are merged into, as a query.
    fn of(layout: LayoutKind, queries: &[&str]) -> String {
        let all: Vec<Parameters> = queries.iter().map(|query| parameters(query)).collect();
        let merged = merged(layout, &all);
        let pairs: Vec<String> = merged.iter().map(|(n, v)| format!("{n}={v}")).collect();
        pairs.join("&")
    }

    #[test]
    fn a_single_provider_is_repeated_but_for_its_process() {
        let query = "actives=9&anyhost=true&async=true&bind.ip=10.0.0.1&bind.port=1&cluster=failfast\
            &connections=2&ipv6=fe80::1&loadbalance=leastactive&methods=a,b&payload=20000000&pid=7\
            &prefer.serialization=fastjson2,hessian2&release=3.3.5&retries=0&serialization=fastjson2\
            &sleep.timeout=5000&timeout=5000&timestamp=1700000000000&token=t";
        let kept = "actives=9&anyhost=true&async=true&cluster=failfast&connections=2\
            &loadbalance=leastactive&methods=a,b&payload=20000000\
            &prefer.serialization=fastjson2,hessian2&release=3.3.5&retries=0&serialization=fastjson2\
            &sleep.timeout=5000&timeout=5000&token=t";
        assert_eq!(of(LayoutKind::Dubbo, &[query]), kept);
        assert_eq!(of(LayoutKind::Dubbo, &[query, query]), kept);
    }

    #[test]
    fn where_providers_differ_the_more_careful_value_counts() {
        for (queries, merged) in [
            // The longest timeout; who says nothing means a second.
            (["timeout=500", "timeout=5000"], "timeout=5000"),
            (["timeout=5000", "x=1"], "timeout=5000"),
            (["timeout=500", "x=1"], ""),
            (["timeout=500", "timeout=0"], ""),
            // A method's is that of all methods where it is not said.
            (
                ["a.timeout=500&timeout=100", "timeout=900"],
                "a.timeout=900&timeout=900",
            ),
            (
                ["a.timeout=9000", "timeout=5000"],
                "a.timeout=9000&timeout=5000",
            ),
            (
                ["default.timeout=7000", "timeout=5000"],
                "default.timeout=7000&timeout=7000",
            ),
            // A heartbeat's is none of these.
            (["heartbeat.timeout=9", "timeout=5000"], "timeout=5000"),
            // The fewest retries; who says nothing means two.
            (["retries=0", "retries=5"], "retries=0"),
            (["retries=0", "x=1"], "retries=0"),
            (["retries=5", "x=1"], "retries=2"),
            (
                ["a.retries=1&retries=5", "retries=0"],
                "a.retries=0&retries=0",
            ),
            // The smallest limits.
            (["payload=9000000", "payload=20000000"], "payload=9000000"),
            (["payload=20000000", "x=1"], "payload=8388608"),
            (["payload=0", "payload=-1"], "payload=0"),
            (["actives=0", "actives=7"], "actives=7"),
            (["a.actives=3", "x=1"], "a.actives=3"),
            // What one has, and what both know.
            (["methods=a,b", "methods=b,c"], "methods=a,b,c"),
            (
                [
                    "prefer.serialization=fastjson2,hessian2",
                    "prefer.serialization=hessian2",
                ],
                "prefer.serialization=hessian2",
            ),
            (["prefer.serialization=fastjson2", "x=1"], ""),
            // Anything else only if all say so.
            (["token=a", "token=b"], ""),
            (["dubbo.tag=gray", "x=1"], ""),
            (
                ["cluster=failfast&weight=5", "cluster=failfast&weight=9"],
                "cluster=failfast",
            ),
        ] {
            assert_eq!(of(LayoutKind::Dubbo, &queries), merged, "{queries:?}");
        }
    }

    #[test]
    fn sofa_has_its_own_usual_values() {
        assert_eq!(of(LayoutKind::Sofa, &["timeout=2000", "timeout=0"]), "");
        assert_eq!(
            of(LayoutKind::Sofa, &["timeout=30000", "timeout=0"]),
            "timeout=30000"
        );
        let one = "serialization=protobuf&startTime=1700000000000&timeout=30000&warmupTime=9";
        assert_eq!(of(LayoutKind::Sofa, &[one]), one);
        let other = one.replace("17", "18");
        let both = "serialization=protobuf&timeout=30000&warmupTime=9";
        assert_eq!(of(LayoutKind::Sofa, &[one, &other]), both);
    }
}
