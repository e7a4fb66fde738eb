//! The sweep: many worlds one after another, and the seeds of those in which something went wrong.

use std::time::{Duration, Instant};

use super::{run, run_queues};

/// Which seeds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sweep {
    /// The first.
    pub from: u64,
    /// How many; without it and `seconds`, a thousand.
    pub seeds: Option<u64>,
    /// Only worlds of RocketMQ.
    pub queues: bool,
    /// No further world is begun after so many seconds.
    pub seconds: Option<u64>,
}

/// Runs them, and prints what is found.
///
/// # Errors
/// If something went wrong in any of them.
pub fn sweep(sweep: &Sweep) -> anyhow::Result<()> {
    let begun = Instant::now();
    let usual = if sweep.seconds.is_some() {
        u64::MAX
    } else {
        1000
    };
    let count = sweep.seeds.unwrap_or(usual);
    let longest = sweep.seconds.map(Duration::from_secs);
    let (mut worlds, mut calls, mut bad) = (0_u64, 0, Vec::new());
    while worlds < count && longest.is_none_or(|longest| begun.elapsed() < longest) {
        let seed = sweep.from + worlds;
        let report = match sweep.queues {
            true => run_queues(seed)?,
            false => run(seed)?,
        };
        worlds += 1;
        calls += report.calls;
        if !report.faults.is_empty() {
            println!("{report}");
            bad.push(report.seed);
        }
    }
    println!("{worlds} worlds, {calls} calls, {:?}", begun.elapsed());
    anyhow::ensure!(bad.is_empty(), "something went wrong in seeds {bad:?}");
    Ok(())
}
