//! Requests and answers of each protocol as their real clients and servers send them.
//!
//! Frames are templates: only the id and a token of twelve letters differ from call to call. The
//! token travels as the call's argument and must come back as its result, so that an answer that
//! reached the wrong caller is noticed.

mod remoting;

use bytes::{BufMut, BytesMut};

/// Length of the token that every call carries.
pub const TOKEN: usize = 12;

/// The service that is called.
pub const SERVICE: &str = "com.acme.OrderService";
/// Its method.
pub const METHOD: &str = "queryOrder";

/// A protocol that can be spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// SOFA-RPC's Bolt.
    Bolt,
    /// Dubbo 2.
    Dubbo,
    /// HTTP/1.1.
    Http,
    /// gRPC without TLS.
    Grpc,
    /// RocketMQ's remoting, with headers in JSON.
    Rocketmq,
    /// The same, with binary headers.
    RocketmqBinary,
    /// Messages of no protocol.
    Bytes,
}

impl Protocol {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bolt => Speech::Bolt.name(),
            Self::Dubbo => Speech::Dubbo.name(),
            Self::Http => "http",
            Self::Grpc => "grpc",
            Self::Rocketmq => Speech::Rocketmq.name(),
            Self::RocketmqBinary => Speech::RocketmqBinary.name(),
            Self::Bytes => Speech::Bytes.name(),
        }
    }

    /// How it is framed, if its frames can each be understood alone.
    #[must_use]
    pub fn framed(self) -> Option<Speech> {
        match self {
            Self::Bolt => Some(Speech::Bolt),
            Self::Dubbo => Some(Speech::Dubbo),
            Self::Rocketmq => Some(Speech::Rocketmq),
            Self::RocketmqBinary => Some(Speech::RocketmqBinary),
            Self::Bytes => Some(Speech::Bytes),
            Self::Http | Self::Grpc => None,
        }
    }
}

impl From<Speech> for Protocol {
    fn from(speech: Speech) -> Self {
        match speech {
            Speech::Bolt => Self::Bolt,
            Speech::Dubbo => Self::Dubbo,
            Speech::Rocketmq => Self::Rocketmq,
            Speech::RocketmqBinary => Self::RocketmqBinary,
            Speech::Bytes => Self::Bytes,
        }
    }
}

/// A protocol of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// SOFA-RPC's Bolt v1 with hessian 3.x bodies.
    Bolt,
    /// Dubbo 2 with hessian2 bodies.
    Dubbo,
    /// RocketMQ's remoting: messages sent to a broker, and its acknowledgements, with headers in JSON.
    Rocketmq,
    /// The same, with binary headers.
    RocketmqBinary,
    /// A length, an id, a token and padding: something for whoever reads nothing.
    Bytes,
}

/// What a whole frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Request,
    /// An answer that says the call went well.
    Success,
    /// Any other answer.
    Failure,
    /// A heartbeat.
    Ping,
    /// Anything else.
    Other,
}

/// A frame with places to fill in.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    token_at: usize,
    id_at: usize,
    id_len: usize,
    /// Its id is written in digits, with spaces before them.
    is_text: bool,
}

impl Template {
    fn new(bytes: BytesMut, id_at: usize, id_len: usize) -> Self {
        let token_at = find(&bytes, &[b'#'; TOKEN]).unwrap_or(0);
        Self {
            bytes: bytes.to_vec(),
            token_at,
            id_at,
            id_len,
            is_text: false,
        }
    }

    /// Appends the frame with this id and token.
    pub fn put(&self, id: u64, token: &[u8; TOKEN], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let digits;
        let id = match self.is_text {
            false => &id.to_be_bytes()[8 - self.id_len..],
            true => {
                // Ids are signed there.
                digits = format!("{:>1$}", (id as u32).cast_signed(), self.id_len);
                digits.as_bytes()
            }
        };
        out[start + self.id_at..][..self.id_len].copy_from_slice(id);
        out[start + self.token_at..][..TOKEN].copy_from_slice(token);
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Never: a template has at least a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

impl Speech {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bolt => "bolt",
            Self::Dubbo => "dubbo",
            Self::Rocketmq => "rocketmq",
            Self::RocketmqBinary => "rocketmq-binary",
            Self::Bytes => "bytes",
        }
    }

    /// The call; of `size` bytes where that can be chosen.
    #[must_use]
    pub fn request(self, size: usize) -> Template {
        match self {
            Self::Bolt => bolt_request(),
            Self::Dubbo => dubbo_request(),
            Self::Rocketmq => remoting::in_json(remoting::SEND, size),
            Self::RocketmqBinary => remoting::in_binary(remoting::SEND, size),
            Self::Bytes => padded(size),
        }
    }

    /// The answer.
    #[must_use]
    pub fn response(self) -> Template {
        match self {
            Self::Bolt => bolt_response(),
            Self::Dubbo => dubbo_response(),
            Self::Rocketmq => remoting::in_json(remoting::SENT, 0),
            Self::RocketmqBinary => remoting::in_binary(remoting::SENT, 0),
            // What was asked is the answer.
            Self::Bytes => padded(0),
        }
    }

