//! CPU, memory and file descriptors of this process, under the names of Prometheus' client libraries. Values that the kernel does
//! not report are left out.

use std::fmt::Error;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use rustix::process::{Resource, getrlimit};

use super::writer::Writer;

/// `USER_HZ` (proc(5)), the unit of CPU times in /proc, on all supported architectures.
const TICKS_PER_SECOND: f64 = 100.0;

/// The process at the moment of a scrape.
#[derive(Debug, Default)]
pub(super) struct ProcessSample {
    cpu_seconds: Option<f64>,
    resident_bytes: Option<u64>,
    threads: Option<u64>,
    open_files: Option<u64>,
    open_files_max: Option<u64>,
    started_at: Option<f64>,
}

impl ProcessSample {
    pub fn take() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").ok();
        // The process's name, in brackets, may contain spaces and brackets. The first field after it is number 3 in proc(5).
        let fields = stat.as_deref().and_then(|stat| Some(stat.rsplit_once(')')?.1));
        let ticks = |field: usize| {
            let text = fields?.split_whitespace().nth(field - 3)?;
            Some(text.parse::<u64>().ok()? as f64 / TICKS_PER_SECOND)
        };
        let status = fs::read_to_string("/proc/self/status").ok();
        let number = |text: &Option<String>, name: &str| {
            let line = text.as_deref()?.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let machine = fs::read_to_string("/proc/stat").ok();
        let booted_at = number(&machine, "btime");
        Self {
            cpu_seconds: ticks(14).zip(ticks(15)).map(|(user, kernel)| user + kernel),
            resident_bytes: number(&status, "VmRSS:").map(|kib| kib * 1024),
            threads: number(&status, "Threads:"),
            open_files: open_files(),
            open_files_max: getrlimit(Resource::Nofile).current,
            started_at: booted_at.zip(ticks(22)).map(|(booted, after)| booted as f64 + after),
        }
    }
}

fn open_files() -> Option<u64> {
    // Since Linux 6.2 the size of this directory is the number of open files.
    let size = fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size);
    }
    // Minus the descriptor by which the directory is read.
    let all = fs::read_dir("/proc/self/fd").ok()?.count();
    u64::try_from(all).ok()?.checked_sub(1)
}

impl Collector for ProcessSample {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut to = Writer(encoder);
        let help = "CPU time that the process has used, its own and the kernel's for it";
        to.known_counter("process_cpu_seconds", help, self.cpu_seconds)?;
        let help = "Memory of the process that is in RAM";
        to.known_gauge("process_resident_memory_bytes", help, self.resident_bytes)?;
        to.known_gauge("process_threads", "Threads of the process", self.threads)?;
        let help = "File descriptors that the process has open";
        to.known_gauge("process_open_fds", help, self.open_files)?;
        let help = "File descriptors that the process may have open";
        to.known_gauge("process_max_fds", help, self.open_files_max)?;
        let help = "When the process was started, since 1970";
        to.known_gauge("process_start_time_seconds", help, self.started_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_this_process() {
        let sample = ProcessSample::take();
        assert!(sample.cpu_seconds.is_some_and(|seconds| seconds >= 0.0), "{sample:?}");
        assert!(sample.resident_bytes.is_some_and(|bytes| bytes > 1 << 20), "{sample:?}");
        assert!(sample.threads.is_some_and(|threads| threads >= 1), "{sample:?}");
        let files = (sample.open_files, sample.open_files_max);
        assert!(
            matches!(files, (Some(3..), Some(max)) if files.0 < Some(max)),
            "{sample:?}"
        );
        // After 2020.
        assert!(sample.started_at.is_some_and(|at| at > 1_577_836_800.0), "{sample:?}");
    }
}
