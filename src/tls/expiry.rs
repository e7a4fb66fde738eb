//! Expiry of certificates and of what is said about them: metrics, and warnings in time.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, Weak};

use finback_core::metric::Family;
use finback_observability::{MetricSink, MetricValue};
use rustls::pki_types::UnixTime;

use super::files::certificates;
use super::identity::identity;
use super::peers::last_second;

/// A number made of the time at which something ends, and of now; both in seconds since 1970.
type AtTime = fn(u64, u64) -> u64;

/// How long before a certificate's end that is warned of: 14 days.
const SOON: u64 = 14 * 24 * 60 * 60;

/// What an end is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A certificate of ours.
    Certificate,
    /// A revocation list, or an OCSP response.
    Revocation,
}

/// A file that is good up to an end.
#[derive(Clone, Debug)]
pub struct Dated {
    kind: Kind,
    file: PathBuf,
    /// The first name in the certificate.
    name: String,
    /// In seconds since 1970.
    end: u64,
}

impl Dated {
    /// A chain of our own certificates, which ends with the first of them.
    pub(super) fn chain(file: &Path) -> Option<Self> {
        let chain = certificates(file).ok()?;
        let (first, rest) = chain.split_first()?;
        let name = identity(first).map_or_else(String::new, |own| own.text().to_owned());
        Some(Self {
            kind: Kind::Certificate,
            file: file.to_owned(),
            name,
            end: last_second(first, rest).ok()?,
        })
    }

    /// A revocation list, or an OCSP response, that is to be followed by another.
    pub(super) fn revocation(file: &Path, end: u64) -> Self {
        Self {
            kind: Kind::Revocation,
            file: file.to_owned(),
            name: String::new(),
            end,
        }
    }
}

/// How long ago a chain of certificates ended, if it has.
pub(crate) fn ended(chain: &Path) -> Option<String> {
    let own = Dated::chain(chain)?;
    let now = UnixTime::now().as_secs();
    (own.end < now).then(|| text(own.end, now))
}

/// Whose TLS it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// `listener` or `cluster`.
    pub role: &'static str,
    /// Its name.
    pub name: String,
}

/// A file and its end, as it is listed for an operator.
#[derive(Clone, Debug)]
pub struct CertificateExpiry {
    /// Whether it is a certificate; else it says what is revoked.
    pub is_certificate: bool,
    /// Whose it is.
    pub owner: Owner,
    /// Where it is.
    pub file: PathBuf,
    /// The first name in the certificate.
    pub name: String,
    /// In seconds since 1970.
    pub end: u64,
}

/// The files of all TLS in force that are good up to an end.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: Mutex<Vec<Entry>>,
    /// Renewals that failed, by owner; those of the configurations that there were, which are few.
    failures: Mutex<BTreeMap<Owner, u64>>,
}

#[derive(Debug)]
struct Entry {
    tls: Weak<dyn Any + Send + Sync>,
    owner: Owner,
    files: Vec<Dated>,
}

impl Ledger {
    /// Enters the files of a TLS in place of those before; they are there as long as it lives.
    pub(super) fn enter(&self, tls: Weak<dyn Any + Send + Sync>, owner: Owner, files: Vec<Dated>) {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|own| own.tls.strong_count() > 0 && !own.tls.ptr_eq(&tls));
        entries.push(Entry { tls, owner, files });
    }

    /// Counts files of an owner that could not be put in force: the former stay.
    pub(super) fn failed(&self, owner: &Owner) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(owner.clone()).or_default() += 1;
    }

    /// Every file with the name in it and its end. One may be named twice, but has one row.
    fn rows(&self) -> BTreeMap<(Kind, Owner, PathBuf), (String, u64)> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|own| own.tls.strong_count() > 0);
        let mut rows = BTreeMap::new();
        for entry in entries.iter() {
            for own in &entry.files {
                let key = (own.kind, entry.owner.clone(), own.file.clone());
                rows.insert(key, (own.name.clone(), own.end));
            }
        }
        rows
    }

    /// Every file as it is listed for an operator.
    pub fn list(&self) -> Vec<CertificateExpiry> {
        let rows = self.rows().into_iter();
        rows.map(|((kind, owner, file), (name, end))| CertificateExpiry {
            is_certificate: kind == Kind::Certificate,
            owner,
            file,
            name,
            end,
        })
        .collect()
    }

    /// Puts the metrics into a sink.
    pub fn collect(&self, sink: &mut dyn MetricSink) {
        let rows = self.rows();
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        let owners: BTreeSet<Owner> = entries.iter().map(|own| own.owner.clone()).collect();
        drop(entries);
        let now = UnixTime::now().as_secs();
        let families: [(_, &'static Family, AtTime); 3] = [
            (Kind::Certificate, &NOT_AFTER, |end, _| end),
            (Kind::Certificate, &REMAINING, u64::saturating_sub),
            (Kind::Revocation, &NEXT_UPDATE, |end, _| end),
        ];
        for (kind, family, value) in families {
            sink.family(family);
            for ((_, owner, file), (named, end)) in rows.iter().filter(|(key, _)| key.0 == kind) {
                let file = file.display().to_string();
                let labels = [owner.role, &*owner.name, &file, named];
                // The last label, a certificate's name, revocation lists do not have.
                let labels = &labels[..family.labels.len()];
                sink.series(labels, MetricValue::Count(value(*end, now)));
            }
        }
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        sink.family(&FAILURES);
        for owner in owners {
            let count = failures.get(&owner).copied().unwrap_or_default();
            sink.series(&[owner.role, &owner.name], MetricValue::Count(count));
        }
    }
}

