//! Entries written so that the framework's own consumers read it.

use std::collections::BTreeMap;

use super::application::Beside;
use super::{LayoutKind, ORIGIN, PATH, Roots};

/// A provider that we register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) service: String,
    pub(crate) version: String,
    pub(crate) group: String,
    pub(crate) protocol: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) weight: u32,
    pub(crate) application: String,
    pub(crate) labels: BTreeMap<String, String>,
    /// Milliseconds of the Unix epoch.
    pub(crate) since: u64,
    /// How long it warms up, in milliseconds.
    pub(crate) warm_up: Option<u64>,
    /// The registry that it is mirrored from.
    pub(crate) origin: Option<String>,
    /// What the original says of itself, where it comes from the same framework.
    pub(crate) parameters: BTreeMap<String, String>,
}

/// Where entries are written.
pub(crate) struct WriteTo<'a> {
    pub(crate) roots: &'a Roots,
    /// The store is ZooKeeper, where frameworks write in another form than in etcd.
    pub(crate) is_zookeeper: bool,
}

/// What is written for an entry.
pub(crate) struct Written {
    pub(crate) path: String,
    pub(crate) value: Vec<u8>,
    /// What is to be there before it.
    pub(crate) beside: Vec<Beside>,
}

impl Written {
    /// A single entry.
    pub(super) fn alone(path: String, value: Vec<u8>) -> Self {
        Self {
            path,
            value,
            beside: Vec::new(),
        }
    }
}

impl Entry {
    pub(super) fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// The parameters of a URL, with these where the original has none.
    pub(super) fn parameters(&self, own: &[(&str, String)]) -> BTreeMap<String, String> {
        let mut all = self.parameters.clone();
        all.remove(PATH);
        for (label, value) in &self.labels {
            all.entry(parameter_of(label).to_owned())
                .or_insert_with(|| value.clone());
        }
        for (name, value) in own {
            if !value.is_empty() {
                all.entry((*name).to_owned())
                    .or_insert_with(|| value.clone());
            }
        }
        all.insert("weight".to_owned(), self.weight.to_string());
        if let Some(origin) = &self.origin {
            all.insert(ORIGIN.to_owned(), origin.clone());
        }
        // What would end a parameter early must not stand in it.
        all.retain(|name, value| !name.contains(['&', '=', '#']) && !value.contains(['&', '#']));
        all
    }
}

/// How the names of parameters begin that are ours.
const OURS: &str = "finback.";
/// The longest value, in bytes: a name in a registry has room for some.
const MAX_VALUE: usize = 8 * 1024;

impl LayoutKind {
    /// Whether an entry says more of a provider than we know how to write.
    #[must_use]
    pub fn has_parameters(self) -> bool {
        self.conventions().has_parameters
    }

    /// Why a registration cannot have this label or parameter; `None` if it can.
    #[must_use]
    pub fn refuses(self, name: &str, value: &str) -> Option<String> {
        let conventions = self.conventions();
        if conventions.reserved.contains(&parameter_of(name)) || name.starts_with(OURS) {
            return Some(format!(
                "`{name}` is written from what else stands here; take it away"
            ));
        }
        // What would end a parameter in a URL early.
        let has_url = conventions.has_url;
        let ends_it = |char: char| char.is_control() || has_url && matches!(char, '&' | '#');
        let is_sound = !name.is_empty()
            && !name.contains(|char| ends_it(char) || has_url && char == '=')
            && !value.contains(ends_it)
            && name.len().max(value.len()) <= MAX_VALUE;
        (!is_sound).then(|| {
            format!("`{name}` is nothing that a registry can have; write it without & and #")
        })
    }
}

/// The parameter that becomes a label when it is read.
fn parameter_of(label: &str) -> &str {
    match label {
        "tag" => "dubbo.tag",
        other => other,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::super::{Cached, Drafts, dubbo, grpc, native, sofa, spring};
    use super::*;
    use crate::store::Answer;

    fn entry(origin: Option<&str>) -> Entry {
        Entry {
            service: "com.acme.Pay".to_owned(),
            version: "1.0".to_owned(),
            group: "blue".to_owned(),
            protocol: "dubbo".to_owned(),
            host: "10.0.0.1".to_owned(),
            port: 20880,
            weight: 70,
            application: "shop".to_owned(),
            labels: [("zone".to_owned(), "a".to_owned())].into(),
            since: 1_700_000_000_000,
            origin: origin.map(str::to_owned),
            ..Entry::default()
        }
    }

    /// What is written in each layout is read as the same there.
    #[test]
    fn what_is_written_is_read_as_the_same() {
        for origin in [None, Some("zk")] {
            for layout in [
                LayoutKind::Dubbo,
                LayoutKind::Sofa,
                LayoutKind::Spring,
                LayoutKind::Grpc,
                LayoutKind::Native,
            ] {
                let mut entry = entry(origin);
                if layout == LayoutKind::Sofa {
                    entry.protocol = "bolt".to_owned();
                }
                let to = WriteTo {
                    roots: &Roots::default(),
                    is_zookeeper: true,
                };
                let Written { path, value, .. } = layout.layout().write(&to, &entry, &[]);
                let name = path.rsplit_once('/').unwrap().1.to_owned();
                let answer = Answer::Entries(std::sync::Arc::new([(name, value.into())].into()));
                let of = |read: fn(&str, &[u8]) -> _| Drafts::of(Some(&answer), read);
                let drafts = match layout {
                    LayoutKind::Dubbo => {
                        dubbo::read("com.acme.Pay", Some(&answer), &mut Cached::default())
                    }
                    LayoutKind::Sofa => of(sofa::read),
                    LayoutKind::Spring => of(spring::read),
                    LayoutKind::Grpc => of(grpc::read),
                    LayoutKind::Native | LayoutKind::DubboApp => of(native::read),
                };
                assert_eq!(drafts.unreadable, 0, "{layout:?} {path}");
                let draft = &drafts.drafts[0];
                assert_eq!(
                    (&*draft.host(), draft.port),
                    ("10.0.0.1", 20880),
                    "{layout:?}"
                );
                let provider = &draft.provider;
                assert_eq!(provider.origin.as_deref(), origin, "{layout:?}");
                if !matches!(layout, LayoutKind::Spring | LayoutKind::Grpc) {
                    assert_eq!(
                        (provider.weight, &*provider.group),
                        (70, "blue"),
                        "{layout:?}"
                    );
                    assert_eq!(provider.since, Some(1_700_000_000_000), "{layout:?}");
                }
                if layout != LayoutKind::Spring {
                    assert_eq!(provider.labels.get("zone"), Some("a"), "{layout:?}");
                }
            }
        }
    }
}
