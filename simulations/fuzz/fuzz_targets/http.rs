//! Any bytes as messages of HTTP/1.1, and as frames of HTTP/2.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| finback_http::exercise(bytes));
