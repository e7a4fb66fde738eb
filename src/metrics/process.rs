//! The process as the kernel sees it, by the names that Prometheus's own clients use.

use std::fs;
use std::sync::LazyLock;

use finback_core::metric::Family;
use finback_observability::{MetricSink, MetricValue};
use rustix::process::{Resource, getrlimit};

/// Ticks of a second in `/proc` (`USER_HZ`): the same on every machine that Linux runs on today.
const HZ: f64 = 100.0;

static CPU: Family = Family::counter(
    "process_cpu_seconds_total",
    "seconds",
    &[],
    "Processor time spent, in user space and in the kernel.",
);
static RESIDENT: Family = Family::gauge(
    "process_resident_memory_bytes",
    "bytes",
    &[],
    "Memory in use.",
);
static VIRTUAL: Family = Family::gauge(
    "process_virtual_memory_bytes",
    "bytes",
    &[],
    "Addresses in use.",
);
static OPEN: Family = Family::gauge(
    "process_open_fds",
    "descriptors",
    &[],
    "Descriptors that are open.",
);
static MOST: Family = Family::gauge(
    "process_max_fds",
    "descriptors",
    &[],
    "Descriptors that may be open.",
);
static START: Family = Family::gauge(
    "process_start_time_seconds",
    "seconds",
    &[],
    "When the process was started, in seconds since 1970.",
);
static THREADS: Family = Family::gauge("process_threads", "threads", &[], "Threads.");

/// When the machine was started, in seconds since 1970 (`btime` of `/proc/stat`).
static BOOT: LazyLock<f64> = LazyLock::new(|| {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|own| own.parse().ok()).unwrap_or_default()
});

/// Puts the process's numbers into a sink.
pub(super) fn collect(sink: &mut dyn MetricSink) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // proc(5): the name, in parentheses, may hold blanks; what follows are numbers.
    let numbers: Vec<f64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|number| number.parse().unwrap_or_default())
        .collect();
    // Fields of proc(5) are counted from 1, and the one after the name is the third.
    let field = |number: usize| numbers.get(number - 3).copied().unwrap_or_default();
    sink.single(&CPU, MetricValue::Number((field(14) + field(15)) / HZ));
    sink.single(&RESIDENT, MetricValue::Number(kilobytes("VmRSS:") * 1024.0));
    sink.single(&VIRTUAL, MetricValue::Number(field(23)));
    sink.single(&OPEN, MetricValue::Count(open_descriptors()));
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    sink.single(&MOST, MetricValue::Count(most));
    sink.single(&START, MetricValue::Number(*BOOT + field(22) / HZ));
    sink.single(&THREADS, MetricValue::Number(field(20)));
}

/// A line of `/proc/self/status`.
fn kilobytes(name: &str) -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|own| own.split_whitespace().next()?.parse().ok());
    number.unwrap_or_default()
}

/// Since Linux 6.2 the folder's size is their number; before, they have to be counted.
fn open_descriptors() -> u64 {
    let folder = "/proc/self/fd";
    match fs::metadata(folder).map(|own| own.len()) {
        Ok(count) if count > 0 => count,
        _ => fs::read_dir(folder).map_or(0, |all| all.count() as u64),
    }
}
