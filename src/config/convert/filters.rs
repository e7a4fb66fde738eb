//! Filters: policies become core's, and are checked against the routes that name them.

mod asking;
mod jwt;
mod lane;
mod strip;

use std::sync::Arc;
use std::time::Duration;

use finback_core::driver::ListenerSpec;
use finback_core::filter::authorization::{Authorization, Effect, Messages, Policy, Rule};
use finback_core::filter::fault::{Fault, OnRequest, Trouble};
use finback_core::filter::rate_limit::{Limit, Per, RateLimit, Unit};
use finback_core::filter::{Action, Filter};
use finback_core::rejection::Rejection;
use finback_core::rng::Share;
use finback_core::route::RouteTable;
use finback_mqtt::codec::Level;
use finback_mqtt::is_filter;

use super::routes::{conditions, sources};
use super::{Result, known};
use crate::config::Wrong;
use crate::config::file;
use crate::config::folder::Folder;
use crate::config::units::{Pause, Placed, Rate, Time};
use crate::filters::Background;
use crate::filters::keys::KeyRing;
use crate::filters::server::Server;
use crate::tls::ClientFiles;

/// What comes in this time may come at once, unless the configuration says otherwise.
const BURST: u128 = 100;
/// What is published over a limit waits for so long: its sender is not read meanwhile.
const PATIENCE: Duration = Duration::from_secs(60);

/// A filter, and what it asks of the protocols of its calls.
pub(super) struct Converted {
    pub(super) filter: Arc<dyn Filter>,
    needs: Option<Need>,
    /// What it needs beside the data path.
    pub(super) needed: Vec<Needed>,
}

impl Converted {
    fn new(filter: Arc<dyn Filter>, needs: Option<Need>) -> Self {
        Self {
            filter,
            needs,
            needed: Vec::new(),
        }
    }
}

/// What a filter needs beside the data path.
pub(super) enum Needed {
    /// A server that it asks, and the files of its TLS.
    Server(Arc<Server>, Option<Placed<ClientFiles>>),
    /// Keys that prove tokens.
    Keys(Placed<Arc<KeyRing>>),
}

impl Needed {
    pub(super) fn background(&self) -> Arc<dyn Background> {
        match self {
            Self::Server(server, _) => server.clone(),
            Self::Keys(keys) => keys.value.clone(),
        }
    }

    pub(super) fn tls(&self) -> Option<Placed<ClientFiles>> {
        match self {
            Self::Server(_, tls) => tls.clone(),
            Self::Keys(_) => None,
        }
    }

    pub(super) fn keys(&self) -> Option<Placed<Arc<KeyRing>>> {
        match self {
            Self::Server(..) => None,
            Self::Keys(keys) => Some(keys.clone()),
        }
    }
}

/// What only some protocols can do.
#[derive(Clone, Copy)]
enum Need {
    Messages,
    Answers,
    Bearer,
}

impl Need {
    fn is_met_by(self, protocol: &str) -> bool {
        match self {
            Self::Messages => protocol == finback_mqtt::NAME,
            Self::Answers | Self::Bearer => {
                protocol != finback_mqtt::NAME && protocol != finback_tcp::NAME
            }
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Messages => "it counts messages, which only sessions of MQTT have",
            Self::Bearer => "it wants a bearer token, and no protocol there has a place for one",
            Self::Answers => "it drops answers, and no protocol there has any",
        }
    }
}

/// Names that must be those of filters.
pub(super) fn named(names: Vec<Placed<String>>, filters: &[String]) -> Result<Arc<[Arc<str>]>> {
    let names = names.into_iter().map(|name| {
        known(filters, "filter", &name)?;
        Ok(Arc::from(name.value))
    });
    names.collect()
}

/// One filter of the file.
pub(super) fn filter(
    name: &str,
    from: Placed<file::Filter>,
    folder: &Folder<'_>,
) -> Result<Converted> {
    let Placed { value, place } = from;
    let mut all = Vec::new();
    if let Some(own) = value.authorization {
        let own = authorization(name, own.value);
        all.push(own.map(|own| Converted::new(Arc::new(own), None)));
    }
    all.extend(value.rate_limit.map(|own| rate_limit(own.value)));
    all.extend(value.fault.map(fault));
    let external = value.external_authorization;
    all.extend(external.map(|own| asking::external_authorization(name, own, folder)));
    let service = value.rate_limit_service;
    all.extend(service.map(|own| asking::rate_limit_service(name, own, folder)));
    all.extend(value.sentinel.map(|own| asking::sentinel(name, own)));
    all.extend(value.jwt.map(|own| jwt::jwt(own, folder)));
    all.extend(value.lane.map(lane::lane));
    all.extend(value.strip.map(strip::strip));
    match (all.pop(), all.is_empty()) {
        (Some(only), true) => only,
        _ => {
            let message = "write exactly one of `authorization`, `external_authorization`, `jwt`, `lane`, `rate_limit`, \
                 `rate_limit_service`, `sentinel`, `strip` and `fault`";
            Err(Wrong::at(place, message))
        }
    }
}

