//! Frames of Java's clients and servers of versions 4.9.8, 5.3.3 and 5.5.0, and what others read in them.

use finback_core::codec::Codec;
use finback_core::conformance::{self, Sample};
use finback_core::driver::{Protocol, Sniff};
use finback_core::frame::{Kind, Outcome, Reading, Status};
use finback_rocketmq::{Config, RocketMq};
use serde_json::Value;

pub(crate) fn codec() -> RocketMq {
    RocketMq::of_broker(Config::default())
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

struct Vector(Value);

impl Vector {
    fn all() -> Vec<Self> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/java.json");
        let text = std::fs::read_to_string(file).unwrap();
        let all: Value = serde_json::from_str(&text).unwrap();
        let frames = all["frames"].as_array().unwrap();
        frames.iter().cloned().map(Self).collect()
    }

    fn name(&self) -> &str {
        self.0["name"].as_str().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        unhex(self.0["hex"].as_str().unwrap())
    }

    fn number(&self, key: &str) -> i64 {
        self.0[key].as_i64().unwrap()
    }

    fn kind(&self) -> Kind {
        match self.number("flag") {
            flag if flag & 1 == 1 => Kind::Response,
            flag if flag & 2 == 2 => Kind::OneWay,
            _ => Kind::Request,
        }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.0["ext"][name].as_str()
    }

    fn sample(&self) -> Sample {
        let code = self.number("code");
        let editable = [10, 310, 320, 324, 325].contains(&code) && self.kind() != Kind::Response;
        Sample {
            name: self.name().to_owned(),
            bytes: self.bytes(),
            kind: self.kind(),
            attributes: Vec::new(),
            editable,
        }
    }
}

/// The captured frame of this name.
pub(crate) fn frame(name: &str) -> Vec<u8> {
    let all = Vector::all();
    all.iter().find(|own| own.name() == name).unwrap().bytes()
}

#[test]
fn captured_frames_keep_every_law() {
    let samples: Vec<Sample> = Vector::all().iter().map(Vector::sample).collect();
    assert_eq!(samples.len(), 79);
    conformance::check(&codec(), &samples);
}

#[test]
fn captured_heads_are_as_others_read_them() {
    for vector in Vector::all() {
        let wire = vector.bytes();
        let head = codec().peek(&wire).unwrap().unwrap();
        let name = vector.name();
        assert_eq!(head.kind, vector.kind(), "{name}");
        let id = i32::try_from(vector.number("opaque")).unwrap();
        assert_eq!(head.id, u64::from(id.cast_unsigned()), "{name}");
        assert_eq!(head.len, wire.len(), "{name}");
        assert_eq!(
            codec().sniff(&wire[..wire.len().min(64)]),
            Sniff::Match,
            "{name}"
        );
    }
}

#[test]
fn captured_requests_are_about_what_others_read_in_them() {
    let mut with_topic = 0;
    for vector in Vector::all()
        .iter()
        .filter(|own| own.kind() != Kind::Response)
    {
        let (wire, name) = (vector.bytes(), vector.name());
        let head = codec().peek(&wire).unwrap().unwrap();
        let Ok(Reading::Call(metadata)) = codec().read(&head, &wire) else {
            panic!("{name}");
        };
        let topic = vector
            .field("topic")
            .or(vector.field("b"))
            .or(vector.field("originTopic"));
        assert_eq!(metadata.service, topic.unwrap_or("(rocketmq)"), "{name}");
        assert_eq!(metadata.own, topic.is_none(), "{name}");
        with_topic += usize::from(topic.is_some());
        let groups = ["consumerGroup", "producerGroup", "group", "a"];
        let group = groups.iter().find_map(|key| vector.field(key));
        assert_eq!(metadata.group, group.unwrap_or_default(), "{name}");
        let suspend = vector
            .field("suspendTimeoutMillis")
            .filter(|_| vector.number("code") == 11);
        let timeout = metadata.timeout.map(|own| own.as_millis() as u64);
        let wanted = suspend.map(|text| text.parse::<u64>().unwrap() + 10_000);
        assert_eq!(timeout, wanted, "{name}");
        assert_eq!(metadata.lingers, wanted.is_some(), "{name}");
        for (key, value) in vector.0["ext"].as_object().unwrap() {
            let own = codec().attribute(&wire, &metadata, key);
            assert_eq!(own.as_deref(), value.as_str(), "{name}: {key}");
        }
    }
    assert!(with_topic > 25, "{with_topic}");
}

#[test]
fn the_method_is_the_requests_name() {
    let vector = Vector::all()
        .into_iter()
        .find(|own| own.number("code") == 310);
    let wire = vector.unwrap().bytes();
    let head = codec().peek(&wire).unwrap().unwrap();
    let Ok(Reading::Call(metadata)) = codec().read(&head, &wire) else {
        panic!("no call");
    };
    assert_eq!(metadata.method, "SEND_MESSAGE_V2");
    assert_eq!(codec().attribute(&wire, &metadata, ":code").unwrap(), "310");
    assert!(codec().attribute(&wire, &metadata, "UNIQ_KEY").is_some());
}

#[test]
fn captured_answers_end_as_their_code_says() {
    for vector in Vector::all()
        .iter()
        .filter(|own| own.kind() == Kind::Response)
    {
        let (wire, name) = (vector.bytes(), vector.name());
        let head = codec().peek(&wire).unwrap().unwrap();
        let Ok(Reading::Answer(answer)) = codec().read(&head, &wire) else {
            panic!("{name}");
        };
        let code = vector.number("code");
        let wanted = match code {
            0 | 19 | 22 => Outcome::Success,
            17 | 25 => Outcome::Invalid,
            other => panic!("{name}: {other}"),
        };
        assert_eq!(answer.outcome, wanted, "{name}");
        assert_eq!(answer.status, Status(code as u16), "{name}");
    }
}
