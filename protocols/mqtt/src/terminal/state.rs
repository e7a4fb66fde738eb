//! Session state between connections (MQTT 5, section 4.1): what is remembered of whom, and for how long.
//!
//! A state belongs to a client identifier of one identity on one route: nobody takes up another's by
//! naming it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use finback_core::clock::Now;

use crate::sink::Exactly;

/// Sessions of clients that are away, at most; the one that left first is forgotten first.
const MAX_AWAY: usize = 10_000;
/// Packet identifiers that are remembered for them, at most, likewise.
const MAX_IDENTIFIERS: usize = 100_000;

/// Whose session it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    /// The route's name.
    pub(crate) route: Arc<str>,
    /// Who the client was found to be, or "".
    pub(crate) identity: Box<str>,
    pub(crate) client_id: Box<str>,
}

/// The states of all sessions that end here.
#[derive(Default)]
pub(crate) struct States(Mutex<Table>);

#[derive(Default)]
struct Table {
    entries: HashMap<Arc<Owner>, Entry>,
    /// Of those who are away: in the order in which they left, and in that in which they end.
    left: BTreeMap<u64, Arc<Owner>>,
    ends: BTreeSet<(Now, u64)>,
    /// Packet identifiers of those who are away.
    identifiers: usize,
    last: u64,
}

struct Entry {
    exactly: Arc<Exactly>,
    /// The connection that has it, or the last that had it.
    holder: u64,
    away: Option<Away>,
}

/// Of a state without a connection.
struct Away {
    left: u64,
    /// `None`: it does not end.
    ends: Option<Now>,
    identifiers: usize,
}

/// One connection's hold of its state.
pub(crate) struct Held {
    owner: Arc<Owner>,
    holder: u64,
    pub(crate) exactly: Arc<Exactly>,
    /// Whether there was a session to take up.
    pub(crate) present: bool,
}

impl States {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up the session of an owner, or begins one; `clean`: whatever there is.
    pub(crate) fn take_up(&self, owner: Owner, clean: bool, now: Now) -> Held {
        let mut table = self.lock();
        table.forget_ended(now);
        let former = table.remove(&owner).filter(|_| !clean);
        let present = former.is_some();
        let exactly = former.map(|entry| entry.exactly).unwrap_or_default();
        table.last += 1;
        let (owner, holder) = (Arc::new(owner), table.last);
        let entry = Entry {
            exactly: exactly.clone(),
            holder,
            away: None,
        };
        table.entries.insert(owner.clone(), entry);
        Held {
            owner,
            holder,
            exactly,
            present,
        }
    }

    /// The connection is gone. What it held ends after `expiry`, `None` = never; unless another
    /// connection has it by now.
    pub(crate) fn leave(&self, held: &Held, expiry: Option<Duration>, now: Now) {
        let mut table = self.lock();
        table.forget_ended(now);
        let own = table.entries.get(&held.owner);
        if own.is_none_or(|entry| entry.holder != held.holder) {
            return;
        }
        if expiry == Some(Duration::ZERO) {
            table.remove(&held.owner);
            return;
        }
        table.last += 1;
        let away = Away {
            left: table.last,
            ends: expiry.map(|expiry| now.after(expiry)),
            identifiers: held.exactly.len(),
        };
        table.left.insert(away.left, held.owner.clone());
        table.ends.extend(away.ends.map(|ends| (ends, away.left)));
        table.identifiers += away.identifiers;
        if let Some(entry) = table.entries.get_mut(&held.owner) {
            entry.away = Some(away);
        }
        table.make_room();
    }
}

impl Table {
    fn remove(&mut self, owner: &Owner) -> Option<Entry> {
        let entry = self.entries.remove(owner)?;
        if let Some(away) = &entry.away {
            self.left.remove(&away.left);
            self.identifiers -= away.identifiers;
            if let Some(ends) = away.ends {
                self.ends.remove(&(ends, away.left));
            }
        }
        Some(entry)
    }

