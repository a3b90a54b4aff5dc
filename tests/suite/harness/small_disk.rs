//! A small file system of a test's own, which can be filled up whatever the machine's disks are used for.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const BALLAST: &str = "ballast";
const MIB: usize = 1024 * 1024;

/// A file system in memory. Mounting takes root. Make it before the cluster that uses it: the one that is dropped last
/// is unmounted last.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts a file system. `Err` says why this machine does not allow it.
    pub fn mount(bytes: u64) -> Result<SmallDisk, String> {
        let folder = tempfile::Builder::new()
            .prefix("jangada-disk-")
            .tempdir()
            .expect("a temporary folder");
        run(
            "mount",
            &["-t", "tmpfs", "-o", &format!("size={bytes}"), "jangada-test"],
            folder.path(),
        )?;
        Ok(SmallDisk { folder })
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Number of free bytes.
    pub fn free(&self) -> u64 {
        let found = rustix::fs::statvfs(self.path()).expect("it is mounted");
        found.f_bavail * found.f_frsize
    }

    fn ballast(&self) -> PathBuf {
        self.path().join(BALLAST)
    }

    /// Takes space until only this much is free.
    pub fn fill(&self, left: u64) {
        let mut file = fs::File::create(self.ballast()).expect("it is ours");
        let zeros = vec![0; MIB];
        while self.free() > left {
            file.write_all(&zeros).expect("there is more than that free");
        }
    }

    /// Frees the space again.
    pub fn empty(&self) {
        fs::remove_file(self.ballast()).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Unmounted from view at once, and in fact when no process has a file open on it any more.
        if let Err(why) = run("umount", &["--lazy"], self.path()) {
            eprintln!("{}: {why}", self.path().display());
        }
    }
}

fn run(command: &str, args: &[&str], folder: &Path) -> Result<(), String> {
    let output = Command::new(command).args(args).arg(folder).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        Err(error) => Err(format!("{command}: {error}")),
    }
}