    /// Length, id and kind of the frame that `bytes` begin with; `None` if it is not whole.
    #[must_use]
    pub fn split(self, bytes: &[u8]) -> Option<(usize, u64, Kind)> {
        let frame = match self {
            Self::Bolt => bolt_split(bytes),
            Self::Dubbo => dubbo_split(bytes),
            Self::Rocketmq | Self::RocketmqBinary => remoting::split(bytes),
            Self::Bytes => bytes_split(bytes),
        };
        frame.filter(|(len, ..)| *len <= bytes.len())
    }

    /// Where the token stands in a request or a successful answer of our own making.
    #[must_use]
    pub fn token(self, frame: &[u8]) -> Option<&[u8; TOKEN]> {
        let marked = match self {
            // The last value of a request; in an answer, before a null.
            Self::Bolt => frame
                .len()
                .checked_sub(TOKEN + usize::from(frame.get(1) == Some(&0)))?,
            // In a request behind its length, in an answer likewise.
            Self::Dubbo if frame.get(2).is_some_and(|flag| flag & 0x80 != 0) => {
                find(frame, b"\x12Ljava/lang/String;")? + 20
            }
            Self::Dubbo => 18,
            // The last property of a message, the last field of an answer.
            Self::Rocketmq | Self::RocketmqBinary => {
                find(frame, remoting::MARK)? + remoting::MARK.len()
            }
            Self::Bytes => BYTES_HEAD,
        };
        frame.get(marked..marked + TOKEN)?.try_into().ok()
    }

