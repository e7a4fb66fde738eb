//! Any bytes as the PROXY header with which a connection begins, in both versions.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| finback_core::net::exercise_proxy_header(bytes));
