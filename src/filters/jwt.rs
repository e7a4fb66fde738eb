//! JSON Web Tokens (RFC 7519) as bearer tokens (RFC 6750) of every protocol that has a place for one. What a good token
//! says, filters that follow find in attributes that no caller can write.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use finback_core::filter::{
    Asked, Check, Claims, Decided, Edits, Filter, Flow, Refusal, Tally, Target, same,
};
use finback_core::rejection::Rejection;

use super::keys::KeyRing;
use crate::authentication::{NotProved, Proved, issuer_of};

/// Good tokens that are remembered, so that they are not proved call by call.
const REMEMBERED: usize = 10_000;
/// The longest token; any other is none.
const TOKEN: usize = 16 * 1024;

/// Who makes tokens.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// Its name, as tokens say it.
    pub name: String,
    /// Whom its tokens are for: one of these.
    pub audiences: Vec<String>,
    /// What proves them.
    pub keys: Arc<KeyRing>,
}

impl PartialEq for Issuer {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.audiences) == (&other.name, &other.audiences)
            && self.keys.source() == other.keys.source()
    }
}

/// Which tokens are good, and where they stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Who makes them.
    pub issuers: Vec<Issuer>,
    /// The attributes in which callers send one; the first that is there counts.
    pub attributes: Vec<Arc<str>>,
    /// Clocks may be apart by so much.
    pub clock_skew: Duration,
    /// A call without a token passes, without claims.
    pub optional: bool,
    /// The token goes on to the endpoint.
    pub forward: bool,
}

/// A good token, remembered.
#[derive(Clone, Debug)]
struct Remembered {
    claims: Arc<Claims>,
    /// The second in which it ends.
    ends: u64,
    /// Of the keys that proved it: when they change, it is proved again.
    version: u64,
    issuer: usize,
}

type Known = Mutex<BTreeMap<[u8; 32], Remembered>>;

/// Callers have to prove who they are.
#[derive(Debug)]
pub struct Jwt {
    policy: Arc<Policy>,
    known: Arc<Known>,
}

impl Jwt {
    /// By these tokens.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self {
            policy: Arc::new(policy),
            known: Arc::default(),
        }
    }
}

impl Filter for Jwt {
    fn kind(&self) -> &'static str {
        "jwt"
    }

    fn at(&self, _: &Target<'_>, tally: &Tally) -> Option<Rc<dyn Check>> {
        let none = Arc::from("");
        Some(Rc::new(Bearers(Rc::new(Prover {
            policy: self.policy.clone(),
            known: self.known.clone(),
            allowed: tally.count(&none, "allowed"),
            denied: tally.count(&none, "denied"),
            error: tally.count(&none, "error"),
            none,
        }))))
    }

    fn is_same(&self, other: &dyn Filter) -> bool {
        same(self, other, |own, other| other.policy == own.policy)
    }

    fn describe(&self) -> Vec<String> {
        let Policy {
            issuers,
            attributes,
            optional,
            ..
        } = &*self.policy;
        let mut lines = vec![format!("a bearer token in {}", attributes.join(" or "))];
        lines.extend(issuers.iter().map(|own| {
            let audiences = own.audiences.join(" or ");
            let keys = own.keys.source();
            format!("of {}, for {audiences}, proved by {keys}", own.name)
        }));
        if *optional {
            lines.push("calls without one pass".to_owned());
        }
        lines
    }
}

/// What is known of a token.
enum Judgement {
    Good(Arc<Claims>),
    Bad,
    /// Its key is not there; perhaps another set has it.
    Unknown(usize),
}

/// Proves tokens, in one worker.
struct Prover {
    policy: Arc<Policy>,
    known: Arc<Known>,
    allowed: Arc<AtomicU64>,
    denied: Arc<AtomicU64>,
    error: Arc<AtomicU64>,
    none: Arc<str>,
}

fn seconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(u64::MAX, |own| own.as_secs())
}

impl Prover {
    /// The token that a caller sends, and where.
    fn token(&self, asked: &mut Asked<'_, '_>) -> Option<(Arc<str>, String)> {
        self.policy.attributes.iter().find_map(|name| {
            let value = asked.attribute(name)?;
            let value = value.trim();
            // RFC 6750, section 2.1. In attributes of the caller's own a token may stand alone.
            let token = match value.split_once(' ') {
                Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
                _ if name.eq_ignore_ascii_case("authorization") && !value.starts_with("eyJ") => {
                    // Basic, say: it is no bearer's.
                    return None;
                }
                _ => value,
            };
            (!token.is_empty()).then(|| (name.clone(), token.to_owned()))
        })
    }

