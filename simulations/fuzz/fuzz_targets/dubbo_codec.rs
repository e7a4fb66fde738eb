//! Any bytes through everything that a driver would do with them.
#![no_main]

use finback_core::conformance;
use finback_dubbo::Dubbo;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| conformance::exercise(&Dubbo::default(), bytes));
