//! Any bytes as contexts of traces, in every format and as every protocol spells them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| finback_observability::trace::exercise(bytes));
