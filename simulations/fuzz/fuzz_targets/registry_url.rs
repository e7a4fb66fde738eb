//! The URL of a provider or of an older rule, as a name in a registry.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| finback_registry::exercise_url(bytes));
