//! Fuzzing of layouts: every reader of entries reads any text, and none panics.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use finback_core::discovery::Lookup;

use super::draft::Cached;
use super::rules::{Centre, NodeReader, Rules};
use super::url::{self, Url};
use super::{Drafts, LayoutKind, dubbo, dubbo_app, grpc, native, sofa, spring};
use crate::offer::Offer;
use crate::store::{Answer, Entries};

/// What rules are applied to.
const PROVIDERS: [&str; 2] = [
    "dubbo://10.0.0.1:1/a.B?application=shop&zone=x&dubbo.tag=gray",
    "dubbo://10.0.0.2:2/a.B?application=shop&version=1.0&group=g",
];

pub(crate) fn exercise_url(name: &str) {
    if let Some(url) = Url::decode(name) {
        let written = Url::decode(&url::encode(&url.to_string()));
        // A host that Java would not have is not written as it was read.
        let is_plain = url
            .host
            .chars()
            .all(|char| char.is_ascii_alphanumeric() || char == '.');
        let is_sound = !url.path.contains(['?', '@']) && !url.scheme.contains(['/', '?', ':']);
        let texts = || {
            url.parameters
                .iter()
                .flat_map(|(name, value)| [name, value])
        };
        let is_text = texts().all(|text| !text.contains(['&', '=']));
        if is_plain && is_sound && is_text {
            assert_eq!(written, Some(url));
        }
    }
    let names = names(&[name]);
    let dubbo = dubbo::read("a.B", Some(&names), &mut Cached::default());
    for drafts in [dubbo, Drafts::of(Some(&names), sofa::read)] {
        assert!(drafts.drafts.len() + drafts.unreadable <= 1);
    }
}

pub(crate) fn exercise_rules(document: Option<(&str, &[u8])>, nodes: &[&str]) {
    let entries = document
        .into_iter()
        .map(|(key, text)| (key.to_owned(), Bytes::copy_from_slice(text)));
    let documents = Answer::Entries(Arc::new(entries.collect()));
    let encoded: Vec<String> = nodes.iter().map(|node| url::encode(node)).collect();
    let encoded: Vec<&str> = encoded.iter().map(|node| &**node).collect();
    let centre = Centre::default();
    let documents = centre.read(&documents);
    let nodes = NodeReader::default().read("a.B", [names(&encoded), Answer::Missing]);
    let rules = Rules::select(
        "a.B",
        BTreeSet::from(["shop".to_owned()]),
        &documents,
        nodes,
    );
    let providers = PROVIDERS.map(url::encode);
    let providers = names(&providers.each_ref().map(|own| &**own));
    let drafts = dubbo::read("a.B", Some(&providers), &mut Cached::default());
    let drafts = rules.amend(drafts.drafts);
    assert!(drafts.len() <= PROVIDERS.len());
    let providers = drafts.into_iter().filter_map(|draft| {
        let is_address = draft.name().is_none();
        is_address.then_some(draft.provider)
    });
    let mut offer = Offer::new(LayoutKind::Dubbo, true, providers.collect());
    offer.lane = rules.lane();
    offer.rules = rules.of_calls(&centre);
    for (version, group) in [("", ""), ("1.0", "g"), ("*", "*")] {
        let lookup = Lookup {
            registry: "r".into(),
            layout: "dubbo".into(),
            service: "a.B".into(),
            version: version.into(),
            group: group.into(),
            protocol: "dubbo".into(),
        };
        let snapshot = offer.snapshot(LayoutKind::Dubbo, &lookup);
        assert!(snapshot.instances.len() <= PROVIDERS.len());
    }
}

pub(crate) fn exercise_instance(bytes: &[u8]) {
    dubbo_app::exercise(bytes);
    let entries: Entries = [("x", Bytes::copy_from_slice(bytes))].into_iter().collect();
    let answer = Answer::Entries(Arc::new(entries));
    for read in [spring::read, grpc::read, native::read] {
        let drafts = Drafts::of(Some(&answer), read);
        assert!(drafts.drafts.len() + drafts.unreadable <= 1);
    }
}

fn names(names: &[&str]) -> Answer {
    let entries = names.iter().map(|name| ((*name).to_owned(), Bytes::new()));
    Answer::Entries(Arc::new(entries.collect()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of what frameworks write, so that chance gets beyond the first check.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(&[
            "override",
            "condition",
            "dubbo",
            "://",
            "0.0.0.0",
            "10.0.0.1",
            ":",
            "1",
            "/a.B",
            "?",
            "category=configurators",
            "category=routers",
            "router=condition",
            "&",
            "rule=",
            "=>",
            "host",
            "=",
            "!=",
            "$host",
            "~",
            "*",
            ",",
            "version",
            "1.0",
            "group",
            "g",
            "weight=7",
            "disabled=true",
            "side",
            "consumer",
            "provider",
            "%3D",
            "%",
            "+",
            "\n",
            "- ",
            "configs:",
            "conditions:",
            "tags:",
            "parameters:",
            "match:",
            "{",
            "}",
            "[",
            "]",
            "'",
            "\"",
            "scope: ",
            "service",
            "application",
            "key: ",
            "a.B",
            "shop",
            "force: true",
            "configVersion: v3.1",
            "from:",
            "to:",
            "addresses:",
            "services",
            "params",
            "name",
            "protocol",
            "port",
            "metadata",
            "dubbo.metadata.revision",
            "payload",
            "null",
            "9",
            "é",
            "\u{0}",
        ]);
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn any_entry_ends_in_a_result(text in pieces(), key in prop::sample::select(&["a.B::.configurators", "a.B:1.0:g.condition-router", "shop.tag-router", "shop.configurators", "web.condition-router", "x"])) {
            exercise_url(&url::encode(&text));
            exercise_url(&text);
            exercise_rules(None, &[&text]);
            exercise_rules(Some((key, text.as_bytes())), &[]);
            exercise_instance(text.as_bytes());
        }
    }
}
