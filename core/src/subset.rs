//! Which endpoints of a cluster a call may go to, by their labels.

use std::collections::BTreeMap;
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
    let equal = value.is_some() && chosen.iter().any(|each| lane_of(each, lane) == value);
    let wanted = if equal { value } else { None };
    chosen.retain(|each| lane_of(each, lane) == wanted);
    chosen
}

fn lane_of<'a>(endpoint: &'a Endpoint, lane: &Lane) -> Option<&'a str> {
    endpoint.labels.get(&lane.label).map(String::as_str)
}
