//! Random rules against the published algorithm of version 3.3, written plainly (Dubbo: AbstractConfigurator,
//! Dubbo: TagStateRouter, Dubbo: ConditionStateRouter), for an application `shop` that serves
//! and callers of several applications.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fmt::Write;

use proptest::prelude::*;
use proptest::sample::select as one_of;

use super::tests::{Call, World, reached};
use crate::layout::url;

#[derive(Clone, Debug)]
struct Server {
    host: u8,
    port: u16,
    version: &'static str,
    group: &'static str,
    zone: &'static str,
    tag: &'static str,
}

/// A configurator, in either form.
#[derive(Clone, Debug)]
struct Setting {
    /// The place in the centre; none for the older form.
    place: Option<Where>,
    host: u8,
    port: u16,
    version: &'static str,
    group: &'static str,
    side: &'static str,
    application: &'static str,
    zone: &'static str,
    /// Addresses of providers: `host:port`.
    providers: Vec<(u8, u16)>,
    weight: u32,
    disabled: bool,
    priority: i32,
}

#[derive(Clone, Debug, PartialEq)]
enum Where {
    Application(&'static str),
    Service(&'static str, &'static str),
}

#[derive(Clone, Debug)]
struct TagRule {
    force: bool,
    tags: Vec<(&'static str, Vec<(u8, u16)>)>,
}

/// A condition router, in either form.
#[derive(Clone, Debug)]
struct Router {
    place: Option<Where>,
    version: &'static str,
    group: &'static str,
    force: bool,
    priority: i32,
    /// Of each: word, whether it is `=`, and values.
    when: Vec<(&'static str, bool, Vec<&'static str>)>,
    /// `None` denies.
    then: Option<Vec<(&'static str, bool, Vec<&'static str>)>>,
}

#[derive(Clone, Debug)]
struct Caller {
    version: &'static str,
    group: &'static str,
    method: &'static str,
    application: &'static str,
    tag: &'static str,
    forced: bool,
    user: &'static str,
}

const VERSIONS: [&str; 3] = ["", "1.0", "2.0"];
const GROUPS: [&str; 2] = ["", "g"];
const TAGS: [&str; 5] = ["", "gray", "blue", "gray|a", "gray|a|b"];
const APPLICATIONS: [&str; 3] = ["shop", "web", "cart"];

fn host(number: u8) -> String {
    if number == 0 {
        "0.0.0.0".to_owned()
    } else {
        format!("10.0.0.{number}")
    }
}

fn address((number, port): (u8, u16)) -> String {
    format!("{}:{port}", host(number))
}

fn servers() -> impl Strategy<Value = Vec<Server>> {
    let one = (
        1_u16..3,
        one_of(&VERSIONS[..2]),
        one_of(&GROUPS[..]),
        one_of(&["", "x", "y"][..]),
        one_of(&TAGS[..4]),
    );
    prop::collection::vec(one, 1..5).prop_map(|all| {
        (1..)
            .zip(all)
            .map(|(host, (port, version, group, zone, tag))| Server {
                host,
                port,
                version,
                group,
                zone,
                tag,
            })
            .collect()
    })
}

fn place() -> impl Strategy<Value = Where> {
    prop_oneof![
        one_of(&APPLICATIONS[..]).prop_map(Where::Application),
        (one_of(&VERSIONS[..]), one_of(&GROUPS[..])).prop_map(|(v, g)| Where::Service(v, g)),
    ]
}

fn setting() -> impl Strategy<Value = Setting> {
    let scope = (
        0_u8..4,
        0_u16..3,
        one_of(&VERSIONS[..]),
        one_of(&GROUPS[..]),
        one_of(&["", "provider", "consumer"][..]),
    );
    let more = (
        one_of(&["", "*", "shop", "web"][..]),
        one_of(&["", "", "x", "*"][..]),
        addresses(),
    );
    (
        prop::option::of(place()),
        scope,
        more,
        1_u32..9,
        prop::bool::weighted(0.2),
        0..3,
    )
        .prop_map(
            |(
                place,
                (host, port, version, group, side),
                (application, zone, providers),
                weight,
                disabled,
                priority,
            )| Setting {
                place,
                host,
                port,
                version,
                group,
                side,
                application,
                zone,
                providers,
                weight,
                disabled,
                priority,
            },
        )
}

fn addresses() -> impl Strategy<Value = Vec<(u8, u16)>> {
    prop::collection::vec((0_u8..5, 1_u16..3), 0..3)
}

fn tag_rule() -> impl Strategy<Value = TagRule> {
    let tags = prop::collection::btree_map(one_of(&TAGS[1..4]), addresses(), 1..3);
    (any::<bool>(), tags).prop_map(|(force, tags)| TagRule {
        force,
        tags: tags.into_iter().collect(),
    })
}

type Parts = Vec<(&'static str, bool, Vec<&'static str>)>;

fn parts(
    words: &'static [(&'static str, &'static [&'static str])],
) -> impl Strategy<Value = Parts> {
    let part = one_of(words).prop_flat_map(|(word, values)| {
        (
            Just(word),
            any::<bool>(),
            prop::collection::vec(one_of(values), 1..3),
        )
    });
    prop::collection::vec(part, 0..3)
}

