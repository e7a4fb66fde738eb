//! Lanes against a broker that says what it is told to.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::thread;

use bytes::BytesMut;
use finback_core::codec::Codec;
use finback_core::frame::Edit;
use finback_rocketmq::RocketMq;
use finback_rocketmq::lanes::GroupLanes;
use serde_json::{Value, json};

use super::*;

/// RocketMQ: RequestCode.
const PULL: i32 = 11;
const OFFSET: i32 = 14;
const CONSUMERS: i32 = 38;
/// RocketMQ: ResponseCode.
const SYSTEM_ERROR: i32 = 1;
const NO_PERMISSION: i32 = 16;
const TOPIC_NOT_EXIST: i32 = 17;

/// What is answered to a request of this code about this group and topic; `None` closes its connection.
type Says = fn(i32, &str, &str) -> Option<(i32, String, String)>;

/// A broker, and what it was asked.
struct Scripted {
    address: String,
    asked: Arc<Mutex<Vec<(i32, String)>>>,
}

impl Scripted {
    fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = Self {
            address: listener.local_addr().unwrap().to_string(),
            asked: Arc::default(),
        };
        let asked = own.asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let asked = asked.clone();
                thread::spawn(move || serve(stream.unwrap(), says, &asked));
            }
        });
        own
    }

    fn keeper(&self) -> Keeper {
        Keeper::new(self.address.clone(), Servers::new(None, Way::Files(None)))
    }

    /// How often it was asked for the consumers of these groups.
    fn count(&self, group: &str) -> usize {
        let asked = self.asked.lock().unwrap();
        asked
            .iter()
            .filter(|own| **own == (CONSUMERS, group.to_owned()))
            .count()
    }
}

fn serve(mut stream: TcpStream, says: Says, asked: &Mutex<Vec<(i32, String)>>) -> Option<()> {
    loop {
        let mut lengths = [0; 8];
        stream.read_exact(&mut lengths).ok()?;
        let [total, header] = [0, 4].map(|at| {
            let bytes: [u8; 4] = lengths[at..at + 4].try_into().unwrap();
            u32::from_be_bytes(bytes) as usize
        });
        let mut rest = vec![0; total - 4];
        stream.read_exact(&mut rest).ok()?;
        let header: Value = serde_json::from_slice(&rest[..header]).unwrap();
        let code = i32::try_from(header["code"].as_i64().unwrap()).unwrap();
        let fields = &header["extFields"];
        let group = fields["consumerGroup"].as_str().unwrap_or_default();
        asked.lock().unwrap().push((code, group.to_owned()));
        let (code, remark, body) = says(code, group, fields["topic"].as_str().unwrap_or_default())?;
        let answer = json!({
            "code": code, "flag": 1, "opaque": header["opaque"], "remark": remark, "extFields": { "offset": "5" },
        });
        stream
            .write_all(&frame(&answer.to_string(), body.as_bytes()))
            .ok()?;
    }
}

fn frame(header: &str, body: &[u8]) -> Vec<u8> {
    let lengths = [4 + header.len() + body.len(), header.len()];
    let [total, own] = lengths.map(|length| u32::try_from(length).unwrap().to_be_bytes());
    [&total[..], &own, header.as_bytes(), body].concat()
}

/// A board of one lane, `gray`; consumers of these groups fetch.
fn board(groups: &[&str]) -> Arc<Board> {
    let lanes = GroupLanes::of_base("lane", &["gray".to_owned()]).unwrap();
    let board = Board::new(lanes.clone());
    for group in groups {
        fetch(&board, &lanes, group, "t");
    }
    board
}

