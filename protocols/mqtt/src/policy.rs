//! Route policies of MQTT: who may publish and hear what, under which names,
//! how much.

mod names;
mod template;

use std::sync::Arc;
use std::time::Duration;

use finback_core::route::RoutePolicy;

use crate::authentication::Authentication;
use crate::codec::Connect;
use crate::sink::MessageSink;
use crate::topic::{covers, intersect, unshared};

pub(crate) use names::Names;
pub use names::Rewrite;
pub(crate) use template::Facts;
pub use template::{NameTemplate, NameTemplateError};

/// What a route does with sessions.
#[derive(Debug, Default)]
pub struct Policy {
    /// Who may do what; the first rule that fits decides, and where none fits, it is forbidden.
    /// Empty: everything is allowed.
    pub rules: Vec<Rule>,
    /// What stands before every topic at the broker. Default: nothing.
    pub mount: Option<NameTemplate>,
    /// Beginnings of topics that are others at the broker.
    pub rewrites: Vec<Rewrite>,
    /// What becomes of a message that is forbidden, where its version has no answer for that.
    pub denied: Denied,
    /// The client identifier that the broker sees. Default: the client's own.
    pub client_id: Option<NameTemplate>,
    /// The user that the broker sees. Default: the client's own.
    pub username: Option<NameTemplate>,
    /// The password that the broker sees, with `username`. Default: the client's own, or none.
    pub password: Option<Vec<u8>>,
    /// Whether the broker is told of the client's address and certificate, in version 2 of the
    /// PROXY protocol.
    pub proxy_protocol: bool,
    /// Messages per second of one session; at the limit its client is read no more.
    pub messages_per_second: Option<u32>,
    /// Bytes of messages per second of one session; at the limit its client is read no more.
    pub bytes_per_second: Option<u64>,
    /// Where clients are told to go when we go away.
    pub server_reference: Option<String>,
    /// What a second session of one client identifier means here.
    pub duplicates: Duplicates,
    /// Where messages go in the place of a broker: sessions end here.
    pub produce: Option<Produce>,
    /// Where messages go besides their broker.
    pub mirror: Option<MessageMirror>,
}

impl RoutePolicy for Policy {
    fn protocol(&self) -> &'static str {
        crate::NAME
    }

    fn destination(&self) -> Option<String> {
        Some(self.produce.as_ref()?.sink.explain())
    }

    fn announces_clients(&self) -> bool {
        self.proxy_protocol
    }
}

/// Where messages go in the place of a broker.
#[derive(Clone, Debug)]
pub struct Produce {
    /// Who takes them.
    pub sink: Arc<dyn MessageSink>,
    /// The route's name: what is remembered of sessions is remembered for it alone.
    pub route: Arc<str>,
    /// How it learns who its clients are.
    pub authentication: Authentication,
    /// How long the state of a session of MQTT 3 outlives its connection, unless it is clean. Clients of
    /// MQTT 5 say that themselves.
    pub session_expiry: Duration,
    /// What becomes of a message that the sink will never take, where its version has no answer for
    /// that.
    pub refused: Denied,
}

/// Where messages go besides their broker.
#[derive(Clone, Debug)]
pub struct MessageMirror {
    /// Who takes them.
    pub sink: Arc<dyn MessageSink>,
    /// Whether the broker's acknowledgement is held back until it is safe there too, and a full
    /// sink slows the client down; else what finds no room there is left out.
    pub hold: bool,
    /// Filters of the topics it is about, as clients name them; empty: all.
    pub topics: Vec<String>,
}

impl MessageMirror {
    pub(crate) fn is_about(&self, topic: &str) -> bool {
        self.topics.is_empty() || self.topics.iter().any(|filter| covers(filter, topic))
    }
}

/// What becomes of a message of quality of service 1 or 2 that is forbidden to a client of
/// MQTT 3, which has no answer for that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Denied {
    /// It is acknowledged and goes nowhere.
    #[default]
    Acknowledge,
    /// The connection is closed.
    Close,
}

