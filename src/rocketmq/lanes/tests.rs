//! Lanes against a broker that says what it is told to.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use bytes::BytesMut;
use finback_core::codec::Codec;
use finback_core::frame::Edit;
use finback_rocketmq::RocketMq;
use finback_rocketmq::lanes::GroupLanes;
use serde_json::json;

use super::*;
use crate::bridges::rocketmq::scripted::{Said, Scripted, ends, frame, kept};

/// RocketMQ: RequestCode.
const PULL: i32 = 11;
const OFFSET: i32 = 14;
const SET_OFFSET: i32 = 15;
const SEND_BACK: i32 = 36;
const CONSUMERS: i32 = 38;
const QUEUES: i32 = 202;
const POP: i32 = 200_050;
/// RocketMQ: ResponseCode.
const SYSTEM_ERROR: i32 = 1;
const GROUP_NOT_EXIST: i32 = 26;
const NO_PERMISSION: i32 = 16;
const TOPIC_NOT_EXIST: i32 = 17;

impl Scripted {
    fn keeper(&self) -> Keeper {
        Keeper::new(self.address.clone(), Servers::new(None, Way::Files(None)))
    }
}

/// A board of one lane, `gray`; consumers of these groups fetch.
fn board(groups: &[&str]) -> Arc<Board> {
    let lanes = GroupLanes::of_base("lane", &["gray".to_owned()]).unwrap();
    let board = Board::new(lanes);
    for group in groups {
        fetch(&board, PULL, group, "t");
    }
    board
}

/// A consumer of the base fetches from the seventh place.
fn fetch(board: &Arc<Board>, code: i32, group: &str, topic: &str) {
    let config = finback_rocketmq::Config {
        lanes: Some(board.lanes().clone()),
        ..finback_rocketmq::Config::default()
    };
    let codec = RocketMq::of_broker(config).with_board(Some(board.clone()));
    let header = json!({
        "code": code, "flag": 0, "opaque": 1, "language": "JAVA", "version": 513,
        "extFields": {
            "consumerGroup": group, "topic": topic, "queueId": "0", "queueOffset": "7", "sysFlag": "2",
        },
    });
    let wire = frame(&header.to_string(), b"");
    let head = codec.peek(&wire).unwrap().unwrap();
    let edit = Edit {
        id: 1,
        attributes: &[],
        body: None,
        fit: None,
        onward: true,
    };
    codec.encode(&head, &wire, &edit, &mut BytesMut::new());
}

/// Whether each group's lane has consumers, as far as that is known.
fn lives(board: &Board) -> Vec<Option<bool>> {
    board.lives().into_iter().map(|(.., live)| live).collect()
}

