//! Every format against the examples of its specification, and what must not be taken for one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use finback_core::trace::SpanId;

use super::*;

const SOFA: SofaKeys = SofaKeys {
    trace: "rpc_trace_context.sofaTraceId",
    span: "rpc_trace_context.sofaRpcId",
    sampled: "rpc_trace_context.samp",
};
const SPELLING: Spelling = Spelling {
    skywalking: "",
    sofatracer: Some(SOFA),
};
const HOP: Hop<'_> = Hop {
    service: "mesh",
    instance: "one",
    operation: "com.acme.Pay/pay",
};
const OWN: Outgoing = Outgoing {
    trace: TraceId(0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes()),
    span: SpanId(0x00f0_67aa_0ba9_02b7),
    parent: SpanId(0x05e3_ac9a_4f6e_3b90),
    attempt: 2,
    endpoint: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 20880)),
};

fn read(format: ContextFormat, came: &[(&str, &str)]) -> Option<Incoming> {
    format.read(&SPELLING, &mut |name| attribute(came, name))
}

fn attribute<'a>(came: &[(&str, &'a str)], name: &str) -> Option<Cow<'a, str>> {
    let mut came = came.iter();
    came.find(|(own, _)| *own == name)
        .map(|(_, value)| Cow::Borrowed(*value))
}

fn written(formats: &Formats, came: &[(&str, &str)]) -> BTreeMap<String, String> {
    let out = formats.write(&SPELLING, &OWN, &HOP, &mut |name| attribute(came, name));
    out.into_iter()
        .map(|(name, value)| (name.into_owned(), value))
        .collect()
}

fn only(format: ContextFormat, came: &[(&str, &str)]) -> BTreeMap<String, String> {
    let formats = Formats {
        read: vec![format],
        write: vec![format],
    };
    written(&formats, came)
}

fn context(trace: u128, span: u64, sampled: Option<bool>) -> Option<Incoming> {
    Some(Incoming {
        trace: TraceId(trace.to_be_bytes()),
        span: SpanId(span),
        sampled,
    })
}

/// The cases of the working group's own test suite.
#[test]
fn traceparent_as_the_w3c_has_it() {
    let sound = |sampled| {
        context(
            0x1234_5678_9012_3456_7890_1234_5678_9012,
            0x1234_5678_9012_3456,
            Some(sampled),
        )
    };
    let ids = "12345678901234567890123456789012-1234567890123456";
    let table = [
        (format!("00-{ids}-01"), sound(true)),
        (format!("00-{ids}-00"), sound(false)),
        // Flags that are not known yet do not matter.
        (format!("00-{ids}-ff"), sound(true)),
        (format!("00-{ids}-fe"), sound(false)),
        (format!(" 00-{ids}-01\t"), sound(true)),
        // A version to come.
        (format!("cc-{ids}-01"), sound(true)),
        (
            format!("cc-{ids}-01-what-the-future-will-be-like"),
            sound(true),
        ),
        (
            format!("cc-{ids}-01.what-the-future-will-not-be-like"),
            None,
        ),
        (format!("00-{ids}-01-what-the-future-will-be-like"), None),
        (format!("00-{ids}-01."), None),
        (format!("ff-{ids}-01"), None),
        (format!("BC-{ids}-01"), None),
        (format!(".0-{ids}-01"), None),
        (format!("0-{ids}-01"), None),
        (format!("000-{ids}-01"), None),
        (format!("00-{ids}-.0"), None),
        (format!("00-{ids}-1"), None),
        (format!("00-{ids}-001"), None),
        (format!("00-{ids}"), None),
        (
            "00-12345678901234567890123456789012-0000000000000000-01".to_owned(),
            None,
        ),
        (
            "00-00000000000000000000000000000000-1234567890123456-01".to_owned(),
            None,
        ),
        (
            "00-.2345678901234567890123456789012-1234567890123456-01".to_owned(),
            None,
        ),
        (
            "00-1234567890123456789012345678901-1234567890123456-01".to_owned(),
            None,
        ),
        (
            "00-1234567890123456789012345678901A-1234567890123456-01".to_owned(),
            None,
        ),
        (
            "00_12345678901234567890123456789012-1234567890123456-01".to_owned(),
            None,
        ),
        // Two of them.
        (format!("00-{ids}-01, 00-{ids}-01"), None),
        (
            "00-1234567890123456789012345678901\u{e9}-1234567890123456-01".to_owned(),
            None,
        ),
        (String::new(), None),
    ];
    for (text, expected) in table {
        assert_eq!(
            read(ContextFormat::W3c, &[("traceparent", &text)]),
            expected,
            "{text}"
        );
    }
}

