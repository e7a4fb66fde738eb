//! Any bytes through everything that a driver would do with them.
#![no_main]

use finback_bolt::Bolt;
use finback_core::conformance;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conformance::exercise(&Bolt::default(), bytes));
