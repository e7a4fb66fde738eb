//! Dubbo's interface level: `/dubbo/{interface}/providers/{url}` (Dubbo's `ZookeeperRegistry`).

use finback_core::discovery::{Lane, Lookup, WarmUp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Layout;
use super::url::Url;

/// How long a provider warms up that does not say (`AbstractLoadBalance`), in milliseconds.
const WARM_UP: u64 = 600_000;
/// What Java's `URLEncoder` leaves as it is.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'.')
    .remove(b'-')
    .remove(b'_')
    .remove(b'*');

pub(super) struct Dubbo;

impl Layout for Dubbo {
    fn path(&self, lookup: &Lookup) -> String {
        format!(
            "/dubbo/{}/providers",
            utf8_percent_encode(&lookup.service, KEPT)
        )
    }

    fn admits(&self, lookup: &Lookup, entry: &Url) -> bool {
        // Providers written by Node have no path; those with a context path have it before the
        // interface.
        let interface = entry.get("interface").unwrap_or(&entry.path);
        entry.scheme == "dubbo"
            && interface == &*lookup.service
            && entry
                .get("category")
                .is_none_or(|category| category == "providers")
            && entry.flag("enabled", true)
            && !entry.flag("disabled", false)
            && is_match(&lookup.version, entry.get("version"))
            && lookup
                .group
                .split(',')
                .any(|group| is_match(group, group_of(entry)))
    }

    fn warm_up(&self, entry: &Url) -> Option<WarmUp> {
        let period = entry.number("warmup").unwrap_or(WARM_UP);
        super::warm_up(entry.number("timestamp"), Some(period))
    }

    fn lane(&self) -> Option<Lane> {
        Some(Lane {
            attribute: "dubbo.tag".to_owned(),
            label: "tag".to_owned(),
        })
    }
}

/// What npm's `sofa-rpc-node` writes as the group of Dubbo providers that have none.
const NO_GROUP: &str = "SOFA";

fn group_of(entry: &Url) -> Option<&str> {
    entry.get("group").filter(|group| *group != NO_GROUP)
}

/// Whether a provider's version (or group) is the one asked for; `*` on either side is any.
fn is_match(wanted: &str, provided: Option<&str>) -> bool {
    let plain = |text: &str| {
        if text == "0.0.0" {
            String::new()
        } else {
            text.to_owned()
        }
    };
    let provided = provided.unwrap_or("");
    wanted == "*" || provided == "*" || plain(wanted) == plain(provided)
}
