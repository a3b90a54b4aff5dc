//! CPU time of this process and of others, from /proc.

use std::fs;

use super::super::node::ClusterDir;
use crate::cli::CpuArgs;
use crate::errors::{CliError, Result};

/// Ticks a second in /proc. Linux has given 100 to user space on every x86 since 2.6, whatever the kernel counts with.
const TICKS_PER_SECOND: f64 = 100.0;

/// A measurement of CPU time that is running.
pub struct CpuMeter {
    own: f64,
    others: Vec<(u32, f64)>,
}

/// CPU seconds, user and system together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuUse {
    /// CPU seconds of this process.
    pub own: f64,
    /// CPU seconds of the named processes, if any were named.
    pub others: Option<f64>,
}

impl CpuMeter {
    /// Begins to count.
    pub fn start(args: &CpuArgs) -> Result<CpuMeter> {
        let others = named_processes(args)?
            .into_iter()
            .map(|pid| Ok((pid, seconds_of(&pid.to_string())?)));
        Ok(CpuMeter {
            others: others.collect::<Result<_>>()?,
            own: seconds_of("self")?,
        })
    }

    /// The CPU time that was used since the start.
    pub fn stop(&self) -> Result<CpuUse> {
        let mut others = 0.0;
        for (pid, before) in &self.others {
            others += seconds_of(&pid.to_string())? - before;
        }
        Ok(CpuUse {
            own: seconds_of("self")? - self.own,
            others: (!self.others.is_empty()).then_some(others),
        })
    }
}

/// The processes that were named, by their ids or as those of a cluster.
pub fn named_processes(args: &CpuArgs) -> Result<Vec<u32>> {
    let mut pids = args.pids.clone();
    if let Some(directory) = &args.cluster_dir {
        let (directory, plan) = ClusterDir::open(directory)?;
        pids.extend(directory.nodes(plan).iter().filter_map(|node| node.running()));
        if pids.is_empty() {
            return Err(CliError::new(format!("no node runs in {}", directory.path().display())));
        }
    }
    Ok(pids)
}

fn seconds_of(process: &str) -> Result<f64> {
    let path = format!("/proc/{process}/stat");
    let text = fs::read_to_string(&path).map_err(|error| CliError::new(format!("cannot read {path}: {error}")))?;
    let ticks = ticks(&text).ok_or_else(|| CliError::new(format!("{path} has no CPU times")))?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// User and system time of a stat line. The second field, the program's name, may hold spaces and parentheses; it ends
/// at the last closing one.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    // `rest` begins with the third field; user time is the 14th, system time the 15th.
    let mut times = rest.split(' ').skip(11);
    let user: u64 = times.next()?.parse().ok()?;
    let system: u64 = times.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_confuse() {
        assert_eq!(
            ticks("7 (a ) b) S 1 7 7 0 -1 4 1 0 0 0 250 50 0 0 20 0 1 0 5 0 0"),
            Some(300)
        );
        assert_eq!(ticks("7 (x) S 1"), None);
    }

    #[test]
    fn a_process_that_does_not_exist_is_named() {
        let args = CpuArgs {
            pids: vec![u32::MAX],
            cluster_dir: None,
        };
        let error = CpuMeter::start(&args)
            .err()
            .expect("there is no such process")
            .to_string();
        assert!(error.contains("/proc/4294967295/stat"), "{error}");
        assert!(
            CpuMeter::start(&CpuArgs::default())
                .expect("this process")
                .stop()
                .expect("it still runs")
                .others
                .is_none()
        );
    }
}
