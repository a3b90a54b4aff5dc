//! Size: a large history is judged in the time and memory that are promised. 50,000 calls by default, a million with `JANGADA_LONG=1`.
#![allow(clippy::disallowed_methods, reason = "time is what is measured")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What is promised for a million operations.
const TIME_MAX: Duration = Duration::from_secs(60);
const BYTES_MAX: u64 = 2 << 30;

/// Memory of a process at its peak, as Linux tells its parent; none where it does not.
fn peak_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().split(' ').next()?.parse().ok()?;
    Some(kib * 1024)
}

#[test]
fn a_large_history_is_judged_in_time_and_memory() {
    let is_long = std::env::var_os("JANGADA_LONG").is_some_and(|value| value == "1");
    let operations = if is_long { 1_000_000 } else { 50_000 };
    // The shell that cargo is told to call in place of rustc hands on no variable with a hyphen, so the path is not asked of cargo.
    let suite = std::env::current_exe().expect("a running test has an executable");
    let profile = suite.parent().and_then(|deps| deps.parent());
    let program = &profile
        .expect("cargo puts tests into <profile>/deps")
        .join("jangada-check");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("history.jsonl");
    let file = std::fs::File::create(&path).expect("the folder is writable");
    let generating = Command::new(program)
        .args(["generate", "--operations", &operations.to_string(), "--seed", "1"])
        .stdout(file)
        .status()
        .expect("the program is there");
    assert!(generating.success());
    let began = Instant::now();
    let mut judging = Command::new(program)
        .arg("judge")
        .arg(&path)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program is there");
    let mut peak = 0;
    let status = loop {
        peak = peak_bytes(judging.id()).unwrap_or(0).max(peak);
        if let Some(status) = judging.try_wait().expect("it is a child of this process") {
            break status;
        }
        if began.elapsed() >= TIME_MAX {
            judging.kill().expect("it is a child of this process");
            panic!("it is not judged after {TIME_MAX:?}");
        }
        // Its memory has to be looked at while it runs.
        std::thread::sleep(Duration::from_millis(20));
    };
    let took = began.elapsed();
    let size = std::fs::metadata(&path).expect("it was written").len();
    println!(
        "{operations} operations, {} MB of lines: {took:?}, {} MiB at the peak",
        size / 1_000_000,
        peak >> 20
    );
    assert_eq!(status.code(), Some(0), "it is valid");
    assert!(took < TIME_MAX, "{took:?}");
    assert!(peak < BYTES_MAX, "{peak} bytes");
}
