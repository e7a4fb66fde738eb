//! Any bytes as bodies of gRPC: the text of gRPC-Web, and RocketMQ's messages. How they are cut makes no difference.
#![no_main]

use bytes::Bytes;
use finback_grpc::{GrpcWeb, RocketMq};
use finback_http::{Beginning, Dialect};
use http::Request;
use http::request::Parts;

/// Methods that have topic and group in different fields.
const METHODS: [&str; 5] = [
    "QueryRoute",
    "SendMessage",
    "ReceiveMessage",
    "AckMessage",
    "Heartbeat",
];

/// The head of a call.
fn head(path: &str, content_type: &str) -> Option<Parts> {
    let request = Request::post(path).header("content-type", content_type);
    Some(request.body(()).ok()?.into_parts().0)
}

/// What a body in gRPC-Web's text form carries, read in pieces of this length.
fn decoded(text: &[u8], step: usize) -> Option<Vec<u8>> {
    let mut head = head("/a.B/c", "application/grpc-web-text")?;
    let mut decoder = GrpcWeb.translation(&mut head)?.request?;
    let mut all = Vec::new();
    for piece in text.chunks(step) {
        all.extend_from_slice(&decoder.data(Bytes::copy_from_slice(piece)).ok()?);
    }
    decoder.end(None).ok()?;
    Some(all)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&step, body)) = bytes.split_first() else {
        return;
    };
    let step = usize::from(step % 32) + 1;
    let whole = body.len().max(1);
    assert_eq!(decoded(body, whole), decoded(body, step));
    for method in METHODS {
        let path = format!("/apache.rocketmq.v2.MessagingService/{method}");
        let Some(mut head) = head(&path, "application/grpc") else {
            return;
        };
        assert!(RocketMq.claims(&head));
        head.extensions
            .insert(Beginning(Ok(Bytes::copy_from_slice(body))));
        let _ = RocketMq.metadata(&head);
        let answer = |step| {
            let mut reader = RocketMq.answer_reader(&head)?;
            body.chunks(step).for_each(|piece| reader.read(piece));
            reader.answer()
        };
        assert_eq!(answer(whole), answer(step));
    }
});
