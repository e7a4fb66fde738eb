//! Reads what a frame says: whose method a request calls, how a response ended.

use std::borrow::Cow;
use std::time::Duration;

use finback_core::codec::Unambiguous;
use finback_core::frame::{
    Answer, Malformed, Metadata, NAME_LIMIT, Names, Outcome, Reading, Status,
};
use finback_hessian::{Error, draft, v2};

use crate::map::{self, Entries};
use crate::wire::{Fixed, codec, status};

/// The class of SOFA-RPC's requests. Other classes are those of applications that use sofa-bolt
/// alone; their header, if they have one, is their own.
pub(crate) const REQUEST_CLASS: &[u8] = b"com.alipay.sofa.rpc.core.request.SofaRequest";

/// Keys of SOFA-RPC's header map (SOFA-RPC: RemotingConstants).
pub(crate) mod key {
    /// The service's unique name, in every request.
    pub(crate) const SERVICE: &str = "service";
    /// The same again; what a server goes by where the body does not say.
    pub(crate) const TARGET_SERVICE: &str = "sofa_head_target_service";
    /// The method; absent from hessian requests of node clients.
    pub(crate) const METHOD: &str = "sofa_head_method_name";
    /// Milliseconds left to the caller, as newer clients say it.
    pub(crate) const DEADLINE: &str = "sofa_head_deadline_remain_time";
    /// "true" in a response whose body holds an error.
    pub(crate) const ERROR: &str = "sofa_head_response_error";
}

/// The longest unique name that can be one of names that fit, in bytes: interface, version and
/// unique id with colons between them.
const UNIQUE_NAME_LIMIT: usize = 3 * NAME_LIMIT + 2;

/// What an answer of our own must look like for the caller to understand it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The body was not read, or is of a kind that we cannot write.
    Unknown,
    /// SOFA-RPC, hessian 3.x.
    SofaDraft,
    /// SOFA-RPC, hessian 4.x.
    SofaV2,
    /// SOFA-RPC, protobuf: errors are plain text.
    SofaProtobuf,
    /// sofa-bolt alone, hessian 3.x.
    PlainDraft,
    /// sofa-bolt alone, hessian 4.x.
    PlainV2,
}

impl Form {
    const ALL: [Self; 6] = [
        Self::Unknown,
        Self::SofaDraft,
        Self::SofaV2,
        Self::SofaProtobuf,
        Self::PlainDraft,
        Self::PlainV2,
    ];

    fn of_call(fixed: &Fixed, is_sofa: bool, content: &[u8]) -> Self {
        // Both versions begin a body with a class definition, whose tag gives them away.
        let is_v2 = content.first() == Some(&b'C');
        match (fixed.codec, is_sofa) {
            (codec::HESSIAN, true) if is_v2 => Self::SofaV2,
            (codec::HESSIAN, true) => Self::SofaDraft,
            (codec::HESSIAN, false) if is_v2 => Self::PlainV2,
            (codec::HESSIAN, false) => Self::PlainDraft,
            (codec::PROTOBUF, true) => Self::SofaProtobuf,
            _ => Self::Unknown,
        }
    }
}

/// What outlives a frame's bytes: [`Head::codec_data`](finback_core::frame::Head::codec_data), unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CodecData {
    pub(crate) codec: u8,
    pub(crate) form: Form,
}

impl CodecData {
    pub(crate) fn pack(self) -> u32 {
        u32::from(self.codec) | (self.form as u32) << 8
    }

    pub(crate) fn unpack(codec_data: u32) -> Self {
        let form = Form::ALL.get((codec_data >> 8) as usize);
        Self {
            codec: codec_data as u8,
            form: form.copied().unwrap_or(Form::Unknown),
        }
    }
}

/// Whether the header of this frame is a map that we may add to.
pub(crate) fn is_editable(fixed: &Fixed, wire: &[u8]) -> bool {
    wire[fixed.class_at..fixed.header_at] == *REQUEST_CLASS
        || map::find(&wire[fixed.header_at..fixed.content_at], key::SERVICE).is_some()
}

