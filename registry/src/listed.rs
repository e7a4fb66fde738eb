//! Services that are listed: in a file, or from the start. No layout is needed to find them.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use finback_core::discovery::{Instance, Lookup, Snapshot, SnapshotSink};
use serde::Deserialize;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::lock;
use crate::looks::Looks;

/// How often a file is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// The weight of an endpoint that states none.
const WEIGHT: u32 = 100;

/// One listed service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedService {
    /// Its name.
    pub service: String,
    /// Its version; "" serves every version.
    pub version: String,
    /// Its group; "" serves every group.
    pub group: String,
    /// Its endpoints.
    pub instances: Vec<Instance>,
}

/// Why what a file says is not in force.
#[derive(Clone, Debug)]
pub(crate) struct Doubt {
    pub(crate) since: Instant,
    pub(crate) why: String,
}

/// A list of services that may be replaced.
pub(crate) struct Listed {
    services: watch::Receiver<Option<Arc<Vec<ListedService>>>>,
    /// Since when what the file says is wrong or doubted, and why.
    doubted: Arc<Mutex<Option<Doubt>>>,
    /// Keeps the list of a memory registry open.
    _owner: Option<watch::Sender<Option<Arc<Vec<ListedService>>>>>,
}

impl Listed {
    pub(crate) fn memory(services: Vec<ListedService>) -> Arc<Self> {
        let (owner, services) = watch::channel(Some(Arc::new(services)));
        Arc::new(Self {
            services,
            doubted: Arc::default(),
            _owner: Some(owner),
        })
    }

    /// Follows a file until the list is no longer used. While it cannot be read, is wrong, or may
    /// not be whole, its last good content stays.
    pub(crate) fn file(handle: &Handle, path: &Path) -> Arc<Self> {
        let (owner, services) = watch::channel(None);
        let path = path.to_owned();
        let doubted = Arc::<Mutex<_>>::default();
        let told = doubted.clone();
        handle.spawn(async move {
            tokio::select! {
                () = keep_reading(&path, &owner, &told) => {}
                () = owner.closed() => {}
            }
        });
        Arc::new(Self {
            services,
            doubted,
            _owner: None,
        })
    }

    /// Whether there is a list: a file was read.
    pub(crate) fn is_known(&self) -> bool {
        self.services.borrow().is_some()
    }

    /// Since when what the file says is wrong or doubted, and why.
    pub(crate) fn doubted(&self) -> Option<Doubt> {
        lock(&self.doubted).clone()
    }

    /// Services in it.
    pub(crate) fn len(&self) -> usize {
        self.services.borrow().as_ref().map_or(0, |own| own.len())
    }

    /// Delivers a snapshot now and with each change of the service.
    pub(crate) async fn follow(&self, lookup: &Lookup, sink: &dyn SnapshotSink) {
        let mut services = self.services.clone();
        let mut last = None;
        loop {
            let now = services.borrow_and_update().clone();
            if let Some(services) = now {
                let snapshot = snapshot(&services, lookup);
                if last.as_ref() != Some(&snapshot) {
                    sink.update(snapshot.clone());
                    last = Some(snapshot);
                }
            }
            if services.changed().await.is_err() {
                return;
            }
        }
    }
}

fn snapshot(services: &[ListedService], lookup: &Lookup) -> Snapshot {
    let serves = |own: &str, wanted: &str| own.is_empty() || own == wanted;
    let mut seen = HashSet::new();
    let matching: Vec<&ListedService> = services
        .iter()
        .filter(|service| {
            *service.service == *lookup.service
                && serves(&service.version, &lookup.version)
                && serves(&service.group, &lookup.group)
        })
        .collect();
    let instances = matching
        .iter()
        .flat_map(|service| &service.instances)
        .filter(|instance| seen.insert(instance.address))
        .cloned()
        .collect();
    Snapshot {
        known: !matching.is_empty(),
        instances,
        ..Snapshot::default()
    }
}