fn router() -> impl Strategy<Value = Router> {
    let when = parts(&[
        ("method", &["get", "ge*", "*t", "set", "g*et"]),
        ("host", &["10.9.9.9", "10.9.*", "10.0.0.1", "*"]),
        ("application", &["web", "shop", "c*"]),
        ("attachments[user]", &["1~10", "~5", "7", "*"]),
        ("interface", &["a.B", "a.*", "x.Y"]),
    ]);
    let then = parts(&[
        ("host", &["10.0.0.1", "10.0.0.*", "10.0.0.2", "$host"]),
        ("address", &["10.0.0.1:1", "*:2", "10.0.0.3:*"]),
        ("port", &["1", "2", "1~2", "~1"]),
        ("zone", &["x", "y", "*"]),
        ("application", &["shop", "web"]),
    ]);
    let scope = (
        prop::option::of(place()),
        one_of(&VERSIONS[..]),
        one_of(&GROUPS[..]),
        any::<bool>(),
        0..3,
    );
    (scope, when, prop::option::weighted(0.9, then)).prop_map(
        |((place, version, group, force, priority), when, then)| Router {
            place,
            version,
            group,
            force,
            priority,
            when,
            // An empty right side denies.
            then: then.filter(|then| !then.is_empty()),
        },
    )
}

fn caller() -> impl Strategy<Value = Caller> {
    let tag = (
        one_of(&TAGS[..]),
        prop::bool::weighted(0.3),
        one_of(&["", "3", "7", "70", "x"][..]),
    );
    (
        one_of(&VERSIONS[..2]),
        one_of(&GROUPS[..]),
        one_of(&["get", "set"][..]),
        one_of(&APPLICATIONS[..]),
        tag,
    )
        .prop_map(
            |(version, group, method, application, (tag, forced, user))| Caller {
                version,
                group,
                method,
                application,
                tag,
                forced,
                user,
            },
        )
}

// As they are written.

fn put(text: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        write!(text, "&{name}={value}").unwrap();
    }
}

impl Server {
    fn written(&self) -> String {
        let mut url = format!(
            "dubbo://{}/a.B?application=shop",
            address((self.host, self.port))
        );
        for (name, value) in [
            ("version", self.version),
            ("group", self.group),
            ("zone", self.zone),
            ("dubbo.tag", self.tag),
        ] {
            put(&mut url, name, value);
        }
        url
    }
}

fn key(place: &Where) -> String {
    match place {
        Where::Application(name) => (*name).to_owned(),
        Where::Service(version, group) => format!("a.B:{version}:{group}"),
    }
}