#[test]
fn traceparent_is_written_and_says_no_more_of_the_id_than_its_maker_did() {
    let parent = |flags| format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}");
    let out = |came: &[(&str, &str)]| only(ContextFormat::W3c, came);
    assert_eq!(out(&[])["traceparent"], parent("01"));
    let came = "00-12345678901234567890123456789012-1234567890123456-03";
    let kept = [("traceparent", came), ("tracestate", "a=b")];
    assert_eq!(out(&kept)["traceparent"], parent("03"));
    // It goes on as it is.
    assert_eq!(out(&kept).get("tracestate"), None);
    let alone = [("traceparent", "nonsense"), ("tracestate", "a=b")];
    assert_eq!(out(&alone)["tracestate"], "");
}

#[test]
fn jaeger_with_and_without_leading_zeros() {
    let table = [
        ("1:2:0:1", context(1, 2, Some(true))),
        ("1:2:0:0", context(1, 2, Some(false))),
        ("1:2:0:2", context(1, 2, Some(true))),
        ("1%3A2%3a0%3A1", context(1, 2, Some(true))),
        (
            "4bf92f3577b34da6a3ce929d0e0e4736:00f067aa0ba902b7:0:1",
            context(
                0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
                0x00f0_67aa_0ba9_02b7,
                Some(true),
            ),
        ),
        ("0:2:0:1", None),
        ("1:0:0:1", None),
        ("1:2:1", None),
        ("1:2:0:1:5", None),
        ("1:2:0:x", None),
        ("-1:2:0:1", None),
        ("+1:2:0:1", None),
        ("111112345678901234567890123456789012:2:0:1", None),
    ];
    for (text, expected) in table {
        assert_eq!(
            read(ContextFormat::Jaeger, &[("uber-trace-id", text)]),
            expected,
            "{text}"
        );
    }
    let out = |came: &[(&str, &str)]| only(ContextFormat::Jaeger, came)["uber-trace-id"].clone();
    assert_eq!(
        out(&[]),
        "4bf92f3577b34da6a3ce929d0e0e4736:00f067aa0ba902b7:0:1"
    );
    assert!(out(&[("uber-trace-id", "1:2:0:3")]).ends_with(":3"));
}

const B3_TRACE: u128 = 0x80f1_98ee_5634_3ba8_64fe_8b2a_57d3_eff7;
const B3_SPAN: u64 = 0xe457_b5a2_e4d8_6bd1;

