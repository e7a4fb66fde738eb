//! Any bytes through everything that reads packets of MQTT, and frames of its WebSocket.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| finback_mqtt::exercise(bytes));