impl Setting {
    fn write(&self, world: &mut World) {
        match &self.place {
            None => {
                let port = if self.port == 0 {
                    String::new()
                } else {
                    format!(":{}", self.port)
                };
                let mut url = format!(
                    "override://{}{port}/a.B?category=configurators&priority={}",
                    host(self.host),
                    self.priority
                );
                let providers: Vec<String> = self.providers.iter().copied().map(address).collect();
                let providers = providers.join(",");
                let weight = self.weight.to_string();
                let parameters = [
                    ("version", self.version),
                    ("group", self.group),
                    ("side", self.side),
                    ("application", self.application),
                    ("~zone", self.zone),
                    ("providerAddresses", &providers),
                ];
                for (name, value) in parameters {
                    put(&mut url, name, value);
                }
                put(
                    &mut url,
                    if self.disabled { "disabled" } else { "weight" },
                    if self.disabled { "true" } else { &weight },
                );
                world.nodes.push(url);
            }
            Some(place) => {
                let (scope, own) = match place {
                    Where::Application(name) => ("application", (*name).to_owned()),
                    Where::Service(..) => ("service", "a.B".to_owned()),
                };
                let mut item = String::from("{ ");
                if !self.side.is_empty() {
                    write!(item, "side: {}, ", self.side).unwrap();
                }
                if !self.application.is_empty() {
                    write!(item, "applications: ['{}'], ", self.application).unwrap();
                }
                let port = if self.port == 0 {
                    String::new()
                } else {
                    format!(":{}", self.port)
                };
                write!(item, "addresses: ['{}{port}'], ", host(self.host)).unwrap();
                let providers: Vec<String> = self
                    .providers
                    .iter()
                    .map(|own| format!("'{}'", address(*own)))
                    .collect();
                write!(item, "providerAddresses: [{}], ", providers.join(", ")).unwrap();
                let parameter = if self.disabled {
                    "disabled: true".to_owned()
                } else {
                    format!("weight: {}", self.weight)
                };
                write!(item, "parameters: {{ {parameter} }} }}").unwrap();
                let text = format!(
                    "configVersion: v2.7\nscope: {scope}\nkey: {own}\nconfigs:\n- {item}\n"
                );
                document(world, &format!("{}.configurators", key(place)), text);
            }
        }
    }
}

/// A key has one document: a second rule of the same key takes its place, as in a registry.
fn document(world: &mut World, key: &str, text: String) {
    world.documents.retain(|(own, _)| own != key);
    world.documents.push((key.to_owned(), text));
}

impl Router {
    fn text(&self) -> String {
        let side = |parts: &Parts| {
            let part = |(word, is, values): &(&str, bool, Vec<&str>)| {
                format!(
                    "{word}{}{}",
                    if *is { "=" } else { " != " },
                    values.join(",")
                )
            };
            parts.iter().map(part).collect::<Vec<_>>().join(" & ")
        };
        let then = self.then.as_ref().map(side).unwrap_or_default();
        format!("{} => {then}", side(&self.when))
    }

    fn write(&self, world: &mut World) {
        match &self.place {
            None => {
                let mut url = format!(
                    "condition://0.0.0.0/a.B?category=routers&force={}&priority={}&rule={}",
                    self.force,
                    self.priority,
                    url::encode(&self.text())
                );
                put(&mut url, "version", self.version);
                put(&mut url, "group", self.group);
                world.nodes.push(url);
            }
            Some(place) => {
                let text = format!(
                    "force: {}\nconditions:\n- \"{}\"\n",
                    self.force,
                    self.text()
                );
                document(world, &format!("{}.condition-router", key(place)), text);
            }
        }
    }
}

// What Dubbo does.

/// A provider after configurators.
#[derive(Clone, Debug)]
struct Configured {
    server: Server,
    weight: u32,
    disabled: bool,
}

