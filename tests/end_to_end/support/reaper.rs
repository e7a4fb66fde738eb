//! Ends what this test process started, however it ends itself.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// Kills and removes once its input ends, which it does with the test process.
const SCRIPT: &str = r#"
trap '' INT TERM
pids= folders=
while read -r verb what; do
    case $verb in
        kill) pids="$pids $what" ;;
        spare) rest=; for pid in $pids; do [ "$pid" = "$what" ] || rest="$rest $pid"; done; pids=$rest ;;
        remove) folders="$folders $what" ;;
    esac
done
# Each with its whole group.
for pid in $pids; do kill -s KILL -- "-$pid" 2>/dev/null; done
[ -z "$folders" ] || rm -rf $folders
"#;

/// Has the process killed with the tests.
pub(crate) fn kill(pid: u32) {
    say(&format!("kill {pid}"));
}

/// Kills a process of a group of its own, and all of that group, now.
pub(crate) fn end_group(pid: u32) {
    let group = format!("-{pid}");
    // Nobody is left of it, or it is gone now.
    let _ = Command::new("kill")
        .args(["-s", "KILL", "--", &group])
        .stderr(Stdio::null())
        .status();
}

/// Forgets a process that has ended: its id may soon be somebody else's.
pub(crate) fn spare(pid: u32) {
    say(&format!("spare {pid}"));
}

/// Has the folder removed with the tests.
pub(crate) fn remove(folder: &Path) {
    say(&format!("remove {}", folder.display()));
}

/// What does all this, until its input ends.
pub(crate) fn shell() -> Child {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    shell.spawn().unwrap()
}

fn say(line: &str) {
    static REAPER: OnceLock<Mutex<Child>> = OnceLock::new();
    let reaper = REAPER.get_or_init(|| Mutex::new(shell()));
    let mut reaper = reaper.lock().unwrap();
    writeln!(reaper.stdin.as_mut().unwrap(), "{line}").unwrap();
}
