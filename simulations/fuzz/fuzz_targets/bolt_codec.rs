//! Any bytes through everything that a driver would do with them.
#![no_main]

use finback_core::conformance;
use finback_bolt::Bolt;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conformance::exercise(&Bolt::default(), bytes));