/// An answer to whoever asks for consumers: there is one.
fn one() -> Said {
    Said::body(r#"{"consumerIdList":["127.0.0.1@1"]}"#)
}

/// An answer to whoever asks for consumers: there are none.
fn none() -> Said {
    Said::error(SYSTEM_ERROR, "no consumer for this group, g")
}

const GROUPS: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

fn is_bad(group: &str) -> bool {
    ["a-lane-gray", "d-lane-gray", "i-lane-gray"].contains(&group)
}

#[tokio::test]
async fn a_group_that_is_refused_holds_up_no_other() {
    let broker = Scripted::start(|own| match own.code {
        CONSUMERS if is_bad(own.group()) => Some(Said::error(NO_PERMISSION, "not for you")),
        CONSUMERS => Some(one()),
        _ => Some(Said::yes()),
    });
    let board = board(&GROUPS);
    let mut keeper = broker.keeper();
    keeper.turn(&board).await;
    let found = GROUPS.map(|own| (!is_bad(&format!("{own}-lane-gray"))).then_some(true));
    assert_eq!(lives(&board), found);
    let mut refused: Vec<_> = keeper.refused.keys().cloned().collect();
    refused.sort();
    // The log is told of one in a second, and of others later.
    assert_eq!(refused, ["a-lane-gray"]);
}

#[tokio::test]
async fn a_connection_that_ends_about_one_group_holds_up_no_other_for_long() {
    let broker = Scripted::start(|own| match own.code {
        CONSUMERS if is_bad(own.group()) => None,
        CONSUMERS => Some(one()),
        _ => Some(Said::yes()),
    });
    let board = board(&GROUPS);
    let mut keeper = broker.keeper();
    keeper.turn(&board).await;
    // The first one is a bad one: nobody else was asked about.
    assert_eq!(broker.asked().len(), 1);
    // Each of the others is reached by a connection of a later turn.
    for _ in 0..3 {
        keeper.turn(&board).await;
    }
    let found = GROUPS.map(|own| (!is_bad(&format!("{own}-lane-gray"))).then_some(true));
    assert_eq!(lives(&board), found);
}

#[tokio::test]
async fn only_a_broker_that_says_so_has_a_lane_without_consumers() {
    const KNOWN: [&str; 5] = ["busy", "garbled", "live", "none", "other"];
    let broker = Scripted::start(|own| match (own.code, own.group()) {
        (CONSUMERS, "none-lane-gray") => Some(Said::error(
            SYSTEM_ERROR,
            "no consumer for this group, none-lane-gray",
        )),
        (CONSUMERS, "busy-lane-gray") => Some(Said::error(
            SYSTEM_ERROR,
            "[REJECTREQUEST]system busy, start flow control for a while",
        )),
        (CONSUMERS, "other-lane-gray") => {
            Some(Said::error(SYSTEM_ERROR, "java.lang.NullPointerException"))
        }
        (CONSUMERS, "garbled-lane-gray") => Some(Said::body("{")),
        (CONSUMERS, _) => Some(one()),
        _ => Some(Said::yes()),
    });
    let board = board(&KNOWN);
    let mut keeper = broker.keeper();
    keeper.turn(&board).await;
    let found = [None, None, Some(true), Some(false), None];
    assert_eq!(lives(&board), found);
}

#[tokio::test]
async fn a_lane_that_lives_stays_alive_while_its_broker_is_in_trouble() {
    static IS_IN_TROUBLE: AtomicBool = AtomicBool::new(false);
    let broker = Scripted::start(|own| match own.code {
        CONSUMERS if IS_IN_TROUBLE.load(SeqCst) => {
            Some(Said::error(SYSTEM_ERROR, "the broker is starting"))
        }
        CONSUMERS => Some(one()),
        _ => Some(Said::yes()),
    });
    let board = board(&["g"]);
    let mut keeper = broker.keeper();
    keeper.turn(&board).await;
    IS_IN_TROUBLE.store(true, SeqCst);
    for _ in 0..3 {
        keeper.turn(&board).await;
    }
    assert_eq!(lives(&board), [Some(true)]);
    let written = [SET_OFFSET, SEND_BACK];
    let asked = broker.asked();
    assert!(
        !asked.iter().any(|own| written.contains(&own.code)),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_queue_that_is_refused_holds_up_no_other_of_its_group() {
    // They are looked at in no order: a good one of so many stands behind a bad one.
    let topics: [String; 16] = std::array::from_fn(|number| format!("t{number:02}"));
    let is_deleted = |topic: &str| topic.ends_with(['2', '3', '6', '7']);
    let broker = Scripted::start(move |own| match own.code {
        CONSUMERS => Some(one()),
        OFFSET if is_deleted(own.topic()) => Some(Said::error(TOPIC_NOT_EXIST, "it was deleted")),
        _ => Some(Said::yes()),
    });
    let board = board(&[]);
    for topic in &topics {
        fetch(&board, PULL, "g", topic);
    }
    let mut keeper = broker.keeper();
    for _ in 0..2 {
        keeper.turn(&board).await;
    }
    let group = board.turn().remove(0);
    let starts = group
        .places
        .iter()
        .map(|own| (&*own.topic, own.borders[0].starts));
    let mut starts: Vec<_> = starts.collect();
    starts.sort_unstable();
    let wanted = topics
        .each_ref()
        .map(|own| (&**own, (!is_deleted(own)).then_some(5)));
    assert_eq!(starts, wanted);
}

/// The retry topic of the lane's group.
const RETRY: &str = "%RETRY%g-lane-gray";

/// A wrong answer, and what is told of it.
type Wrongly = (fn() -> Said, &'static str);

/// What is wrong until it is said to be mended.
fn broken() -> (Arc<AtomicBool>, Arc<AtomicBool>) {
    let own = Arc::new(AtomicBool::new(true));
    (own.clone(), own)
}

/// What was sent back: its group, topic and place among all messages, each in the order of their places.
fn sent_back(broker: &Scripted) -> Vec<[String; 3]> {
    let asked = broker.asked_with(SEND_BACK).into_iter();
    let fields = ["group", "originTopic", "offset"];
    let mut all: Vec<_> = asked
        .map(|own| fields.map(|name| own.field(name).to_owned()))
        .collect();
    all.sort();
    all
}

#[tokio::test]
async fn what_a_lane_wants_again_waits_while_nobody_can_say_where_it_is() {
    let wrongs: [Wrongly; 3] = [
        (|| Said::error(SYSTEM_ERROR, "busy"), "1 busy"),
        (
            || Said::error(NO_PERMISSION, "not for you"),
            "16 not for you",
        ),
        (
            || Said::body("{"),
            "its list of a topic's queues cannot be read",
        ),
    ];
    for (wrong, says) in wrongs {
        let (is_broken, own) = broken();
        let broker = Scripted::start(move |asked| {
            Some(match asked.code {
                CONSUMERS => none(),
                QUEUES if own.load(SeqCst) => wrong(),
                QUEUES => Said::body(ends(RETRY, &[7])),
                PULL if asked.topic() == RETRY => {
                    Said::body(kept(RETRY, 5, "RETRY_TOPIC\u{1}t\u{2}"))
                        .with("nextBeginOffset", "7")
                }
                _ => Said::yes(),
            })
        });
        let (board, mut keeper) = (board(&["g"]), broker.keeper());
        keeper.turn(&board).await;
        keeper.turn = ALONG - 1;
        keeper.turn(&board).await;
        assert_eq!(
            keeper.refused.get("g-lane-gray").map(String::as_str),
            Some(says)
        );
        assert!(sent_back(&broker).is_empty(), "{says}");
        let asked = broker.asked_with(SET_OFFSET);
        assert!(!asked.iter().any(|own| own.topic() == RETRY), "{asked:?}");
        is_broken.store(false, SeqCst);
        keeper.turn = 2 * ALONG - 1;
        keeper.turn(&board).await;
        assert!(keeper.refused.is_empty(), "{:?}", keeper.refused);
        assert_eq!(sent_back(&broker), [["g", "t", "50"]]);
    }
}

#[tokio::test]
async fn a_lane_that_wanted_nothing_again_has_no_retry_topic() {
    let broker = Scripted::start(|own| {
        Some(match own.code {
            CONSUMERS => none(),
            QUEUES => Said::error(TOPIC_NOT_EXIST, "no such topic"),
            _ => Said::yes(),
        })
    });
    let (board, mut keeper) = (board(&["g"]), broker.keeper());
    keeper.turn(&board).await;
    keeper.turn = ALONG - 1;
    keeper.turn(&board).await;
    assert_eq!(broker.asked_with(QUEUES).len(), 1);
    assert!(keeper.refused.is_empty(), "{:?}", keeper.refused);
}

#[tokio::test]
async fn messages_that_cannot_be_read_hold_their_queue_and_no_other() {
    let (whole, half) = (kept("t", 6, ""), kept("t", 6, ""));
    let half = &half[..half.len() - 1];
    // One that ends too early, and one that has a length of its own too long.
    let mut long = whole.clone();
    let at = long.len() - 1;
    long[at] = 9;
    for bad in [half.to_vec(), long] {
        let (is_broken, own) = broken();
        let (whole, first) = (whole.clone(), kept("t", 5, ""));
        let broker = Scripted::start(move |asked| {
            Some(match (asked.code, asked.topic()) {
                (CONSUMERS, _) => none(),
                (PULL, "t") => {
                    let second = if own.load(SeqCst) { &bad } else { &whole };
                    Said::body([&first[..], second].concat()).with("nextBeginOffset", "7")
                }
                (PULL, topic) => Said::body(kept(topic, 5, "")).with("nextBeginOffset", "7"),
                _ => Said::yes(),
            })
        });
        let (board, mut keeper) = (board(&["g"]), broker.keeper());
        let others = ["u1", "u2", "u3", "u4", "u5", "u6"];
        for topic in others {
            fetch(&board, PULL, "g", topic);
        }
        keeper.turn(&board).await;
        for topic in ["t"].iter().chain(&others) {
            fetch(&board, PULL, "g", topic);
        }
        keeper.turn(&board).await;
        let refused = keeper.refused.get("g-lane-gray").map(String::as_str);
        assert_eq!(refused, Some("messages of a queue cannot be read"));
        let wanted = others.map(|topic| ["g", topic, "50"]);
        assert_eq!(sent_back(&broker), wanted);
        let set = broker.asked_with(SET_OFFSET);
        assert!(!set.iter().any(|own| own.topic() == "t"), "{set:?}");
        is_broken.store(false, SeqCst);
        keeper.turn(&board).await;
        assert!(keeper.refused.is_empty(), "{:?}", keeper.refused);
        let back = sent_back(&broker);
        assert_eq!(back[..2], ["50", "60"].map(|place| ["g", "t", place]));
        assert_eq!(back.len(), 2 + others.len());
    }
}

#[tokio::test]
async fn where_queues_cannot_be_read_the_base_goes_on_having_what_it_pops() {
    let (is_broken, own) = broken();
    let broker = Scripted::start(move |asked| {
        Some(match asked.code {
            CONSUMERS => one(),
            QUEUES if own.load(SeqCst) => Said::body("{"),
            QUEUES => Said::body(ends("t", &[7])),
            _ => Said::yes(),
        })
    });
    let (board, mut keeper) = (board(&[]), broker.keeper());
    fetch(&board, POP, "g", "t");
    let is_narrow = || board.turn()[0].places[0].borders[0].is_narrow;
    for _ in 0..3 {
        keeper.turn(&board).await;
    }
    assert!(keeper.refused["g-lane-gray"].contains("queues cannot be read"));
    assert!(!is_narrow());
    is_broken.store(false, SeqCst);
    keeper.turn(&board).await;
    assert!(is_narrow());
}

#[tokio::test]
async fn where_queues_cannot_be_read_what_a_lane_left_of_a_popped_topic_waits() {
    let (is_broken, own) = broken();
    let broker = Scripted::start(move |asked| {
        Some(match asked.code {
            CONSUMERS => none(),
            QUEUES if own.load(SeqCst) => Said::body("{"),
            QUEUES => Said::body(ends("t", &[6])),
            PULL => Said::body(kept("t", 5, "")).with("nextBeginOffset", "6"),
            _ => Said::yes(),
        })
    });
    let (board, mut keeper) = (board(&[]), broker.keeper());
    fetch(&board, POP, "g", "t");
    keeper.turn(&board).await;
    fetch(&board, POP, "g", "t");
    for _ in 0..2 {
        keeper.turn(&board).await;
    }
    assert!(keeper.refused["g-lane-gray"].contains("queues cannot be read"));
    assert!(sent_back(&broker).is_empty());
    is_broken.store(false, SeqCst);
    keeper.turn(&board).await;
    assert_eq!(sent_back(&broker), [["g", "t", "50"]]);
}

/// A broker at which the lane's group has two messages to be handed back, the first of which it refuses like this.
fn refusing(says: fn() -> Said) -> Scripted {
    Scripted::start(move |asked| {
        Some(match asked.code {
            CONSUMERS => none(),
            QUEUES => Said::error(TOPIC_NOT_EXIST, "no such topic"),
            PULL => Said::body([kept("t", 5, "UNIQ_KEY\u{1}id\u{2}"), kept("t", 6, "")].concat())
                .with("nextBeginOffset", "7"),
            SEND_BACK if asked.field("offset") == "50" => says(),
            _ => Said::yes(),
        })
    })
}

/// A keeper that finds that the lane has no consumers any more, and a board on which the base has gone on.
async fn left(broker: &Scripted) -> (Keeper, Arc<Board>) {
    let board = board(&["g"]);
    let mut keeper = broker.keeper();
    keeper.counts = Arc::default();
    keeper.turn(&board).await;
    fetch(&board, PULL, "g", "t");
    (keeper, board)
}

#[tokio::test]
async fn a_message_that_its_broker_never_takes_back_is_left_out_in_the_end_and_told_of() {
    let broker = refusing(|| Said::error(SYSTEM_ERROR, "look message by offset failed, 50"));
    let (mut keeper, board) = left(&broker).await;
    for tried in 1..=TRIES {
        keeper.turn += 150;
        keeper.turn(&board).await;
        let set = broker.asked_with(SET_OFFSET);
        assert_eq!(set.is_empty(), tried < TRIES, "{tried}: {set:?}");
    }
    let back = sent_back(&broker);
    let (last, refused) = back.split_last().unwrap();
    assert_eq!(refused.len(), TRIES as usize);
    assert!(refused.iter().all(|own| own[2] == "50"), "{back:?}");
    assert_eq!(last[2], "60");
    let counts = &keeper.counts;
    let counted = [&counts.handed_back, &counts.refused, &counts.left_out];
    assert_eq!(counted.map(|own| own.load(SeqCst)), [1, TRIES.into(), 1]);
    assert!(keeper.refused.is_empty(), "{:?}", keeper.refused);
}

#[tokio::test]
async fn a_message_that_is_refused_is_tried_less_and_less_often() {
    let broker = refusing(|| Said::error(SYSTEM_ERROR, "busy"));
    let (mut keeper, board) = left(&broker).await;
    // In the first of these turns, and 1, 3, 7 and 15 turns later.
    for _ in 0..16 {
        keeper.turn(&board).await;
        assert_eq!(keeper.refused["g-lane-gray"], "1 busy");
    }
    assert_eq!(sent_back(&broker).len(), 5);
}

#[tokio::test]
async fn what_a_broker_refuses_for_its_own_sake_or_the_groups_is_never_left_out() {
    for says in [
        || Said::error(NO_PERMISSION, "the broker is read-only"),
        || Said::error(GROUP_NOT_EXIST, "subscription group not exist"),
    ] {
        let broker = refusing(says);
        let (mut keeper, board) = left(&broker).await;
        for _ in 0..2 * TRIES {
            keeper.turn += 150;
            keeper.turn(&board).await;
        }
        assert_eq!(sent_back(&broker).len(), 2 * TRIES as usize);
        assert!(broker.asked_with(SET_OFFSET).is_empty());
        assert_eq!(keeper.counts.left_out.load(SeqCst), 0);
    }
}
