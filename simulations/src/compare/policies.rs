//! Finback four times: one whose routes have no policy, one that authorizes each call and takes it from a local limit, one
//! that does so among ten thousand rules, and one that copies a tenth of the calls.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::loads::Door;
use super::proxies::{self, Backends, Extras, Proxy};
use crate::speech::{METHOD, SERVICE};

/// The one that others are compared with.
pub(super) const NOTHING: &str = "no policy";

const FEW: usize = 10;
const MANY: usize = 10_000;

/// All of them, one worker each.
pub(super) fn proxies(
    folder: &Path,
    binary: &Path,
    backends: &Backends,
) -> anyhow::Result<Vec<Proxy>> {
    let folder: PathBuf = folder.to_owned();
    let wanted = [
        (NOTHING, Extras::default()),
        ("10 rules and a limit", guarded(FEW)),
        ("10,000 rules and a limit", guarded(MANY)),
        ("10 % copied", shadowed(backends)),
    ];
    let started =
        wanted.map(|(name, extras)| proxies::finback(name, &folder, binary, backends, &extras));
    started.into_iter().collect()
}

/// Rules by identity and method, of which half name somebody else's certificate and half another service, one that allows
/// the calls that are measured, and a limit that none of them reaches.
fn guarded(rules: usize) -> Extras {
    let mut top = format!(
        "filters:\n  limit: {{ rate_limit: {{ rate: 10000000/s, burst: 1000000 }} }}\n  \
         rules:\n    authorization:\n      rules:\n      \
         - {{ effect: allow, match: {{ service: {SERVICE}, method: {METHOD} }} }}\n      \
         - {{ effect: allow, match: {{ protocol: http, method: GET }} }}\n"
    );
    for n in 2..rules {
        let about = match n % 2 {
            0 => format!("identity: \"spiffe://acme/client-{n}\", method: {METHOD}"),
            _ => format!("service: com.acme.Service{n}, method: {METHOD}"),
        };
        let effect = ["allow", "deny"][n / 2 % 2];
        let _ = writeln!(top, "      - {{ effect: {effect}, match: {{ {about} }} }}");
    }
    Extras {
        top,
        route: Box::new(|_| ", filters: [ rules, limit ]".to_owned()),
        ..Extras::default()
    }
}

/// Copies go to the same services, as clusters of their own.
fn shadowed(backends: &Backends) -> Extras {
    let mut clusters = String::new();
    for door in [Door::Bolt, Door::Dubbo, Door::Http1, Door::Http2] {
        let back = backends.of(door);
        let _ = writeln!(
            clusters,
            "  {}: {{ endpoints: [ \"{back}\" ] }}",
            shadow(door)
        );
    }
    Extras {
        clusters,
        route: Box::new(|door| {
            let cluster = shadow(door);
            format!(", shadow: {{ cluster: {cluster}, percent: 10, mark: takin }}")
        }),
        ..Extras::default()
    }
}

fn shadow(door: Door) -> String {
    format!("shadow-{door:?}").to_lowercase()
}