    fn judge(&self, token: &str) -> Judgement {
        if token.len() > TOKEN {
            return Judgement::Bad;
        }
        let digest = digest(&SHA256, token.as_bytes());
        let key: [u8; 32] = digest.as_ref().try_into().unwrap_or_default();
        let skew = self.policy.clock_skew.as_secs();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = known.get(&key) {
            let version = self.policy.issuers[own.issuer].keys.now().1;
            if own.version == version && seconds() < own.ends.saturating_add(skew) {
                return Judgement::Good(own.claims.clone());
            }
            known.remove(&key);
        }
        drop(known);
        let named = issuer_of(token);
        let mut issuers = self.policy.issuers.iter();
        let Some(issuer) = issuers.position(|own| named.as_deref() == Some(&*own.name)) else {
            return Judgement::Bad;
        };
        let own = &self.policy.issuers[issuer];
        let (keys, version) = own.keys.now();
        let Some(keys) = keys else {
            return Judgement::Unknown(issuer);
        };
        match keys.prove(token, &own.name, &own.audiences, skew) {
            Ok(Proved { claims, ends }) => {
                let claims = Arc::new(claims);
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                let remembered = Remembered {
                    claims: claims.clone(),
                    ends,
                    version,
                    issuer,
                };
                known.insert(key, remembered);
                Judgement::Good(claims)
            }
            Err(NotProved::UnknownKey) => Judgement::Unknown(issuer),
            Err(NotProved::Bad) => Judgement::Bad,
        }
    }

    fn good(&self, edits: &mut Edits, claims: Arc<Claims>, attribute: &str) {
        self.allowed.fetch_add(1, Relaxed);
        edits.claim(claims);
        if !self.policy.forward {
            edits.clear(attribute);
        }
    }

    fn bad(&self, text: &'static str) -> Refusal {
        self.denied.fetch_add(1, Relaxed);
        let mut refusal = Refusal::new(Rejection::Unauthenticated, &self.none);
        refusal.text = text.into();
        refusal
    }

    /// For a token whose key is not there after all.
    fn unknown(&self, issuer: usize) -> Refusal {
        if self.policy.issuers[issuer].keys.now().0.is_some() {
            return self.bad(BAD);
        }
        // The caller is not to blame.
        self.error.fetch_add(1, Relaxed);
        let mut refusal = Refusal::new(Rejection::Overloaded, &self.none);
        refusal.text = "its token cannot be proved now".into();
        refusal
    }
}

const BAD: &str = "its token is not good";

struct Bearers(Rc<Prover>);

impl Check for Bearers {
    fn open(&self, asked: &mut Asked<'_, '_>) -> Flow {
        let own = &self.0;
        let Some((attribute, token)) = own.token(asked) else {
            return match own.policy.optional {
                true => Flow::Continue,
                false => Flow::Refuse(own.bad("it has no bearer token")),
            };
        };
        if asked.readings(&attribute).is_some() {
            return Flow::Refuse(own.bad("it has several bearer tokens"));
        }
        let issuer = match own.judge(&token) {
            Judgement::Good(claims) => {
                own.good(asked.edits, claims, &attribute);
                return Flow::Continue;
            }
            Judgement::Bad => return Flow::Refuse(own.bad(BAD)),
            Judgement::Unknown(issuer) => issuer,
        };
        let Some(wait) = own.policy.issuers[issuer].keys.ask() else {
            return Flow::Refuse(own.unknown(issuer));
        };
        let own = own.clone();
        Flow::Wait(Box::pin(async move {
            wait.await;
            let mut decided = Decided::default();
            match own.judge(&token) {
                Judgement::Good(claims) => own.good(&mut decided.edits, claims, &attribute),
                Judgement::Bad => decided.refusal = Some(own.bad(BAD)),
                Judgement::Unknown(issuer) => decided.refusal = Some(own.unknown(issuer)),
            }
            decided
        }))
    }

    /// For an operator who asks what a call would meet: the token that it would have.
    fn renew(&self, asked: &mut Asked<'_, '_>) -> Option<Refusal> {
        match self.0.token(asked) {
            None if self.0.policy.optional => None,
            None => Some(self.0.bad("it has no bearer token")),
            Some((_, token)) => match self.0.judge(&token) {
                Judgement::Good(claims) => {
                    asked.edits.claim(claims);
                    None
                }
                Judgement::Bad => Some(self.0.bad(BAD)),
                Judgement::Unknown(_) => None,
            },
        }
    }
}