fn effect(word: Placed<String>) -> Result<Effect> {
    match &*word.value {
        "allow" => Ok(Effect::Allow),
        "deny" => Ok(Effect::Deny),
        other => {
            let message = format!("`{other}` is not an effect; write allow or deny");
            Err(Wrong::at(word.place, message))
        }
    }
}

fn authorization(filter: &str, from: file::Authorization) -> Result<Authorization> {
    let default = from.default.map_or(Ok(Effect::Deny), effect)?;
    let rules = from.rules.into_iter().enumerate();
    let rules = rules.map(|(number, from)| rule(filter, number, from));
    Ok(Authorization::new(Policy {
        default,
        dry_run: from.dry_run,
        rules: rules.collect::<Result<_>>()?,
    }))
}

fn rule(filter: &str, number: usize, from: Placed<file::AuthorizationRule>) -> Result<Rule> {
    let Placed {
        value: mut from,
        place,
    } = from;
    let is = |protocol: &str| {
        let when = from.when.as_ref().and_then(|own| own.protocol.as_ref());
        when.is_some_and(|own| matches!(&own.value, file::Text::Exact(name) if name == protocol))
    };
    let (is_mqtt, is_rocketmq) = (is(finback_mqtt::NAME), is(finback_rocketmq::NAME));
    let is_about_messages = from.actions.is_some() || from.topics.is_some();
    if is_about_messages && !is_mqtt && !is_rocketmq {
        let message = "`actions` and `topics` are those of messages; add `match: { protocol: mqtt }` or rocketmq";
        return Err(Wrong::at(place, message));
    }
    if let (true, Some(when)) = (is_rocketmq, &mut from.when) {
        requests(when, from.actions.take(), from.topics.take(), place)?;
    }
    let effect = effect(from.effect)?;
    if effect == Effect::Deny {
        from.when = from.when.map(widened);
    }
    Ok(Rule {
        name: from
            .name
            .unwrap_or_else(|| format!("{filter}[{number}]"))
            .into(),
        effect,
        dry_run: from.dry_run,
        when: from.when.map(conditions).transpose()?.unwrap_or_default(),
        messages: messages(from.actions, from.topics)?,
    })
}

/// What a rule that denies is about, with the other spellings that servers take for the same: a method of Triple with
/// its first letter in either case, a host in any case, with a port, or with the dot that ends a full name.
fn widened(mut when: file::Match) -> file::Match {
    let regex = |text: String, place| {
        Some(Placed {
            value: file::Text::Rule(file::TextRule {
                prefix: None,
                regex: Some(text),
            }),
            place,
        })
    };
    let either = |name: &str| -> Option<String> {
        let first = name.chars().next().filter(char::is_ascii_alphabetic)?;
        let (small, large) = (first.to_ascii_lowercase(), first.to_ascii_uppercase());
        Some(format!("[{small}{large}]{}", regex::escape(&name[1..])))
    };
    if let Some(Placed { value, place }) = &when.method {
        let wider = match value {
            file::Text::Exact(name) => either(name),
            file::Text::Rule(file::TextRule {
                prefix: Some(name), ..
            }) => either(name).map(|own| format!("{own}.*")),
            file::Text::Rule(_) => None,
        };
        if let Some(wider) = wider {
            when.method = regex(wider, *place);
        }
    }
    if let Some(Placed {
        value: file::Text::Exact(host),
        place,
    }) = &when.host
    {
        let host = regex::escape(host.trim_end_matches('.'));
        when.host = regex(format!(r"(?i){host}\.?(:[0-9]*)?"), *place);
    }
    when
}

/// Codes of RocketMQ by which messages are sent, and by which they are read.
const SENDS: &str =
    "SEND_MESSAGE|SEND_MESSAGE_V2|SEND_BATCH_MESSAGE|SEND_REPLY_MESSAGE|SEND_REPLY_MESSAGE_V2";
const CONSUMES: &str =
    "PULL_MESSAGE|LITE_PULL_MESSAGE|POP_MESSAGE|PEEK_MESSAGE|NOTIFICATION|QUERY_MESSAGE";

