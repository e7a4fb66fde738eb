//! Entries as real frameworks wrote them, and worse ones.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use finback_core::discovery::Snapshot;
use proptest::prelude::*;

use super::url::Url;
use super::*;
use crate::offer::Offer;
use crate::store::{Answer, Bell};

fn lookup(layout: LayoutKind, service: &str, version: &str, group: &str) -> Lookup {
    Lookup {
        protocol: "".into(),
        registry: "r".into(),
        layout: layout.name().into(),
        service: service.into(),
        version: version.into(),
        group: group.into(),
    }
}

fn offer(layout: LayoutKind, drafts: Drafts) -> Offer {
    let providers = drafts.drafts.into_iter().map(|draft| {
        assert_eq!(draft.name(), None);
        draft.provider
    });
    Offer::new(layout, drafts.known, providers.collect())
}

fn encoded(urls: &[&str]) -> Answer {
    let urls: Vec<String> = urls.iter().map(|text| url::encode(text)).collect();
    names(urls.iter().map(String::as_str))
}

fn amended(mut drafts: Drafts) -> Drafts {
    drafts.drafts = rules::Rules::default().amend(drafts.drafts);
    drafts
}

fn dubbo_drafts(answer: &Answer) -> Drafts {
    dubbo::read("a.B", Some(answer), &mut Cached::default())
}

fn dubbo_offer(urls: &[&str]) -> Offer {
    offer(LayoutKind::Dubbo, amended(dubbo_drafts(&encoded(urls))))
}

fn valued(entries: &[(&str, &str)]) -> Answer {
    let entries: crate::store::Entries = entries
        .iter()
        .map(|(name, value)| ((*name).to_owned(), bytes::Bytes::from((*value).to_owned())))
        .collect();
    Answer::Entries(Arc::new(entries))
}

fn ports(snapshot: &Snapshot) -> Vec<u16> {
    snapshot
        .instances
        .iter()
        .map(|instance| instance.address.port())
        .collect()
}

#[test]
fn dubbo_providers_by_version_group_and_state() {
    let urls = [
        "dubbo://10.0.0.1:1/a.B?interface=a.B&version=1.0&group=g&weight=50&dubbo.tag=gray&timestamp=1700000000000",
        "dubbo://10.0.0.1:2/a.B?interface=a.B&version=0.0.0",
        "dubbo://10.0.0.1:3?interface=a.B",
        "dubbo://10.0.0.1:4/ctx/a.B?interface=a.B&enabled=false",
        "dubbo://10.0.0.1:5/a.B?interface=a.B&disabled=true",
        "tri://10.0.0.1:6/a.B?interface=a.B",
        "empty://10.0.0.1:7/a.B?interface=a.B",
        "override://10.0.0.1:8/a.B?category=configurators&interface=a.B",
        "dubbo://10.0.0.1:9/a.B?interface=a.B&version=*&group=*",
        "dubbo://[fe80::1]:10/a.B",
        "not a url",
        "dubbo://",
        "dubbo://h:0/a.B",
        "dubbo://:1/a.B",
    ];
    let offer = dubbo_offer(&urls[..9]);
    let of = |version, group| {
        ports(&offer.snapshot(
            LayoutKind::Dubbo,
            &lookup(LayoutKind::Dubbo, "a.B", version, group),
        ))
    };
    assert_eq!(of("1.0", "g"), [1, 9]);
    assert_eq!(of("", ""), [2, 3, 9]);
    assert_eq!(of("1.0", "x,g"), [1, 9]);
    assert_eq!(of("2.0", ""), [9]);
    let gray = lookup(LayoutKind::Dubbo, "a.B", "1.0", "g");
    let gray = &offer.snapshot(LayoutKind::Dubbo, &gray).instances[0];
    assert_eq!((gray.weight, gray.labels["tag"].as_str()), (50, "gray"));
    assert_eq!(gray.warm_up.unwrap().period.as_secs(), 600);
    let all = dubbo_drafts(&encoded(&urls));
    assert_eq!((all.unreadable, all.listed), (4, 7));
    assert_eq!(amended(all.clone()).drafts.len(), 6);
    assert_eq!(
        all.drafts.iter().filter(|d| d.host() == "fe80::1").count(),
        1
    );
}

