//! Stripping: what only some callers may say is taken away from the calls of others.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use crate::route::Cidr;

use super::{Asked, Check, Filter, Flow, Tally, Target, same};

/// What is taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stripped {
    /// The protocol whose calls it is taken from; `None` = all.
    pub protocol: Option<Arc<str>>,
    /// The attribute.
    pub attribute: Arc<str>,
    /// Of an attribute that is a list of `NAME=VALUE&`, the pairs of this name alone.
    pub pair: Option<Arc<str>>,
}

/// What is taken away from calls of callers that are not trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strip {
    /// What is taken away.
    pub what: Vec<Stripped>,
    /// Callers from here may say it.
    pub sources: Vec<Cidr>,
}

impl Filter for Strip {
    fn kind(&self) -> &'static str {
        "strip"
    }

    fn at(&self, target: &Target<'_>, tally: &Tally) -> Option<Rc<dyn Check>> {
        let is_here = |own: &&Stripped| {
            let protocol = own.protocol.as_deref();
            protocol.is_none_or(|own| own == target.protocol)
        };
        let what: Vec<_> = self.what.iter().filter(is_here).cloned().collect();
        (!what.is_empty()).then(|| {
            Rc::new(Stripping {
                what,
                sources: self.sources.clone(),
                stripped: tally.count(&Arc::from(""), "stripped"),
            }) as Rc<dyn Check>
        })
    }

    fn is_same(&self, other: &dyn Filter) -> bool {
        same(self, other, PartialEq::eq)
    }

    fn describe(&self) -> Vec<String> {
        let what = self.what.iter().map(|own| {
            let mut line = format!("takes away {}", own.attribute);
            if let Some(pair) = &own.pair {
                line = format!("takes away {pair} in {}", own.attribute);
            }
            if let Some(protocol) = &own.protocol {
                line.push_str(&format!(" ({protocol})"));
            }
            line
        });
        let sources: Vec<String> = self.sources.iter().map(ToString::to_string).collect();
        let trusted = format!("but from {}", sources.join(", "));
        what.chain([trusted]).collect()
    }
}

/// The same for calls of one kind, in one worker.
struct Stripping {
    what: Vec<Stripped>,
    sources: Vec<Cidr>,
    stripped: Arc<AtomicU64>,
}

/// The list without pairs of this name; `None` if it has none.
fn without(list: &str, name: &str) -> Option<String> {
    let is_other = |pair: &&str| pair.split('=').next().map(str::trim) != Some(name);
    let pairs = list.split_inclusive('&');
    let is_it = |pair: &str| !is_other(&pair.trim_end_matches('&'));
    let left: String = pairs.clone().filter(|pair| !is_it(pair)).collect();
    (left.len() < list.len()).then_some(left)
}

impl Check for Stripping {
    fn open(&self, asked: &mut Asked<'_, '_>) -> Flow {
        if self.sources.iter().any(|own| own.contains(asked.source)) {
            return Flow::Continue;
        }
        for own in &self.what {
            let Some(value) = asked.attribute(&own.attribute) else {
                // Several messages of one call may say several things, and it none.
                if own.pair.is_none() && asked.readings(&own.attribute).is_some() {
                    self.stripped.fetch_add(1, Relaxed);
                    asked.edits.clear(&own.attribute);
                }
                continue;
            };
            let left = match &own.pair {
                None if value.is_empty() => None,
                None => Some(String::new()),
                Some(name) => without(&value, name),
            };
            drop(value);
            if let Some(left) = left {
                self.stripped.fetch_add(1, Relaxed);
                asked.edits.set(&own.attribute, &left);
            }
        }
        Flow::Continue
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::conformance;

    #[test]
    fn pairs_of_one_name_go_and_the_others_stay_as_they_are() {
        for (list, left) in [
            ("mark=T&", Some("")),
            ("mark=T", Some("")),
            ("tenant=north&mark=T&zone=a&", Some("tenant=north&zone=a&")),
            ("tenant=north&mark=T", Some("tenant=north&")),
            ("mark=F&mark=T&a=b", Some("a=b")),
            (" mark =T&", Some("")),
            ("mark&x=1", Some("x=1")),
            ("tenant=north&", None),
            ("remark=T&markers=T&a=mark=T", None),
            ("", None),
        ] {
            assert_eq!(without(list, "mark").as_deref(), left, "{list:?}");
        }
    }

    #[test]
    fn stripping_obeys_the_laws_of_filters() {
        conformance::check(&|| {
            let what = [None, Some("x-mark".into())].map(|pair: Option<Arc<str>>| Stripped {
                protocol: None,
                attribute: if pair.is_some() { "list" } else { "x-mark" }.into(),
                pair,
            });
            Box::new(Strip {
                what: what.into(),
                sources: Vec::new(),
            })
        });
    }
}
