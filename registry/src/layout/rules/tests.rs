//! Each form of rule, and whom it holds for.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use finback_core::discovery::{Lookup, Snapshot};
use finback_core::endpoint::Endpoint;
use finback_core::subset::{self, LaneKey};
use finback_core::traffic_rules::{Facts, MatchedRules};

use super::*;
use crate::layout::Cached;
use crate::layout::LayoutKind;
use crate::layout::url::{self, Url};
use crate::offer::Offer;
use crate::store::Entries;

/// What stands in a registry.
#[derive(Default)]
pub(super) struct World {
    pub(super) documents: Vec<(String, String)>,
    pub(super) nodes: Vec<String>,
    pub(super) providers: Vec<String>,
}

/// A call of the service `a.B`.
#[derive(Clone, Debug)]
pub(super) struct Call<'a> {
    pub(super) version: &'a str,
    pub(super) group: &'a str,
    pub(super) method: &'a str,
    pub(super) source: [u8; 4],
    pub(super) attributes: Vec<(&'a str, &'a str)>,
    pub(super) random: u64,
}

impl Default for Call<'_> {
    fn default() -> Self {
        Self {
            version: "",
            group: "",
            method: "get",
            source: [10, 9, 9, 9],
            attributes: Vec::new(),
            random: 0,
        }
    }
}

impl<'a> Call<'a> {
    fn of(version: &'a str, group: &'a str) -> Self {
        Self {
            version,
            group,
            ..Self::default()
        }
    }

    fn with(name: &'a str, value: &'a str) -> Self {
        Self {
            attributes: vec![(name, value)],
            ..Self::default()
        }
    }

    fn lookup(&self) -> Lookup {
        Lookup {
            protocol: "dubbo".into(),
            registry: "r".into(),
            layout: "dubbo".into(),
            service: "a.B".into(),
            version: self.version.into(),
            group: self.group.into(),
        }
    }
}

impl World {
    fn of(providers: &[&str]) -> Self {
        Self {
            providers: providers.iter().map(|text| (*text).to_owned()).collect(),
            ..Self::default()
        }
    }

    fn document(mut self, key: &str, text: &str) -> Self {
        self.documents.push((key.to_owned(), text.to_owned()));
        self
    }

    fn node(mut self, url: &str) -> Self {
        self.nodes.push(url.to_owned());
        self
    }

    fn documents(&self) -> Answer {
        let documents = self.documents.iter();
        Answer::Entries(Arc::new(
            documents
                .map(|(key, text)| (key.clone(), bytes::Bytes::from(text.clone())))
                .collect(),
        ))
    }

    fn names(urls: &[String]) -> Answer {
        let names = urls
            .iter()
            .map(|text| (url::encode(text), bytes::Bytes::new()));
        Answer::Entries(Arc::new(names.collect::<Entries>()))
    }

    fn rules(&self, centre: &Centre) -> (Rules, Vec<Draft>) {
        let providers = Self::names(&self.providers);
        let drafts = dubbo::read("a.B", Some(&providers), &mut Cached::default()).drafts;
        let applications = drafts
            .iter()
            .filter_map(|draft| application(&draft.provider).map(str::to_owned))
            .collect();
        let folders = [Self::names(&self.nodes), Answer::Missing];
        let nodes = NodeReader::default().read("a.B", folders);
        let documents = centre.read(&self.documents());
        (
            Rules::select("a.B", applications, &documents, nodes),
            drafts,
        )
    }

    pub(super) fn offer(&self) -> Offer {
        let centre = Centre::default();
        let (rules, drafts) = self.rules(&centre);
        let providers = rules.amend(drafts).into_iter().map(|draft| {
            assert_eq!(draft.name(), None);
            draft.provider
        });
        let mut offer = Offer::new(LayoutKind::Dubbo, true, providers.collect());
        offer.lane = rules.lane();
        offer.rules = rules.of_calls(&centre);
        offer
    }

    /// What is left out, and why.
    fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for (key, text) in &self.documents {
            document::read(key, text.as_bytes(), &mut complaints);
        }
        let nodes = Nodes::read("a.B", [&Self::names(&self.nodes), &Answer::Missing]);
        complaints.extend(nodes.complaints);
        complaints
    }

    /// The providers that a call may go to, as `port*weight`.
    fn left(&self, call: &Call<'_>) -> Vec<String> {
        let left = reached(&self.offer(), call);
        let name = |each: &Arc<Endpoint>| match each.weight {
            100 => each.address.port().to_string(),
            weight => format!("{}*{weight}", each.address.port()),
        };
        left.iter().map(name).collect()
    }

    fn plain(&self) -> Vec<String> {
        self.left(&Call::default())
    }
}

