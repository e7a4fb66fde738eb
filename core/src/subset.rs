//! Subsets: which endpoints of a cluster a call may go to, by their labels.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::discovery::Lane;
use crate::endpoint::Endpoint;

/// The endpoints that carry certain labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    /// Labels that an endpoint must all carry, with equal values.
    pub labels: BTreeMap<String, String>,
    /// What happens if no endpoint does.
    pub fallback: Fallback,
}

/// What happens to calls for a subset without endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// They are rejected.
    #[default]
    None,
    /// They go to any endpoint of the cluster.
    Any,
    /// They go to the endpoints with these labels instead; if there are none, they are rejected.
    Labels(BTreeMap<String, String>),
}

/// The endpoints a call may go to: those of the subset, or else of its fallback, split by the
/// framework's own rule. Endpoints of weight 0 are left out everywhere.
///
/// `lane` is the framework's rule with the call's value of the lane's attribute. The rule is not
/// applied to labels that name the lane's label: a route that asks for a lane gets it, whatever
/// the call says. A subset that the rule leaves empty falls back like one that was empty before.
#[must_use]
pub fn members(
    all: &[Arc<Endpoint>],
    subset: Option<&Subset>,
    lane: Option<(&Lane, Option<&str>)>,
) -> Vec<Arc<Endpoint>> {
    let any = BTreeMap::new();
    let Some(subset) = subset else {
        return labelled(all, &any, lane);
    };
    let chosen = labelled(all, &subset.labels, lane);
    if !chosen.is_empty() {
        return chosen;
    }
    match &subset.fallback {
        Fallback::None => chosen,
        Fallback::Any => labelled(all, &any, lane),
        Fallback::Labels(labels) => labelled(all, labels, lane),
    }
}

/// The endpoints that carry all of `labels`, split by the lane.
fn labelled(
    all: &[Arc<Endpoint>],
    labels: &BTreeMap<String, String>,
    lane: Option<(&Lane, Option<&str>)>,
) -> Vec<Arc<Endpoint>> {
    let carries = |each: &&Arc<Endpoint>| labels.iter().all(|(k, v)| each.labels.get(k) == Some(v));
    let mut chosen: Vec<_> = all
        .iter()
        .filter(|each| each.weight > 0)
        .filter(carries)
        .cloned()
        .collect();
    let Some((lane, value)) = lane.filter(|(lane, _)| !labels.contains_key(&lane.label)) else {
        return chosen;
    };
    let own = value.and_then(|value| lane_of_call(&chosen, lane, value, true));
    match (own, value) {
        (Some(own), _) => chosen.retain(|each| stands_in(each, lane, own)),
        (None, Some(value)) if is_forced(lane, value) => chosen.clear(),
        _ => chosen.retain(|each| !each.labels.contains_key(&lane.label)),
    }
    chosen
}

/// A lane that a call was put into, whatever its framework says of lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InLane {
    /// The endpoints' label. An endpoint in several lanes has their names in it, one a line.
    pub label: Arc<str>,
    /// The lane; `None` for the base, whose endpoints have no such label.
    pub lane: Option<Arc<str>>,
    /// It goes nowhere if no endpoint stands in the lane; else to the base.
    pub strict: bool,
}

/// The lanes that endpoints stand in.
pub(crate) fn lanes(all: &[Arc<Endpoint>], label: &str) -> BTreeSet<String> {
    let with_weight = all.iter().filter(|own| own.weight > 0);
    let names = with_weight.flat_map(|own| lane_names(own, label));
    names.map(str::to_owned).collect()
}

/// The lanes that an endpoint stands in.
pub(crate) fn lane_names<'a>(endpoint: &'a Endpoint, label: &str) -> impl Iterator<Item = &'a str> {
    let names = endpoint.labels.get(label).map_or("", String::as_str);
    names.split('\n').filter(|name| !name.is_empty())
}

/// Keeps those of a lane; where it has none, those of the base, unless the call is to go nowhere else.
pub(crate) fn keep_lane(endpoints: &mut Vec<Arc<Endpoint>>, placed: &InLane) {
    let label = &*placed.label;
    if let Some(lane) = placed.lane.as_deref() {
        let stands = |own: &Arc<Endpoint>| lane_names(own, label).any(|own| own == lane);
        if placed.strict || endpoints.iter().any(stands) {
            return endpoints.retain(stands);
        }
    }
    endpoints.retain(|own| lane_names(own, label).next().is_none());
}

fn stands_in(endpoint: &Endpoint, lane: &Lane, name: &str) -> bool {
    let names = endpoint.labels.get(&lane.label);
    names.is_some_and(|names| names.split('\n').any(|own| own == name))
}

/// Which lane a call goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LaneKey {
    /// To the endpoints without a lane.
    #[default]
    None,
    /// To this one.
    To(String),
    /// To one that does not exist, and nowhere else.
    Nowhere,
}