fn fetch(board: &Arc<Board>, lanes: &GroupLanes, group: &str, topic: &str) {
    let config = finback_rocketmq::Config {
        lanes: Some(lanes.clone()),
        ..finback_rocketmq::Config::default()
    };
    let codec = RocketMq::of_broker(config).with_board(Some(board.clone()));
    let header = json!({
        "code": PULL, "flag": 0, "opaque": 1, "language": "JAVA", "version": 513,
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
fn one() -> (i32, String, String) {
    (
        0,
        String::new(),
        r#"{"consumerIdList":["127.0.0.1@1"]}"#.into(),
    )
}

fn error(code: i32, remark: &str) -> (i32, String, String) {
    (code, remark.to_owned(), String::new())
}

const GROUPS: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];

fn is_bad(group: &str) -> bool {
    ["a-lane-gray", "d-lane-gray", "i-lane-gray"].contains(&group)
}

#[tokio::test]
async fn a_group_that_is_refused_holds_up_no_other() {
    let broker = Scripted::start(|code, group, _| match code {
        CONSUMERS if is_bad(group) => Some(error(NO_PERMISSION, "not for you")),
        CONSUMERS => Some(one()),
        _ => Some(error(0, "")),
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
    let broker = Scripted::start(|code, group, _| match code {
        CONSUMERS if is_bad(group) => None,
        CONSUMERS => Some(one()),
        _ => Some(error(0, "")),
    });
    let board = board(&GROUPS);
    let mut keeper = broker.keeper();
    keeper.turn(&board).await;
    // The first one is a bad one: nobody else was asked about.
    assert_eq!(broker.asked.lock().unwrap().len(), 1);
    // Each of the others is reached by a connection of a later turn.
    for _ in 0..3 {
        keeper.turn(&board).await;
    }
    let found = GROUPS.map(|own| (!is_bad(&format!("{own}-lane-gray"))).then_some(true));
    assert_eq!(lives(&board), found);
    assert!(broker.count("a-lane-gray") >= 1);
}

#[tokio::test]
async fn only_a_broker_that_says_so_has_a_lane_without_consumers() {
    const KNOWN: [&str; 5] = ["busy", "garbled", "live", "none", "other"];
    let broker = Scripted::start(|code, group, _| match (code, group) {
        (CONSUMERS, "none-lane-gray") => Some(error(
            SYSTEM_ERROR,
            "no consumer for this group, none-lane-gray",
        )),
        (CONSUMERS, "busy-lane-gray") => Some(error(
            SYSTEM_ERROR,
            "[REJECTREQUEST]system busy, start flow control for a while",
        )),
        (CONSUMERS, "other-lane-gray") => {
            Some(error(SYSTEM_ERROR, "java.lang.NullPointerException"))
        }
        (CONSUMERS, "garbled-lane-gray") => Some((0, String::new(), "{".into())),
        (CONSUMERS, _) => Some(one()),
        _ => Some(error(0, "")),
    });
    let board = board(&KNOWN);
    let mut keeper = broker.keeper();
    keeper.turn(&board).await;
    let found = [None, None, Some(true), Some(false), None];
    assert_eq!(lives(&board), found);
}

#[tokio::test]
async fn a_lane_that_lives_stays_alive_while_its_broker_is_in_trouble() {
    static IS_IN_TROUBLE: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);
    let broker = Scripted::start(|code, _, _| match code {
        CONSUMERS if IS_IN_TROUBLE.load(std::sync::atomic::Ordering::SeqCst) => {
            Some(error(SYSTEM_ERROR, "the broker is starting"))
        }
        CONSUMERS => Some(one()),
        _ => Some(error(0, "")),
    });
    let board = board(&["g"]);
    let mut keeper = broker.keeper();
    keeper.turn(&board).await;
    IS_IN_TROUBLE.store(true, std::sync::atomic::Ordering::SeqCst);
    for _ in 0..3 {
        keeper.turn(&board).await;
    }
    assert_eq!(lives(&board), [Some(true)]);
    let written = [15, 36];
    let asked = broker.asked.lock().unwrap();
    assert!(
        !asked.iter().any(|(code, _)| written.contains(code)),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_queue_that_is_refused_holds_up_no_other_of_its_group() {
    const TOPICS: [&str; 8] = ["t1", "t2", "t3", "t4", "t5", "t6", "t7", "t8"];
    const DELETED: [&str; 4] = ["t2", "t3", "t6", "t7"];
    let broker = Scripted::start(|code, _, topic| match code {
        CONSUMERS => Some(one()),
        OFFSET if DELETED.contains(&topic) => Some(error(TOPIC_NOT_EXIST, "it was deleted")),
        _ => Some(error(0, "")),
    });
    let lanes = GroupLanes::of_base("lane", &["gray".to_owned()]).unwrap();
    let board = Board::new(lanes.clone());
    for topic in TOPICS {
        fetch(&board, &lanes, "g", topic);
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
    let wanted = TOPICS.map(|own| (own, (!DELETED.contains(&own)).then_some(5)));
    assert_eq!(starts, wanted);
}