/// Reads a request or one-way in one pass over its header map; its body only where the map does
/// not name service and method.
pub(crate) fn read<'a>(fixed: &Fixed, wire: &'a [u8]) -> Result<Reading<'a>, Malformed> {
    let class = &wire[fixed.class_at..fixed.header_at];
    let content = &wire[fixed.content_at..fixed.content_end];
    let is_sofa = class == REQUEST_CLASS;
    let named = match Named::read(&wire[fixed.header_at..fixed.content_at]) {
        Ok(named) => named,
        Err(error) if is_sofa => return Err(error),
        // Of a map of its own nothing is known.
        Err(_) => Named::default(),
    };
    let mut callee = Callee {
        service: named.service.map(text).transpose()?,
        method: named.method.map(text).transpose()?,
    };
    let form = Form::of_call(fixed, is_sofa, content);
    match form {
        _ if callee.is_complete() => {}
        Form::SofaDraft => _ = callee.complete_from_draft(content)?,
        Form::SofaV2 => _ = callee.complete_from_v2(content)?,
        _ => {}
    }
    let Callee { service, method } = callee;
    let service = match service {
        None if !is_sofa => text(class)?,
        service => service.unwrap_or_default(),
    };
    let [service, version, group] = split(service);
    if service.is_empty() {
        return Err(Malformed::Content("the request names no service"));
    }
    let method = method.unwrap_or_default();
    Metadata::check_names(&service, [&method, &version, &group])?;
    // Made where it is handed out: it is large.
    Ok(Reading::Call(Metadata {
        service,
        method,
        version,
        group,
        timeout: timeout(fixed, named.deadline)?,
        own: false,
        refused: None,
        proves: false,
        treats: false,
        lingers: false,
        unreadable: None,
        attributes_at: fixed.header_at,
        names: named.names,
        // Java's clients name the method in the header, npm's do not, and the two order the
        // fields of a `SofaRequest` differently. npm's servers remember the first order they
        // see on a connection and misread the other.
        writer: u8::from(named.method.is_none()),
        codec_data: CodecData {
            codec: fixed.codec,
            form,
        }
        .pack(),
    }))
}

/// Whether the body names another service or method than was read from the header, for servers that take the body's word
/// (SOFA-RPC's hessian serializer reads both from there); or whether nobody here can read that.
pub(crate) fn is_ambiguous(
    fixed: &Fixed,
    wire: &[u8],
    metadata: &Metadata<'_>,
    known: &mut Unambiguous,
) -> bool {
    let content = &wire[fixed.content_at..fixed.content_end];
    let is_sofa = wire[fixed.class_at..fixed.header_at] == *REQUEST_CLASS;
    let mut body = Callee {
        service: None,
        method: None,
    };
    let form = Form::of_call(fixed, is_sofa, content);
    let read = match form {
        // It names both before anything that differs from call to call.
        Form::SofaDraft | Form::SofaV2 if known.is_of(content, b"") => return false,
        Form::SofaDraft => body.complete_from_draft(content),
        Form::SofaV2 => body.complete_from_v2(content),
        // The header alone says it.
        Form::SofaProtobuf => return false,
        Form::PlainDraft | Form::PlainV2 | Form::Unknown => return is_sofa,
    };
    let Ok(read) = read else {
        return true;
    };
    let is_complete = body.is_complete();
    let own = [&metadata.service, &metadata.version, &metadata.group].map(|own| &**own);
    let is_other_service = body.service.is_some_and(|said| parts(&said) != own);
    let is_other_method = body.method.is_some_and(|said| said != metadata.method);
    if is_other_service || is_other_method {
        return true;
    }
    if is_complete {
        known.remember(&content[..read], b"");
    }
    false
}

