//! Several registries as one: a service is where any of them has it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use finback_core::discovery::{Snapshot, SnapshotSink};
use tokio::sync::Notify;

use crate::lock;

/// How long a registry that comes first may keep those after it waiting, before the first answer.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Registries that are asked together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Several {
    /// Their names.
    pub registries: Vec<String>,
    /// Only the first of them that has endpoints of a service is used; else all are.
    pub in_order: bool,
}

impl Several {
    /// The name under which they are one.
    #[must_use]
    pub fn name(&self) -> String {
        self.registries
            .join(if self.in_order { " > " } else { " + " })
    }
}

/// What each of the registries said last of one service. What one said stays until it says
/// otherwise, as everywhere.
pub(crate) struct Merged {
    in_order: bool,
    said: Mutex<Vec<Option<Snapshot>>>,
    /// One of them said something.
    news: Notify,
}

impl Merged {
    pub(crate) fn new(several: &Several) -> Arc<Self> {
        Arc::new(Self {
            in_order: several.in_order,
            said: Mutex::new(vec![None; several.registries.len()]),
            news: Notify::new(),
        })
    }

    /// Where the registry of this number delivers.
    pub(crate) fn sink(self: &Arc<Self>, number: usize) -> Arc<dyn SnapshotSink> {
        Arc::new(Part {
            merged: self.clone(),
            number,
        })
    }

    /// Gives `sink` what they say together, as it changes; for ever.
    pub(crate) async fn deliver(&self, sink: &dyn SnapshotSink) {
        let patience = tokio::time::sleep(FIRST_ANSWER);
        tokio::pin!(patience);
        let mut patient = true;
        let mut last = None;
        loop {
            // Made before it is looked, so that nothing said meanwhile is missed.
            let news = self.news.notified();
            let now = merge(&lock(&self.said), self.in_order, patient);
            if let Some(now) = now
                && last.as_ref() != Some(&now)
            {
                sink.update(now.clone());
                last = Some(now);
            }
            tokio::select! {
                () = news => {}
                () = &mut patience, if patient => patient = false,
            }
        }
    }
}

struct Part {
    merged: Arc<Merged>,
    number: usize,
}

impl SnapshotSink for Part {
    fn update(&self, snapshot: Snapshot) {
        if let Some(said) = lock(&self.merged.said).get_mut(self.number) {
            *said = Some(snapshot);
        }
        self.merged.news.notify_one();
    }
}

/// What registries say together; `None` as long as that is not known. One that has not answered is
/// not taken for one that has nothing; `patient` says that those after it wait for it.
fn merge(said: &[Option<Snapshot>], in_order: bool, patient: bool) -> Option<Snapshot> {
    let mut merged = Snapshot::default();
    for said in said {
        match said {
            Some(said) if in_order && !said.instances.is_empty() => return Some(said.clone()),
            Some(said) => add(&mut merged, said),
            None if in_order && patient => return None,
            None => {}
        }
    }
    let all = said.iter().all(Option::is_some);
    (all || !merged.instances.is_empty()).then_some(merged)
}

