//! Processes of a benchmark: started, measured, ended.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How long a process has to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// A process of ours; dropping it asks it to end, and kills it when it does not. One that is built to count what it runs
/// through writes that as it ends.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good; its number is not another's before it is waited for.
        let mut asked = false;
        let end = Instant::now() + GRACE;
        while matches!(self.0.try_wait(), Ok(None)) && Instant::now() < end {
            if !asked {
                asked = kill_process(Pid::from_child(&self.0), Signal::INT).is_ok();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder that goes away with its owner.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new(purpose: &str) -> anyhow::Result<Self> {
        let name = format!("finback-{purpose}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to whoever cleans the temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// CPU time of all threads of a process that live, in nanoseconds.
pub(crate) fn cpu_nanos(pid: u32) -> anyhow::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        let nanos = text.split_whitespace().next().unwrap_or("0");
        sum += nanos.parse::<u64>().unwrap_or(0);
    }
    Ok(sum)
}

/// Resident memory of a process, in KiB.
pub(crate) fn rss_kib(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    kib.context("no VmRSS")
}

/// A command that stays on the machine's last CPU.
pub(crate) fn on_one_cpu(program: &Path) -> Command {
    let last = std::thread::available_parallelism().map_or(0, |count| count.get() - 1);
    let mut command = Command::new("taskset");
    command.args(["-c", &last.to_string()]).arg(program);
    command
}

pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// Starts a command and waits until it accepts connections on these ports.
pub(crate) fn start(
    mut command: Command,
    ports: &[SocketAddr],
    install: &str,
) -> anyhow::Result<Process> {
    let name = format!("{command:?}");
    let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut process = Process(child.with_context(|| format!("cannot run {name}; {install}"))?);
    let end = Instant::now() + Duration::from_secs(20);
    for port in ports {
        while TcpStream::connect(port).is_err() {
            if process.0.try_wait()?.is_some() || Instant::now() > end {
                bail!("{name} does not accept connections; {install}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(process)
}