/// The lane of a call that asks for `value`; `forced` if it says itself that it wants no other.
#[must_use]
pub fn lane_key(all: &[Arc<Endpoint>], lane: &Lane, value: &str, forced: bool) -> LaneKey {
    match lane_of_call(all, lane, value, forced) {
        Some(lane) => LaneKey::To(lane.to_owned()),
        None if forced || is_forced(lane, value) => LaneKey::Nowhere,
        None => LaneKey::None,
    }
}

/// The lane of a call that asks for `value`, if endpoints stand in it; `exact` for no other than
/// that one.
fn lane_of_call<'a>(
    all: &[Arc<Endpoint>],
    lane: &Lane,
    value: &'a str,
    exact: bool,
) -> Option<&'a str> {
    let name = if exact { value } else { ruled(lane, value) };
    let exists = all.iter().any(|each| stands_in(each, lane, name));
    exists.then_some(name)
}

/// Whether a call that asks for this lane goes there or nowhere.
fn is_forced(lane: &Lane, value: &str) -> bool {
    lane.ruled.get(ruled(lane, value)) == Some(&true)
}

/// The lane that rules mean by a name.
fn ruled<'a>(lane: &Lane, name: &'a str) -> &'a str {
    let Some(level) = lane.level else { return name };
    let mut shorter = Some(name);
    while let Some(beginning) = shorter {
        if lane.ruled.contains_key(beginning) {
            return beginning;
        }
        shorter = beginning.rsplit_once(level).map(|(outer, _)| outer);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn labels(pairs: Pairs<'_>) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    /// Endpoints on the ports 0, 1, 2, ... with these weights and labels.
    fn endpoints(each: &[(u32, Pairs<'_>)]) -> Vec<Arc<Endpoint>> {
        let endpoint = |(port, (weight, pairs)): (u16, &(u32, Pairs<'_>))| {
            Arc::new(Endpoint {
                address: ([127, 0, 0, 1], port).into(),
                weight: *weight,
                labels: labels(pairs),
                warm_up: None,
                terms: None,
                health: Arc::default(),
            })
        };
        (0..).zip(each).map(endpoint).collect()
    }

    fn subset(pairs: Pairs<'_>, fallback: Fallback) -> Subset {
        Subset {
            labels: labels(pairs),
            fallback,
        }
    }

    fn ports(chosen: &[Arc<Endpoint>]) -> Vec<u16> {
        chosen.iter().map(|each| each.address.port()).collect()
    }

    fn tag() -> Lane {
        Lane {
            attribute: "call.tag".into(),
            label: "tag".into(),
            ruled: BTreeMap::new(),
            level: None,
            force_attribute: None,
        }
    }

    #[test]
    fn no_subset_is_all_that_have_weight() {
        let all = endpoints(&[(100, &[]), (0, &[]), (1, &[("version", "2")])]);
        assert_eq!(ports(&members(&all, None, None)), [0, 2]);
        assert!(members(&[], None, None).is_empty());
    }

    #[test]
    fn every_label_must_be_equal() {
        let all = endpoints(&[
            (1, &[("version", "2"), ("zone", "a")]),
            (1, &[("version", "2"), ("zone", "b")]),
            (1, &[("version", "1"), ("zone", "a")]),
            (1, &[("zone", "a")]),
            (1, &[]),
            (0, &[("version", "2"), ("zone", "a")]),
        ]);
        let both = subset(&[("version", "2"), ("zone", "a")], Fallback::None);
        assert_eq!(ports(&members(&all, Some(&both), None)), [0]);
        let one = subset(&[("zone", "a")], Fallback::None);
        assert_eq!(ports(&members(&all, Some(&one), None)), [0, 2, 3]);
    }

    #[test]
    fn an_empty_subset_does_as_its_fallback_says() {
        let all = endpoints(&[
            (1, &[("version", "1")]),
            (1, &[("version", "2")]),
            (0, &[("version", "3")]),
        ]);
        let of = |fallback| {
            ports(&members(
                &all,
                Some(&subset(&[("version", "3")], fallback)),
                None,
            ))
        };
        assert!(of(Fallback::None).is_empty());
        assert_eq!(of(Fallback::Any), [0, 1]);
        assert_eq!(of(Fallback::Labels(labels(&[("version", "1")]))), [0]);
        assert!(of(Fallback::Labels(labels(&[("version", "4")]))).is_empty());
    }

    #[test]
    fn a_subset_with_endpoints_never_falls_back() {
        let all = endpoints(&[(1, &[("version", "1")]), (1, &[("version", "2")])]);
        let two = subset(&[("version", "2")], Fallback::Any);
        assert_eq!(ports(&members(&all, Some(&two), None)), [1]);
    }

    #[test]
    fn lanes_part_endpoints_by_the_label() {
        let all = endpoints(&[(1, &[]), (1, &[("tag", "gray")]), (1, &[("tag", "blue")])]);
        let lane = tag();
        let of = |value| ports(&members(&all, None, Some((&lane, value))));
        assert_eq!(of(Some("gray")), [1]);
        assert_eq!(of(Some("blue")), [2]);
        assert_eq!(of(None), [0]);
        assert_eq!(
            of(Some("green")),
            [0],
            "no such lane: the endpoints without one"
        );
        assert_eq!(of(Some("")), [0]);
    }

    #[test]
    fn a_forced_lane_is_gone_to_or_nowhere() {
        let all = endpoints(&[(1, &[]), (1, &[("tag", "gray")])]);
        let lane = Lane {
            ruled: [("green".to_owned(), true), ("gray".to_owned(), true)].into(),
            ..tag()
        };
        let of = |value| ports(&members(&all, None, Some((&lane, value))));
        assert_eq!((of(Some("gray")), of(None)), (vec![1], vec![0]));
        assert!(of(Some("green")).is_empty());
        assert_eq!(of(Some("red")), [0], "no rule names it");
    }

    #[test]
    fn an_endpoint_may_stand_in_several_lanes_and_lanes_have_levels() {
        let all = endpoints(&[
            (1, &[("tag", "gray\nblue")]),
            (1, &[("tag", "gray|a")]),
            (1, &[]),
        ]);
        let lane = Lane {
            ruled: [("gray".to_owned(), false), ("gray|a".to_owned(), false)].into(),
            level: Some('|'),
            ..tag()
        };
        let of = |value, exact| lane_of_call(&all, &lane, value, exact);
        assert_eq!(of("gray|a|b", false), Some("gray|a"));
        assert_eq!(of("gray|c", false), Some("gray"));
        assert_eq!(of("gray|c", true), None);
        let members = |value| ports(&members(&all, None, Some((&lane, Some(value)))));
        assert_eq!(members("blue"), [0]);
        assert_eq!(members("gray"), [0]);
        assert_eq!(members("gray|a"), [1]);
        assert_eq!(members("green"), [2]);
    }

    #[test]
    fn a_call_without_a_lane_gets_none_of_the_laned_endpoints() {
        let all = endpoints(&[(1, &[("tag", "gray")])]);
        assert!(members(&all, None, Some((&tag(), None))).is_empty());
        assert!(members(&all, None, Some((&tag(), Some("blue")))).is_empty());
    }

    #[test]
    fn a_lane_of_endpoints_without_weight_does_not_exist() {
        let all = endpoints(&[(1, &[]), (0, &[("tag", "gray")])]);
        assert_eq!(
            ports(&members(&all, None, Some((&tag(), Some("gray"))))),
            [0]
        );
    }

    #[test]
    fn lanes_part_what_the_subset_leaves() {
        let all = endpoints(&[
            (1, &[("version", "1"), ("tag", "gray")]),
            (1, &[("version", "2")]),
            (1, &[("version", "3"), ("tag", "gray")]),
        ]);
        let of = |version, fallback, value| {
            let subset = subset(&[("version", version)], fallback);
            ports(&members(&all, Some(&subset), Some((&tag(), value))))
        };
        assert_eq!(of("1", Fallback::None, Some("gray")), [0]);
        assert_eq!(of("2", Fallback::None, Some("gray")), [1]);
        assert!(of("3", Fallback::None, None).is_empty());
        assert_eq!(of("3", Fallback::Any, None), [1]);
    }

    #[test]
    fn a_subset_that_names_the_lane_decides_it() {
        let all = endpoints(&[(1, &[]), (1, &[("tag", "gray")]), (1, &[("tag", "blue")])]);
        let gray = subset(&[("tag", "gray")], Fallback::None);
        for value in [None, Some("gray"), Some("blue")] {
            assert_eq!(
                ports(&members(&all, Some(&gray), Some((&tag(), value)))),
                [1]
            );
        }
        let gone = subset(
            &[("tag", "red")],
            Fallback::Labels(labels(&[("tag", "blue")])),
        );
        assert_eq!(
            ports(&members(&all, Some(&gone), Some((&tag(), None)))),
            [2]
        );
        let any = subset(&[("tag", "red")], Fallback::Any);
        assert_eq!(ports(&members(&all, Some(&any), Some((&tag(), None)))), [0]);
    }

    #[test]
    fn a_filters_lane_is_gone_to_or_else_the_base_and_never_another_one() {
        let all = endpoints(&[
            (1, &[]),
            (1, &[("lane", "gray")]),
            (1, &[("lane", "blue\ngray")]),
            (1, &[("lane", "")]),
            (0, &[("lane", "red")]),
        ]);
        let of = |lane: Option<&str>, strict| {
            let mut chosen = members(&all, None, None);
            let placed = InLane {
                label: "lane".into(),
                lane: lane.map(Into::into),
                strict,
            };
            keep_lane(&mut chosen, &placed);
            ports(&chosen)
        };
        for strict in [false, true] {
            assert_eq!(of(Some("gray"), strict), [1, 2]);
            assert_eq!(of(Some("blue"), strict), [2]);
            assert_eq!(of(None, strict), [0, 3]);
        }
        assert_eq!(of(Some("green"), false), [0, 3]);
        assert!(of(Some("green"), true).is_empty());
        // Nobody calls an endpoint without weight, so its lane is none.
        let names = lanes(&all, "lane");
        assert_eq!(names.iter().collect::<Vec<_>>(), ["blue", "gray"]);
    }
}
