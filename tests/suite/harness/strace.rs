//! Runs `strace` on a node: traces its system calls, or kills it at one.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use super::{WAIT, eventually};

/// The first words of `strace` when it is attached.
const ATTACHED: &str = "attached";

/// A `strace` that is attached to a process and all its threads, until it is dropped.
pub struct Attached {
    strace: Child,
}

impl Attached {
    pub async fn to(pid: u32, options: impl IntoIterator<Item = &OsStr>) -> Attached {
        let said = NamedTempFile::new().expect("a temporary file");
        let strace = Command::new("strace")
            .args(["-f", "-p", &pid.to_string()])
            .args(options)
            .stdin(Stdio::null())
            .stderr(said.reopen().expect("the temporary file is there"))
            .spawn()
            .expect("strace starts");
        let attached = Attached { strace };
        eventually("strace is attached", WAIT, || async {
            let text = std::fs::read_to_string(said.path()).ok()?;
            text.contains(ATTACHED).then_some(())
        })
        .await;
        attached
    }

    /// Lets the process go on, and waits until the trace is written.
    pub fn detach(mut self) {
        let pid = i32::try_from(self.strace.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process has an id");
        kill_process(pid, Signal::INT).expect("our own child can be signalled");
        self.strace.wait().expect("our own child can be waited for");
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // Has no effect on one that has ended.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// The process is killed when it begins to sync the file.
pub async fn kill_at_sync(pid: u32, file: &Path) -> Attached {
    let calls = [
        "-e",
        "trace=fdatasync",
        "-e",
        "inject=fdatasync:signal=SIGKILL:when=1",
        "-P",
    ];
    Attached::to(pid, calls.map(OsStr::new).into_iter().chain([file.as_os_str()])).await
}

/// Checks that strace works; `Err` says why it cannot be used here.
pub fn works_in(folder: &Path) -> Result<(), String> {
    let probe = Command::new("strace")
        .args(["-o"])
        .arg(folder.join("probe"))
        .arg("true")
        .output();
    match probe {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!(
            "strace: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        )),
        Err(error) => Err(format!("strace: {error}")),
    }
}
