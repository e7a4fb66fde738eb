//! Any bytes through everything that a driver would do with them, and as what a name server says of brokers.
#![no_main]

use std::sync::Arc;

use finback_core::codec::Codec;
use finback_core::conformance;
use finback_core::frame::Head;
use finback_rocketmq::{Broker, Brokers, Config, RocketMq};

/// Gives every broker the same port.
struct One;

impl Brokers for One {
    fn port(&self, _: &Broker<'_>) -> Option<u16> {
        Some(1)
    }
}

/// The head of a request with this code.
fn asked(codec: &RocketMq, code: u32) -> Option<Head> {
    let header = format!("{{\"code\":{code}}}");
    let length = u32::try_from(header.len()).ok()?;
    let wire = [
        &(length + 4).to_be_bytes()[..],
        &length.to_be_bytes(),
        header.as_bytes(),
    ]
    .concat();
    codec.peek(&wire).ok()?
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    conformance::exercise(&RocketMq::of_broker(Config::default()), bytes);
    let names = RocketMq::of_name_servers(Config::default(), Arc::new(One));
    let header = b"{\"flag\":1}";
    let (Ok(length), Ok(body)) = (u32::try_from(header.len()), u32::try_from(bytes.len())) else {
        return;
    };
    let total = (4 + length + body).to_be_bytes();
    let answer = [&total[..], &length.to_be_bytes(), header, bytes].concat();
    for code in [105, 106, 901] {
        if let Some(asked) = asked(&names, code) {
            names.translate(&asked, None, &answer);
        }
    }
});