async fn keep_reading(
    path: &Path,
    owner: &watch::Sender<Option<Arc<Vec<ListedService>>>>,
    doubted: &Mutex<Option<Doubt>>,
) {
    let mut looks: Option<Looks> = None;
    let mut complaint = None;
    loop {
        let mut wrong = None;
        match read(path).await {
            // Nothing is known yet that could be lost.
            Ok(text) if looks.is_none() => {
                looks = Some(Looks::new(Some(text.clone().into_bytes())));
                wrong = take(&text, owner).err();
            }
            Ok(text) => {
                let before = owner.borrow().clone().unwrap_or_default();
                let loses = |text: &[u8]| loses_one(text, &before);
                if let Some(looks) = &mut looks
                    && looks.see(text.as_bytes(), Instant::now(), loses)
                {
                    wrong = take(&text, owner).err();
                } else {
                    // What was wrong and did not change is still wrong.
                    wrong.clone_from(&complaint);
                }
            }
            Err(why) => wrong = Some(why),
        }
        if wrong != complaint
            && let Some(why) = &wrong
        {
            let path = path.display();
            tracing::error!("{path}:{why}; what it said before stays in force");
        }
        let unsettled = looks.as_ref().and_then(Looks::doubted);
        {
            let mut doubted = lock(doubted);
            *doubted = match (&wrong, unsettled) {
                (None, unsettled) => unsettled.map(|since| Doubt {
                    since,
                    why: "the file may not be whole, or lost services: it is doubted".to_owned(),
                }),
                (Some(why), _) => Some(Doubt {
                    since: doubted.as_ref().map_or_else(Instant::now, |own| own.since),
                    why: why.clone(),
                }),
            };
        }
        complaint = wrong;
        tokio::time::sleep(LOOK).await;
    }
}

fn take(text: &str, owner: &watch::Sender<Option<Arc<Vec<ListedService>>>>) -> Result<(), String> {
    let services = parse(text)?;
    owner.send_replace(Some(Arc::new(services)));
    Ok(())
}

/// Whether a text says of a service that had endpoints that it has none.
fn loses_one(text: &[u8], before: &[ListedService]) -> bool {
    let now = std::str::from_utf8(text).map_err(|error| error.to_string());
    let Ok(now) = now.and_then(parse) else {
        return false;
    };
    let having = |services: &[ListedService]| -> HashSet<String> {
        let having = services.iter().filter(|own| !own.instances.is_empty());
        having.map(|own| own.service.clone()).collect()
    };
    !having(before).is_subset(&having(&now))
}

/// Reads the file off the runtime's threads.
async fn read(path: &Path) -> Result<String, String> {
    let path = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
    match read {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    service: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    group: String,
    endpoints: Vec<Endpoint>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Endpoint {
    Address(SocketAddr),
    Full(FullEndpoint),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FullEndpoint {
    address: SocketAddr,
    weight: Option<u32>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Reads the file's text; the error begins with line and column.
fn parse(text: &str) -> Result<Vec<ListedService>, String> {
    let services: Vec<Service> = serde_saphyr::from_str(text).map_err(|error| {
        let place = error
            .location()
            .map_or((0, 0), |place| (place.line(), place.column()));
        let message = error.without_snippet().to_string();
        let message = message
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_owned();
        format!("{}:{}: {message}", place.0, place.1)
    })?;
    Ok(services
        .into_iter()
        .map(
            |Service {
                 service,
                 version,
                 group,
                 endpoints,
             }| {
                let instances = endpoints.into_iter().map(instance).collect();
                ListedService {
                    service,
                    version,
                    group,
                    instances,
                }
            },
        )
        .collect())
}

fn instance(endpoint: Endpoint) -> Instance {
    let (address, weight, labels) = match endpoint {
        Endpoint::Address(address) => (address, None, BTreeMap::new()),
        Endpoint::Full(full) => (full.address, full.weight, full.labels),
    };
    Instance {
        address,
        weight: weight.unwrap_or(WEIGHT),
        labels,
        warm_up: None,
        terms: None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_found_by_name_version_and_group() {
        let text = "- { service: a.B, version: \"1\", endpoints: [\"127.0.0.1:1\"] }\n- { service: a.B, endpoints: [{ address: \"127.0.0.1:2\", weight: 5, labels: { zone: x } }, \"127.0.0.1:1\"] }\n";
        let services = parse(text).unwrap();
        let of = |service: &str, version: &str| {
            snapshot(
                &services,
                &Lookup {
                    protocol: "".into(),
                    registry: "r".into(),
                    layout: "native".into(),
                    service: service.into(),
                    version: version.into(),
                    group: "".into(),
                },
            )
        };
        assert_eq!(of("a.B", "1").instances.len(), 2);
        assert_eq!(of("a.B", "2").instances.len(), 2);
        assert_eq!(of("a.B", "2").instances[0].weight, 5);
        assert!(!of("a.C", "1").known);
    }

    #[test]
    fn a_wrong_file_is_refused_with_its_place() {
        let error = parse("- service: a.B\n  endpoint: []\n").unwrap_err();
        assert!(error.starts_with("2:"), "{error}");
        assert!(error.contains("endpoint"), "{error}");
    }
}