/// What a second session of one client identifier means here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duplicates {
    /// The broker's affair.
    #[default]
    Broker,
    /// The former one is ended at once, whichever broker it is at.
    TakeOver,
    /// The new one is refused.
    Refuse,
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Publishing.
    Publish,
    /// Subscribing.
    Subscribe,
    /// Both.
    All,
}

/// One rule about topics.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Whether it allows or forbids.
    pub allow: bool,
    /// What it is about.
    pub action: Action,
    /// Filters of the topics it is about, as the client names them.
    pub topics: Vec<NameTemplate>,
}

impl Rule {
    fn is_about(&self, action: Action) -> bool {
        self.action == Action::All || self.action == action
    }
}

/// A policy applied to one session.
pub(crate) struct Applied {
    policy: Arc<Policy>,
    /// Filters of its rules with this session's names in them; empty if none has any.
    topics: Box<[Box<str>]>,
    pub(crate) names: Names,
}

/// A name of the client that its policy needs is missing, or could be taken for more than a name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unusable;

impl Applied {
    pub(crate) fn new(policy: &Arc<Policy>, facts: &Facts<'_>) -> Result<Self, Unusable> {
        let mut topics = Vec::new();
        let all = policy.rules.iter().flat_map(|rule| &rule.topics);
        if all.clone().any(|topic| topic.has_names()) {
            for topic in all {
                topics.push(topic.fill_topic(facts).ok_or(Unusable)?.into_boxed_str());
            }
        }
        let mount = match &policy.mount {
            None => None,
            Some(mount) => Some(mount.fill_topic(facts).ok_or(Unusable)?),
        };
        Ok(Self {
            names: Names::new(mount, policy.rewrites.clone()),
            topics: topics.into(),
            policy: policy.clone(),
        })
    }

    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether packets need be looked at one by one.
    pub(crate) fn is_about_topics(&self) -> bool {
        !self.policy.rules.is_empty() || !self.names.are_plain() || self.policy.mirror.is_some()
    }

    pub(crate) fn may_publish(&self, name: &str) -> bool {
        self.allows(Action::Publish, name, |_, rule| covers(rule, name))
    }

    /// A rule that forbids is about filters that select anything of its own; one that allows,
    /// about filters that select nothing else.
    pub(crate) fn may_subscribe(&self, filter: &str) -> bool {
        let filter = unshared(filter);
        self.allows(Action::Subscribe, filter, |allow, rule| {
            if allow {
                covers(rule, filter)
            } else {
                intersect(rule, filter)
            }
        })
    }

    fn allows(&self, action: Action, topic: &str, fits: impl Fn(bool, &str) -> bool) -> bool {
        let mut at = 0;
        for rule in &self.policy.rules {
            let first = at;
            at += rule.topics.len();
            if !rule.is_about(action) {
                continue;
            }
            let fit = if self.topics.is_empty() {
                rule.topics
                    .iter()
                    .any(|topic| fits(rule.allow, topic.text()))
            } else {
                self.topics[first..at]
                    .iter()
                    .any(|topic| fits(rule.allow, topic))
            };
            if fit {
                return rule.allow;
            }
        }
        // A mount point stands before none of these names, and brokers do things by them ($SYS,
        // $CONTROL, $delayed): under one, a rule has to name them.
        let is_outside = self.names.is_mounted() && topic.starts_with('$');
        self.policy.rules.is_empty() && !is_outside
    }

    /// Whether a broker's message of this name is for the client at all. Subscriptions are checked when
    /// they are made; but names without a mount point must not come by one from before.
    pub(crate) fn may_hear(&self, name: &str) -> bool {
        !(self.names.is_mounted() && name.starts_with('$'))
            || self.allows(Action::Subscribe, name, |_, rule| covers(rule, name))
    }

