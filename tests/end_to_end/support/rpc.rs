//! Calls of Bolt and Dubbo made by hand: any name, length and deadline, and every answer looked at.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use finback_simulations::speech::{Kind, Speech};

/// The protocols of frames.
pub(crate) const SPEECHES: [Speech; 2] = [Speech::Bolt, Speech::Dubbo];
/// Longer than any answer may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const BOLT_REQUEST: &str = "com.alipay.sofa.rpc.core.request.SofaRequest";
/// What a header map of Bolt has room for beside the rest.
const BOLT_HEADER: usize = 15 * 1024;

/// A call; what is empty is left out.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) service: String,
    /// Dubbo: the attachment that says it again, and that counts.
    pub(crate) interface: String,
    pub(crate) method: String,
    pub(crate) version: String,
    pub(crate) group: String,
    /// The caller's patience in milliseconds.
    pub(crate) timeout: u64,
    /// Length of the only argument.
    pub(crate) argument: usize,
    /// Headers of Bolt, attachments of Dubbo.
    pub(crate) attributes: Vec<(String, String)>,
}

impl Call {
    /// One with an hour's patience and a short argument.
    pub(crate) fn new(service: &str, method: &str) -> Self {
        Self {
            service: service.into(),
            interface: String::new(),
            method: method.into(),
            version: "1.0".into(),
            group: String::new(),
            timeout: 3_600_000,
            argument: 12,
            attributes: Vec::new(),
        }
    }

    /// The same with another patience.
    pub(crate) fn within(mut self, millis: u64) -> Self {
        self.timeout = millis;
        self
    }

    /// The same with an argument of this length.
    pub(crate) fn with_argument(mut self, length: usize) -> Self {
        self.argument = length;
        self
    }

    /// The same with a header, or an attachment.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.attributes.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Its frame.
    pub(crate) fn frame(&self, speech: Speech, id: u64) -> Vec<u8> {
        match speech {
            Speech::Dubbo => self.dubbo(id),
            _ => self.bolt(id),
        }
    }

    fn bolt(&self, id: u64) -> Vec<u8> {
        let mut unique = self.service.clone();
        for part in [&self.version, &self.group] {
            if !part.is_empty() {
                unique.push(':');
                unique.push_str(part);
            }
        }
        let mut map = Vec::new();
        let names = [
            ("sofa_head_target_service", &unique),
            ("sofa_head_method_name", &self.method),
        ];
        let attributes = self.attributes.iter();
        let attributes = attributes.map(|(key, value)| (key.as_str(), value));
        for (key, value) in names.into_iter().chain(attributes) {
            // What is too long for the map stands in the body alone.
            if value.len() < BOLT_HEADER {
                for text in [key, value] {
                    map.extend((text.len() as u32).to_be_bytes());
                    map.extend(text.as_bytes());
                }
            }
        }
        let mut content = vec![b'O', 0x90 + BOLT_REQUEST.len() as u8];
        content.extend(BOLT_REQUEST.as_bytes());
        content.push(0x92);
        for field in ["methodName", "targetServiceUniqueName"] {
            draft(field, &mut content);
        }
        content.extend([b'o', 0x90]);
        draft(&self.method, &mut content);
        draft(&unique, &mut content);
        draft(&"a".repeat(self.argument), &mut content);
        let mut frame = vec![1, 1, 0, 1, 1];
        frame.extend((id as u32).to_be_bytes());
        frame.push(1);
        frame.extend((self.timeout.min(i32::MAX as u64) as u32).to_be_bytes());
        frame.extend((BOLT_REQUEST.len() as u16).to_be_bytes());
        frame.extend((map.len() as u16).to_be_bytes());
        frame.extend((content.len() as u32).to_be_bytes());
        frame.extend(BOLT_REQUEST.as_bytes());
        frame.extend(map);
        frame.extend(content);
        frame
    }

    fn dubbo(&self, id: u64) -> Vec<u8> {
        let argument = "a".repeat(self.argument);
        let mut body = Vec::new();
        for text in [
            "2.0.2",
            &self.service,
            &self.version,
            &self.method,
            "Ljava/lang/String;",
            &argument,
        ] {
            hessian(text, &mut body);
        }
        body.push(b'H');
        let timeout = self.timeout.to_string();
        let names = [
            ("interface", &self.interface),
            ("group", &self.group),
            ("timeout", &timeout),
        ];
        let attributes = self.attributes.iter();
        let attributes = attributes.map(|(key, value)| (key.as_str(), value));
        for (key, value) in names.into_iter().chain(attributes) {
            if !value.is_empty() {
                hessian(key, &mut body);
                hessian(value, &mut body);
            }
        }
        body.push(b'Z');
        dubbo_frame(0xc2, 0, id, &body)
    }
}

/// A frame of Dubbo.
pub(crate) fn dubbo_frame(flags: u8, status: u8, id: u64, body: &[u8]) -> Vec<u8> {
    let mut frame = vec![0xda, 0xbb, flags, status];
    frame.extend(id.to_be_bytes());
    frame.extend((body.len() as u32).to_be_bytes());
    frame.extend(body);
    frame
}