fn spoken(layout: LayoutKind, protocol: &str) -> Lookup {
    Lookup {
        protocol: protocol.into(),
        ..lookup(layout, "a.B", "", "")
    }
}

#[test]
fn one_port_may_speak_several_protocols() {
    let ports_of = |urls: &[&str], protocol| {
        ports(&dubbo_offer(urls).snapshot(LayoutKind::Dubbo, &spoken(LayoutKind::Dubbo, protocol)))
    };
    // As Dubbo 3.3 writes `ext.protocol` at the interface level.
    let more = [
        "dubbo://10.0.0.1:1/a.B?ext.protocol=tri",
        "dubbo://10.0.0.1:2/a.B",
    ];
    assert_eq!(ports_of(&more, "dubbo"), [1, 2]);
    assert_eq!(ports_of(&more, "triple"), [1]);
    assert_eq!(ports_of(&more, "grpc"), [1]);
    // As at the application level, where each has its own entry, whichever stands first.
    let mut both = [
        "dubbo://10.0.0.1:1/a.B?timestamp=1",
        "tri://10.0.0.1:1/a.B?timestamp=2",
    ];
    for _ in 0..2 {
        assert_eq!(
            (ports_of(&both, "dubbo"), ports_of(&both, "triple")),
            (vec![1], vec![1])
        );
        both.reverse();
    }
}

#[test]
fn an_entry_for_a_protocol_comes_before_one_that_also_speaks_it() {
    let urls = [
        "dubbo://10.0.0.1:1/a.B?ext.protocol=tri&weight=7",
        "tri://10.0.0.1:1/a.B?weight=8",
    ];
    let offer = dubbo_offer(&urls);
    let weight = |protocol| {
        let snapshot = offer.snapshot(LayoutKind::Dubbo, &spoken(LayoutKind::Dubbo, protocol));
        snapshot
            .instances
            .iter()
            .map(|own| own.weight)
            .collect::<Vec<_>>()
    };
    assert_eq!((weight("dubbo"), weight("triple")), (vec![7], vec![8]));
}

#[test]
fn a_provider_in_go_has_the_usual_weight_and_seconds() {
    // As dubbo-go 3.3.1 writes it.
    let urls = [
        "dubbo://10.0.0.1:1?interface=a.B&release=dubbo-golang-3.3.1&timestamp=1795444850&weight=0",
    ];
    let provider = &dubbo_offer(&urls).providers[0];
    assert_eq!(
        (provider.weight, provider.since),
        (100, Some(1_795_444_850_000))
    );
    let java = ["dubbo://10.0.0.1:1?interface=a.B&release=3.3.5&weight=0"];
    assert_eq!(dubbo_offer(&java).providers[0].weight, 0);
}

#[test]
fn sofa_providers_by_unique_id() {
    let urls = [
        "bolt://127.0.0.1:22101?version=1.0&accepts=100000&appName=demo&weight=100&language=java&interface=com.example.HelloService&timeout=0&serialization=hessian2&protocol=bolt&delay=-1&dynamic=true&startTime=1700000000000&id=rpc-cfg-0&uniqueId=&rpcVer=51403",
        "bolt://127.0.0.1:22102?uniqueId=blue&weight=7",
        "rest://127.0.0.1:22103?uniqueId=",
    ];
    let offer = offer(
        LayoutKind::Sofa,
        Drafts::of(Some(&encoded(&urls)), sofa::read),
    );
    let of = |group| {
        let lookup = lookup(LayoutKind::Sofa, "com.example.HelloService", "1.0", group);
        offer.snapshot(LayoutKind::Sofa, &lookup)
    };
    assert_eq!(ports(&of("")), [22101]);
    assert_eq!(of("").instances[0].labels["application"], "demo");
    assert!(!of("").instances[0].labels.contains_key("version"));
    assert_eq!(ports(&of("blue")), [22102]);
    assert_eq!(of("blue").instances[0].weight, 7);
}