/// Reads how a response ended.
pub(crate) fn answer(fixed: &Fixed, wire: &[u8]) -> Answer {
    Answer {
        outcome: outcome(fixed, wire),
        status: Status(fixed.status()),
    }
}

fn outcome(fixed: &Fixed, wire: &[u8]) -> Outcome {
    match fixed.status() {
        status::SUCCESS => {
            // Framework errors and the service's own exceptions share this flag, and only the
            // body, in the application's own classes, would tell them apart.
            let map = &wire[fixed.header_at..fixed.content_at];
            match map::find(map, key::ERROR) {
                Some(entry) if entry.value == Some(b"true") => Outcome::Exception,
                _ => Outcome::Success,
            }
        }
        status::SERVER_THREADPOOL_BUSY => Outcome::Refused,
        status::TIMEOUT => Outcome::TimedOut,
        // What plain sofa-bolt and SOFA's servers for node send for an exception of the application,
        // and for an answer of it that cannot be written.
        status::SERVER_EXCEPTION | status::SERVER_SERIAL_EXCEPTION => Outcome::Exception,
        // The request is for nobody here, or cannot be read.
        status::NO_PROCESSOR | status::CODEC_EXCEPTION | status::SERVER_DESERIAL_EXCEPTION => {
            Outcome::Invalid
        }
        _ => Outcome::Failed,
    }
}

/// What calls mostly say: so many of their names need no look of their own.
const OWN_NAMES: Names = {
    let own = Names::of(key::SERVICE.as_bytes()).and(Names::of(key::TARGET_SERVICE.as_bytes()));
    let method = Names::of(key::METHOD.as_bytes());
    own.and(method).and(Names::of(key::DEADLINE.as_bytes()))
};

/// What the header map says of a call. Empty values count as absent.
#[derive(Default)]
struct Named<'a> {
    service: Option<&'a [u8]>,
    method: Option<&'a [u8]>,
    deadline: Option<&'a [u8]>,
    names: Names,
}

impl<'a> Named<'a> {
    /// The last of several entries of one key counts, as in the map that Java makes of them.
    fn read(map: &'a [u8]) -> Result<Self, Malformed> {
        const SERVICE: usize = key::SERVICE.len();
        const TARGET: usize = key::TARGET_SERVICE.len();
        const METHOD: usize = key::METHOD.len();
        const DEADLINE: usize = key::DEADLINE.len();
        let mut named = Self {
            names: OWN_NAMES,
            ..Self::default()
        };
        let mut target = None;
        let mut entries = Entries::new(map);
        while let Some(entry) = entries.next()? {
            let (Some(key), Some(value)) = (entry.key, entry.value) else {
                continue;
            };
            // By their lengths first: most keys are none of these, and cost one comparison.
            match key.len() {
                SERVICE if is::<SERVICE>(key, key::SERVICE) => named.service = Some(value),
                TARGET if is::<TARGET>(key, key::TARGET_SERVICE) => target = Some(value),
                METHOD if is::<METHOD>(key, key::METHOD) => named.method = Some(value),
                DEADLINE if is::<DEADLINE>(key, key::DEADLINE) => named.deadline = Some(value),
                _ => named.names.add(key),
            }
        }
        // The other counts in this one's absence, whatever the order.
        named.service = target.or(named.service).filter(|value| !value.is_empty());
        named.method = named.method.filter(|value| !value.is_empty());
        Ok(named)
    }
}

/// Whether a key of this length is a name that is known when this is compiled: no call is made for it.
#[inline]
fn is<const LENGTH: usize>(key: &[u8], name: &str) -> bool {
    let (key, name) = (key.first_chunk::<LENGTH>(), name.as_bytes().first_chunk());
    key == name
}

/// Whose method is called.
struct Callee<'a> {
    service: Option<Cow<'a, str>>,
    method: Option<Cow<'a, str>>,
}

/// Ends the reading of a body that has told all that was wanted of it.
const ENOUGH: Error = Error::Limit("what was wanted");

