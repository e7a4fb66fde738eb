//! The captured frames: of sofa-bolt and SOFA-RPC for Java, and of their node counterparts.

use finback_core::conformance::Sample;
use finback_core::frame::Kind;
use serde_json::Value;

/// One captured frame, with what other readers of it said.
pub(crate) struct Vector {
    /// What was said.
    pub(crate) fields: Value,
    /// The frame.
    pub(crate) bytes: Vec<u8>,
}

impl Vector {
    pub(crate) fn name(&self) -> &str {
        self.text("name")
    }

    pub(crate) fn text(&self, field: &str) -> &str {
        self.fields[field].as_str().unwrap()
    }

    pub(crate) fn number(&self, field: &str) -> i64 {
        self.fields[field].as_i64().unwrap()
    }

    pub(crate) fn is_call(&self) -> bool {
        !self.fields["service"].is_null()
    }

    pub(crate) fn header(&self) -> Vec<(String, String)> {
        let header = self.fields["header"].as_object().unwrap();
        let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
        header
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), text(value)?)))
            .collect()
    }

    pub(crate) fn content(&self) -> &[u8] {
        let at = self.number("content_at") as usize;
        &self.bytes[at..at + self.number("content_len") as usize]
    }

    pub(crate) fn kind(&self) -> Kind {
        match (self.number("type"), self.number("cmdcode")) {
            (0, 0) => Kind::Pong,
            (0, 2) => Kind::Response,
            (1, 0) => Kind::Ping,
            (1, 1) => Kind::Request,
            (2, 1) => Kind::OneWay,
            other => panic!("{}: {other:?}", self.name()),
        }
    }

    pub(crate) fn sample(&self) -> Sample {
        Sample {
            name: self.name().to_owned(),
            bytes: self.bytes.clone(),
            kind: self.kind(),
            attributes: if self.is_call() {
                self.header()
            } else {
                Vec::new()
            },
            editable: self.text("class").ends_with("SofaRequest"),
        }
    }
}

/// All of them.
pub(crate) fn vectors() -> Vec<Vector> {
    let files = [
        include_str!("../vectors/bolt-java.json"),
        include_str!("../vectors/bolt-node.json"),
    ];
    let all = files
        .into_iter()
        .flat_map(|file| serde_json::from_str::<Vec<Value>>(file).unwrap());
    all.map(|fields| Vector {
        bytes: unhex(fields["hex"].as_str().unwrap()),
        fields,
    })
    .collect()
}

/// The one of this name.
pub(crate) fn vector(name: &str) -> Vector {
    vectors()
        .into_iter()
        .find(|vector| vector.name() == name)
        .unwrap()
}

/// Bytes from their hexadecimal digits; blanks do not count.
pub(crate) fn unhex(digits: &str) -> Vec<u8> {
    let digits: Vec<u8> = digits.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    digits
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}
