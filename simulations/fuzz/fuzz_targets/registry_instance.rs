//! An instance or its metadata, as JSON.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| finback_registry::exercise_instance(bytes));