/// The endpoints that core would choose among.
pub(super) fn reached(offer: &Offer, call: &Call<'_>) -> Vec<Arc<Endpoint>> {
    let Snapshot {
        instances,
        lane,
        rules,
        ..
    } = offer.snapshot(LayoutKind::Dubbo, &call.lookup());
    let all: Vec<Arc<Endpoint>> = instances
        .into_iter()
        .map(|instance| {
            Arc::new(Endpoint {
                address: instance.address,
                weight: instance.weight,
                labels: instance.labels,
                warm_up: None,
                terms: None,
                health: Arc::default(),
            })
        })
        .collect();
    let mut attribute = |name: &str| {
        let found = call.attributes.iter().find(|(own, _)| *own == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let lane = lane.unwrap();
    let tag = attribute(&lane.attribute).filter(|tag| !tag.is_empty());
    let forced = attribute("dubbo.force.tag").as_deref() == Some("true");
    let key = tag.map_or(LaneKey::None, |tag| {
        subset::lane_key(&all, &lane, &tag, forced)
    });
    let chosen = match &key {
        LaneKey::Nowhere => Vec::new(),
        LaneKey::None => subset::members(&all, None, Some((&lane, None))),
        LaneKey::To(name) => subset::members(&all, None, Some((&lane, Some(name)))),
    };
    let mut facts = Facts {
        method: call.method,
        service: "a.B",
        version: call.version,
        group: call.group,
        source: call.source.into(),
        attribute: &mut attribute,
        read: Vec::new(),
    };
    let mut matched = MatchedRules::of(&rules, &mut facts, call.random);
    let mut empty = Vec::new();
    loop {
        match matched.apply(chosen.clone()) {
            Ok(left) => return left,
            Err(deserted) => matched.redraw(deserted, &mut empty, call.random),
        }
    }
}

const ONE: &str = "dubbo://10.0.0.1:1/a.B?application=shop&zone=x";
const TWO: &str = "dubbo://10.0.0.2:2/a.B?application=shop&zone=y";

fn two() -> World {
    World::of(&[ONE, TWO])
}

/// Two of version 1, two of version 2, and one of version 1 in a group.
fn versions() -> World {
    World::of(&[
        "dubbo://10.0.0.1:1/a.B?application=shop&version=1.0.0",
        "dubbo://10.0.0.1:2/a.B?application=shop&version=2.0.0",
        "dubbo://10.0.0.1:3/a.B?application=shop&version=1.0.0&group=gg",
        "dubbo://10.0.0.1:4/a.B?application=shop",
    ])
}

/// What is left of `versions` to consumers of each.
fn by_version(world: &World) -> String {
    let of = |(version, group)| world.left(&Call::of(version, group)).join("+");
    [("1.0.0", ""), ("2.0.0", ""), ("1.0.0", "gg"), ("", "")]
        .map(of)
        .join(" ")
}

#[test]
fn a_rule_for_one_version_or_group_leaves_the_others() {
    assert_eq!(by_version(&versions()), "1 2 3 4");
    let node = |scope: &str, rest: &str| {
        let category = "category=configurators";
        by_version(&versions().node(&format!("override://0.0.0.0/a.B?{category}{scope}&{rest}")))
    };
    assert_eq!(node("&version=2.0.0", "disabled=true"), "1  3 4");
    assert_eq!(node("&version=1.0.0&group=gg", "disabled=true"), "1 2  4");
    assert_eq!(node("", "disabled=true"), "1 2 3 ");
    assert_eq!(node("&version=1.0.0", "weight=7"), "1*7 2 3 4");
    let route = |scope: &str| {
        let rule = url::encode("=> host = 9.9.9.9");
        by_version(&versions().node(&format!(
            "condition://0.0.0.0/a.B?category=routers{scope}&force=true&rule={rule}"
        )))
    };
    assert_eq!(route("&version=2.0.0"), "1  3 4");
    assert_eq!(route("&version=1.0.0&group=gg"), "1 2  4");
    assert_eq!(route(""), "1 2 3 ");
    let document = |key: &str, text: &str| by_version(&versions().document(key, text));
    let disabled = "configVersion: v2.7\nscope: service\nkey: a.B\nenabled: true\nconfigs:\n- side: provider\n  parameters: { disabled: true }\n";
    assert_eq!(document("a.B:2.0.0:.configurators", disabled), "1  3 4");
    assert_eq!(document("a.B:1.0.0:gg.configurators", disabled), "1 2  4");
    assert_eq!(document("a.B::.configurators", disabled), "1 2 3 ");
    assert_eq!(document("x.Y:2.0.0:.configurators", disabled), "1 2 3 4");
    let forced = "force: true\nconditions: ['=> host=9.9.9.9']\n";
    assert_eq!(document("a.B:2.0.0:.condition-router", forced), "1  3 4");
    assert_eq!(document("a.B:1.0.0:gg.condition-router", forced), "1 2  4");
    assert_eq!(document("a.B::.condition-router", forced), "1 2 3 ");
    assert_eq!(document("a.B:*:.condition-router", forced), "1 2 3 4");
}

#[test]
fn old_rules_reach_consumers_that_ask_for_several() {
    let rule = url::encode("=> port = 1");
    let world = versions().node(&format!(
        "condition://0.0.0.0/a.B?category=routers&version=1.0.0&group=gg&force=true&rule={rule}"
    ));
    assert_eq!(world.left(&Call::of("1.0.0", "gg,x")), [""; 0]);
    assert_eq!(world.left(&Call::of("1.0.0", "*")), ["1"]);
    assert_eq!(world.left(&Call::of("*", "gg")), [""; 0]);
    assert_eq!(world.left(&Call::of("*", "")), ["1", "2", "4"]);
}

#[test]
fn addresses_of_old_overrides() {
    let with = |authority: &str, rest: &str| {
        let url = format!("override://{authority}/a.B?category=configurators&weight=7{rest}");
        two().node(&url).plain().join(" ")
    };
    assert_eq!(with("0.0.0.0", ""), "1*7 2*7");
    assert_eq!(with("0.0.0.0:2", ""), "1 2*7");
    assert_eq!(with("10.0.0.2:2", ""), "1 2*7");
    assert_eq!(with("10.0.0.2:1", ""), "1 2");
    assert_eq!(with("10.0.0.2:2", "&anyhost=true"), "1 2*7");
    // An address without a port is a consumer's.
    assert_eq!(with("10.0.0.2", ""), "1 2");
    assert_eq!(
        with("0.0.0.0", "&providerAddresses=10.0.0.1:1,10.0.0.3:1"),
        "1*7 2"
    );
    assert_eq!(with("0.0.0.0", "&providerAddresses=0.0.0.0:2"), "1 2*7");
    assert_eq!(with("0.0.0.0", "&providerAddresses=0.0.0.0:*"), "1*7 2*7");
    assert_eq!(with("0.0.0.0", "&enabled=false"), "1 2");
    assert_eq!(with("0.0.0.0", "&compatible_config=true"), "1 2");
    assert_eq!(with("0.0.0.0", "&~zone=y"), "1 2*7");
    assert_eq!(with("0.0.0.0", "&~zone=*"), "1*7 2*7");
    assert_eq!(with("0.0.0.0", "&application=shop"), "1*7 2*7");
    assert_eq!(with("0.0.0.0", "&application=cart"), "1 2");
    assert_eq!(with("0.0.0.0", "&application=*&side=consumer"), "1*7 2*7");
    assert_eq!(with("0.0.0.0", "&application=shop&side=consumer"), "1 2");
    assert_eq!(with("0.0.0.0", "&side=provider"), "1*7 2*7");
    assert_eq!(with("10.0.0.2:2", "&side=nobody"), "1 2");
}

#[test]
fn later_overrides_win_and_absent_ones_only_add() {
    let of = |urls: &[&str]| {
        let world = urls.iter().fold(two(), |world, rest| {
            let (authority, rest) = rest.split_once(' ').unwrap();
            world.node(&format!(
                "override://{authority}/a.B?category=configurators&{rest}"
            ))
        });
        world.plain().join(" ")
    };
    assert_eq!(
        of(&["0.0.0.0 weight=7&priority=2", "0.0.0.0 weight=8&priority=1"]),
        "1*7 2*7"
    );
    assert_eq!(
        of(&["10.0.0.1:1 weight=7", "0.0.0.0 weight=8&priority=9"]),
        "1*7 2*8"
    );
    let absent = |weight: &str| {
        let provider = format!("{ONE}{weight}");
        let world = World::of(&[&provider]);
        world
            .node("absent://0.0.0.0/a.B?category=configurators&weight=7")
            .plain()
    };
    assert_eq!(
        (absent(""), absent("&weight=3")),
        (vec!["1*7".into()], vec!["1*3".into()])
    );
    let off = World::of(&["dubbo://10.0.0.1:1/a.B?disabled=true"]);
    assert!(off.plain().is_empty());
    let on = "override://0.0.0.0/a.B?category=configurators&disabled=false";
    assert_eq!(off.node(on).plain(), ["1"]);
}

fn configured(place: &str, head: &str, item: &str) -> String {
    let text = format!("configVersion: v2.7\nenabled: true\n{head}\nconfigs:\n- {item}\n");
    two()
        .document(&format!("{place}.configurators"), &text)
        .plain()
        .join(" ")
}

#[test]
fn documents_of_configurators_hold_for_whom_they_name() {
    let service = |item: &str| configured("a.B::", "scope: service\nkey: a.B", item);
    let weight = "parameters: { weight: 7 }";
    assert_eq!(
        service(&format!("{{ side: provider, {weight} }}")),
        "1*7 2*7"
    );
    let of = |more: &str| service(&format!("{{ side: provider, {weight}, {more} }}"));
    assert_eq!(of("addresses: ['10.0.0.1']"), "1*7 2");
    assert_eq!(of("addresses: ['10.0.0.1:1']"), "1*7 2");
    assert_eq!(of("addresses: ['10.0.0.1:2']"), "1 2");
    assert_eq!(of("addresses: ['10.0.0.1:1', '10.0.0.2:2']"), "1*7 2*7");
    assert_eq!(of("addresses: ['10.0.0.1:2', '10.0.0.2:1']"), "1 2");
    assert_eq!(of("addresses: ['0.0.0.0:2']"), "1 2*7");
    assert_eq!(of("addresses: ['10.0.*']"), "1 2");
    assert_eq!(of("applications: [cart]"), "1 2");
    assert_eq!(of("applications: [cart, shop]"), "1*7 2*7");
    assert_eq!(of("providerAddresses: ['10.0.0.2:2']"), "1 2*7");
    assert_eq!(of("type: weight"), "1 2", "its own switch is not on");
    assert_eq!(of("type: weight, enabled: true"), "1*7 2*7");
    assert_eq!(
        of("enabled: false"),
        "1*7 2*7",
        "Dubbo reads it of other types only"
    );
    // Dubbo applies those without a side to nobody.
    assert_eq!(service(&format!("{{ {weight} }}")), "1 2");
    let consumers = |more: &str| service(&format!("{{ side: consumer, {weight}, {more} }}"));
    assert_eq!(consumers("addresses: []"), "1*7 2*7");
    assert_eq!(
        consumers("addresses: ['0.0.0.0'], providerAddresses: ['10.0.0.2:2']"),
        "1 2*7"
    );
    assert_eq!(consumers("addresses: ['10.9.9.9']"), "1 2");
    assert_eq!(consumers("applications: [web]"), "1 2");
    let application = |key: &str, item: &str| {
        configured("shop", &format!("scope: application\nkey: {key}"), item)
    };
    let provider = format!("{{ side: provider, {weight} }}");
    assert_eq!(application("shop", &provider), "1*7 2*7");
    assert_eq!(application("cart", &provider), "1 2");
    let services = |list: &str| {
        application(
            "shop",
            &format!("{{ side: provider, {weight}, services: {list} }}"),
        )
    };
    assert_eq!(services("['a.B']"), "1*7 2*7");
    assert_eq!(services("['a.B:1.0.0', 'x.Y']"), "1 2");
    assert_eq!(services("['*']"), "1*7 2*7");
    assert_eq!(
        application("shop", &format!("{{ side: consumer, {weight} }}")),
        "1 2"
    );
    let elsewhere = configured("cart", "scope: application\nkey: cart", &provider);
    assert_eq!(elsewhere, "1 2");
    assert_eq!(
        configured("a.B::", "scope: service\nkey: x.Y", &provider),
        "1 2"
    );
    assert_eq!(
        configured("a.B::", "scope: service\nkey: a.B:2.0", &provider),
        "1 2"
    );
    assert_eq!(configured("a.B::", "scope: service", &provider), "1 2");
    let off = "scope: service\nkey: a.B\nenabled: false\nconfigs: [{ side: provider, parameters: { weight: 7 } }]";
    assert_eq!(
        two().document("a.B::.configurators", off).plain(),
        ["1", "2"]
    );
    let list = r#"["override://0.0.0.0/a.B?category=configurators&weight=7", "override://0.0.0.0/x.Y?weight=9"]"#;
    assert_eq!(
        two().document("a.B::.configurators", list).plain(),
        ["1*7", "2*7"]
    );
}

#[test]
fn of_two_rules_the_later_of_the_later_side_wins() {
    let document = |weight: u32, side: &str, scope: &str, key: &str| {
        format!(
            "scope: {scope}\nkey: {key}\nconfigs: [{{ side: {side}, parameters: {{ weight: {weight} }} }}]"
        )
    };
    let node = |weight: u32, more: &str| {
        format!("override://0.0.0.0/a.B?category=configurators&weight={weight}{more}")
    };
    let world = two().node(&node(1, "&side=provider"));
    assert_eq!(world.plain(), ["1*1", "2*1"]);
    let world = world.document(
        "shop.configurators",
        &document(2, "provider", "application", "shop"),
    );
    assert_eq!(world.plain(), ["1*2", "2*2"]);
    let world = world.document(
        "a.B::.configurators",
        &document(3, "provider", "service", "a.B"),
    );
    assert_eq!(world.plain(), ["1*3", "2*3"]);
    // Consumers apply the older form to what providers made of themselves.
    let world = world.node(&node(4, ""));
    assert_eq!(world.plain(), ["1*4", "2*4"]);
    let world = two().node(&node(4, "")).document(
        "a.B::.configurators",
        &document(5, "consumer", "service", "a.B"),
    );
    assert_eq!(world.plain(), ["1*5", "2*5"]);
}

#[test]
fn match_blocks_narrow_configurators() {
    let of = |only: &str| {
        let item = format!("{{ side: provider, parameters: {{ weight: 7 }}, match: {only} }}");
        let text = format!("configVersion: v3.0\nscope: service\nkey: a.B\nconfigs:\n- {item}\n");
        let world = two().document("a.B::.configurators", &text);
        (world.plain().join(" "), world.complaints().len())
    };
    let is = |only: &str, left: &str| assert_eq!(of(only), (left.to_owned(), 0), "{only}");
    is("{ address: { wildcard: '10.0.0.1' } }", "1*7 2");
    is("{ address: { cird: '10.0.0.2/32' } }", "1 2*7");
    is("{ providerAddress: { exact: '10.0.0.2:2' } }", "1 2*7");
    is("{ service: { oneof: [{ exact: a.B }] } }", "1*7 2*7");
    is(
        "{ service: { oneof: [{ exact: x.Y }, { prefix: 'a.C' }] } }",
        "1 2",
    );
    is("{ app: { oneof: [{ wildcard: '*' }] } }", "1*7 2*7");
    is("{ app: { oneof: [{ exact: cart }] } }", "1 2");
    is("{ param: [{ key: zone, value: { exact: y } }] }", "1 2*7");
    is(
        "{ param: [{ key: zone, value: { regex: '[xy]' } }, { key: zone, value: { prefix: x } }] }",
        "1*7 2",
    );
    is(
        "{ param: [{ key: none, value: { empty: 'true' } }] }",
        "1*7 2*7",
    );
    for unknown in [
        "{ zone: { exact: y } }",
        "{ param: [{ key: zone, value: { suffix: y } }] }",
    ] {
        assert_eq!(of(unknown), ("1 2".to_owned(), 1), "{unknown}");
    }
}

#[test]
fn tags_are_given_by_address_or_parameters() {
    let left = |world: &World, tag: &str| world.left(&Call::with("dubbo.tag", tag)).join(" ");
    // As Dubbo Admin writes it.
    let text = "---\nforce: true\nruntime: true\nenabled: true\nkey: shop\ntags:\n- name: gray\n  addresses: [\"10.0.0.1:1\"]\n- name: blue\n  addresses: null\n- name: none\n  addresses: ['10.9.9.9:1']\n";
    let three = World::of(&[
        ONE,
        TWO,
        "dubbo://10.0.0.3:3/a.B?application=shop&dubbo.tag=blue",
    ]);
    let world = three.document("shop.tag-router", text);
    assert_eq!(left(&world, ""), "2");
    assert_eq!(left(&world, "gray"), "1");
    assert_eq!(left(&world, "blue"), "3");
    assert_eq!(
        left(&world, "none"),
        "",
        "named, without providers, and forced"
    );
    assert_eq!(left(&world, "green"), "2", "not named");
    // A tag that the rule gives to others is nobody's own.
    let own = World::of(&[
        ONE,
        TWO,
        "dubbo://10.0.0.3:3/a.B?application=shop&dubbo.tag=gray",
    ]);
    let world = own.document("shop.tag-router", text);
    assert_eq!(
        (left(&world, "gray"), left(&world, "")),
        ("1".to_owned(), "2".to_owned())
    );
    // Several tags of one address, levels of tags, and no other application's rule.
    let several = "tags:\n- { name: a, addresses: ['10.0.0.1'] }\n- { name: 'a|b', addresses: ['10.0.0.1', '10.0.0.2'] }\n";
    let world = two().document("shop.tag-router", several);
    assert_eq!(left(&world, "a"), "1");
    assert_eq!(left(&world, "a|b|c"), "1 2");
    assert_eq!(left(&world, "a|c"), "1");
    assert_eq!(left(&world, ""), "");
    let foreign = two().document("elsewhere.tag-router", text);
    assert_eq!(
        (left(&foreign, "gray"), left(&foreign, "none")),
        ("1 2".to_owned(), "1 2".to_owned())
    );
    let by_parameter = "configVersion: v3.0\nforce: true\ntags:\n- { name: gray, match: [{ key: zone, value: { exact: x } }] }\n- { name: red, match: [{ key: zone, value: { exact: q } }] }\n";
    let world = two().document("shop.tag-router", by_parameter);
    assert_eq!(
        (left(&world, "gray"), left(&world, ""), left(&world, "red")),
        ("1".into(), "2".into(), "2".into())
    );
    let older = by_parameter.replace("v3.0", "v2.7");
    let world = two().document("shop.tag-router", &older);
    assert_eq!(
        (left(&world, "gray"), world.complaints().len()),
        ("1 2".into(), 2)
    );
}

fn conditions(key: &str, text: &str) -> World {
    two().document(&format!("{key}.condition-router"), text)
}

#[test]
fn conditions_are_for_services_their_applications_and_callers() {
    let text = "force: true\nconditions: ['=> port=1']\n";
    let of = |key: &str, caller: &str| {
        conditions(key, text)
            .left(&Call::with("remote.application", caller))
            .join(" ")
    };
    assert_eq!(of("a.B::", "web"), "1");
    assert_eq!(of("x.Y::", "web"), "1 2");
    assert_eq!(of("shop", "web"), "1", "the application that provides it");
    assert_eq!(of("web", "web"), "1", "the application that calls");
    assert_eq!(of("web", "app"), "1 2");
    assert_eq!(of("elsewhere", "web"), "1 2");
    // Of two applications, each rules its own providers.
    let other = "dubbo://10.0.0.3:3/a.B?application=cart";
    let world = World::of(&[ONE, TWO, other]).document("shop.condition-router", text);
    assert_eq!(world.plain(), ["1", "3"]);
}

#[test]
fn other_applications_rules_cost_a_service_nothing() {
    let mut world = two();
    for n in 0..100 {
        let text = "force: true\nconditions: ['=> port=9']\n";
        world = world
            .document(&format!("app{n}.condition-router"), text)
            .document(
                &format!("app{n}.tag-router"),
                "force: true\ntags: [{ name: gray, addresses: ['1.1.1.1'] }]\n",
            );
    }
    let world = world.document(
        "a.B::.condition-router",
        "force: true\nconditions: ['=> port=2']\n",
    );
    let offer = world.offer();
    let snapshot = offer.snapshot(LayoutKind::Dubbo, &Call::default().lookup());
    assert_eq!(
        (snapshot.rules.first.len(), snapshot.rules.last.len()),
        (1, 0)
    );
    assert!(snapshot.lane.unwrap().ruled.is_empty());
    assert_eq!(world.plain(), ["2"]);
    assert_eq!(
        world.left(&Call::with("remote.application", "app7")),
        [""; 0]
    );
}

#[test]
fn what_conditions_say() {
    let of = |condition: &str, call: &Call<'_>| {
        conditions(
            "a.B::",
            &format!("force: true\nconditions: [\"{condition}\"]\n"),
        )
        .left(call)
        .join(" ")
    };
    let plain = |condition: &str| of(condition, &Call::default());
    assert_eq!(
        plain("method = get*, find & host != 10.0.0.9 => port=1"),
        "1"
    );
    assert_eq!(plain("method=set*,find => port=1"), "1 2");
    assert_eq!(plain("host=10.9.* & host!=10.9.9.9 => port=1"), "1 2");
    assert_eq!(
        plain("host=1.1.1.1 & host=10.9.9.9 => port=1"),
        "1",
        "either of one word"
    );
    assert_eq!(plain("=>"), "");
    assert_eq!(plain("method=get => false"), "");
    assert_eq!(plain("true => port = 1"), "1");
    assert_eq!(
        plain("host=10.0.0.1"),
        "1",
        "without an arrow, all right side"
    );
    assert_eq!(plain("=> consumer.host=10.0.0.1"), "1");
    assert_eq!(plain("=> address=*:2"), "2");
    assert_eq!(plain("=> zone=x"), "1");
    assert_eq!(plain("=> zone!=x"), "2");
    assert_eq!(
        plain("=> none!=x"),
        "",
        "what a provider does not say fulfils nothing"
    );
    assert_eq!(
        plain("=> side=provider"),
        "",
        "these providers do not say it"
    );
    assert_eq!(plain("=> protocol=dubbo & interface=a.B"), "1 2");
    assert_eq!(plain("side=consumer => port=1"), "1");
    assert_eq!(plain("side=provider => port=1"), "1 2");
    assert_eq!(plain("interface=a.B => port=1"), "1");
    assert_eq!(plain("interface=a.C => port=1"), "1 2");
    assert_eq!(plain("version=1 => port=1"), "1 2");
    assert_eq!(plain("=> port=1~1"), "1");
    assert_eq!(plain("=> port=~1"), "1");
    assert_eq!(plain("=> port=2~9"), "2");
    let with = |condition: &str, value: &str| of(condition, &Call::with("user", value));
    assert_eq!(with("attachments[user]=1~100 => port=1", "50"), "1");
    assert_eq!(with("attachments[user]=1~100 => port=1", "500"), "1 2");
    assert_eq!(with("attachments[user]!=a => port=1", "b"), "1");
    assert_eq!(
        plain("attachments[user]!=a => port=1"),
        "1 2",
        "it says nothing of that"
    );
    let zone = Call::with("zone", "y");
    assert_eq!(of("=> zone=$zone", &zone), "2");
    assert_eq!(plain("=> zone=$zone"), "");
    assert_eq!(
        of("zone=$zone => port=1", &zone),
        "1 2",
        "only providers are compared"
    );
    assert_eq!(
        of(
            "application=web => port=1",
            &Call::with("remote.application", "web")
        ),
        "1"
    );
}

#[test]
fn documents_with_destinations_by_weight() {
    let text = "configVersion: v3.1\nscope: service\nforce: true\nkey: a.B\nconditions:\n- from: { match: 'method=get' }\n  to:\n  - { match: 'zone=x', weight: 100 }\n  - { match: 'zone=y', weight: 300 }\n  - { match: 'zone=q', weight: 9000 }\n";
    let world = conditions("a.B::", text);
    assert_eq!(world.complaints(), [""; 0]);
    let offer = world.offer();
    let mut ones = 0;
    for random in 0..1000_u64 {
        let random = random.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let left = reached(
            &offer,
            &Call {
                random,
                ..Call::default()
            },
        );
        assert_eq!(left.len(), 1);
        ones += u32::from(left[0].address.port() == 1);
    }
    assert!((200..300).contains(&ones), "{ones}");
    let other = Call {
        method: "set",
        ..Call::default()
    };
    assert_eq!(world.left(&other), ["1", "2"]);
    let of = |force: bool, to: &str| {
        let text = format!(
            "configVersion: v3.1\nforce: {force}\nconditions: [{{ from: {{ match: '' }}, to: {to} }}]\n"
        );
        conditions("a.B::", &text).plain().join(" ")
    };
    assert_eq!(of(true, "[{ match: 'zone=q' }, { match: 'zone=r' }]"), "");
    assert_eq!(
        of(false, "[{ match: 'zone=q' }, { match: 'zone=r' }]"),
        "1 2"
    );
    assert_eq!(of(false, "[]"), "");
    assert_eq!(of(true, "[{ weight: 0 }]"), "1 2");
    let mixed = conditions("a.B::", "conditions: [{ from: { match: '' }, to: [] }]\n");
    assert_eq!((mixed.plain().len(), mixed.complaints().len()), (2, 1));
    let newer = conditions("a.B::", "configVersion: v3.2\nconditions: ['=> port=9']\n");
    assert_eq!((newer.plain().len(), newer.complaints().len()), (2, 1));
}

#[test]
fn priorities_go_as_far_as_their_numbers() {
    let with = |priority: i64, port: u16| {
        let rule = url::encode(&format!("=> port={port}"));
        format!(
            "route://0.0.0.0/a.B?category=routers&router=condition&priority={priority}&force=true&rule={rule}"
        )
    };
    let world = two().node(&with(i64::MAX, 1)).node(&with(i64::MIN, 2));
    let nodes = &world.offer().rules.nodes;
    let of = |at: usize| &nodes[at].rule().then[0].conditions[0].patterns[0];
    assert_eq!(*of(0), Pattern::Glob("2".to_owned()));
    assert_eq!(*of(1), Pattern::Glob("1".to_owned()));
}

#[test]
fn what_is_not_understood_is_left_out_with_one_complaint() {
    for (key, text) in [
        ("a.B::.script-router", "script: 1"),
        ("shop.MESHAPPRULE", "x: 1"),
        ("shop.tag-router", "tags: {"),
        (
            "a.B::.condition-router",
            "force: true\nconditions: ['arguments[0]=1 => port=9']",
        ),
        (
            "a.B::.condition-router",
            "force: true\nconditions: ['=> method=get']",
        ),
        (
            "a.B::.condition-router",
            "force: true\nconditions: ['=> port=9~']",
        ),
        (
            "a.B::.condition-router",
            "force: true\nconditions: ['=> port']",
        ),
        (
            "a.B::.condition-router",
            "force: true\nconditions: ['=> port=9', 'a==b => port=9']",
        ),
        (
            "a.B::.condition-router",
            "force: true\nconditions: ['attachments[a.b]!=x => port=9']",
        ),
        (
            "a.B::.configurators",
            "scope: service\nkey: a.B\nconfigs: [{ side: provider }]",
        ),
    ] {
        let world = two().document(key, text);
        assert_eq!(
            world.complaints().len(),
            1,
            "{key} {text}: {:?}",
            world.complaints()
        );
        assert_eq!(world.plain(), ["1", "2"], "{key} {text}");
    }
    let rule = url::encode("=> port = 9");
    for node in [
        "script://0.0.0.0/a.B?category=routers&rule=x".to_owned(),
        format!("route://0.0.0.0/a.B?category=routers&force=true&rule={rule}"),
        "override://10.0.0.9/a.B?category=configurators&disabled=true".to_owned(),
        "override://0.0.0.0/a.B?category=strange&disabled=true".to_owned(),
    ] {
        let world = two().node(&node);
        assert_eq!(
            world.complaints().len(),
            1,
            "{node}: {:?}",
            world.complaints()
        );
        assert_eq!(world.plain(), ["1", "2"], "{node}");
    }
    let fine = two()
        .document("dubbo.properties", "a=b")
        .node("empty://0.0.0.0/a.B?category=configurators");
    assert_eq!(fine.complaints(), [""; 0]);
}

#[test]
fn documents_are_parsed_once_and_only_services_that_they_are_for_are_read_again() {
    let centre = Centre::default();
    let text = "conditions: ['=> zone=x']\n";
    let begin = || {
        two()
            .document("a.B::.condition-router", text)
            .document("x.Y::.condition-router", text)
            .document("cart.condition-router", text)
    };
    let (rules, _) = begin().rules(&centre);
    let answer = begin().documents();
    let documents = centre.read(&answer);
    assert!(Arc::ptr_eq(&documents, &centre.read(&answer)));
    assert!(rules.is_current(&documents));
    let changed = |key: &str, text: &str| {
        let world = begin().document(key, text);
        rules.is_current(&centre.read(&world.documents()))
    };
    assert!(changed("x.Y:1:.condition-router", text));
    assert!(
        changed("web.condition-router", text),
        "of a caller, and the label is known"
    );
    assert!(
        !changed("web.condition-router", "conditions: ['=> other=x']\n"),
        "a label more"
    );
    assert!(!changed("a.B:1:.condition-router", text));
    assert!(!changed(
        "shop.tag-router",
        "tags: [{ name: a, addresses: [b] }]\n"
    ));
    changed("web.condition-router", text);
    let callers = centre.callers().rules();
    assert_eq!((callers.len(), callers["web"].len()), (2, 1));
}

/// What a change costs is what changed, however many documents and services there are.
#[test]
fn one_changed_document_of_hundreds_is_parsed_alone_and_for_its_service_alone() {
    const MANY: usize = 400;
    let centre = Centre::default();
    let service = |number: usize| format!("s.S{number}");
    let documents = |changed: Option<usize>| {
        let entries = (0..MANY).map(|number| {
            let way = if changed == Some(number) { "y" } else { "x" };
            let key = format!("{}::.condition-router", service(number));
            (key, format!("conditions: ['=> zone={way}']\n").into())
        });
        centre.read(&Answer::Entries(Arc::new(entries.collect())))
    };
    let rules_of = |number, documents: &Documents| {
        Rules::select(&service(number), BTreeSet::new(), documents, Arc::default())
    };
    let before = documents(None);
    let rules: Vec<Rules> = (0..MANY).map(|number| rules_of(number, &before)).collect();
    assert!(rules.iter().all(|own| own.documents.len() == 1));
    let now = documents(Some(7));
    let is_parsed = |number: &usize| {
        let again = rules_of(*number, &now);
        !Arc::ptr_eq(&again.documents[0], &rules[*number].documents[0])
    };
    assert_eq!((0..MANY).filter(is_parsed).collect::<Vec<_>>(), [7]);
    let is_rebuilt = |number: &usize| !rules[*number].is_current(&now);
    assert_eq!((0..MANY).filter(is_rebuilt).collect::<Vec<_>>(), [7]);
    // The same said once more in another piece of memory costs nobody anything.
    let again = documents(Some(7));
    let is_rebuilt = |number: &usize| !rules_of(*number, &now).is_current(&again);
    assert_eq!((0..MANY).filter(is_rebuilt).count(), 0);
}

#[test]
fn a_real_java_url_of_a_rule_is_read() {
    let url =
        Url::parse_any("override://0.0.0.0/com.acme.Pay?category=configurators&weight=1").unwrap();
    assert_eq!(
        (url.port, &*url.host, &*url.path),
        (0, "0.0.0.0", "com.acme.Pay")
    );
    assert_eq!(
        url.to_string(),
        "override://0.0.0.0/com.acme.Pay?category=configurators&weight=1"
    );
}
