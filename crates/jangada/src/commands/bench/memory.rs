//! The resident memory of processes, from /proc.

use std::fs;

use serde::Serialize;

use super::cpu::named_processes;
use crate::cli::CpuArgs;
use crate::errors::{CliError, Result};

/// What a process takes, before and after a measurement, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    pub pid: u32,
    pub before_bytes: u64,
    pub after_bytes: u64,
}

impl MemoryUse {
    pub fn grown_bytes(&self) -> i64 {
        self.after_bytes.cast_signed() - self.before_bytes.cast_signed()
    }
}

/// A measurement of the memory of the named processes that is running.
pub struct MemoryMeter {
    before: Vec<(u32, u64)>,
}

impl MemoryMeter {
    pub fn start(args: &CpuArgs) -> Result<MemoryMeter> {
        let pids = named_processes(args)?.into_iter();
        let before = pids.map(|pid| Ok((pid, resident_bytes(pid)?)));
        Ok(MemoryMeter {
            before: before.collect::<Result<_>>()?,
        })
    }

    pub fn stop(&self) -> Result<Vec<MemoryUse>> {
        let used = self.before.iter().map(|&(pid, before_bytes)| {
            let after_bytes = resident_bytes(pid)?;
            Ok(MemoryUse {
                pid,
                before_bytes,
                after_bytes,
            })
        });
        used.collect()
    }
}

/// The resident memory of a process that is its own: without files that are mapped.
fn resident_bytes(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).map_err(|error| CliError::new(format!("cannot read {path}: {error}")))?;
    anonymous_kb(&text)
        .map(|kb| kb * 1024)
        .ok_or_else(|| CliError::new(format!("{path} has no RssAnon")))
}

fn anonymous_kb(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_process_is_read() {
        assert_eq!(
            anonymous_kb("VmRSS:\t  9000 kB\nRssAnon:\t  1234 kB\nRssFile:\t 8 kB\n"),
            Some(1234)
        );
        assert_eq!(anonymous_kb("VmRSS:\t  9000 kB\n"), None);
        let args = CpuArgs {
            pids: vec![std::process::id()],
            cluster_dir: None,
        };
        let meter = MemoryMeter::start(&args).expect("this process");
        let kept = vec![1_u8; 64 << 20];
        let used = meter.stop().expect("it still runs");
        assert!(
            used[0].grown_bytes() > 32 << 20,
            "{used:?}, {} bytes were kept",
            kept.len()
        );
    }
}