#[test]
fn b3_in_one_header() {
    let ids = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1";
    let table = [
        (
            format!("{ids}-1-05e3ac9a4f6e3b90"),
            context(B3_TRACE, B3_SPAN, Some(true)),
        ),
        (format!("{ids}-0"), context(B3_TRACE, B3_SPAN, Some(false))),
        (format!("{ids}-d"), context(B3_TRACE, B3_SPAN, Some(true))),
        (ids.to_owned(), context(B3_TRACE, B3_SPAN, None)),
        (
            "64fe8b2a57d3eff7-e457b5a2e4d86bd1-1".to_owned(),
            context(0x64fe_8b2a_57d3_eff7, B3_SPAN, Some(true)),
        ),
        ("0".to_owned(), context(0, 0, Some(false))),
        ("1".to_owned(), context(0, 0, Some(true))),
        ("d".to_owned(), context(0, 0, Some(true))),
        (format!("{ids}-x"), None),
        ("80f198ee56343ba864fe8b2a57d3eff7".to_owned(), None),
        (String::new(), None),
    ];
    for (text, expected) in table {
        assert_eq!(
            read(ContextFormat::B3, &[("b3", &text)]),
            expected,
            "{text}"
        );
    }
    let out = |came: &[(&str, &str)]| only(ContextFormat::B3, came)["b3"].clone();
    let own = "4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7";
    assert_eq!(out(&[]), format!("{own}-1-05e3ac9a4f6e3b90"));
    assert_eq!(out(&[("b3", "d")]), format!("{own}-d-05e3ac9a4f6e3b90"));
}

