//! `bench disk`: writes a plain file and syncs each write. It shows the disk's speed for a program that does nothing
//! else.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::cpu::CpuMeter;
use super::latency::Latencies;
use super::payload::Payload;
use super::report::Report;
use crate::cli::{CpuArgs, DiskBench, DiskMode, PayloadKind};
use crate::errors::{CliError, Result};
use crate::progress;

/// Size of the file that is overwritten; further writes begin at its front again, as a store does with its recycled log
/// files.
const OVERWRITTEN_BYTES: u64 = 1 << 30;

pub fn run(args: &DiskBench) -> Result<Report> {
    let file = Scratch::create(&args.dir)?;
    let failed = |error: io::Error| CliError::new(format!("writing {}: {error}", file.path.display()));
    let batch = u64::from(args.batch_bytes);
    let writes = args.samples.unwrap_or_else(|| args.total_bytes.div_ceil(batch));
    let span = match args.mode {
        DiskMode::Append => writes * batch,
        DiskMode::Overwrite => (writes * batch).min(OVERWRITTEN_BYTES / batch * batch).max(batch),
    };
    let mut payload = Payload::new(PayloadKind::Random, args.batch_bytes as usize);
    let bar = progress::bytes(Some(writes * batch), "written");
    if args.mode == DiskMode::Overwrite {
        for position in (0..span).step_by(args.batch_bytes as usize) {
            file.file.write_all_at(&payload.next(), position).map_err(failed)?;
        }
        file.file.sync_all().map_err(failed)?;
    }
    let mut latencies = Latencies::new();
    let meter = CpuMeter::start(&CpuArgs::default())?;
    let start = Instant::now();
    for i in 0..writes {
        let bytes = payload.next();
        let begun = Instant::now();
        file.file.write_all_at(&bytes, i * batch % span).map_err(failed)?;
        file.file.sync_data().map_err(failed)?;
        latencies.record(begun.elapsed());
        bar.inc(batch);
    }
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    let bench = match args.mode {
        DiskMode::Append => "disk append",
        DiskMode::Overwrite => "disk overwrite",
    };
    Ok(Report::new(
        bench,
        writes,
        writes * batch,
        seconds,
        meter.stop()?,
        latencies.figures(),
    ))
}

/// A file that is deleted when it is dropped.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    fn create(directory: &Path) -> Result<Scratch> {
        let failed =
            |error: io::Error| CliError::new(format!("cannot make a file in {}: {error}", directory.display()));
        std::fs::create_dir_all(directory).map_err(failed)?;
        let path = directory.join(format!("jangada-bench-{}", std::process::id()));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(failed)?;
        Ok(Scratch { path, file })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            crate::note::note(&format!("warning: cannot remove {}: {error}", self.path.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::{Output, OutputArgs};

    #[test]
    fn both_modes_write_what_was_asked_and_leave_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for mode in [DiskMode::Append, DiskMode::Overwrite] {
            let output = OutputArgs { output: Output::Json };
            let args = DiskBench {
                dir: directory.path().to_owned(),
                total_bytes: 10_000,
                samples: None,
                batch_bytes: 4096,
                mode,
                output,
            };
            let report = run(&args).expect("the disk takes it");
            assert_eq!((report.records, report.bytes), (3, 3 * 4096));
            assert_eq!(report.latency.expect("there are writes").count, 3);
        }
        assert_eq!(std::fs::read_dir(directory.path()).expect("the directory").count(), 0);
    }
}
