//! Frames of WebSocket carry the same however they are cut.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| finback_mqtt::exercise_websocket(bytes));
