//! Lane filter: which calls go to which lane, and how the lane travels with them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use finback_core::filter::lane::{self, Lanes, Policy, Rule};
use finback_core::rng::Share;
use finback_core::route::Cidr;

use super::{Converted, conditions, sources};
use crate::config::Wrong;
use crate::config::convert::Result;
use crate::config::file;
use crate::config::units::{Pause, Placed};
use crate::filters::contexts::Everywhere;
use crate::protocols;

/// Where a lane travels, unless the configuration says otherwise.
const ATTRIBUTE: &str = "x-lane";
/// Dubbo's providers and consumers know this one (`org.apache.dubbo.common.constants.CommonConstants`, TAG_KEY).
const IN_DUBBO: &str = "dubbo.tag";
/// The label of endpoints.
const LABEL: &str = "lane";
const REMEMBERED: Duration = Duration::from_secs(60);

pub(super) fn lane(Placed { value, place }: Placed<file::Lane>) -> Result<Converted> {
    let remember = value.remember.map_or(REMEMBERED, |Pause(own)| own);
    let sources = match value.source {
        None => loopback()?,
        Some(own) => sources(own)?,
    };
    if value.rules.is_empty() && sources.is_empty() {
        return Err(Wrong::at(
            place,
            "without rules no call is in a lane; write one",
        ));
    }
    let rules = value.rules.into_iter().map(rule);
    let own = |text: Placed<String>| -> Result<Arc<str>> {
        if text.value.is_empty() {
            return Err(Wrong::at(text.place, "an attribute has a name; write one"));
        }
        Ok(text.value.into())
    };
    let mut attributes: BTreeMap<Arc<str>, Arc<str>> =
        [(finback_dubbo::NAME.into(), IN_DUBBO.into())].into();
    for (protocol, attribute) in value.attributes {
        if !protocols::traced().contains_key(&*protocol) {
            let message = format!("`{protocol}` is not a protocol");
            return Err(Wrong::at(attribute.place, message));
        }
        attributes.insert(protocol.into(), own(attribute)?);
    }
    let policy = Policy {
        rules: rules.collect::<Result<_>>()?,
        attribute: value.attribute.map_or(Ok(ATTRIBUTE.into()), own)?,
        attributes,
        label: value.label.unwrap_or_else(|| LABEL.to_owned()).into(),
        sources,
        remember,
        strict: value.fallback.map_or(Ok(false), strictness)?,
    };
    Ok(Converted::new(
        Arc::new(Lanes::new(policy, Arc::new(Everywhere::default()))),
        None,
    ))
}

fn rule(from: Placed<file::LaneRule>) -> Result<Rule> {
    let Placed { value, .. } = from;
    if !lane::is_name(&value.lane.value) {
        let message = format!(
            "`{}` is not a lane name; write up to {} letters, digits, `-`, `_` and `.`",
            value.lane.value,
            lane::LONGEST
        );
        return Err(Wrong::at(value.lane.place, message));
    }
    Ok(Rule {
        lane: value.lane.value.into(),
        when: value.when.map(conditions).transpose()?.unwrap_or_default(),
        share: value.percent.map_or(Share::ALL, |own| own.0),
    })
}

fn strictness(word: Placed<String>) -> Result<bool> {
    match &*word.value {
        "base" => Ok(false),
        "none" => Ok(true),
        other => {
            let message = format!("`{other}` is not a fallback for lanes; write base or none");
            Err(Wrong::at(word.place, message))
        }
    }
}

/// The applications beside this process.
pub(super) fn loopback() -> Result<Vec<Cidr>> {
    let one_or_many = file::OneOrMany::Many(vec!["127.0.0.0/8".to_owned(), "::1".to_owned()]);
    sources(Placed {
        value: one_or_many,
        place: (0, 0),
    })
}
