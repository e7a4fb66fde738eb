//! Whatever these tests start ends with them, and whatever that started.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::process::Process;
use crate::support::{eventually, reaper, temporary_folder};

/// A script that has a child and waits for it, as wrappers of browsers do; it says the child's id.
const WRAPPER: &str = "sleep 1000 & echo child $!; wait";

fn eventually_gone(pid: &str) {
    eventually("the end of a child", Duration::from_secs(5), || {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        match state.rsplit(')').next().unwrap_or_default().trim().get(..1) {
            // Dead, and only not yet fetched by whoever inherited it.
            None | Some("Z") => Ok(()),
            Some(other) => Err(other.to_owned()),
        }
    });
}

#[test]
fn a_process_that_is_dropped_takes_its_children_with_it() {
    let process = Process::start("wrapper", Command::new("sh").args(["-c", WRAPPER]));
    let child = process.wait_for("child", Duration::from_secs(5), 0, |line| {
        line.strip_prefix("child ").map(str::to_owned)
    });
    assert!(Path::new(&format!("/proc/{child}")).exists());
    drop(process);
    eventually_gone(&child);
}

#[test]
fn tests_that_are_killed_take_everything_with_them() {
    let folder = temporary_folder();
    let file = folder.join("child");
    let mut wrapper = Command::new("sh");
    let script = format!("sleep 1000 & echo $! > {}; wait", file.display());
    wrapper.args(["-c", &script]).stdin(Stdio::null());
    let mut wrapper = wrapper.process_group(0).spawn().unwrap();
    let child = eventually("the child", Duration::from_secs(5), || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let id = text.strip_suffix('\n').map(str::to_owned);
        id.ok_or("not yet".into())
    });
    let mut shell = reaper::shell();
    let mut told = shell.stdin.take().unwrap();
    writeln!(told, "kill {}", wrapper.id()).unwrap();
    writeln!(told, "remove {}", folder.display()).unwrap();
    // As the end of this process would.
    drop(told);
    shell.wait().unwrap();
    wrapper.wait().unwrap();
    eventually_gone(&child);
    assert!(!folder.exists());
}
