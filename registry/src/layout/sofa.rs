//! SOFA-RPC: `/sofa-rpc/{interface}/providers/{url}` (SOFA-RPC's registry-zk).

use super::draft::Read;
use super::url::Url;
use super::{Draft, Layout, Roots, provider};

/// Where the providers of a service are.
pub(super) fn providers(roots: &Roots, service: &str) -> String {
    format!("{}/{service}/providers", roots.sofa)
}

/// The provider that an entry describes.
pub(super) fn read(name: &str, _: &[u8]) -> Read {
    let url = Url::decode(name)?;
    if url.scheme != "bolt" || url.flag("disabled", false) {
        return Some(None);
    }
    let since = url.number("startTime");
    let warm_up = url.number("warmupTime");
    let unique_id = url.get("uniqueId").unwrap_or_default().to_owned();
    let mut provider = provider(Layout::Sofa, &url.scheme, url.parameters);
    // The parameter of that name is a constant, and there are no groups.
    provider.version.clear();
    provider.labels = provider.labels.without(&["version", "group"]);
    provider.group = unique_id;
    provider.since = since;
    provider.warm_up = warm_up;
    Some(Some(Draft::new(&url.host, url.port, provider)))
}