    /// Appends the answer to a heartbeat.
    pub fn put_pong(self, ping: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Bolt => {
                out.extend_from_slice(&[1, 0, 0, 0, 1]);
                out.extend_from_slice(ping.get(5..10).unwrap_or_default());
                out.extend_from_slice(&[0; 10]);
            }
            Self::Dubbo => {
                out.extend_from_slice(&[0xda, 0xbb, 0x22, 20]);
                out.extend_from_slice(ping.get(4..).unwrap_or_default());
            }
            Self::Rocketmq | Self::RocketmqBinary | Self::Bytes => {}
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

fn bolt_split(bytes: &[u8]) -> Option<(usize, u64, Kind)> {
    let request = *bytes.get(1)? != 0;
    let fixed = if request { 22 } else { 20 };
    let header = bytes.get(..fixed)?;
    let lengths = &header[fixed - 8..];
    let rest = number(&lengths[..2]) + number(&lengths[2..4]) + number(&lengths[4..]);
    let kind = match (request, header[3], number(&header[10..12])) {
        (true, 0, _) => Kind::Ping,
        (true, ..) => Kind::Request,
        (false, 2, 0) => Kind::Success,
        (false, 2, _) => Kind::Failure,
        _ => Kind::Other,
    };
    Some((
        fixed + usize::try_from(rest).ok()?,
        number(&header[5..9]),
        kind,
    ))
}

fn dubbo_split(bytes: &[u8]) -> Option<(usize, u64, Kind)> {
    let header = bytes.get(..16)?;
    let len = 16 + usize::try_from(number(&header[12..])).ok()?;
    let kind = match (header[2] & 0x80 != 0, header[2] & 0x20 != 0, header[3]) {
        (true, true, _) if header[2] & 0x40 != 0 => Kind::Ping,
        (true, false, _) => Kind::Request,
        (false, false, 20) => Kind::Success,
        (false, false, _) => Kind::Failure,
        _ => Kind::Other,
    };
    Some((len, number(&header[4..12]), kind))
}

/// The length of the whole, and the id.
const BYTES_HEAD: usize = 12;

fn padded(size: usize) -> Template {
    let size = size.max(BYTES_HEAD + TOKEN);
    let mut frame = BytesMut::with_capacity(size);
    frame.put_u32(size as u32);
    frame.put_u64(0);
    frame.put_slice(HASHES.as_bytes());
    frame.resize(size, b'.');
    Template::new(frame, 4, 8)
}

fn bytes_split(bytes: &[u8]) -> Option<(usize, u64, Kind)> {
    let head = bytes.get(..BYTES_HEAD)?;
    let len = usize::try_from(number(&head[..4])).ok()?;
    // A call and its answer look alike; each side knows which one it hears.
    Some((
        len.max(BYTES_HEAD + TOKEN),
        number(&head[4..]),
        Kind::Request,
    ))
}

/// A text of at most 31 letters, as both versions of hessian write it.
fn short(text: &str, out: &mut BytesMut) {
    out.put_u8(text.len() as u8);
    out.put_slice(text.as_bytes());
}

const HASHES: &str = "############";

fn bolt_request() -> Template {
    let service = format!("{SERVICE}:1.0");
    let mut map = BytesMut::new();
    for (key, value) in [
        ("service", service.as_str()),
        ("sofa_head_target_service", &service),
        ("sofa_head_method_name", METHOD),
        ("sofa_head_target_app", "orders"),
        (
            "rpc_trace_context.sofaTraceId",
            "0a0fe8ec1700000000000100112345",
        ),
        ("rpc_trace_context.sofaRpcId", "0"),
        ("type", "sync"),
    ] {
        for text in [key, value] {
            map.put_u32(text.len() as u32);
            map.put_slice(text.as_bytes());
        }
    }
    let class = "com.alipay.sofa.rpc.core.request.SofaRequest";
    let mut content = BytesMut::new();
    content.put_slice(&[b'O', 0x90 + class.len() as u8]);
    content.put_slice(class.as_bytes());
    content.put_u8(0x93);
    for field in ["methodName", "targetServiceUniqueName", "targetAppName"] {
        short(field, &mut content);
    }
    content.put_slice(&[b'o', 0x90]);
    short(METHOD, &mut content);
    short(&service, &mut content);
    short("orders", &mut content);
    short(HASHES, &mut content);
    let mut frame = BytesMut::new();
    frame.put_slice(&[1, 1, 0, 1, 1, 0, 0, 0, 0, 1]);
    frame.put_u32(3000);
    put_bolt_body(class, &map, &content, &mut frame);
    Template::new(frame, 5, 4)
}

fn bolt_response() -> Template {
    let class = "com.alipay.sofa.rpc.core.response.SofaResponse";
    let mut content = BytesMut::new();
    content.put_slice(&[b'O', 0x90 + class.len() as u8]);
    content.put_slice(class.as_bytes());
    content.put_u8(0x94);
    for field in ["isError", "errorMsg", "appResponse", "responseProps"] {
        short(field, &mut content);
    }
    content.put_slice(&[b'o', 0x90, b'F', b'N']);
    short(HASHES, &mut content);
    content.put_u8(b'N');
    let mut frame = BytesMut::new();
    frame.put_slice(&[1, 0, 0, 2, 1, 0, 0, 0, 0, 1, 0, 0]);
    put_bolt_body(class, &[], &content, &mut frame);
    Template::new(frame, 5, 4)
}

fn put_bolt_body(class: &str, map: &[u8], content: &[u8], frame: &mut BytesMut) {
    frame.put_u16(class.len() as u16);
    frame.put_u16(map.len() as u16);
    frame.put_u32(content.len() as u32);
    frame.put_slice(class.as_bytes());
    frame.put_slice(map);
    frame.put_slice(content);
}

fn dubbo_request() -> Template {
    let mut body = BytesMut::new();
    for text in [
        "2.0.2",
        SERVICE,
        "1.0.0",
        METHOD,
        "Ljava/lang/String;",
        HASHES,
    ] {
        short(text, &mut body);
    }
    body.put_u8(b'H');
    for (key, value) in [
        ("path", SERVICE),
        ("interface", SERVICE),
        ("version", "1.0.0"),
        ("remote.application", "shop-frontend"),
        ("timeout", "3000"),
        ("input", "256"),
    ] {
        short(key, &mut body);
        short(value, &mut body);
    }
    body.put_u8(b'Z');
    let mut frame = BytesMut::new();
    frame.put_slice(&[0xda, 0xbb, 0xc2, 0]);
    frame.put_u64(0);
    frame.put_u32(body.len() as u32);
    frame.put_slice(&body);
    Template::new(frame, 4, 8)
}

fn dubbo_response() -> Template {
    let mut body = BytesMut::new();
    body.put_u8(0x94);
    short(HASHES, &mut body);
    body.put_u8(b'H');
    short("dubbo", &mut body);
    short("2.0.2", &mut body);
    short("application", &mut body);
    short("orders", &mut body);
    body.put_u8(b'Z');
    let mut frame = BytesMut::new();
    frame.put_slice(&[0xda, 0xbb, 0x02, 20]);
    frame.put_u64(0);
    frame.put_u32(body.len() as u32);
    frame.put_slice(&body);
    Template::new(frame, 4, 8)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn frames_split_and_carry_their_token() {
        for speech in [
            Speech::Bolt,
            Speech::Dubbo,
            Speech::Rocketmq,
            Speech::RocketmqBinary,
            Speech::Bytes,
        ] {
            let answer = match speech {
                Speech::Bytes => Kind::Request,
                _ => Kind::Success,
            };
            for (template, kind) in [
                (speech.request(100), Kind::Request),
                (speech.response(), answer),
            ] {
                let mut frame = Vec::new();
                template.put(77, b"abcdefghijkl", &mut frame);
                assert_eq!(
                    speech.split(&frame),
                    Some((frame.len(), 77, kind)),
                    "{speech:?}"
                );
                assert_eq!(speech.split(&frame[..frame.len() - 1]), None);
                assert_eq!(
                    speech.token(&frame).unwrap(),
                    b"abcdefghijkl",
                    "{speech:?} {kind:?}"
                );
            }
        }
    }
}