const FILE: &[&str] = &["role", "owner", "file"];
const CERTIFICATE: &[&str] = &["role", "owner", "file", "name"];

static NOT_AFTER: Family = Family::gauge(
    "finback_certificate_not_after_seconds",
    "seconds",
    CERTIFICATE,
    "When a certificate of ours, or one that it descends from, ends, in seconds since 1970.",
);
static REMAINING: Family = Family::gauge(
    "finback_certificate_remaining_seconds",
    "seconds",
    CERTIFICATE,
    "For how long such a certificate is still good; 0 once it has ended.",
);
static NEXT_UPDATE: Family = Family::gauge(
    "finback_revocation_next_update_seconds",
    "seconds",
    FILE,
    "When a revocation list or OCSP response is out of date, in seconds since 1970.",
);
static FAILURES: Family = Family::counter(
    "finback_certificate_failures_total",
    "reads",
    &["role", "owner"],
    "Times that certificate files had changed and could not be put in force; the former stay.",
);

/// What was warned of already, so that it is said once a day.
#[derive(Debug, Default)]
pub(super) struct Warned(HashSet<PathBuf>);

impl Warned {
    /// Says everything again.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// Warns of what ends soon or has ended.
    pub(super) fn look(&mut self, owner: &Owner, files: &[Dated]) {
        let now = UnixTime::now().as_secs();
        for own in files {
            if !is_due(own, now) || !self.0.insert(own.file.clone()) {
                continue;
            }
            let Owner { role, name } = owner;
            let (file, ends) = (own.file.display(), text(own.end, now));
            match own.kind {
                Kind::Certificate => {
                    tracing::warn!(%file, role, name, ends, "a certificate must be renewed");
                }
                Kind::Revocation => tracing::warn!(
                    %file, role, name, ends, "a revocation list or OCSP response is out of date"
                ),
            }
        }
    }
}

fn is_due(own: &Dated, now: u64) -> bool {
    match own.kind {
        Kind::Certificate => own.end < now + SOON,
        Kind::Revocation => own.end < now,
    }
}

fn text(end: u64, now: u64) -> String {
    let (seconds, before) = match end.checked_sub(now) {
        Some(left) => (left, true),
        None => (now - end, false),
    };
    let time = match seconds {
        0..3600 => format!("{} minutes", seconds / 60),
        3600..172_800 => format!("{} hours", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    };
    if before {
        format!("in {time}")
    } else {
        format!("{time} ago")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use finback_observability::Page;

    fn dated(kind: Kind, end: u64) -> Dated {
        Dated {
            kind,
            file: "a.pem".into(),
            name: "a.test".to_owned(),
            end,
        }
    }

    #[test]
    fn certificates_are_told_of_two_weeks_before_and_lists_when_they_are_out_of_date() {
        let now = 1_000_000_000;
        assert!(is_due(&dated(Kind::Certificate, now + SOON - 1), now));
        assert!(is_due(&dated(Kind::Certificate, 0), now));
        assert!(!is_due(&dated(Kind::Certificate, now + SOON), now));
        assert!(is_due(&dated(Kind::Revocation, now - 1), now));
        assert!(!is_due(&dated(Kind::Revocation, now), now));
        assert_eq!(text(now + 60 * 90, now), "in 1 hours");
        assert_eq!(text(now - 86_400 * 3, now), "3 days ago");
    }

    #[test]
    fn what_is_gone_is_not_in_the_metrics() {
        let ledger = Ledger::default();
        let owner = Owner {
            role: "listener",
            name: "web".to_owned(),
        };
        let tls: std::sync::Arc<dyn Any + Send + Sync> = std::sync::Arc::new(());
        let files = vec![dated(Kind::Certificate, 5), dated(Kind::Certificate, 5)];
        let weak = std::sync::Arc::downgrade(&tls);
        ledger.enter(weak.clone(), owner.clone(), files.clone());
        ledger.enter(weak, owner.clone(), files);
        ledger.failed(&owner);
        let written = || {
            let mut page = Page::default();
            ledger.collect(&mut page);
            page.into_text()
        };
        let labels = "role=\"listener\",owner=\"web\"";
        let own = format!("{labels},file=\"a.pem\",name=\"a.test\"");
        for sample in [
            format!("finback_certificate_not_after_seconds{{{own}}} 5\n"),
            format!("finback_certificate_remaining_seconds{{{own}}} 0\n"),
            format!("finback_certificate_failures_total{{{labels}}} 1\n"),
        ] {
            assert_eq!(
                written().matches(&sample).count(),
                1,
                "{sample}{}",
                written()
            );
        }
        drop(tls);
        assert!(!written().contains('{'), "{}", written());
    }
}