/// As Curator wrote it for a Spring Cloud application.
const SPRING: &str = r#"{"name":"orders","id":"0f6a","address":"127.0.0.1","port":8081,"sslPort":null,"payload":{"@class":"org.springframework.cloud.zookeeper.discovery.ZookeeperInstance","id":"application-1","name":"orders","metadata":{"zone":"z1","instance_status":"UP"}},"registrationTimeUTC":1795392757873,"serviceType":"DYNAMIC","uriSpec":{"parts":[{"value":"scheme","variable":true}]}}"#;

#[test]
fn spring_instances_by_their_state() {
    let out = SPRING.replace("\"UP\"", "\"OUT_OF_SERVICE\"");
    let off = SPRING.replace("\"sslPort\":null", "\"enabled\":false");
    let plain = r#"{"name":"plain","id":"id1","address":"127.0.0.1","port":9,"sslPort":null,"payload":"x","registrationTimeUTC":1,"serviceType":"DYNAMIC","uriSpec":null}"#;
    let secure = SPRING.replace("8081,\"sslPort\":null", "null,\"sslPort\":8443");
    let marked = SPRING.replace("\"0f6a\"", "\"finback-bridge-zk@10.0.0.1:80\"");
    let answer = valued(&[
        ("a", SPRING),
        ("b", &out),
        ("c", &off),
        ("d", plain),
        ("e", &secure),
        ("f", &marked),
        ("g", "{\"foreign\": true}"),
        ("h", "127.0.0.1"),
        ("i", ""),
    ]);
    let drafts = Drafts::of(Some(&answer), spring::read);
    assert_eq!(drafts.unreadable, 2);
    let of = |n: usize| &drafts.drafts[n];
    assert_eq!(drafts.drafts.len(), 4);
    assert_eq!((of(0).port, of(1).port, of(2).port), (8081, 9, 8443));
    assert_eq!(of(0).provider.labels.get("zone"), Some("z1"));
    assert_eq!(of(2).provider.protocol, "https");
    assert_eq!(of(3).provider.origin.as_deref(), Some("zk"));
}

