//! Lanes of consumers: what their requests become, and who consumes what.

use std::collections::BTreeMap;

use super::*;
use crate::stored::{MAGIC, SYS_FLAG_AT, stored};

fn gray() -> GroupLanes {
    GroupLanes::of_lane("lane", "gray").unwrap()
}

fn board() -> Arc<Board> {
    let others = ["gray", "blue"].map(str::to_owned);
    Board::new(GroupLanes::of_base("lane", &others).unwrap())
}

fn changed(
    lanes: &GroupLanes,
    code: i32,
    fields: &[(&str, &str)],
    body: &[u8],
    board: Option<&Board>,
) -> (BTreeMap<&'static str, String>, Option<String>) {
    let field = |name: &str| {
        let own = fields.iter().find(|(own, _)| *own == name)?;
        Some(Cow::Owned(own.1.to_owned()))
    };
    let change = lanes.change(code, &field, body, board);
    let body = change.body.map(|own| String::from_utf8(own).unwrap());
    (change.fields.into_iter().collect(), body)
}

/// Where the base fetches.
fn pull(board: &Board, queue: &str, offset: &str) -> BTreeMap<&'static str, String> {
    let fields = [
        ("consumerGroup", "g"),
        ("topic", "t"),
        ("queueId", queue),
        ("queueOffset", offset),
        ("sysFlag", "2"),
    ];
    changed(
        board.lanes(),
        request::PULL_MESSAGE,
        &fields,
        b"",
        Some(board),
    )
    .0
}

const HEARTBEAT: &[u8] = br#"{"clientID":"c","producerDataSet":[{"groupName":"p"}],"consumerDataSet":[{"groupName":"g","messageModel":"CLUSTERING","subscriptionDataSet":[{"topic":"t","subString":"a || it's","tagsSet":["a"],"codeSet":[1],"subVersion":7,"expressionType":"TAG"},{"topic":"%RETRY%g","subString":"*"}]}]}"#;

