//! A disk that can lose power: ext4 on a loop device over a file. Needs root.
//!
//! Losing power is: the file system stops at once and writes nothing more, not even its journal (`EXT4_IOC_SHUTDOWN` without a flush); it
//! is unmounted; and the loop device is detached, because its page cache would otherwise bring back what was never synced.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// `EXT4_IOC_SHUTDOWN`, `_IOR('X', 125, __u32)`.
const SHUTDOWN: Opcode = opcode::read::<u32>(b'X', 125);
const _: () = assert!(SHUTDOWN == 0x8004_587D, "as in the kernel's ext4.h");

/// `EXT4_GOING_FLAGS_NOLOGFLUSH`: the journal is not written either.
const NO_LOG_FLUSH: u32 = 2;

/// The contents of a file that is not synced.
const PROBE: &[u8] = &[7; 64 * 1024];

/// A mounted file system of its own. Dropping it unmounts and detaches it.
pub struct Disk {
    image: PathBuf,
    mount: PathBuf,
    device: Option<String>,
    is_mounted: bool,
}

/// Whether this process may mount, and the tools are there. `Err` says what is missing.
pub fn can_mount() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root, to mount a file system of its own".to_owned());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Err("needs loop devices, there is no /dev/loop-control".to_owned());
    }
    for tool in ["mkfs.ext4", "losetup", "mount", "umount"] {
        if Command::new(tool).arg("-V").output().is_err() {
            return Err(format!("needs {tool}"));
        }
    }
    let free = Command::new("losetup").arg("--find").output();
    match free {
        Ok(output) if output.status.success() => Ok(()),
        _ => Err("needs a free loop device".to_owned()),
    }
}

impl Disk {
    /// Makes a disk of this size, mounted at `mount`. Its blocks take space only when they are written.
    pub fn new(image: PathBuf, mount: PathBuf, bytes: u64) -> Disk {
        let file = File::create(&image).expect("the temporary folder is writable");
        file.set_len(bytes).expect("a file can have a hole");
        fs::create_dir_all(&mount).expect("the temporary folder is writable");
        run("mkfs.ext4", &["-q", "-F", text(&image)]);
        let mut disk = Disk {
            image,
            mount,
            device: None,
            is_mounted: false,
        };
        disk.attach();
        // A data directory is empty at first.
        fs::remove_dir(disk.mount.join("lost+found")).expect("mkfs made it");
        disk
    }

    /// The path where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    fn attach(&mut self) {
        let device = run("losetup", &["--find", "--show", text(&self.image)]);
        let device = device.trim().to_owned();
        self.device = Some(device.clone());
        run("mount", &["-t", "ext4", &device, text(&self.mount)]);
        self.is_mounted = true;
    }

    /// Loses all bytes that were not synced. No process may write at this moment: a sync that races with it would
    /// succeed and its bytes be lost.
    ///
    /// Proves it each time: a file that was just written and not synced is not there afterwards.
    pub fn lose_power(&mut self) {
        let probe = self.mount.join("unsynced");
        fs::write(&probe, PROBE).expect("it is mounted");
        let root = File::open(&self.mount).expect("it is mounted");
        shut_down(&root);
        drop(root);
        run("umount", &[text(&self.mount)]);
        self.is_mounted = false;
        let device = self.device.take().expect("it is attached");
        run("losetup", &["--detach", &device]);
        // Detached for good: one that is still in use would be detached later, and keep its pages.
        let left = run("losetup", &["--associated", text(&self.image)]);
        assert_eq!(left, "", "the loop device is still attached");
        self.attach();
        // The probe's name may be in the file system's journal already, but its bytes must be lost.
        let found = fs::read(&probe).unwrap_or_default();
        assert_ne!(found, PROBE, "an unsynced file survived: no power was lost");
        let _ = fs::remove_file(&probe);
    }
}

#[allow(unsafe_code, reason = "rustix knows no ioctl of ext4; there is no other way to it")]
fn shut_down(root: &File) {
    // SAFETY: the opcode is ext4's, whose argument is a pointer to a u32 that it reads; `Setter` gives it one. Another file system refuses
    // the opcode.
    let done = unsafe { ioctl(root, Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH)) };
    done.expect("root may shut down an ext4");
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Also after a panic, in whatever state: nothing may stay mounted.
        if self.is_mounted {
            let _ = Command::new("umount").arg(&self.mount).status();
        }
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").args(["--detach", device]).status();
        }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the temporary folder has a plain name")
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program)
        .args(args)
        .output()
        .expect("the tool was looked for");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