#[test]
fn grpc_endpoints_with_their_metadata() {
    let answer = valued(&[
        (
            "10.0.0.1:5000",
            r#"{"Op":0,"Addr":"10.0.0.1:5000","Metadata":null}"#,
        ),
        (
            "x",
            r#"{"Op":0,"Addr":"[::1]:5001","Metadata":{"zone":"a","n":3}}"#,
        ),
        ("y", r#"{"Op":1,"Addr":"10.0.0.1:5002","Metadata":null}"#),
        ("z", "not json"),
        ("w", r#"{"Op":0,"Addr":"nowhere","Metadata":null}"#),
    ]);
    let drafts = Drafts::of(Some(&answer), grpc::read);
    assert_eq!((drafts.drafts.len(), drafts.unreadable), (2, 2));
    assert_eq!(drafts.drafts[1].host(), "::1");
    assert_eq!(drafts.drafts[1].provider.labels.get("zone"), Some("a"));
    assert_eq!(drafts.drafts[1].provider.labels.get("n"), Some("3"));
}

#[test]
fn native_providers_with_labels() {
    let answer = valued(&[
        (
            "1",
            r#"{"address":"10.0.0.1:80","version":"2","weight":7,"labels":{"zone":"a"}}"#,
        ),
        ("2", r#"{"address":"10.0.0.2:80"}"#),
        ("3", r#"{"adress":"10.0.0.3:80"}"#),
    ]);
    let drafts = Drafts::of(Some(&answer), native::read);
    assert_eq!(drafts.unreadable, 1);
    let offer = offer(LayoutKind::Native, drafts);
    let of = |version| {
        let lookup = lookup(LayoutKind::Native, "s", version, "");
        offer.snapshot(LayoutKind::Native, &lookup).instances.len()
    };
    assert_eq!((of("2"), of("3")), (2, 1));
}

/// A layout's name is written by hand, and the same in files on disk.
#[test]
fn layouts_are_called_alike_everywhere() {
    for (name, kind, _) in ALL {
        assert_eq!(serde_json::to_value(kind).unwrap(), *name);
        assert_eq!((LayoutKind::named(name), kind.name()), (Some(*kind), *name));
    }
}

#[test]
fn services_are_named_in_trees_and_in_keys() {
    let of = |kind: LayoutKind, name| kind.layout().service_in(name);
    assert_eq!(of(LayoutKind::Dubbo, "a.B").as_deref(), Some("a.B"));
    assert_eq!(
        of(LayoutKind::Dubbo, "a.B/providers/").as_deref(),
        Some("a.B")
    );
    assert_eq!(of(LayoutKind::Dubbo, "metadata/app/"), None);
    assert_eq!(
        of(LayoutKind::Grpc, "shop/pay/").as_deref(),
        Some("shop/pay")
    );
    assert_eq!(of(LayoutKind::Grpc, "lonely"), None);
}

#[test]
fn of_two_entries_of_one_address_the_younger_counts() {
    let urls = [
        "dubbo://10.0.0.1:1/a.B?weight=2&timestamp=2000",
        "dubbo://10.0.0.1:1/a.B?weight=1&timestamp=1000",
    ];
    let offer = dubbo_offer(&urls);
    assert_eq!(offer.providers.len(), 1);
    assert_eq!(offer.providers[0].weight, 2);
}

#[test]
fn a_real_java_node_name_is_decoded() {
    let name = "dubbo%3A%2F%2F10.1.2.3%3A20880%2Fcom.acme.Pay%3Fanyhost%3Dtrue%26interface%3Dcom.acme.Pay%26methods%3Da%2Cb%26side%3Dprovider%26x%3Da+b";
    let url = Url::decode(name).unwrap();
    assert_eq!(
        (url.host.as_str(), url.port, url.path.as_str()),
        ("10.1.2.3", 20880, "com.acme.Pay")
    );
    assert_eq!(url.get("x"), Some("a b"));
}

proptest! {
    #[test]
    fn any_name_ends_in_a_result(name in ".{0,200}", tail in "[a-z:/?&=%+@\\[\\]0-9]{0,80}") {
        let _ = Url::decode(&name);
        let _ = Url::decode(&tail);
        let _ = Url::parse(&format!("dubbo://{tail}"));
    }

    #[test]
    fn any_value_ends_in_a_result(value in "\\PC{0,200}", json in r#"[\{\}\[\]":,a-zA-Z0-9.]{0,120}"#) {
        for text in [&value, &json] {
            let answer = valued(&[("x", text)]);
            for read in [spring::read, grpc::read, native::read, sofa::read] {
                let drafts = Drafts::of(Some(&answer), read);
                prop_assert!(drafts.drafts.len() + drafts.unreadable <= 1);
            }
        }
    }

    /// What is written is read as the same.
    #[test]
    fn urls_survive_being_written(host in "[a-z0-9.]{1,20}", port in 1_u16.., path in "[a-zA-Z.]{0,20}", values in proptest::collection::btree_map("[a-z.]{1,10}", "[a-zA-Z0-9 ,*/:%+é]{0,20}", 0..5)) {
        let url = Url { scheme: "dubbo".to_owned(), host, port, path, parameters: values };
        prop_assert_eq!(Url::decode(&url::encode(&url.to_string())), Some(url));
    }
}

#[test]
fn what_did_not_change_is_not_read_again_and_all_is_as_if_it_were() {
    let mut cached = Cached::default();
    let mut there: Vec<String> = Vec::new();
    // Numbers that look random, the same each time (a linear congruential generator).
    let mut chance = 7_u64;
    for _ in 0..300 {
        chance = chance
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let (port, weight) = ((chance >> 33) % 9 + 1, (chance >> 40) % 3);
        let own = format!("dubbo://10.0.0.1:{port}/a.B?interface=a.B&weight=");
        there.retain(|url| !url.starts_with(&own));
        match weight {
            0 => {}
            1 if port == 5 => there.push("nonsense".to_owned()),
            _ => there.push(format!("{own}{weight}")),
        }
        let urls: Vec<&str> = there.iter().map(|url| &**url).collect();
        let answer = if urls.is_empty() {
            Answer::Missing
        } else {
            encoded(&urls)
        };
        let again = dubbo::read("a.B", Some(&answer), &mut cached);
        assert_eq!(again, dubbo_drafts(&answer));
    }
    let mut reads = 0;
    let mut read = |name: &str| {
        let entries = [
            ("a".to_owned(), name.to_owned().into()),
            ("b".to_owned(), "b".into()),
        ];
        let answer = Answer::Entries(Arc::new(entries.into()));
        Drafts::again(&mut cached, Some(&answer), |_, _| {
            reads += 1;
            Some(None)
        });
    };
    read("1");
    read("1");
    read("2");
    assert_eq!(reads, 3, "two at first, and one that changed");
}

#[tokio::test]
async fn a_directory_of_which_only_a_part_is_known_waits_for_the_rest() {
    let bell = Bell::default();
    let [(services, first), (mapping, second)] = [(); 2].map(|()| by_hand(&bell));
    let mut directory = Directory {
        kind: LayoutKind::Dubbo,
        root: "/dubbo".to_owned(),
        followed: vec![first, second],
        bell,
    };
    mapping.try_send(names(["com.acme.Pay"])).unwrap();
    directory.changed().await;
    assert_eq!(directory.latest(), None);
    let soon = std::time::Duration::from_millis(20);
    let again = tokio::time::timeout(soon, directory.changed()).await;
    assert!(again.is_err(), "told again of what it has looked at");
    services.try_send(names(["com.acme.Order"])).unwrap();
    directory.changed().await;
    let both = ["com.acme.Order", "com.acme.Pay"].map(str::to_owned);
    assert_eq!(directory.latest(), Some(both.into()));
}

/// Providers by the hundred thousand stand in memory: what one of them takes is bounded, beside its
/// name as the registry has it, of which there is one copy.
#[test]
fn a_provider_takes_little_more_than_what_it_says_alone() {
    const MANY: usize = 100;
    let urls: Vec<String> = (0..MANY)
        .map(|number| {
            format!(
                "dubbo://10.0.0.{number}:20880/a.B?anyhost=true&application=shop&background=false\
                 &deprecated=false&dubbo=2.0.2&dynamic=true&generic=false&interface=a.B\
                 &methods=create,find,list,pay,cancel&pid={}&release=3.2.16&retries=0&revision=1.0.0\
                 &service-name-mapping=true&side=provider&threads=200&timeout=3000\
                 &timestamp={}&version=1.0.0&weight=100",
                1000 + number,
                1_700_000_000_000_u64 + 977 * number as u64,
            )
        })
        .collect();
    let urls: Vec<&str> = urls.iter().map(String::as_str).collect();
    let answer = encoded(&urls);
    let mut cached = Cached::default();
    let drafts = dubbo::read("a.B", Some(&answer), &mut cached);
    // What was read is kept for the next time, and offered: in the same pieces of memory.
    let again = dubbo::read("a.B", Some(&answer), &mut cached);
    let offer = offer(LayoutKind::Dubbo, amended(drafts));
    assert_eq!(offer.providers.len(), MANY);
    let is_kept = |own: &Arc<Provider>| {
        again
            .drafts
            .iter()
            .any(|kept| Arc::ptr_eq(&kept.provider, own))
    };
    assert!(offer.providers.iter().all(is_kept));
    let texts = |own: &Provider| {
        let Provider {
            protocol,
            version,
            group,
            labels,
            parameters,
            ..
        } = own;
        protocol.capacity()
            + version.capacity()
            + group.capacity()
            + labels.own_bytes()
            + parameters.own_bytes()
    };
    // The first has what all have in common.
    let most = offer.providers.iter().map(|own| texts(own)).max().unwrap();
    // "dubbo", "1.0.0", and the names and values of `pid` and `timestamp`.
    assert!(most <= 5 + 5 + 9 + 24, "{most}");
    let fixed = size_of::<Provider>() + size_of::<draft::Read>() + size_of::<Arc<Provider>>();
    assert!(fixed <= 280, "{fixed}");
}
