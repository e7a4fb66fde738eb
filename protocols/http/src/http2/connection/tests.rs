//! Both sides of a connection, joined without a socket.

use std::pin::Pin;
use std::task::{Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use http_body::Body;

use super::super::{MOST_WINDOW, PREFACE};

use super::*;

fn limits() -> Limits {
    Limits {
        streams: 5,
        head: 4096,
        stream_window: 1000,
        stream_most: 4000,
        spare: 5000,
        connection_window: WINDOW,
        answers_continue: true,
    }
}

/// Moves what one side has written to the other, in pieces of this size.
fn pass(from: &Shared, to: &Shared, step: usize) -> Result<(), Goaway> {
    let out = std::mem::take(&mut from.get_mut().out);
    from.get_mut().note_flushed();
    out.chunks(step)
        .try_for_each(|piece| to.get_mut().receive(piece))
}

struct Pair {
    client: Shared,
    server: Shared,
}

impl Pair {
    fn new() -> Self {
        let pair = Self {
            client: Shared::new(ConnectionState::new(true, limits())),
            server: Shared::new(ConnectionState::new(false, limits())),
        };
        pair.settle(11);
        pair
    }

    fn settle(&self, step: usize) {
        for _ in 0..4 {
            pass(&self.client, &self.server, step).expect("a client keeps the rules");
            pass(&self.server, &self.client, step).expect("a server keeps the rules");
        }
    }

    /// A request on its way, and its two sides' streams.
    fn ask(&self, end: bool) -> (usize, usize) {
        self.ask_with(&HeaderMap::new(), end)
    }

    fn ask_with(&self, headers: &HeaderMap, end: bool) -> (usize, usize) {
        let mut client = self.client.get_mut();
        let key = client.begin(false, 4096);
        let pseudo = [
            (":method", &b"POST"[..]),
            (":scheme", b"http"),
            (":path", b"/"),
        ];
        client.send_head(key, &pseudo, false, headers, None, end);
        drop(client);
        self.settle(7);
        let accepted = self.server.get_mut().accepted.pop().expect("a request");
        (key, accepted.key)
    }
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// Sends a body from one side and takes it on the other, however small the windows are.
fn carry(pair: &Pair, from: (&Shared, usize), to: &mut Received, length: usize) {
    let whole: Vec<u8> = (0..length).map(|at| (at * 7 % 251) as u8).collect();
    let mut rest = Bytes::from(whole.clone());
    let mut got = Vec::new();
    let mut sent = false;
    for round in 0..10 * length {
        sent = sent
            || from
                .0
                .get_mut()
                .send_data(from.1, &mut rest, true, &cx())
                .is_ready();
        pair.settle(1 + round % 97);
        match Pin::new(&mut *to).poll_frame(&mut cx()) {
            Poll::Ready(Some(Ok(frame))) => {
                got.extend_from_slice(&frame.into_data().expect("data"))
            }
            Poll::Ready(None) => break,
            Poll::Ready(Some(Err(error))) => panic!("{error}"),
            Poll::Pending => {}
        }
    }
    assert!(sent && got == whole, "{} of {length}", got.len());
}

#[test]
fn a_connection_with_one_request_has_room_for_one() {
    let pair = Pair::new();
    pair.ask(true);
    let server = pair.server.get_mut();
    assert_eq!(
        (server.streams.capacity(), server.accepted.capacity()),
        (1, 1)
    );
}

#[test]
fn bodies_arrive_whole_through_small_windows() {
    let pair = Pair::new();
    for length in [1, 999, 1000, 1001, 70_000, 200_000] {
        let (asked, served) = pair.ask(false);
        let mut request = Received::new(pair.server.clone(), served);
        carry(&pair, (&pair.client, asked), &mut request, length);
        let pseudo = [(":status", &b"200"[..])];
        pair.server
            .get_mut()
            .send_head(served, &pseudo, false, &HeaderMap::new(), None, false);
        let mut response = Received::new(pair.client.clone(), asked);
        carry(&pair, (&pair.server, served), &mut response, length);
        pair.client.get_mut().release(asked, false);
        pair.server.get_mut().release(served, false);
    }
    // Nothing is left of them.
    for side in [&pair.client, &pair.server] {
        assert!(side.get().streams.is_empty() && side.get().ids.is_empty());
        assert!(side.get().receive_window > 0 && side.get().blocked.is_empty());
    }
}

/// Sends as much as there is room for; what of it was sent.
fn push(from: &Shared, key: usize, length: usize) -> usize {
    let mut data = Bytes::from(vec![7; length]);
    let _ = from.get_mut().send_data(key, &mut data, false, &cx());
    length - data.len()
}

#[test]
fn bodies_that_nobody_takes_hold_up_no_other() {
    let pair = Pair::new();
    // More than the connection's window in all, again and again.
    for _ in 0..4 {
        let stuck: Vec<_> = (0..4).map(|_| pair.ask(false)).collect();
        let held: Vec<_> = stuck
            .iter()
            .map(|(_, served)| Received::new(pair.server.clone(), *served))
            .collect();
        for (asked, _) in &stuck {
            for _ in 0..30 {
                push(&pair.client, *asked, 1000);
                pair.settle(500);
            }
        }
        let (asked, served) = pair.ask(false);
        let mut request = Received::new(pair.server.clone(), served);
        carry(&pair, (&pair.client, asked), &mut request, 100_000);
        drop((held, request));
        for (asked, served) in stuck.into_iter().chain([(asked, served)]) {
            pair.server.get_mut().reset(served, Reason::CANCEL);
            pair.server.get_mut().release(served, false);
            pair.settle(500);
            pair.client.get_mut().release(asked, false);
            pair.client.get_mut().release(asked, true);
        }
        pair.settle(500);
        assert!(pair.client.get().streams.is_empty() && pair.server.get().streams.is_empty());
    }
    let server = pair.server.get();
    assert_eq!(server.spare, limits().spare, "what was grown by came back");
}

#[test]
fn uploads_that_the_peer_does_not_read_leave_room_for_the_next() {
    let generous = Limits {
        streams: 40,
        stream_window: 1 << 20,
        stream_most: 1 << 20,
        connection_window: 1 << 20,
        ..limits()
    };
    let client = Shared::new(ConnectionState::new(true, limits()));
    let server = Shared::new(ConnectionState::new(false, generous));
    let pair = Pair { client, server };
    pair.settle(500);
    // A peer that opens the connection's window only as it reads: not at all, that is.
    pair.server.get_mut().limits.connection_window = u32::MAX;
    let mut stuck = Vec::new();
    for round in 0..12 {
        let (asked, served) = pair.ask(false);
        stuck.push(Received::new(pair.server.clone(), served));
        let mut sent = 0;
        for _ in 0..30 {
            sent += push(&pair.client, asked, 60_000);
            pair.settle(50_000);
        }
        assert_eq!(sent == 4096, round > 0, "{sent}");
    }
    let (asked, _) = pair.ask(false);
    assert_eq!(push(&pair.client, asked, 4000), 4000);
    // As soon as the peer reads, everything goes on.
    pair.client.get_mut().send_window += 100_000;
    assert_eq!(push(&pair.client, asked, 30_000), 30_000);
}

#[test]
fn a_window_grows_while_its_reader_keeps_up_and_as_far_as_there_is_something_to_spare() {
    let pair = Pair::new();
    let mut bodies = Vec::new();
    for grown in [4000, 3000, 1000] {
        let (asked, served) = pair.ask(false);
        let mut body = Received::new(pair.server.clone(), served);
        for _ in 0..60 {
            push(&pair.client, asked, 500);
            pair.settle(500);
            let _ = Pin::new(&mut body).poll_frame(&mut cx());
            pair.settle(500);
        }
        assert_eq!(pair.server.get().streams[served].most, grown);
        bodies.push(body);
    }
}

/// How many heads the server has written since its last bytes were taken.
fn heads(pair: &Pair) -> usize {
    let out = pair.server.get().out.clone();
    pass(&pair.server, &pair.client, 13).expect("a server keeps the rules");
    let mut rest = &out[..];
    let mut heads = 0;
    while let [a, b, c, kind, ..] = *rest {
        heads += usize::from(kind == kind::HEADERS);
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        rest = &rest[9 + length..];
    }
    heads
}

#[test]
fn a_client_is_told_to_go_on_once_and_only_when_its_body_is_wanted() {
    let pair = Pair::new();
    let mut headers = HeaderMap::new();
    headers.insert(header::EXPECT, HeaderValue::from_static("100-Continue"));
    let ok = [(":status", &b"200"[..])];

    // Wanted twice before it comes.
    let (asked, served) = pair.ask_with(&headers, false);
    let mut body = Received::new(pair.server.clone(), served);
    for told in [1, 0] {
        assert!(Pin::new(&mut body).poll_frame(&mut cx()).is_pending());
        assert_eq!(heads(&pair), told);
    }
    // It is not the response's head.
    carry(&pair, (&pair.client, asked), &mut body, 3);
    let mut server = pair.server.get_mut();
    server.send_head(served, &ok, false, &HeaderMap::new(), None, true);
    drop(server);
    assert_eq!(heads(&pair), 1);

    // Answered without a look at the body: it need not be sent at all.
    let (asked, served) = pair.ask_with(&headers, false);
    let mut server = pair.server.get_mut();
    server.send_head(served, &ok, false, &HeaderMap::new(), None, false);
    drop(server);
    assert_eq!(heads(&pair), 1);
    let mut body = Received::new(pair.server.clone(), served);
    assert!(Pin::new(&mut body).poll_frame(&mut cx()).is_pending());
    assert_eq!(heads(&pair), 0);
    let mut server = pair.server.get_mut();
    let _ = server.send_data(served, &mut Bytes::new(), true, &cx());
    server.release(served, false);
    drop((server, body));
    pair.settle(9);
    let lost = pair.client.get().streams[asked].lost;
    assert_eq!(lost, Some(Lost::Reset(Reason::NO_ERROR)));

    // Nothing to wait for, or not waiting.
    for (headers, end) in [(headers, true), (HeaderMap::new(), false)] {
        let (_, served) = pair.ask_with(&headers, end);
        let mut body = Received::new(pair.server.clone(), served);
        let _ = Pin::new(&mut body).poll_frame(&mut cx());
        assert_eq!(heads(&pair), 0);
    }
}

#[test]
fn who_waits_for_a_stream_is_called_when_one_ends() {
    let pair = Pair::new();
    let mut open: Vec<_> = (0..5).map(|_| pair.ask(true)).collect();
    assert_eq!(pair.client.get().room_for_stream(), Some(false));
    let tickets = [StreamWaiter::default(), StreamWaiter::default()];
    for ticket in &tickets {
        pair.client.get_mut().wait(ticket, &cx());
    }
    // The first gave up.
    tickets[0].borrow_mut().take();
    let (asked, served) = open.pop().expect("one");
    pair.server.get_mut().release(served, false);
    pair.settle(5);
    assert_eq!(pair.client.get().room_for_stream(), Some(true));
    assert!(tickets[1].borrow().is_none(), "the second was called");
    let lost = pair.client.get().streams[asked].lost;
    assert_eq!(lost, Some(Lost::Reset(Reason::INTERNAL_ERROR)));
}

#[test]
fn leaving_takes_what_is_on_its_way_and_no_more() {
    let pair = Pair::new();
    let (first, served) = pair.ask(true);
    pair.server.get_mut().leave();
    // On its way while the server says that it goes.
    let second = pair.client.get_mut().begin(false, 4096);
    let pseudo = [
        (":method", &b"GET"[..]),
        (":scheme", b"http"),
        (":path", b"/"),
    ];
    pair.client
        .get_mut()
        .send_head(second, &pseudo, false, &HeaderMap::new(), None, true);
    pair.settle(9);
    assert_eq!(pair.client.get().room_for_stream(), None);
    let accepted = pair
        .server
        .get_mut()
        .accepted
        .pop()
        .expect("the second, too");
    assert!(pair.client.get().streams[first].lost.is_none());
    for key in [served, accepted.key] {
        let pseudo = [(":status", &b"200"[..])];
        pair.server
            .get_mut()
            .send_head(key, &pseudo, false, &HeaderMap::new(), None, true);
        assert!(!pair.server.get().is_done() || key == accepted.key);
    }
    pair.settle(9);
    assert!(pair.server.get().is_done() && pair.client.get().is_done());
}

#[test]
fn a_peer_may_send_as_much_as_it_may_untold_until_it_has_read_our_settings() {
    let frame = |kind: u8, flags: u8, id: u8, payload: &[u8]| {
        let [_, a, b, c] = u32::try_from(payload.len()).expect("it fits").to_be_bytes();
        [&[a, b, c, kind, flags, 0, 0, 0, id], payload].concat()
    };
    let post = [0x83, 0x86, 0x84, 0x41, 1, b'a'];
    let begin = [
        PREFACE,
        &frame(4, 0, 0, &[]),
        &frame(1, 4, 1, &post),
        &frame(1, 4, 3, &post),
        &frame(0, 0, 1, &[b'.'; 2000]),
    ]
    .concat();
    let server = Shared::new(ConnectionState::new(false, limits()));
    server.get_mut().receive(&begin).expect("a beginning");
    server.get_mut().out.clear();
    // It has read them now: of 1000 bytes it has sent twice as many, and must wait.
    let more = [
        &frame(4, 1, 0, &[])[..],
        &frame(0, 0, 3, &[b'.'; 1000]),
        &frame(0, 1, 3, &[]),
        &frame(0, 0, 1, b"."),
    ]
    .concat();
    server.get_mut().receive(&more).expect("one stream's fault");
    let reset = [0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 3];
    assert_eq!(server.get_mut().out, reset);
}

#[test]
fn a_peer_that_breaks_the_rules_is_told_which() {
    let server = || {
        let core = ConnectionState::new(false, limits());
        let shared = Shared::new(core);
        let settings = [PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
        shared.get_mut().receive(&settings).expect("a beginning");
        shared
    };
    let update = |id: u8, more: u32| {
        let mut frame = vec![0, 0, 4, 8, 0, 0, 0, 0, id];
        frame.extend(more.to_be_bytes());
        frame
    };
    let most = u32::try_from(MOST_WINDOW).expect("it fits");
    for (frame, reason) in [
        (update(0, 0), Reason::PROTOCOL_ERROR),
        (update(0, most), Reason::FLOW_CONTROL_ERROR),
        (update(1, 1), Reason::PROTOCOL_ERROR),
        (vec![0, 0, 1, 0, 0, 0, 0, 0, 1, 0], Reason::PROTOCOL_ERROR),
        (vec![0, 0x40, 1, 0, 0, 0, 0, 0, 1], Reason::FRAME_SIZE_ERROR),
        (
            vec![0, 0, 1, 1, 4, 0, 0, 0, 1, 0x80],
            Reason::COMPRESSION_ERROR,
        ),
        (vec![0, 0, 0, 9, 4, 0, 0, 0, 1], Reason::PROTOCOL_ERROR),
        (
            vec![0, 0, 1, 1, 4, 0, 0, 0, 2, 0x82],
            Reason::PROTOCOL_ERROR,
        ),
    ] {
        let heard = server().get_mut().receive(&frame);
        assert_eq!(heard, Err(Goaway(reason)), "{frame:?}");
    }
}