/// Fills in what is missing from the `SofaRequest` at a body's beginning, and tells how much of the body was read. The
/// readers of both versions are alike in all but type.
macro_rules! complete {
    ($callee:ident, $reader:expr) => {{
        let mut reader = $reader;
        let read = reader.object(&mut |field, reader| {
            let (missing, limit) = match field {
                "methodName" => (&mut $callee.method, NAME_LIMIT),
                "targetServiceUniqueName" => (&mut $callee.service, UNIQUE_NAME_LIMIT),
                _ => return Ok(false),
            };
            if missing.is_some() {
                return Ok(false);
            }
            *missing = reader.string_within(limit)?;
            if $callee.is_complete() {
                Err(ENOUGH)
            } else {
                Ok(true)
            }
        });
        match read {
            Err(Error::LONG_TEXT) => Err(Malformed::LONG_NAME),
            Ok(()) | Err(ENOUGH) => Ok(reader.position()),
            // What is missing may stand there.
            Err(_) => Err(Malformed::Content("the request's body cannot be read")),
        }
    }};
}

impl<'a> Callee<'a> {
    fn is_complete(&self) -> bool {
        self.service.is_some() && self.method.is_some()
    }

    fn complete_from_draft(&mut self, content: &'a [u8]) -> Result<usize, Malformed> {
        complete!(self, draft::Reader::new(content))
    }

    fn complete_from_v2(&mut self, content: &'a [u8]) -> Result<usize, Malformed> {
        complete!(self, v2::Reader::new(content))
    }
}

/// A unique name `interface:version[:uniqueId]` as service, version and group.
fn split(name: Cow<'_, str>) -> [Cow<'_, str>; 3] {
    match name {
        Cow::Borrowed(name) => parts(name).map(Cow::Borrowed),
        Cow::Owned(name) => parts(&name).map(|part| Cow::Owned(part.to_owned())),
    }
}

fn parts(name: &str) -> [&str; 3] {
    // The version is short and mostly last: a few steps from the end find where it begins.
    let last = name.bytes().rposition(|byte| byte == b':');
    let Some((before, rest)) = last.and_then(|at| cut(name, at)) else {
        return [name, "", ""];
    };
    // Of more colons the first two part, and the others belong to the unique id.
    let Some((service, _)) = colon(before).and_then(|at| cut(before, at)) else {
        return [before, rest, ""];
    };
    let rest = &name[service.len() + 1..];
    let (version, group) = colon(rest)
        .and_then(|at| cut(rest, at))
        .unwrap_or((rest, ""));
    [service, version, group]
}

fn colon(text: &str) -> Option<usize> {
    memchr::memchr(b':', text.as_bytes())
}

/// What stands before a byte, and what after it.
fn cut(text: &str, at: usize) -> Option<(&str, &str)> {
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// The shorter of the two ways to say it.
fn timeout(fixed: &Fixed, deadline: Option<&[u8]>) -> Result<Option<Duration>, Malformed> {
    const NO_TIME: Malformed =
        Malformed::Content("`sofa_head_deadline_remain_time` is not a number of milliseconds");
    let timeout = fixed.timeout().map(u64::from);
    let deadline = match deadline {
        None | Some(b"") => None,
        Some(text) => {
            let text = str::from_utf8(text).map_err(|_| NO_TIME)?;
            let left: i64 = text.parse().map_err(|_| NO_TIME)?;
            u64::try_from(left).ok().filter(|left| *left > 0)
        }
    };
    let shorter = timeout.into_iter().chain(deadline).min();
    Ok(shorter.map(Duration::from_millis))
}

fn text(bytes: &[u8]) -> Result<Cow<'_, str>, Malformed> {
    str::from_utf8(bytes)
        .map(Cow::Borrowed)
        .map_err(|_| Malformed::Content("a name in the header is not UTF-8"))
}