/// Makes of what is done with messages of RocketMQ the requests by which it is done.
fn requests(
    when: &mut file::Match,
    actions: Option<Placed<Vec<String>>>,
    topics: Option<Placed<Vec<String>>>,
    place: (u64, u64),
) -> Result<()> {
    let regex = |text: String, place| Placed {
        value: file::Text::Rule(file::TextRule {
            prefix: None,
            regex: Some(text),
        }),
        place,
    };
    let twice = "`actions` and `topics` say that, too; take `method` and `service` away";
    if let Some(own) = &actions {
        if when.method.is_some() {
            return Err(Wrong::at(place, twice));
        }
        let codes = own.value.iter().map(|action| match &**action {
            "send" => Ok(SENDS),
            "consume" => Ok(CONSUMES),
            other => {
                let message = format!("`{other}` is not a RocketMQ action; write send or consume");
                Err(Wrong::at(own.place, message))
            }
        });
        let codes = codes.collect::<Result<Vec<_>>>()?;
        if codes.is_empty() {
            let message = "an empty list is about nothing; leave it out, or fill it";
            return Err(Wrong::at(own.place, message));
        }
        when.method = Some(regex(codes.join("|"), own.place));
    }
    if let Some(own) = topics {
        if when.service.is_some() {
            return Err(Wrong::at(place, twice));
        }
        let bad = |topic: &&String| topic.is_empty() || topic.contains(|c: char| !is_of_topic(c));
        if let Some(bad) = own.value.iter().find(bad) {
            let message = format!("`{bad}` is not a RocketMQ topic");
            return Err(Wrong::at(own.place, message));
        }
        if own.value.is_empty() {
            let message = "an empty list is about no topic; leave it out, or fill it";
            return Err(Wrong::at(own.place, message));
        }
        when.service = Some(regex(own.value.join("|"), own.place));
    }
    Ok(())
}

/// What names of topics are made of (RocketMQ: TopicValidator), with the sign that parts off a namespace.
fn is_of_topic(c: char) -> bool {
    c.is_ascii_alphanumeric() || "%-_".contains(c)
}

fn messages(
    actions: Option<Placed<Vec<String>>>,
    topics: Option<Placed<Vec<String>>>,
) -> Result<Option<Messages>> {
    if actions.is_none() && topics.is_none() {
        return Ok(None);
    }
    let mut own = Messages {
        // Topics are those of messages.
        connect: actions.is_none() && topics.is_none(),
        actions: Vec::new(),
        topics: Vec::new(),
    };
    let Some(actions) = actions else {
        own.actions = vec![Action::Publish, Action::Subscribe];
        own.topics = filters_of_topics(topics)?;
        return Ok(Some(own));
    };
    if actions.value.is_empty() {
        let message = "an empty list is about nothing; leave it out, or fill it";
        return Err(Wrong::at(actions.place, message));
    }
    for action in actions.value {
        match &*action {
            "connect" => own.connect = true,
            "publish" => own.actions.push(Action::Publish),
            "subscribe" => own.actions.push(Action::Subscribe),
            other => {
                let message =
                    format!("`{other}` is not an action; write connect, publish or subscribe");
                return Err(Wrong::at(actions.place, message));
            }
        }
    }
    if let Some(topics) = topics.as_ref().filter(|_| own.actions.is_empty()) {
        let message =
            "nothing is published or subscribed to when a session begins; take `topics` away";
        return Err(Wrong::at(topics.place, message));
    }
    own.topics = filters_of_topics(topics)?;
    Ok(Some(own))
}

fn filters_of_topics(topics: Option<Placed<Vec<String>>>) -> Result<Vec<Arc<str>>> {
    let Some(topics) = topics else {
        return Ok(Vec::new());
    };
    if topics.value.is_empty() {
        let message = "an empty list is about no topic; leave it out, or fill it";
        return Err(Wrong::at(topics.place, message));
    }
    let is_bad = |own: &&String| !is_filter(own, Level::V5) || own.starts_with("$share/");
    if let Some(bad) = topics.value.iter().find(is_bad) {
        let message =
            format!("`{bad}` is not a topic filter; write one such as plant/+/state or plant/#");
        return Err(Wrong::at(topics.place, message));
    }
    Ok(topics.value.into_iter().map(Into::into).collect())
}

