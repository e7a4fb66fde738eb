//! Bodies of requests read whole: those that may be sent again, and those that are taken here.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::Body;

use crate::body::Payload;
use crate::replay::KEPT;

pub(super) enum Collected {
    Whole(Gathered),
    TooLong(Payload),
    Broken,
    Late,
}

/// Why a body was not read whole.
pub(super) enum Ungathered {
    TooLong,
    Broken,
}

/// A body that was read whole.
#[derive(Clone, Default)]
pub(super) struct Gathered {
    pub(super) bytes: Bytes,
    pub(super) trailers: Option<Box<HeaderMap>>,
}

/// Whether a body is short enough to be read before it is sent on.
pub(super) fn is_collected(payload: &Payload) -> bool {
    let known = payload.size_hint().upper();
    payload.is_end_stream() || known.is_some_and(|upper| upper <= KEPT as u64)
}

/// Reads a body that is short enough.
pub(super) async fn collect(payload: Payload) -> Collected {
    if !is_collected(&payload) {
        return Collected::TooLong(payload);
    }
    match gather(payload, KEPT).await {
        Ok(all) => Collected::Whole(all),
        Err(_) => Collected::Broken,
    }
}

/// Reads a body of up to so many bytes.
pub(super) async fn gather(mut payload: Payload, limit: usize) -> Result<Gathered, Ungathered> {
    let mut all = BytesMut::new();
    let mut trailers = None;
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut payload).poll_frame(cx)).await;
        let Some(frame) = frame else {
            let bytes = all.freeze();
            return Ok(Gathered { bytes, trailers });
        };
        match frame.map_err(|_| Ungathered::Broken)?.into_data() {
            Ok(data) if data.len() > limit - all.len() => return Err(Ungathered::TooLong),
            Ok(data) => all.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok().map(Box::new),
        }
    }
}
