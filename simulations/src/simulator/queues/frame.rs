//! Frames of RocketMQ as its clients and servers write them, in either encoding.

/// A request or an answer, as far as this world looks at it.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) code: i64,
    pub(super) id: i32,
    pub(super) flag: i64,
    /// What it says of itself, for whoever checks.
    pub(super) token: Option<u64>,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) is_binary: bool,
}

/// Bits of the flag.
pub(super) const ANSWER: i64 = 1;
pub(super) const ONE_WAY: i64 = 2;

impl Frame {
    pub(super) fn is_answer(&self) -> bool {
        self.flag & ANSWER != 0
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.text(name).parse().ok()
    }

    /// Nothing if there is no such field.
    pub(super) fn text(&self, name: &str) -> &str {
        let own = self.fields.iter().find(|(own, _)| own == name);
        own.map(|(_, value)| value.as_str()).unwrap_or_default()
    }

    /// The answer to it: it says whose it is.
    pub(super) fn answer(&self, code: i64, is_binary: bool, body: &[u8]) -> Vec<u8> {
        self.answer_with(code, is_binary, &[], body)
    }

    /// The same, with fields that are numbers.
    pub(super) fn answer_with(
        &self,
        code: i64,
        is_binary: bool,
        fields: &[(&str, u64)],
        body: &[u8],
    ) -> Vec<u8> {
        Self {
            code,
            id: self.id,
            flag: ANSWER,
            token: self.token,
            fields: fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.to_string()))
                .collect(),
            body: body.to_vec(),
            is_binary,
        }
        .bytes()
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let token = self.token.map(|own| ("token".to_owned(), own.to_string()));
        let fields: Vec<_> = self.fields.iter().cloned().chain(token).collect();
        let header = match self.is_binary {
            true => binary(self, &fields),
            false => json(self, &fields),
        };
        let length = header.len() as u32;
        let mut out = (4 + length + self.body.len() as u32).to_be_bytes().to_vec();
        out.extend_from_slice(&(u32::from(self.is_binary) << 24 | length).to_be_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(&self.body);
        out
    }
}

fn json(own: &Frame, fields: &[(String, String)]) -> Vec<u8> {
    let fields: Vec<String> = fields
        .iter()
        // Properties have control characters between them.
        .map(|(name, value)| format!("\"{name}\":{}", serde_json::json!(value)))
        .collect();
    format!(
        r#"{{"code":{},"extFields":{{{}}},"flag":{},"language":"JAVA","opaque":{},"version":513}}"#,
        own.code,
        fields.join(","),
        own.flag,
        own.id
    )
    .into_bytes()
}

fn binary(own: &Frame, fields: &[(String, String)]) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, value) in fields {
        all.extend_from_slice(&(name.len() as u16).to_be_bytes());
        all.extend_from_slice(name.as_bytes());
        all.extend_from_slice(&(value.len() as u32).to_be_bytes());
        all.extend_from_slice(value.as_bytes());
    }
    let mut header = (own.code as i16).to_be_bytes().to_vec();
    header.extend_from_slice(&[0, 2, 1]);
    header.extend_from_slice(&own.id.to_be_bytes());
    header.extend_from_slice(&(own.flag as i32).to_be_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&(all.len() as u32).to_be_bytes());
    header.extend_from_slice(&all);
    header
}

/// Takes whole frames out of what was read; what cannot be read is thrown away, and noticed as missing.
pub(super) fn take(inbox: &mut Vec<u8>) -> Vec<Frame> {
    let mut all = Vec::new();
    loop {
        let Some((lengths, _)) = inbox.split_first_chunk::<8>() else {
            return all;
        };
        let [a, b, c, d, encoding, e, f, g] = *lengths;
        let total = u32::from_be_bytes([a, b, c, d]) as usize + 4;
        let header = 8 + u32::from_be_bytes([0, e, f, g]) as usize;
        if inbox.len() < total {
            return all;
        }
        let frame: Vec<u8> = inbox.drain(..total).collect();
        let Some((header, body)) = frame.split_at_checked(header) else {
            continue;
        };
        let read = match encoding {
            0 => of_json(&header[8..]),
            _ => of_binary(&header[8..]),
        };
        if let Some(mut own) = read {
            own.body = body.to_vec();
            own.token = own.number("token");
            all.push(own);
        }
    }
}

fn of_json(header: &[u8]) -> Option<Frame> {
    let header: serde_json::Value = serde_json::from_slice(header).ok()?;
    let number = |name: &str| header[name].as_i64().unwrap_or_default();
    let fields = header["extFields"].as_object();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Some(Frame {
        code: number("code"),
        id: number("opaque") as i32,
        flag: number("flag"),
        token: None,
        fields: fields
            .into_iter()
            .flatten()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        body: Vec::new(),
        is_binary: false,
    })
}

fn of_binary(header: &[u8]) -> Option<Frame> {
    let long = |at: usize| Some(i32::from_be_bytes(*header.get(at..)?.first_chunk()?));
    let mut at = 13 + 4 + usize::try_from(long(13)?).ok()? + 4;
    let mut fields = Vec::new();
    while at < header.len() {
        let name = usize::from(u16::from_be_bytes(*header.get(at..)?.first_chunk()?));
        let value_at = at + 2 + name + 4;
        let value = usize::try_from(long(at + 2 + name)?).ok()?;
        let text = |from: usize, length: usize| {
            let own = header.get(from..from + length)?;
            Some(String::from_utf8_lossy(own).into_owned())
        };
        fields.push((text(at + 2, name)?, text(value_at, value)?));
        at = value_at + value;
    }
    Some(Frame {
        code: i64::from(i16::from_be_bytes(*header.first_chunk()?)),
        id: long(5)?,
        flag: i64::from(long(9)?),
        token: None,
        fields,
        body: Vec::new(),
        is_binary: true,
    })
}