/// `configureIfMatch` for one side; the consumer is one that no rule names.
fn applies(own: &Setting, server: &Server, side: &str) -> bool {
    let application = if side == "provider" { "shop" } else { "nobody" };
    let here = if side == "provider" {
        host(server.host)
    } else {
        "9.9.9.9".to_owned()
    };
    let any = |text: &str| text.is_empty() || text == "*";
    let among = |list: &[(u8, u16)]| {
        let is = |(number, port): &(u8, u16)| {
            (*number == 0 || *number == server.host) && *port == server.port
        };
        list.is_empty() || list.iter().any(is)
    };
    let at = |here: &str| own.host == 0 || host(own.host) == here;
    match &own.place {
        Some(place) => {
            let read = match place {
                Where::Application(name) => *name == application,
                Where::Service(version, group) => {
                    (*version, *group) == (server.version, server.group)
                }
            };
            // Items of applications have no `applications`.
            let named = matches!(place, Where::Application(_))
                || any(own.application)
                || own.application == application;
            let address_listed = || match (own.host, own.port) {
                (0, 0) => true,
                (0, port) => port == server.port,
                (number, 0) => number == server.host,
                (number, port) => (number, port) == (server.host, server.port),
            };
            let listed = if own.providers.is_empty() {
                side == "consumer" || address_listed()
            } else {
                among(&own.providers)
            };
            read && own.side == side && named && at(&here) && listed
        }
        None => {
            let key = (own.version, own.group) == (server.version, server.group);
            let addressed = if own.port > 0 {
                own.port == server.port && at(&host(server.host))
            } else if side == "provider" {
                own.host == 0
            } else {
                at(&here)
            };
            key && addressed
                && among(&own.providers)
                && (any(own.application) || own.application == application)
                && (any(own.side) || own.side == side)
                && (any(own.zone) || own.zone == server.zone)
        }
    }
}

/// In which order configurators are applied: the older form, applications, services.
fn stage(own: &Setting) -> (u8, String, i32) {
    let stage = match own.place {
        None => 0,
        Some(Where::Application(_)) => 1,
        Some(Where::Service(..)) => 2,
    };
    (stage, host(own.host), own.priority)
}

fn configured(servers: &[Server], settings: &[Setting]) -> Vec<Configured> {
    let mut settings: Vec<&Setting> = settings.iter().collect();
    settings.sort_by_key(|own| stage(own));
    let one = |server: &Server| {
        let mut now = Configured {
            server: server.clone(),
            weight: 100,
            disabled: false,
        };
        for side in ["provider", "consumer"] {
            for own in settings.iter().filter(|own| applies(own, server, side)) {
                if own.disabled {
                    now.disabled = true;
                } else {
                    now.weight = own.weight;
                }
            }
        }
        now
    };
    servers
        .iter()
        .map(one)
        .filter(|now| !now.disabled)
        .collect()
}

/// `isMatchGlobPattern`.
fn glob(pattern: &str, value: &str) -> bool {
    match pattern.rfind('*') {
        _ if pattern == "*" => true,
        None => pattern == value,
        Some(at) => value.starts_with(&pattern[..at]) && value.ends_with(&pattern[at + 1..]),
    }
}

/// `doPatternMatch`.
fn fits(pattern: &str, value: &str, caller_host: Option<&str>) -> bool {
    if let Some((low, high)) = pattern.split_once('~') {
        let number = |text: &str| text.parse::<i64>().unwrap_or(0);
        let value = number(value);
        return (low.is_empty() || value >= number(low)) && value <= number(high);
    }
    match (pattern, caller_host) {
        ("$host", Some(host)) => host == value,
        _ => glob(pattern, value),
    }
}

/// `doMatch`: what is said of the same word is one condition.
fn holds(parts: &Parts, value: impl Fn(&str) -> Option<String>, caller_host: Option<&str>) -> bool {
    let words: std::collections::BTreeSet<&str> = parts.iter().map(|(word, ..)| *word).collect();
    words.into_iter().all(|word| {
        let Some(value) = value(word) else {
            return false;
        };
        let of = |wanted: bool| {
            parts
                .iter()
                .filter(move |(own, is, _)| *own == word && *is == wanted)
                .flat_map(|(_, _, values)| values)
        };
        let matches = of(true).any(|pattern| fits(pattern, &value, caller_host));
        let mismatches = of(false).any(|pattern| fits(pattern, &value, caller_host));
        !mismatches && (of(true).next().is_none() || matches)
    })
}