/// Adds what another registry says. Of an endpoint that both have, what the former says counts.
fn add(merged: &mut Snapshot, other: &Snapshot) {
    merged.known |= other.known;
    for instance in &other.instances {
        let mut known = merged.instances.iter();
        if !known.any(|own| own.address == instance.address) {
            merged.instances.push(instance.clone());
        }
    }
    if merged.lane.is_none() {
        merged.lane.clone_from(&other.lane);
    }
    let (own, rules) = (&mut merged.rules, &other.rules);
    for (own, rules) in [(&mut own.first, &rules.first), (&mut own.last, &rules.last)] {
        for rule in rules {
            if !own.contains(rule) {
                own.push(rule.clone());
            }
        }
    }
    if own.callers.is_none() {
        own.callers.clone_from(&rules.callers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use finback_core::discovery::Instance;

    fn says(ports: &[u16]) -> Option<Snapshot> {
        let instance = |port: &u16| Instance {
            address: ([127, 0, 0, 1], *port).into(),
            weight: 100,
            labels: std::collections::BTreeMap::new(),
            warm_up: None,
            terms: None,
        };
        Some(Snapshot {
            known: true,
            instances: ports.iter().map(instance).collect(),
            ..Snapshot::default()
        })
    }

    fn unknown() -> Option<Snapshot> {
        Some(Snapshot::default())
    }

    fn ports(said: &[Option<Snapshot>], in_order: bool, patient: bool) -> Option<Vec<u16>> {
        let merged = merge(said, in_order, patient)?;
        let ports = merged.instances.iter().map(|own| own.address.port());
        Some(ports.collect())
    }

    #[test]
    fn a_union_has_what_any_of_them_has() {
        let both = |said: &[_]| ports(said, false, true);
        assert_eq!(both(&[says(&[1, 2]), says(&[2, 3])]), Some(vec![1, 2, 3]));
        assert_eq!(both(&[says(&[]), says(&[3])]), Some(vec![3]));
        assert_eq!(both(&[None, says(&[3])]), Some(vec![3]));
        assert_eq!(both(&[says(&[1]), None]), Some(vec![1]));
        // Whether nobody has it is not known before all have answered.
        assert_eq!(both(&[None, says(&[])]), None);
        assert_eq!(both(&[None, unknown()]), None);
        assert_eq!(both(&[None, None]), None);
        assert_eq!(both(&[says(&[]), unknown()]), Some(vec![]));
        let known = |said: &[_]| merge(said, false, true).is_some_and(|own| own.known);
        assert!(known(&[says(&[]), unknown()]) && !known(&[unknown(), unknown()]));
    }

    #[test]
    fn in_order_the_first_that_has_any_is_used() {
        let first = |said: &[_], patient| ports(said, true, patient);
        assert_eq!(first(&[says(&[1]), says(&[2])], true), Some(vec![1]));
        assert_eq!(first(&[says(&[]), says(&[2])], true), Some(vec![2]));
        assert_eq!(first(&[unknown(), says(&[2])], true), Some(vec![2]));
        assert_eq!(first(&[says(&[1]), None], true), Some(vec![1]));
        // The first is waited for, but not for ever.
        assert_eq!(first(&[None, says(&[2])], true), None);
        assert_eq!(first(&[None, says(&[2])], false), Some(vec![2]));
        assert_eq!(first(&[None, unknown()], false), None);
        assert_eq!(first(&[says(&[]), says(&[])], true), Some(vec![]));
    }

    struct Told(tokio::sync::mpsc::UnboundedSender<Snapshot>);

    impl SnapshotSink for Told {
        fn update(&self, snapshot: Snapshot) {
            let _ = self.0.send(snapshot);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_said_is_delivered_as_it_changes() {
        let several = Several {
            registries: vec!["a".to_owned(), "b".to_owned()],
            in_order: true,
        };
        assert_eq!(several.name(), "a > b");
        let merged = Merged::new(&several);
        let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
        let at_work = merged.clone();
        let task = tokio::spawn(async move { at_work.deliver(&Told(sender)).await });
        let began = tokio::time::Instant::now();
        merged.sink(1).update(says(&[2]).unwrap_or_default());
        assert_eq!(told.recv().await, says(&[2]));
        assert_eq!(began.elapsed().as_secs(), 2, "the first was waited for");
        merged.sink(0).update(says(&[1]).unwrap_or_default());
        assert_eq!(told.recv().await, says(&[1]));
        // It lost them: the second takes over; and back.
        merged.sink(0).update(says(&[]).unwrap_or_default());
        assert_eq!(told.recv().await, says(&[2]));
        merged.sink(0).update(says(&[1]).unwrap_or_default());
        assert_eq!(told.recv().await, says(&[1]));
        task.abort();
    }
}
