//! A child process whose output is kept for the reader of a failure.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use super::reaper;

/// A running child; dropping it kills it and all that it started.
pub(crate) struct Process {
    name: String,
    child: Mutex<Child>,
    pid: u32,
    output: Arc<Output>,
}

#[derive(Default)]
struct Output {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
    /// How many of its two streams have come to their end.
    ended: AtomicUsize,
}

impl Process {
    /// Starts a child that reads nothing.
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        command.stdin(Stdio::null());
        Self::spawn(name, command, |_| {}).0
    }

    /// Starts a child and hears every line of its standard output.
    pub(crate) fn converse(
        name: &str,
        command: &mut Command,
        hear: impl FnMut(&str) + Send + 'static,
    ) -> (Self, ChildStdin) {
        command.stdin(Stdio::piped());
        let (process, stdin) = Self::spawn(name, command, hear);
        (process, stdin.unwrap())
    }

    fn spawn(
        name: &str,
        command: &mut Command,
        hear: impl FnMut(&str) + Send + 'static,
    ) -> (Self, Option<ChildStdin>) {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, which ends as a whole: a browser has children, a script too.
        command.process_group(0);
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        reaper::kill(child.id());
        let output = Arc::<Output>::default();
        keep(&output, child.stdout.take().unwrap(), hear);
        keep(&output, child.stderr.take().unwrap(), |_| {});
        let stdin = child.stdin.take();
        let pid = child.id();
        let name = name.to_owned();
        (
            Self {
                name,
                child: Mutex::new(child),
                pid,
                output,
            },
            stdin,
        )
    }

    /// Waits for a line of output after the first `from` that `wanted` makes something of.
    pub(crate) fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        from: usize,
        wanted: impl FnMut(&str) -> Option<T>,
    ) -> T {
        self.try_wait_for(limit, from, wanted)
            .unwrap_or_else(|| panic!("{}: no {what} within {limit:?}\n{}", self.name, self.tail()))
    }

    /// The same; `None` if it does not come, or the process ends.
    pub(crate) fn try_wait_for<T>(
        &self,
        limit: Duration,
        from: usize,
        mut wanted: impl FnMut(&str) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + limit;
        let mut seen = from;
        let mut lines = self.lines();
        loop {
            while seen < lines.len() {
                if let Some(found) = wanted(&lines[seen]) {
                    return Some(found);
                }
                seen += 1;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.child.lock().unwrap().try_wait().unwrap().is_some() {
                return None;
            }
            let nap = left.min(Duration::from_millis(100));
            lines = self.output.grown.wait_timeout(lines, nap).unwrap().0;
        }
    }

    /// Waits for a line that contains these words. A log is written beside the work that it tells of: who looks
    /// at once may be too early.
    pub(crate) fn await_words(&self, words: &str) {
        let limit = Duration::from_secs(20);
        self.wait_for(words, limit, 0, |line| line.contains(words).then_some(()));
    }

    /// How many lines it has said so far.
    pub(crate) fn said(&self) -> usize {
        self.lines().len()
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.pid
    }

    /// The processor time it has used, to a hundredth of a second.
    pub(crate) fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap();
        // User and system ticks of 10 ms: the 12th and 13th field after the name.
        let ticks: u64 = stat[stat.rfind(')').unwrap() + 2..]
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(|ticks| ticks.parse::<u64>().unwrap())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// Its resident memory, in KiB.
    pub(crate) fn rss(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Sends a signal by name, such as `TERM`.
    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.pid.to_string();
        let status = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .unwrap();
        assert!(status.success(), "cannot signal {}", self.name);
    }

    /// Waits for its end, and for its last words.
    pub(crate) fn wait_for_end(&self, limit: Duration) -> ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
                self.hear_out();
                return status;
            }
            assert!(
                Instant::now() < end,
                "{} still runs after {limit:?}\n{}",
                self.name,
                self.tail()
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until all that it said is kept. What it started may hold its streams open, so not for ever.
    fn hear_out(&self) {
        let end = Instant::now() + Duration::from_secs(2);
        while self.output.ended.load(Ordering::Acquire) < 2 && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last lines of its output, for a failure's text.
    pub(crate) fn tail(&self) -> String {
        let lines = self.lines();
        let from = lines.len().saturating_sub(60);
        format!(
            "--- last output of {} ---\n{}\n---",
            self.name,
            lines[from..].join("\n")
        )
    }

    /// How many lines of its output have this in them.
    pub(crate) fn count(&self, text: &str) -> usize {
        let lines = self.lines();
        lines.iter().filter(|line| line.contains(text)).count()
    }

    /// The last so many lines of its output.
    pub(crate) fn tail_of(&self, count: usize) -> Vec<String> {
        let lines = self.lines();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.output.lines.lock().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What it started may outlive it, so its group is ended first; by then its id is still its own.
        reaper::end_group(self.pid);
        if let Ok(child) = self.child.get_mut() {
            // It may have ended already; either way it is gone afterwards.
            let _ = child.kill();
            let _ = child.wait();
        }
        reaper::spare(self.pid);
    }
}

fn keep(
    output: &Arc<Output>,
    stream: impl Read + Send + 'static,
    mut hear: impl FnMut(&str) + Send + 'static,
) {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { break };
            let line = String::from_utf8_lossy(&line).into_owned();
            hear(&line);
            output.lines.lock().unwrap().push(line);
            output.grown.notify_all();
        }
        output.ended.fetch_add(1, Ordering::Release);
    });
}