#[test]
fn whatever_names_a_group_names_that_of_its_lane() {
    let group = [
        ("consumerGroup", "g"),
        ("group", "g"),
        ("topic", "%RETRY%g"),
    ];
    for code in [11, 14, 15, 35, 38, 361, 200_050, 200_051, 200_053, 200_054] {
        let (fields, _) = changed(&gray(), code, &group, b"", None);
        assert_eq!(
            fields,
            BTreeMap::from([("consumerGroup", "g-lane-gray".into())]),
            "{code}"
        );
    }
    let (fields, _) = changed(&gray(), 36, &group, b"", None);
    assert_eq!(fields, BTreeMap::from([("group", "g-lane-gray".into())]));
    for code in [10, 310, 37, 203, 208] {
        assert!(
            changed(&gray(), code, &group, b"", None).0.is_empty(),
            "{code}"
        );
    }
    for (code, body) in [
        (41, r#"{"clientId":"c","consumerGroup":"g","mqSet":[]}"#),
        (42, r#"{"clientId":"c","consumerGroup":"g","mqSet":[]}"#),
        (400, r#"{"consumerGroup":"g","topic":"t"}"#),
        (46, r#"{"clientId":"c","group":"g"}"#),
        (200_151, r#"{"acks":[{"c":"g","t":"t"}]}"#),
    ] {
        let (_, written) = changed(&gray(), code, &[], body.as_bytes(), None);
        assert_eq!(
            written.unwrap(),
            body.replace("\"g\"", "\"g-lane-gray\""),
            "{code}"
        );
    }
    let back = gray().asked_back(&|name| (name == "consumerGroup").then_some("g-lane-gray".into()));
    assert_eq!(back, [("consumerGroup", "g".to_owned())]);
    let others = gray().asked_back(&|_| Some("g-lane-blue".into()));
    assert!(others.is_empty());
}

#[test]
fn a_lane_subscribes_to_its_own_messages() {
    let (_, body) = changed(&gray(), request::HEART_BEAT, &[], HEARTBEAT, None);
    let data: Value = serde_json::from_str(&body.unwrap()).unwrap();
    let consumer = &data["consumerDataSet"][0];
    assert_eq!(consumer["groupName"], "g-lane-gray");
    assert_eq!(data["producerDataSet"][0]["groupName"], "p");
    let own = &consumer["subscriptionDataSet"];
    assert_eq!(
        own[0]["subString"],
        "(TAGS IN ('a', 'it''s')) AND (lane = 'gray')"
    );
    assert_eq!(own[0]["expressionType"], "SQL92");
    assert_eq!(own[0]["subVersion"], 7);
    assert_eq!(own[1]["subString"], "*");
    let inline = [
        ("topic", "t"),
        ("sysFlag", "6"),
        ("subscription", "a > 1 OR b"),
        ("expressionType", "SQL92"),
    ];
    let (fields, _) = changed(&gray(), request::PULL_MESSAGE, &inline, b"", None);
    assert_eq!(fields["subscription"], "(a > 1 OR b) AND (lane = 'gray')");
    assert_eq!(fields["sysFlag"], "6");
    // What says nothing itself is said in heartbeats.
    let (fields, _) = changed(
        &gray(),
        request::PULL_MESSAGE,
        &[("sysFlag", "2")],
        b"",
        None,
    );
    assert!(fields.is_empty(), "{fields:?}");
    let pop = [("topic", "t"), ("exp", "*"), ("expType", "TAG")];
    let (fields, _) = changed(&gray(), request::POP_MESSAGE, &pop, b"", None);
    assert_eq!(fields["exp"], "(lane = 'gray')");
}

#[test]
fn topics_of_retries_stand_behind_the_group() {
    for (topic, there) in [
        ("%RETRY%g", Some("%RETRY%g-lane-gray")),
        ("%RETRY%g_t", Some("%RETRY%g-lane-gray_t")),
        ("%RETRY%g+t", Some("%RETRY%g-lane-gray+t")),
        ("%RETRY%other", None),
        ("t", None),
    ] {
        assert_eq!(retry_of(topic, "g", "gray").as_deref(), there, "{topic}");
        if let Some(there) = there {
            assert_eq!(without(there, "gray").as_deref(), Some(topic));
        }
    }
    assert_eq!(without("g-lane-grayish", "gray"), None);
    assert_eq!(
        without("g-lane-grayish-lane-gray", "gray").unwrap(),
        "g-lane-grayish"
    );
}

#[test]
fn the_base_leaves_out_what_lanes_consume_from_there_on() {
    let board = board();
    changed(
        board.lanes(),
        request::HEART_BEAT,
        &[],
        HEARTBEAT,
        Some(&board),
    );
    // Nobody knows yet, and then nobody is there.
    assert!(pull(&board, "0", "3").is_empty());
    board.set_life("g", 0, false);
    assert!(pull(&board, "0", "5").is_empty());
    let place = board.turn()[0].places[0].clone();
    assert_eq!(place.borders[0].until, Some(5));
    // A lane that has begun, but not before there.
    board.set_life("g", 0, true);
    assert!(pull(&board, "0", "6").is_empty());
    let place = board.turn()[0].places[0].clone();
    let border = Border {
        starts: Some(8),
        ..place.borders[0]
    };
    board.set("g", &place, 0, border);
    assert!(pull(&board, "0", "7").is_empty());
    let fields = pull(&board, "0", "9");
    assert_eq!(
        fields["subscription"],
        "(TAGS IN ('a', 'it''s')) AND (lane IS NULL OR lane NOT IN ('gray'))"
    );
    assert_eq!(
        (&*fields["sysFlag"], &*fields["expressionType"]),
        ("6", "SQL92")
    );
    pull(&board, "0", "12");
    assert_eq!(board.turn()[0].places[0].borders[0].from, Some(9));
    // Other queues of it are looked at first.
    assert!(pull(&board, "1", "9").is_empty());
    // It is gone: what lies between 9 and 14 was nobody's.
    board.set_life("g", 0, false);
    assert!(pull(&board, "0", "14").is_empty());
    pull(&board, "0", "20");
    let groups = board.turn();
    let place = groups[0]
        .places
        .iter()
        .find(|own| own.queue == Some(0))
        .unwrap();
    let border = place.borders[0];
    assert_eq!(
        (border.from, border.until, border.is_done),
        (Some(9), Some(14), false)
    );
    // Retries are of one group only.
    let fields = [
        ("consumerGroup", "g"),
        ("topic", "%RETRY%g"),
        ("queueId", "0"),
        ("queueOffset", "0"),
    ];
    changed(
        board.lanes(),
        request::PULL_MESSAGE,
        &fields,
        b"",
        Some(&board),
    );
    assert_eq!(board.turn()[0].places.len(), 2);
}

#[test]
fn what_was_fetched_before_a_lane_came_is_left_to_it() {
    let message = |offset: u8, lane: &str| {
        let mut out = vec![0; SYS_FLAG_AT];
        out[4..8].copy_from_slice(&MAGIC.to_be_bytes());
        out[27] = offset;
        out.extend_from_slice(&[0; 48]);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(b"\x01t");
        let all = format!("lane\u{1}{lane}\u{2}");
        out.extend_from_slice(&u16::try_from(all.len()).unwrap().to_be_bytes());
        out.extend_from_slice(all.as_bytes());
        let size = u32::try_from(out.len()).unwrap().to_be_bytes();
        out[..4].copy_from_slice(&size);
        out
    };
    let board = board();
    pull(&board, "0", "3");
    let body = [
        message(3, "gray"),
        message(4, "gray"),
        message(5, "blue"),
        message(6, "red"),
    ]
    .concat();
    assert_eq!(stored(&body).len(), 4);
    let kept = || {
        let kept = board.without_anothers(hash("g"), &body)?;
        Some(
            stored(&kept)
                .iter()
                .map(|own| own.offset)
                .collect::<Vec<_>>(),
        )
    };
    assert_eq!(kept(), None);
    board.set_life("g", 0, true);
    let place = board.turn()[0].places[0].clone();
    let border = Border {
        starts: Some(4),
        ..place.borders[0]
    };
    board.set("g", &place, 0, border);
    assert_eq!(kept(), Some(vec![3, 5, 6]));
    assert_eq!(board.without_anothers(hash("other"), &body), None);
    assert_eq!(
        board.without_anothers(hash("g"), &body[..body.len() - 1]),
        None
    );
    board.set_life("g", 0, false);
    assert_eq!(kept(), None);
}

#[test]
fn who_does_not_fetch_any_more_is_forgotten_and_there_is_a_bound() {
    let board = board();
    pull(&board, "0", "1");
    assert_eq!(board.turn().len(), 1);
    for _ in 0..60 {
        let _ = board.turn();
    }
    assert!(board.turn().is_empty());
    for queue in 0..20_000 {
        pull(&board, &queue.to_string(), "1");
    }
    assert_eq!(board.turn()[0].places.len(), 16 * 1024);
}

#[test]
fn lanes_and_properties_have_names_that_brokers_understand() {
    for (property, lane) in [
        ("lane", "a.b"),
        ("lane", ""),
        ("lane", "it's"),
        ("x-lane", "gray"),
        ("1lane", "gray"),
        ("NOT", "gray"),
        ("KEYS", "gray"),
    ] {
        assert!(
            GroupLanes::of_lane(property, lane).is_err(),
            "{property} {lane}"
        );
        assert!(GroupLanes::of_base(property, &[lane.to_owned()]).is_err());
    }
    assert!(GroupLanes::of_base("lane", &[]).is_err());
    assert!(GroupLanes::of_base("lane", &["a".to_owned(), "a".to_owned()]).is_err());
    assert!(fits(&"g".repeat(200), "gray") && !fits(&"g".repeat(250), "gray"));
}
