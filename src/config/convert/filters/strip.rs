//! Strip filter: marks that only some callers may send.

use std::sync::Arc;

use finback_core::filter::strip::{Strip, Stripped};

use super::{Converted, lane, sources};
use crate::config::Wrong;
use crate::config::convert::Result;
use crate::config::file;
use crate::config::units::Placed;

pub(super) fn strip(Placed { value, place }: Placed<file::Strip>) -> Result<Converted> {
    let mut what = Vec::new();
    for mark in value.marks {
        what.extend(marks(&mark)?);
    }
    for attribute in value.attributes {
        if attribute.value.is_empty() {
            return Err(Wrong::at(
                attribute.place,
                "an attribute has a name; write one",
            ));
        }
        what.push(stripped(None, &attribute.value, None));
    }
    if what.is_empty() {
        return Err(Wrong::at(
            place,
            "it takes nothing away; write `marks` or `attributes`",
        ));
    }
    let sources = value.source.map_or_else(lane::loopback, sources)?;
    Ok(Converted::new(Arc::new(Strip { what, sources }), None))
}

fn stripped(protocol: Option<&str>, attribute: &str, pair: Option<&str>) -> Stripped {
    Stripped {
        protocol: protocol.map(Into::into),
        attribute: attribute.into(),
        pair: pair.map(Into::into),
    }
}

/// All places in which a framework reads its mark of stress traffic.
fn marks(word: &Placed<String>) -> Result<Vec<Stripped>> {
    const TRIPLE: Option<&str> = Some(finback_grpc::TRIPLE);
    let in_header = || stripped(TRIPLE, "tri-traffic-type", None);
    match &*word.value {
        // SOFATracer's business baggage, in Bolt and in Triple, and the header that SOFA-RPC makes of it
        // (SOFA-RPC: TripleHeadKeys, SOFA-RPC: PressureMarkTransformFilter).
        "sofa" => Ok(vec![
            stripped(
                Some(finback_bolt::NAME),
                "rpc_trace_context.sofaPenAttrs",
                Some("mark"),
            ),
            stripped(TRIPLE, "tri-trace-biz-baggage", Some("mark")),
            in_header(),
        ]),
        "triple-pressure" => Ok(vec![in_header()]),
        "takin" => Ok(vec![stripped(None, "p-pradar-cluster-test", None)]),
        other => {
            let message = format!("`{other}` is not a mark; write sofa, takin or triple-pressure");
            Err(Wrong::at(word.place, message))
        }
    }
}