#[test]
fn b3_in_several_headers() {
    let ids = [
        ("X-B3-TraceId", "80f198ee56343ba864fe8b2a57d3eff7"),
        ("X-B3-SpanId", "e457b5a2e4d86bd1"),
        ("X-B3-ParentSpanId", "05e3ac9a4f6e3b90"),
    ];
    let with = |more: &[(&'static str, &'static str)]| {
        let all: Vec<_> = ids.iter().chain(more).copied().collect();
        read(ContextFormat::B3Multi, &all)
    };
    assert_eq!(
        with(&[("X-B3-Sampled", "1")]),
        context(B3_TRACE, B3_SPAN, Some(true))
    );
    assert_eq!(
        with(&[("X-B3-Sampled", "0")]),
        context(B3_TRACE, B3_SPAN, Some(false))
    );
    assert_eq!(
        with(&[("X-B3-Sampled", "true")]),
        context(B3_TRACE, B3_SPAN, Some(true))
    );
    assert_eq!(
        with(&[("X-B3-Flags", "1")]),
        context(B3_TRACE, B3_SPAN, Some(true))
    );
    assert_eq!(with(&[]), context(B3_TRACE, B3_SPAN, None));
    assert_eq!(
        read(ContextFormat::B3Multi, &[("X-B3-Sampled", "0")]),
        context(0, 0, Some(false))
    );
    assert_eq!(read(ContextFormat::B3Multi, &ids[..1]), None);
    let out = only(ContextFormat::B3Multi, &[]);
    assert_eq!(out["X-B3-TraceId"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(out["X-B3-SpanId"], "00f067aa0ba902b7");
    assert_eq!(out["X-B3-ParentSpanId"], "05e3ac9a4f6e3b90");
    assert_eq!(out["X-B3-Sampled"], "1");
    // Debug says it by itself, and goes on as it came.
    assert_eq!(
        only(ContextFormat::B3Multi, &[("X-B3-Flags", "1")]).get("X-B3-Sampled"),
        None
    );
}

/// A trace that was named with 64 bits is looked for by those.
#[test]
fn short_names_stay_short() {
    let context = Outgoing {
        trace: TraceId(0x64fe_8b2a_57d3_eff7_u128.to_be_bytes()),
        ..OWN
    };
    let mut out = Written::new();
    b3::write_single(&context, &mut |_| None, &mut out);
    assert!(out[0].1.starts_with("64fe8b2a57d3eff7-"), "{out:?}");
}

/// The example of SkyWalking's own test of its headers.
const SW8: &str = "1-My40LjU=-MS4yLjM=-4-c2VydmljZQ==-aW5zdGFuY2U=-L2FwcA==-MTI3LjAuMC4xOjgwODA=";

#[test]
fn skywalking_keeps_the_names_that_it_gave() {
    let came = read(ContextFormat::SkyWalking, &[("sw8", SW8)]).unwrap();
    assert_eq!((came.trace, came.sampled), (hashed("3.4.5"), Some(true)));
    assert_eq!(came.span, SpanId(hashed_span("1.2.3.4")));
    let ignored = SW8.replacen('1', "0", 1);
    assert_eq!(
        read(ContextFormat::SkyWalking, &[("sw8", &ignored)])
            .unwrap()
            .sampled,
        Some(false)
    );
    // An id of our own form is ours.
    let own = STANDARD.encode("4bf92f3577b34da6a3ce929d0e0e4736");
    let own = SW8.replacen("My40LjU=", &own, 1);
    assert_eq!(
        read(ContextFormat::SkyWalking, &[("sw8", &own)])
            .unwrap()
            .trace,
        OWN.trace
    );
    for wrong in [
        "1-My40LjU=-MS4yLjM=-4-c2VydmljZQ==-aW5zdGFuY2U=-L2FwcA==",
        "2-My40LjU=-MS4yLjM=-4-c2VydmljZQ==-aW5zdGFuY2U=-L2FwcA==-MTI3",
        "1-My40LjU=-MS4yLjM=-x-c2VydmljZQ==-aW5zdGFuY2U=-L2FwcA==-MTI3",
        "1--MS4yLjM=-4-c2VydmljZQ==-aW5zdGFuY2U=-L2FwcA==-MTI3",
        "1-!!!!-MS4yLjM=-4-c2VydmljZQ==-aW5zdGFuY2U=-L2FwcA==-MTI3",
        "",
    ] {
        assert_eq!(
            read(ContextFormat::SkyWalking, &[("sw8", wrong)]),
            None,
            "{wrong}"
        );
    }
}

#[test]
fn skywalking_is_told_who_we_are() {
    let decode = |header: &str| -> Vec<String> {
        let part = |part: &str| {
            STANDARD
                .decode(part)
                .map(|own| String::from_utf8(own).unwrap())
        };
        header
            .split('-')
            .map(|own| part(own).unwrap_or_else(|_| own.to_owned()))
            .collect()
    };
    let out = decode(&only(ContextFormat::SkyWalking, &[("sw8", SW8)])["sw8"]);
    let segment = "05e3ac9a4f6e3b90.2.0";
    let us = ["mesh", "one", "com.acme.Pay/pay", "127.0.0.1:20880"];
    assert_eq!(out[..4], ["1", "3.4.5", segment, "0"]);
    assert_eq!(out[4..], us);
    let begun = decode(&only(ContextFormat::SkyWalking, &[])["sw8"]);
    assert_eq!(begun[1], "4bf92f3577b34da6a3ce929d0e0e4736");
    // In a protocol whose clients put something before it.
    let prefixed = Spelling {
        skywalking: "skywalking.",
        sofatracer: None,
    };
    let mut out = Written::new();
    ContextFormat::SkyWalking.write(&prefixed, &OWN, &HOP, &mut |_| None, &mut out);
    assert_eq!(out[0].0, "skywalking.sw8");
}

#[test]
fn sofatracer_counts_its_children() {
    const TRACE: &str = "0a0fe87c1590657045031100112345";
    let came = [
        ("rpc_trace_context.sofaTraceId", TRACE),
        ("rpc_trace_context.sofaRpcId", "0.1"),
        ("rpc_trace_context.samp", "false"),
    ];
    let context = read(ContextFormat::SofaTracer, &came).unwrap();
    assert_eq!(
        (context.trace, context.sampled),
        (hashed(TRACE), Some(false))
    );
    // The same of everybody, and another one of another caller.
    assert_eq!(read(ContextFormat::SofaTracer, &came).unwrap(), context);
    let sibling = [came[0], ("rpc_trace_context.sofaRpcId", "0.2")];
    let sibling = read(ContextFormat::SofaTracer, &sibling).unwrap();
    assert_eq!((sibling.trace, sibling.sampled), (context.trace, None));
    assert_ne!(sibling.span, context.span);
    let out = only(ContextFormat::SofaTracer, &came);
    assert_eq!(out["rpc_trace_context.sofaTraceId"], TRACE);
    assert_eq!(out["rpc_trace_context.sofaRpcId"], "0.1.2");
    assert_eq!(out["rpc_trace_context.samp"], "true");
    assert_eq!(
        only(ContextFormat::SofaTracer, &[])["rpc_trace_context.sofaRpcId"],
        "0.2"
    );
    // A path that is none begins anew.
    let odd = [came[0], ("rpc_trace_context.sofaRpcId", "0.x")];
    assert_eq!(
        only(ContextFormat::SofaTracer, &odd)["rpc_trace_context.sofaRpcId"],
        "0.2"
    );
    assert_eq!(
        read(
            ContextFormat::SofaTracer,
            &[("rpc_trace_context.sofaTraceId", "")]
        ),
        None
    );
}

#[test]
fn the_first_format_that_can_be_read_holds_and_all_that_came_go_on() {
    let formats = Formats {
        read: vec![ContextFormat::W3c, ContextFormat::Jaeger, ContextFormat::B3],
        write: vec![ContextFormat::W3c],
    };
    let came = [
        ("traceparent", "nonsense"),
        ("uber-trace-id", "1:2:0:1"),
        ("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-0"),
        ("X-B3-TraceId", "80f198ee56343ba864fe8b2a57d3eff7"),
    ];
    let read = formats.read(&SPELLING, &mut |name| attribute(&came, name));
    assert_eq!(Some(read), context(1, 2, Some(true)));
    let out = written(&formats, &came);
    // What is not looked for stays as it came.
    let keys: Vec<&str> = out.keys().map(String::as_str).collect();
    assert_eq!(keys, ["b3", "traceparent", "uber-trace-id"]);
    assert_eq!(written(&formats, &[]).len(), 1);
}

/// Whatever a client writes, nothing breaks.
#[test]
fn no_text_is_too_odd() {
    let odd = [
        "-",
        "--------",
        ":::::",
        "\u{0}",
        "é-é-é-é-é-é-é-é",
        "00-",
        &"1".repeat(100_000),
    ];
    for text in odd {
        for (name, format) in ContextFormat::ALL {
            let read = format.read(&SPELLING, &mut |_| Some(Cow::Borrowed(text)));
            let mut out = Written::new();
            format.write(
                &SPELLING,
                &OWN,
                &HOP,
                &mut |_| Some(Cow::Borrowed(text)),
                &mut out,
            );
            let longest = out.iter().map(|(_, value)| value.len()).max();
            assert!(longest < Some(1024), "{name} {read:?}");
        }
    }
}

#[test]
fn what_is_written_is_read_as_the_same() {
    for seed in 1..200_u64 {
        let number = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let high = if seed % 3 == 0 {
            0
        } else {
            number.rotate_left(17)
        };
        let trace = u128::from(high) << 64 | u128::from(number);
        let context = Outgoing {
            trace: TraceId(trace.to_be_bytes()),
            // Ids with leading zeros are ids, too.
            span: SpanId((number >> (seed % 60)).max(1)),
            ..OWN
        };
        for format in [
            ContextFormat::W3c,
            ContextFormat::Jaeger,
            ContextFormat::B3,
            ContextFormat::B3Multi,
        ] {
            let mut out = Written::new();
            format.write(&SPELLING, &context, &HOP, &mut |_| None, &mut out);
            let read = format.read(&SPELLING, &mut |name| {
                let found = out.iter().find(|(own, _)| own == name);
                found.map(|(_, value)| Cow::Borrowed(value.as_str()))
            });
            let expected = Incoming {
                trace: context.trace,
                span: context.span,
                sampled: Some(true),
            };
            assert_eq!(read, Some(expected), "{format:?} {out:?}");
        }
    }
}
