//! Any bytes as values, one after another.
#![no_main]

use finback_hessian::{Limits, v2::Reader};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut reader = Reader::new(bytes, Limits::default());
    while reader.remaining() > 0 && reader.skip().is_ok() {
        assert!(reader.position() <= bytes.len());
    }
    let _ = Reader::new(bytes, Limits::default()).string();
    let _ = Reader::new(bytes, Limits::default()).int();
    let _ = Reader::new(bytes, Limits::default()).object(&mut |_, _| Ok(false));
    let _ = Reader::new(bytes, Limits::default()).map(&mut |_, _| Ok(false));
});
