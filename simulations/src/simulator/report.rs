//! What a run of the simulator found.

use std::collections::BTreeMap;
use std::fmt;

/// A hash of everything that happened, in order: two runs of one seed have the same.
#[derive(Clone, Debug)]
pub(super) struct Trace {
    hash: u64,
    /// Printed as it happens, to find out where two runs part.
    spoken: bool,
}

impl Default for Trace {
    fn default() -> Self {
        Self {
            // FNV-1a's offset.
            hash: 0xcbf2_9ce4_8422_2325,
            spoken: std::env::var_os("SIMULATION_TRACE").is_some(),
        }
    }
}

impl Trace {
    pub(super) fn note(&mut self, at: u64, what: &str) {
        if self.spoken {
            eprintln!("{at:>8} {what}");
        }
        for byte in at.to_le_bytes().iter().chain(what.as_bytes()) {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Where its chance began: the same seed gives the same run.
    pub seed: u64,
    /// What was spoken.
    pub tongue: &'static str,
    /// A hash of everything that happened, in order.
    pub trace: u64,
    /// Calls that clients wrote.
    pub calls: usize,
    /// Calls that the mesh read.
    pub read: usize,
    /// Answers that clients got.
    pub answers: usize,
    /// How calls ended, by the mesh's own records.
    pub endings: BTreeMap<&'static str, usize>,
    /// Endpoints ejected.
    pub ejections: u64,
    /// What must not be; empty if all is well.
    pub faults: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            seed,
            tongue,
            trace,
            calls,
            read,
            answers,
            endings,
            ejections,
            faults,
        } = self;
        writeln!(
            f,
            "seed {seed}, {tongue}: {calls} calls, {read} read, {answers} answers, {ejections} ejections, trace {trace:016x}"
        )?;
        for (ending, count) in endings {
            writeln!(f, "    {ending}: {count}")?;
        }
        for fault in faults {
            writeln!(f, "  FAULT {fault}")?;
        }
        Ok(())
    }
}