/// A text in hessian 3.x.
fn draft(text: &str, out: &mut Vec<u8>) {
    pieces(text, out, b's', |last, out| {
        if last.len() < 32 {
            out.push(last.len() as u8);
        } else {
            out.push(b'S');
            out.extend((last.len() as u16).to_be_bytes());
        }
    });
}

/// A text in hessian 2.
pub(crate) fn hessian(text: &str, out: &mut Vec<u8>) {
    pieces(text, out, b'R', |last, out| {
        let length = (last.len() as u16).to_be_bytes();
        match last.len() {
            0..32 => out.push(length[1]),
            32..1024 => out.extend([0x30 + length[0], length[1]]),
            _ => out.extend([b'S', length[0], length[1]]),
        }
    });
}

fn pieces(text: &str, out: &mut Vec<u8>, more: u8, head: impl Fn(&[u8], &mut Vec<u8>)) {
    let mut rest = text.as_bytes();
    while rest.len() > 0x8000 {
        out.extend([more, 0x80, 0]);
        out.extend(&rest[..0x8000]);
        rest = &rest[0x8000..];
    }
    head(rest, out);
    out.extend(rest);
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) id: u64,
    pub(crate) status: u16,
    pub(crate) success: bool,
    /// Length of the whole frame.
    pub(crate) len: usize,
    /// The beginning of its body, as far as it is text.
    pub(crate) text: String,
}

/// Why no answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    /// Nothing was said.
    Nothing,
    /// The connection has ended.
    Closed,
}

/// A caller with one connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    speech: Speech,
    received: Vec<u8>,
    next: u64,
}

impl Client {
    /// Connects.
    pub(crate) fn connect(address: &str, speech: Speech) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            speech,
            received: Vec::new(),
            next: 1,
        }
    }

    /// Sends a call and returns its id.
    pub(crate) fn send(&mut self, call: &Call) -> u64 {
        let id = self.try_send(call);
        id.unwrap_or_else(|error| panic!("{:?} cannot send: {error}", self.speech))
    }

    /// The same where the connection may have ended.
    pub(crate) fn try_send(&mut self, call: &Call) -> std::io::Result<u64> {
        let id = self.next;
        self.next += 1;
        self.stream.write_all(&call.frame(self.speech, id))?;
        Ok(id)
    }

    /// Sends the same call so many times, in large writes.
    pub(crate) fn send_all(&mut self, call: &Call, count: usize) {
        self.send_each((0..count).map(|_| call.clone()));
    }

    /// Sends many calls in large writes.
    pub(crate) fn send_each(&mut self, calls: impl Iterator<Item = Call>) {
        let mut all = Vec::new();
        for call in calls {
            all.extend(call.frame(self.speech, self.next));
            self.next += 1;
            if all.len() > 64 * 1024 {
                self.stream.write_all(&all).unwrap();
                all.clear();
            }
        }
        self.stream.write_all(&all).unwrap();
    }

    /// The next answer, if it comes within `limit`.
    pub(crate) fn hear(&mut self, limit: Duration) -> Result<Answer, Silence> {
        let end = Instant::now() + limit;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            while let Some((len, id, kind)) = self.speech.split(&self.received) {
                let answer = read(self.speech, &self.received[..len], id);
                self.received.drain(..len);
                // Heartbeats and goodbyes are no answers.
                if matches!(kind, Kind::Success | Kind::Failure) {
                    return Ok(answer);
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            let left = left.max(Duration::from_millis(1));
            self.stream.set_read_timeout(Some(left)).unwrap();
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Silence::Closed),
                Ok(n) => self.received.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if Instant::now() >= end {
                        return Err(Silence::Nothing);
                    }
                }
                Err(_) => return Err(Silence::Closed),
            }
        }
    }

    /// The next answer, which must come.
    pub(crate) fn answer(&mut self) -> Answer {
        let heard = self.hear(PATIENCE);
        heard.unwrap_or_else(|silence| panic!("{:?}: {silence:?}", self.speech))
    }

    /// So many answers, each to another call.
    pub(crate) fn answers(&mut self, count: usize) -> Vec<Answer> {
        let all: Vec<_> = (0..count).map(|_| self.answer()).collect();
        let mut ids: Vec<_> = all.iter().map(|answer| answer.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), count, "a call was answered twice");
        all
    }

    /// Calls and waits for the answer.
    pub(crate) fn call(&mut self, call: &Call) -> Answer {
        let id = self.send(call);
        let answer = self.answer();
        assert_eq!(answer.id, id, "{answer:?}");
        answer
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        let socket = socket2::SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

fn read(speech: Speech, frame: &[u8], id: u64) -> Answer {
    let (status, body) = match speech {
        Speech::Dubbo => (u16::from(frame[3]), &frame[16..]),
        _ => (u16::from_be_bytes([frame[10], frame[11]]), &frame[20..]),
    };
    let text = String::from_utf8_lossy(&body[..body.len().min(4096)]).into_owned();
    let success = match speech {
        Speech::Dubbo => status == 20,
        _ => status == 0 && !text.contains("sofa_head_response_error"),
    };
    Answer {
        id,
        status,
        success,
        len: frame.len(),
        text,
    }
}