fn rate_limit(from: file::RateLimit) -> Result<Converted> {
    let unit = match from.unit.as_ref().map(|own| (&*own.value, own.place)) {
        None | Some(("calls", _)) => Unit::Calls,
        Some(("messages", _)) => Unit::Messages,
        Some(("message_bytes", _)) => Unit::MessageBytes,
        Some((other, place)) => {
            let message =
                format!("`{other}` is not counted; write calls, messages or message_bytes");
            return Err(Wrong::at(place, message));
        }
    };
    let Rate { amount, period } = from.rate;
    let usual = u128::from(amount) * BURST / period.as_millis().max(1);
    let usual = u64::try_from(usual).unwrap_or(u64::MAX).max(1);
    let per = from.per.into_iter().map(|own| per(own, unit));
    let patience = match unit {
        Unit::Calls => Duration::ZERO,
        Unit::Messages | Unit::MessageBytes => PATIENCE,
    };
    let limit = Limit {
        unit,
        amount,
        period,
        burst: from.burst.map_or(usual, u64::from),
        per: per.collect::<Result<_>>()?,
        wait: from.wait.map_or(patience, |Pause(wait)| wait),
    };
    let needs = (unit != Unit::Calls).then_some(Need::Messages);
    Ok(Converted::new(Arc::new(RateLimit::new(limit)), needs))
}

fn per(from: Placed<file::Per>, unit: Unit) -> Result<Per> {
    let word = match from.value {
        file::Per::Attribute(own) => return Ok(Per::Attribute(own.attribute.into())),
        file::Per::Word(word) => word,
    };
    Ok(match &*word {
        "listener" => Per::Listener,
        "route" => Per::Route,
        "service" => Per::Service,
        "method" => Per::Method,
        "source" => Per::Source,
        "identity" => Per::Identity,
        "topic" if unit == Unit::Calls => {
            let message = "calls have no topic; add `unit: messages`, or take it away";
            return Err(Wrong::at(from.place, message));
        }
        "topic" => Per::Topic,
        _ => {
            let message = format!(
                "`{word}` tells no calls apart; write listener, route, service, method, source, identity, \
                 topic or {{ attribute: NAME }}"
            );
            return Err(Wrong::at(from.place, message));
        }
    })
}

fn fault(Placed { value, place }: Placed<file::Fault>) -> Result<Converted> {
    let mut troubles: Vec<(Share, Trouble)> = Vec::new();
    if let Some(own) = value.delay {
        let Time(by) = own.time;
        troubles.push((own.percent.0, Trouble::Delay(by)));
    }
    if let Some(own) = value.refuse {
        let reason = own.value.reason;
        let mut reasons = Rejection::ALL.into_iter();
        let Some(why) = reasons.find(|own| own.name() == reason.value) else {
            let all = Rejection::ALL.map(Rejection::name).join(", ");
            let message = format!("`{}` is not a reason; write one of: {all}", reason.value);
            return Err(Wrong::at(reason.place, message));
        };
        troubles.push((own.value.percent.0, Trouble::Refuse(why)));
    }
    let needs = value.drop_response.as_ref().map(|_| Need::Answers);
    if let Some(own) = value.drop_response {
        troubles.push((own.value.percent.0, Trouble::DropAnswer));
    }
    let on_request = value.on_request.map(|own| {
        Ok(OnRequest {
            attribute: own.attribute.into(),
            sources: sources(own.source)?,
        })
    });
    let on_request = on_request.transpose()?;
    if troubles.is_empty() && on_request.is_none() {
        let message =
            "a fault without any trouble; write `delay`, `refuse`, `drop_response` or `on_request`";
        return Err(Wrong::at(place, message));
    }
    let fault = Fault {
        troubles,
        on_request,
    };
    Ok(Converted::new(Arc::new(fault), needs))
}

/// Refuses a filter on a route that no protocol can reach which can do what the filter asks for.
pub(super) fn check(
    name: &str,
    (converted, place): (&Converted, (u64, u64)),
    tables: &[RouteTable],
    listeners: &[ListenerSpec],
) -> Result<()> {
    let Some(need) = converted.needs else {
        return Ok(());
    };
    for table in tables {
        let named = |names: &[Arc<str>]| names.iter().any(|own| **own == *name);
        for route in table.routes.iter().filter(|own| named(&own.filters)) {
            let spoken = crate::protocols::reaching(listeners, &table.name, route);
            if !spoken.is_empty() && !spoken.iter().any(|own| need.is_met_by(own)) {
                let message = format!(
                    "route `{}` has the filter `{name}`, but {}",
                    route.name,
                    need.words()
                );
                return Err(Wrong::at(place, message));
            }
        }
    }
    Ok(())
}
