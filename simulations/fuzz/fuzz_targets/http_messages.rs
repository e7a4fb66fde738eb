//! A request of HTTP/1.1, passed on by HTTP/2 and by HTTP/1.1 again, stays the one request that it is.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| finback_http::exercise_messages(bytes));
