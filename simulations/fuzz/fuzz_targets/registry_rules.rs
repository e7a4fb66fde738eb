//! Rules of Dubbo: documents and URLs, applied to providers.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| finback_registry::exercise_rules(bytes));