    /// Makes a CONNECT as the broker shall see it.
    pub(crate) fn amend(
        &self,
        connect: &mut Connect<'_>,
        facts: &Facts<'_>,
    ) -> Result<(), Unusable> {
        let fill = |template: &NameTemplate| template.fill(facts).ok_or(Unusable);
        if let Some(id) = &self.policy.client_id {
            connect.client_id = fill(id)?.into();
        }
        if let Some(user) = &self.policy.username {
            connect.username = Some(fill(user)?.into());
            if let Some(password) = &self.policy.password {
                connect.password = Some(password.clone().into());
            }
        }
        self.names.amend(connect);
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn rule(allow: bool, action: Action, topics: &[&str]) -> Rule {
        let topics = topics.iter().map(|text| text.parse().unwrap()).collect();
        Rule {
            allow,
            action,
            topics,
        }
    }

    fn applied(rules: Vec<Rule>, client_id: &str) -> Result<Applied, Unusable> {
        let policy = Policy {
            rules,
            ..Policy::default()
        };
        let facts = Facts {
            client_id,
            ..Facts::default()
        };
        Applied::new(&Arc::new(policy), &facts)
    }

    #[test]
    fn the_first_rule_that_fits_decides_and_where_none_does_it_is_forbidden() {
        let applied = applied(
            vec![
                rule(false, Action::All, &["secret/#"]),
                rule(true, Action::Publish, &["up/{client_id}/#"]),
                rule(true, Action::Subscribe, &["down/{client_id}/+", "all/#"]),
            ],
            "meter-7",
        )
        .unwrap();
        assert!(applied.may_publish("up/meter-7/power"));
        assert!(!applied.may_publish("up/meter-8/power"));
        assert!(!applied.may_publish("down/meter-7/x"));
        assert!(applied.may_subscribe("down/meter-7/x"));
        assert!(applied.may_subscribe("down/meter-7/+"));
        assert!(!applied.may_subscribe("down/meter-7/#"));
        assert!(!applied.may_subscribe("down/+/x"));
        assert!(applied.may_subscribe("$share/group/all/things"));
        assert!(!applied.may_subscribe("#"));
        assert!(!applied.may_subscribe("secret/x"));
    }

    #[test]
    fn names_outside_of_a_mount_point_need_a_rule_that_names_them() {
        let mounted = |rules| {
            let policy = Policy {
                rules,
                mount: Some("t/".parse().unwrap()),
                ..Policy::default()
            };
            Applied::new(&Arc::new(policy), &Facts::default()).unwrap()
        };
        let open = mounted(Vec::new());
        assert!(open.may_publish("a") && open.may_subscribe("#"));
        assert!(open.may_subscribe("$share/g/a/#"));
        for name in ["$SYS/load", "$delayed/5/x", "$CONTROL/a", "$share/g/x", "$"] {
            assert!(!open.may_publish(name), "{name}");
            assert!(!open.may_hear(name), "{name}");
        }
        for filter in [
            "$SYS/#",
            "$share/g/$SYS/#",
            "$share/g",
            "$share",
            "$queue/a",
            "$exclusive/a",
        ] {
            assert!(!open.may_subscribe(filter), "{filter}");
        }
        let all = mounted(vec![rule(true, Action::All, &["#"])]);
        assert!(!all.may_publish("$delayed/5/x") && !all.may_subscribe("$SYS/#"));
        let named = mounted(vec![rule(true, Action::Subscribe, &["$SYS/broker/#"])]);
        assert!(named.may_subscribe("$SYS/broker/load") && named.may_hear("$SYS/broker/load"));
        assert!(named.may_subscribe("$share/g/$SYS/broker/#"));
        assert!(!named.may_subscribe("$SYS/#") && !named.may_publish("$SYS/broker/load"));
    }

    #[test]
    fn what_is_forbidden_is_not_heard_through_a_wider_filter() {
        let applied = applied(
            vec![
                rule(false, Action::Subscribe, &["a/secret/#"]),
                rule(true, Action::All, &["#"]),
            ],
            "x",
        )
        .unwrap();
        assert!(!applied.may_subscribe("a/#"));
        assert!(!applied.may_subscribe("a/+/b"));
        assert!(applied.may_subscribe("a/open"));
        assert!(applied.may_publish("a/secret/b"));
    }

    #[test]
    fn a_name_that_is_more_than_a_name_is_not_taken() {
        for id in ["", "a/b", "+", "#", "a#"] {
            let rules = vec![rule(true, Action::All, &["up/{client_id}"])];
            assert!(applied(rules, id).is_err(), "{id}");
        }
        assert!(applied(vec![rule(true, Action::All, &["up/#"])], "a/b").is_ok());
    }
}