    fn forget_ended(&mut self, now: Now) {
        while let Some((ends, left)) = self.ends.first().copied() {
            if ends > now {
                return;
            }
            self.ends.pop_first();
            if let Some(owner) = self.left.get(&left).cloned() {
                self.remove(&owner);
            }
        }
    }

    /// Forgets those who left first, until what is kept is within its bounds.
    fn make_room(&mut self) {
        while self.left.len() > MAX_AWAY || self.identifiers > MAX_IDENTIFIERS {
            let Some((_, owner)) = self.left.pop_first() else {
                return;
            };
            self.remove(&owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Stage;

    const SECOND: u64 = 1_000_000;

    fn owner(identity: &str, client_id: &str) -> Owner {
        Owner {
            route: "table[0]".into(),
            identity: identity.into(),
            client_id: client_id.into(),
        }
    }

    /// A session that leaves one message unreleased behind.
    fn visit(states: &States, owner: Owner, expiry: Option<Duration>, now: u64) -> bool {
        let held = states.take_up(owner, false, Now(now));
        let number = held.exactly.begin(1);
        held.exactly.settle(1, number, true);
        states.leave(&held, expiry, Now(now));
        held.present
    }

    fn remembers(states: &States, owner: Owner, now: u64) -> bool {
        let held = states.take_up(owner, false, Now(now));
        let stage = held.exactly.stage(1);
        assert_eq!(stage == Some(Stage::Safe), held.present);
        states.leave(&held, Some(Duration::from_secs(60)), Now(now));
        held.present
    }

    #[test]
    fn a_state_lasts_as_long_as_its_client_asked_for() {
        let states = States::default();
        let expiry = Some(Duration::from_secs(1));
        assert!(!visit(&states, owner("", "a"), expiry, 0));
        assert!(visit(&states, owner("", "a"), expiry, SECOND - 1));
        assert!(!visit(&states, owner("", "a"), expiry, 3 * SECOND));
        assert!(!visit(&states, owner("", "z"), Some(Duration::ZERO), 0));
        assert!(!remembers(&states, owner("", "z"), 0));
        assert!(!visit(&states, owner("", "for ever"), None, 0));
        assert!(remembers(&states, owner("", "for ever"), u64::MAX / 2));
        let clean = states.take_up(owner("", "for ever"), true, Now(1));
        assert!(!clean.present && clean.exactly.len() == 0);
    }

    #[test]
    fn nobody_takes_up_a_state_by_naming_it() {
        let states = States::default();
        visit(&states, owner("alice", "meter"), None, 0);
        assert!(!visit(&states, owner("mallory", "meter"), None, 0));
        let other = Owner {
            route: "table[1]".into(),
            ..owner("alice", "meter")
        };
        assert!(!visit(&states, other, None, 0));
        assert!(remembers(&states, owner("alice", "meter"), 0));
    }

    #[test]
    fn who_was_taken_over_leaves_nothing_changed() {
        let states = States::default();
        let first = states.take_up(owner("", "a"), false, Now(0));
        let second = states.take_up(owner("", "a"), false, Now(0));
        assert!(second.present && Arc::ptr_eq(&first.exactly, &second.exactly));
        states.leave(&first, Some(Duration::ZERO), Now(0));
        states.leave(&second, None, Now(0));
        assert!(states.take_up(owner("", "a"), false, Now(1)).present);
    }

    #[test]
    fn a_full_table_forgets_who_left_first_and_takes_everybody_who_comes() {
        let states = States::default();
        for n in 0..MAX_AWAY + 10 {
            assert!(!visit(&states, owner("", &n.to_string()), None, 0));
        }
        assert!(!remembers(&states, owner("", "9"), 0));
        assert!(remembers(&states, owner("", "11"), 0));
        assert!(remembers(&states, owner("", "10009"), 0));
        let table = states.lock();
        assert_eq!(table.left.len(), MAX_AWAY);
        assert_eq!(table.entries.len(), MAX_AWAY);
        assert!(table.identifiers <= MAX_AWAY);
    }
}
