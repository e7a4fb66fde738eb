//! What 400 services cost beside 400 documents of ten conditions, for a machine at rest:
//! `cargo test -p finback-registry --lib rules::load -- --ignored --nocapture`.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::time::Duration;

use finback_core::discovery::{Lookup, Snapshot};

use super::*;
use crate::layout::url;
use crate::offer::Offer;
use crate::store::Entries;

const COUNT: usize = 400;

/// A service of an application of its own, with ten providers.
struct Service {
    name: String,
    providers: Answer,
    reader: NodeReader,
    rules: Rules,
    offer: Offer,
    snapshot: Snapshot,
}

impl Service {
    fn new(number: usize) -> Self {
        let name = format!("com.acme.Service{number}");
        let urls = (1..=10).map(|host| {
            let url = format!(
                "dubbo://10.0.{}.{host}:20880/{name}?anyhost=true&application=app{number}&deprecated=false&dubbo=2.0.2&dynamic=true&generic=false&interface={name}&methods=a,b,c,d&pid=1&release=3.3.5&service-name-mapping=true&side=provider&timestamp=1700000000000&zone=x",
                number % 250
            );
            (url::encode(&url), bytes::Bytes::new())
        });
        Self {
            providers: Answer::Entries(Arc::new(urls.collect())),
            name,
            reader: NodeReader::default(),
            rules: Rules::default(),
            offer: Offer::default(),
            snapshot: Snapshot::default(),
        }
    }

    /// What a feed and a cluster do with a new state.
    fn read(&mut self, centre: &Centre, documents: &Documents) {
        let drafts = dubbo::read(&self.name, Some(&self.providers)).drafts;
        let applications = drafts
            .iter()
            .filter_map(|draft| application(&draft.provider).map(str::to_owned))
            .collect();
        let folders = [Answer::Missing, Answer::Missing];
        let nodes = self.reader.read(&self.name, folders);
        self.rules = Rules::select(&self.name, applications, documents, nodes);
        let providers = self.rules.amend(drafts).into_iter().map(|draft| {
            let mut provider = draft.provider;
            provider.address = (draft.host.parse::<std::net::IpAddr>().unwrap(), draft.port).into();
            provider
        });
        let mut offer = Offer::new(Layout::Dubbo, true, providers.collect());
        offer.lane = self.rules.lane();
        offer.rules = self.rules.of_calls(centre);
        if offer != self.offer {
            self.snapshot = offer.snapshot(
                Layout::Dubbo,
                &Lookup {
                    protocol: "dubbo".into(),
                    registry: "r".into(),
                    layout: "dubbo".into(),
                    service: (&*self.name).into(),
                    version: "".into(),
                    group: "".into(),
                },
            );
            self.offer = offer;
        }
    }
}

fn document(zone: &str) -> bytes::Bytes {
    let conditions: String = (0..10)
        .map(|n| format!("- \"method=call{n}* & host!=10.0.0.{n} => zone={zone}\"\n"))
        .collect();
    format!("configVersion: v3.0\nforce: true\nenabled: true\nconditions:\n{conditions}").into()
}

/// Time of the processor that this thread has had.
fn spent() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// Memory that this process holds.
fn held() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Reads the services that the documents concern; how many those were, and what it took.
fn change(services: &mut [Service], centre: &Centre, entries: &Entries) -> (usize, Duration) {
    let answer = Answer::Entries(Arc::new(entries.clone()));
    let begin = spent();
    let mut read = 0;
    for service in services {
        // As each of them asks when it wakes.
        let documents = centre.read(&answer);
        if !service.rules.is_current(&documents) {
            service.read(centre, &documents);
            read += 1;
        }
    }
    (read, spent() - begin)
}

#[test]
#[ignore = "measures; for a machine at rest"]
fn documents_of_other_applications_cost_next_to_nothing() {
    let mut services: Vec<_> = (0..COUNT).map(Service::new).collect();
    let centre = Centre::default();
    let none = centre.read(&Answer::Missing);
    let begin = spent();
    services.iter_mut().for_each(|own| own.read(&centre, &none));
    let alone = spent() - begin;
    let mut entries: Entries = (0..COUNT)
        .map(|n| (format!("app{n}.condition-router"), document("x")))
        .collect();
    let before = held();
    let (read, start) = change(&mut services, &centre, &entries);
    let memory = held().saturating_sub(before);
    println!(
        "without documents {alone:?}; with them {start:?} more, {read} services read, {memory} bytes"
    );
    assert_eq!(read, COUNT);
    entries.insert("app7.condition-router".to_owned(), document("y"));
    let (read, of_provider) = change(&mut services, &centre, &entries);
    println!("one document of a provider: {of_provider:?}, {read} services read");
    assert_eq!(read, 1);
    entries.insert("web.condition-router".to_owned(), document("y"));
    let (read, of_caller) = change(&mut services, &centre, &entries);
    println!("one document of a caller: {of_caller:?}, {read} services read");
    assert_eq!(read, 0);
    assert!(start < Duration::from_secs(1) && memory < 60 << 20);
    assert!(of_provider < Duration::from_millis(20) && of_caller < Duration::from_millis(20));
}