/// Dubbo: TagStateRouter, `doRoute`.
fn by_tag(all: Vec<Configured>, rule: Option<&TagRule>, caller: &Caller) -> Vec<Configured> {
    let keep = |all: &[Configured], test: &dyn Fn(&Configured) -> bool| -> Vec<Configured> {
        all.iter().filter(|own| test(own)).cloned().collect()
    };
    let at = |list: &[(u8, u16)], own: &Configured| {
        let is = |(number, port): &(u8, u16)| {
            (*number == 0 || *number == own.server.host) && *port == own.server.port
        };
        list.iter().any(is)
    };
    let own_tag = |own: &Configured| own.server.tag == caller.tag;
    let untagged = |own: &Configured| own.server.tag.is_empty();
    let Some(rule) = rule else {
        if caller.tag.is_empty() {
            return keep(&all, &untagged);
        }
        let same = keep(&all, &own_tag);
        return if same.is_empty() && !caller.forced {
            keep(&all, &untagged)
        } else {
            same
        };
    };
    let named: Vec<&(&str, Vec<(u8, u16)>)> = rule
        .tags
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .collect();
    let given = |own: &Configured| named.iter().any(|(_, list)| at(list, own));
    let outside = |own: &Configured| !given(own) && untagged(own);
    if caller.tag.is_empty() {
        return keep(&all, &outside);
    }
    let find = |name: &str| named.iter().find(|(own, _)| *own == name);
    let mut levels: Vec<&str> = vec![caller.tag];
    while let Some((outer, _)) = levels[levels.len() - 1].rsplit_once('|') {
        levels.push(outer);
    }
    if caller.forced {
        levels.truncate(1);
    }
    let result = match levels.into_iter().find_map(find) {
        Some((_, list)) => {
            let result = keep(&all, &|own| at(list, own));
            if !result.is_empty() || rule.force {
                return result;
            }
            result
        }
        None => keep(&all, &own_tag),
    };
    if !result.is_empty() || caller.forced {
        return result;
    }
    keep(&all, &outside)
}

/// Dubbo: ConditionStateRouter, `doRoute`.
fn by_condition(all: Vec<Configured>, router: &Router, caller: &Caller) -> Vec<Configured> {
    let of_call = |word: &str| match word {
        "method" => Some(caller.method.to_owned()),
        "host" => Some("10.9.9.9".to_owned()),
        "application" => Some(caller.application.to_owned()),
        "interface" => Some("a.B".to_owned()),
        _ => (!caller.user.is_empty()).then(|| caller.user.to_owned()),
    };
    if all.is_empty() || !holds(&router.when, of_call, None) {
        return all;
    }
    let Some(then) = &router.then else {
        return Vec::new();
    };
    let of_server = |own: &Configured, word: &str| match word {
        "host" => Some(host(own.server.host)),
        "address" => Some(address((own.server.host, own.server.port))),
        "port" => Some(own.server.port.to_string()),
        "application" => Some("shop".to_owned()),
        _ => (!own.server.zone.is_empty()).then(|| own.server.zone.to_owned()),
    };
    let left: Vec<Configured> = all
        .iter()
        .filter(|own| holds(then, |word| of_server(own, word), Some("10.9.9.9")))
        .cloned()
        .collect();
    if left.is_empty() && !router.force {
        all
    } else {
        left
    }
}

