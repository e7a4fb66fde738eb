//! Any bytes as values, one after another.
#![no_main]

use finback_hessian::draft::Reader;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut reader = Reader::new(bytes);
    while reader.remaining() > 0 && reader.skip().is_ok() {
        assert!(reader.position() <= bytes.len());
    }
    let _ = Reader::new(bytes).string();
    let _ = Reader::new(bytes).int();
    let _ = Reader::new(bytes).object(&mut |_, _| Ok(false));
    let _ = Reader::new(bytes).map(&mut |_, _| Ok(false));
});
