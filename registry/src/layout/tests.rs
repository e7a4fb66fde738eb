//! Entries as real frameworks wrote them, and worse ones.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use proptest::prelude::*;

use super::*;

fn lookup(layout: &str, service: &str, version: &str, group: &str) -> Lookup {
    Lookup {
        registry: "r".into(),
        layout: layout.into(),
        service: service.into(),
        version: version.into(),
        group: group.into(),
    }
}

fn read(lookup: &Lookup, urls: &[&str]) -> Snapshot {
    let children: Vec<String> = urls
        .iter()
        .map(|url| {
            percent_encoding::utf8_percent_encode(url, percent_encoding::NON_ALPHANUMERIC)
                .to_string()
        })
        .collect();
    let layout = named(&lookup.layout).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(snapshot(layout, lookup, &children))
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
    let of = |version, group| ports(&read(&lookup("dubbo", "a.B", version, group), &urls));
    assert_eq!(of("1.0", "g"), [1, 9]);
    assert_eq!(of("", ""), [2, 3, 9, 10]);
    assert_eq!(of("1.0", "x,g"), [1, 9]);
    assert_eq!(of("2.0", ""), [9]);
    let gray = &read(&lookup("dubbo", "a.B", "1.0", "g"), &urls).instances[0];
    assert_eq!((gray.weight, gray.labels["tag"].as_str()), (50, "gray"));
    assert_eq!(gray.warm_up.unwrap().period, Duration::from_secs(600));
}

#[test]
fn sofa_providers_by_unique_id() {
    let urls = [
        "bolt://127.0.0.1:22101?version=1.0&accepts=100000&appName=demo&weight=100&language=java&interface=com.example.HelloService&timeout=0&serialization=hessian2&protocol=bolt&delay=-1&dynamic=true&startTime=1700000000000&id=rpc-cfg-0&uniqueId=&rpcVer=51403",
        "bolt://127.0.0.1:22102?uniqueId=blue&weight=7",
        "rest://127.0.0.1:22103?uniqueId=",
    ];
    let of = |group| {
        read(
            &lookup("sofa", "com.example.HelloService", "1.0", group),
            &urls,
        )
    };
    assert_eq!(ports(&of("")), [22101]);
    assert_eq!(of("").instances[0].labels["application"], "demo");
    assert_eq!(ports(&of("blue")), [22102]);
    assert_eq!(of("blue").instances[0].weight, 7);
}

#[test]
fn of_two_entries_of_one_address_the_younger_counts() {
    let urls = [
        "dubbo://10.0.0.1:1/a.B?weight=2&timestamp=2000",
        "dubbo://10.0.0.1:1/a.B?weight=1&timestamp=1000",
    ];
    let read = read(&lookup("dubbo", "a.B", "", ""), &urls);
    assert_eq!(read.instances.len(), 1);
    assert_eq!(read.instances[0].weight, 2);
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
}