fn expected(
    servers: &[Server],
    settings: &[Setting],
    tags: Option<&TagRule>,
    routers: &[Router],
    caller: &Caller,
) -> Vec<(String, u32)> {
    let mut all = configured(servers, settings);
    all.retain(|own| (own.server.version, own.server.group) == (caller.version, caller.group));
    let mut all = by_tag(all, tags, caller);
    let documents = [
        Where::Service(caller.version, caller.group),
        Where::Application("shop"),
        Where::Application(caller.application),
    ];
    for place in &documents {
        if *place == Where::Application("shop") && caller.application == "shop" && all.is_empty() {
            continue;
        }
        for own in routers
            .iter()
            .filter(|own| own.place.as_ref() == Some(place))
        {
            all = by_condition(all, own, caller);
        }
    }
    let is_for = |own: &&Router| {
        own.place.is_none() && (own.version, own.group) == (caller.version, caller.group)
    };
    let mut nodes: Vec<&Router> = routers.iter().filter(is_for).collect();
    // Of the same priority, in the order of their names.
    nodes.sort_by_key(|own| {
        let mut world = World::default();
        own.write(&mut world);
        (own.priority, url::encode(&world.nodes[0]))
    });
    for own in nodes {
        all = by_condition(all, own, caller);
    }
    let mut left: Vec<_> = all
        .iter()
        .map(|own| (address((own.server.host, own.server.port)), own.weight))
        .collect();
    left.sort();
    left
}

/// Of rules that stand at the same place, the last one.
fn last_of_each<T: Clone>(all: &[T], place: impl Fn(&T) -> Option<Where>) -> Vec<T> {
    let is_last = |at: usize| {
        let own = place(&all[at]);
        own.is_none() || !all[at + 1..].iter().any(|later| place(later) == own)
    };
    (0..all.len())
        .filter(|at| is_last(*at))
        .map(|at| all[at].clone())
        .collect()
}

/// Two configurators that set the same, of the same order, would be told apart by nothing.
fn distinct(settings: Vec<Setting>) -> Vec<Setting> {
    let mut seen = std::collections::BTreeSet::new();
    settings
        .into_iter()
        .filter(|own| seen.insert(stage(own)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn rules_do_what_dubbos_algorithm_does(
        servers in servers(),
        settings in prop::collection::vec(setting(), 0..4),
        tags in prop::option::of(tag_rule()),
        routers in prop::collection::vec(router(), 0..4),
        callers in prop::collection::vec(caller(), 1..6),
    ) {
        let settings = distinct(last_of_each(&settings, |own| own.place.clone()));
        let routers = last_of_each(&routers, |own| own.place.clone());
        let mut world = World {
            providers: servers.iter().map(Server::written).collect(),
            ..World::default()
        };
        settings.iter().for_each(|own| own.write(&mut world));
        routers.iter().for_each(|own| own.write(&mut world));
        if let Some(rule) = &tags {
            let tag = |(name, list): &(&str, Vec<(u8, u16)>)| {
                let list: Vec<String> = list.iter().map(|own| format!("'{}'", address(*own))).collect();
                format!("- {{ name: '{name}', addresses: [{}] }}\n", list.join(", "))
            };
            let list: String = rule.tags.iter().map(tag).collect();
            document(&mut world, "shop.tag-router", format!("force: {}\ntags:\n{list}", rule.force));
        }
        let offer = world.offer();
        for caller in &callers {
            let mut attributes = vec![("remote.application", caller.application)];
            attributes.extend([("dubbo.tag", caller.tag), ("user", caller.user)].into_iter().filter(|(_, value)| !value.is_empty()));
            attributes.extend(caller.forced.then_some(("dubbo.force.tag", "true")));
            let call = Call {
                version: caller.version,
                group: caller.group,
                method: caller.method,
                source: [10, 9, 9, 9],
                attributes,
                random: 0,
            };
            let mut left: Vec<_> = reached(&offer, &call).iter().map(|own| (own.address.to_string(), own.weight)).collect();
            left.sort();
            let expected = expected(&servers, &settings, tags.as_ref(), &routers, caller);
            prop_assert_eq!(left, expected, "{:?} in {:?} {:?}", caller, world.documents, world.nodes);
        }
    }
}
