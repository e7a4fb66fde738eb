//! Any bytes as contexts of traces, for fuzzing.

use std::borrow::Cow;

use finback_core::trace::{Outgoing, SpanId, TraceId};

use super::{ContextFormat, Formats, Hop, MOST, SofaKeys, Spelling, Written, b3, skywalking};

/// How protocols spell keys: HTTP and Bolt, and one that knows only what all have.
const SPELLINGS: [Spelling; 3] = [
    Spelling {
        skywalking: "",
        sofatracer: Some(SofaKeys {
            trace: "sofaTraceId",
            span: "sofaRpcId",
            sampled: "samp",
        }),
    },
    Spelling {
        skywalking: "skywalking.",
        sofatracer: Some(SofaKeys {
            trace: "rpc_trace_context.sofaTraceId",
            span: "rpc_trace_context.sofaRpcId",
            sampled: "rpc_trace_context.samp",
        }),
    },
    Spelling {
        skywalking: "",
        sofatracer: None,
    },
];
const HOP: Hop<'_> = Hop {
    service: "mesh",
    instance: "one",
    operation: "com.acme.Pay/pay",
};
/// Names of our own, where a request came without.
const OURS: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;
const SPAN: SpanId = SpanId(0x00f0_67aa_0ba9_02b7);

/// The names that a context in this format has.
fn keys(format: ContextFormat, spelling: &Spelling) -> Vec<Cow<'static, str>> {
    match format {
        ContextFormat::W3c => vec!["traceparent".into(), "tracestate".into()],
        ContextFormat::Jaeger => vec!["uber-trace-id".into()],
        ContextFormat::B3 => vec!["b3".into()],
        ContextFormat::B3Multi => b3::ALL.map(Cow::Borrowed).into(),
        ContextFormat::SkyWalking => vec![skywalking::key(spelling)],
        ContextFormat::SofaTracer => spelling.sofatracer.map_or_else(Vec::new, |own| {
            [own.trace, own.span, own.sampled].map(Cow::Borrowed).into()
        }),
    }
}

/// Reads bytes as the context that a request carries, in one format and in all at once, and goes on with it
/// as an attempt does. The first byte chooses the format; what follows are values of its keys, one a line.
///
/// # Panics
/// If whoever is asked would see another trace than ours, or something is longer than its bounds.
pub fn exercise(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    for spelling in &SPELLINGS {
        let (_, format) = ContextFormat::ALL[usize::from(*first) % ContextFormat::ALL.len()];
        let own = keys(format, spelling);
        let came: Written = own
            .into_iter()
            .zip(text.split('\n').map(str::to_owned))
            .collect();
        exercise_formats(vec![format], spelling, &came);

        let all = ContextFormat::ALL.map(|(_, format)| format).to_vec();
        let own = all.iter().flat_map(|format| keys(*format, spelling));
        let came: Written = own.zip(text.split('\n').map(str::to_owned)).collect();
        exercise_formats(all, spelling, &came);
    }
}

fn exercise_formats(formats: Vec<ContextFormat>, spelling: &Spelling, came: &Written) {
    let is_one = formats.len() == 1;
    let formats = Formats {
        read: formats.clone(),
        write: formats,
    };
    let find = |fields: &Written, name: &str| {
        let mut fields = fields.iter();
        fields
            .find(|(own, _)| own == name)
            .map(|(_, value)| value.clone())
    };
    let incoming = formats.read(spelling, &mut |name| find(came, name).map(Cow::Owned));
    let trace = match incoming.trace.is_some() {
        true => incoming.trace,
        false => TraceId(OURS.to_be_bytes()),
    };
    let context = Outgoing {
        trace,
        span: SPAN,
        parent: incoming.span,
        attempt: 1,
        endpoint: None,
    };
    let written = formats.write(spelling, &context, &HOP, &mut |name| {
        find(came, name).map(Cow::Owned)
    });
    // Whoever is asked sees what was written in place of what came.
    let again = formats.read(spelling, &mut |name| {
        find(&written, name)
            .or_else(|| find(came, name))
            .map(Cow::Owned)
    });
    if !written.is_empty() {
        assert_eq!(again.trace, trace, "another trace: {came:?}, {written:?}");
        assert_eq!(again.sampled, Some(true), "{came:?}, {written:?}");
        let names_spans = !matches!(
            formats.read[0],
            ContextFormat::SkyWalking | ContextFormat::SofaTracer
        );
        if is_one && names_spans {
            assert_eq!(again.span, SPAN, "another parent: {came:?}, {written:?}");
        }
    }
    for (name, value) in &written {
        assert!(value.len() <= 4 * MOST, "{name} is too long: {value}");
    }
    let mut notes = Vec::new();
    formats.notes(
        spelling,
        &mut |name| find(came, name).map(Cow::Owned),
        &mut notes,
    );
    assert!(notes.iter().all(|(_, value)| value.len() <= MOST));
}

#[cfg(test)]
mod tests {
    use super::exercise;

    /// A context of each format, to be damaged; the first byte is the format's place.
    const CONTEXTS: [&str; 8] = [
        "\x0000-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-03\na=b",
        "\x014bf92f3577b34da6:00f067aa0ba902b7:0:3",
        "\x02a3ce929d0e0e4736-00f067aa0ba902b7-d-05e3ac9a4f6e3b90",
        "\x034bf92f3577b34da6a3ce929d0e0e4736\n00f067aa0ba902b7\n05e3ac9a4f6e3b90\n1\n1",
        "\x041-VFJBQ0U=-U0VH-3-U0VSVklDRQ==-SU5TVA==-RU5E-VEFSR0VU",
        "\x050a0fe87c1590657045031100112345\n0.1.2\ntrue",
        "\x05\u{e9}\r\n0.1.2\nfalse",
        "\x020",
    ];

    #[test]
    fn the_asked_sees_our_trace_whatever_came() {
        let mut random: u32 = 11;
        let mut step = |most: usize| {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (random >> 8) as usize % most
        };
        for context in CONTEXTS {
            exercise(context.as_bytes());
        }
        // Longer than any name that goes on.
        exercise(format!("\x05{}\n0", "s".repeat(1000)).as_bytes());
        exercise(format!("\x041-{}-U0VH-3-QQ==-QQ==-QQ==-QQ==", "QUFB".repeat(400)).as_bytes());
        for _ in 0..5_000 {
            let mut bytes = CONTEXTS[step(CONTEXTS.len())].as_bytes().to_vec();
            for _ in 0..=step(4) {
                let at = step(bytes.len());
                match step(4) {
                    0 => bytes[at] = step(256) as u8,
                    1 if bytes.len() > 1 => drop(bytes.remove(at)),
                    1 | 2 => bytes.insert(at, b"\n-:.=01dfg "[step(11)]),
                    _ => {
                        let other = CONTEXTS[step(CONTEXTS.len())].as_bytes();
                        let begin = step(other.len());
                        bytes.splice(at..at, other[begin..].iter().copied());
                    }
                }
            }
            exercise(&bytes);
        }
    }
}
