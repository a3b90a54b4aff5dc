//! The figures of a measurement.

use serde::Serialize;
use serde_json::{Value, json};

use super::cpu::CpuUse;
use super::latency::LatencyFigures;
use crate::output::{Show, plain_table};

/// The result of a measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The name of the bench.
    pub bench: &'static str,
    /// Number of records, batches or writes, as the bench counts.
    pub records: u64,
    /// Number of those that failed; they count in nothing else.
    pub failed: u64,
    /// Bytes of the values or writes.
    pub bytes: u64,
    pub seconds: f64,
    /// Throughput in 10^6 bytes a second.
    pub mb_per_second: f64,
    pub records_per_second: f64,
    pub latency: Option<LatencyFigures>,
    /// CPU seconds of this process.
    pub cpu_seconds: f64,
    /// CPU seconds of the named processes, if any were named.
    pub other_cpu_seconds: Option<f64>,
    /// CPU seconds of all of them for each 2^30 bytes; none if no bytes were moved.
    pub cpu_seconds_per_gib: Option<f64>,
    /// The result of reading back what the bench wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scan: Option<Box<Report>>,
}

impl Report {
    pub fn new(
        bench: &'static str,
        records: u64,
        bytes: u64,
        seconds: f64,
        cpu: CpuUse,
        latency: Option<LatencyFigures>,
    ) -> Report {
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        let cpu_all = cpu.own + cpu.others.unwrap_or(0.0);
        let gib = bytes as f64 / (1u64 << 30) as f64;
        Report {
            bench,
            records,
            failed: 0,
            bytes,
            seconds,
            mb_per_second: per_second(bytes as f64 / 1e6),
            records_per_second: per_second(records as f64),
            latency,
            cpu_seconds: cpu.own,
            other_cpu_seconds: cpu.others,
            cpu_seconds_per_gib: (gib > 0.0).then(|| cpu_all / gib),
            scan: None,
        }
    }

    fn row(&self) -> [String; 14] {
        let latency = |figure: fn(&LatencyFigures) -> f64| {
            self.latency
                .as_ref()
                .map_or_else(|| "-".to_owned(), |l| format!("{:.3}", figure(l)))
        };
        [
            self.bench.to_owned(),
            self.records.to_string(),
            self.failed.to_string(),
            format!("{:.1}", self.bytes as f64 / 1e6),
            format!("{:.2}", self.seconds),
            format!("{:.1}", self.mb_per_second),
            format!("{:.0}", self.records_per_second),
            latency(|l| l.p50_ms),
            latency(|l| l.p99_ms),
            latency(|l| l.p999_ms),
            latency(|l| l.max_ms),
            format!("{:.2}", self.cpu_seconds),
            self.other_cpu_seconds
                .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}")),
            self.cpu_seconds_per_gib
                .map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.2}")),
        ]
    }
}

impl Show for Report {
    fn table(&self) -> String {
        let header = [
            "bench",
            "records",
            "failed",
            "mb",
            "seconds",
            "mb/s",
            "records/s",
            "p50_ms",
            "p99_ms",
            "p999_ms",
            "max_ms",
            "cpu_s",
            "other_cpu_s",
            "cpu_s/gib",
        ];
        plain_table(
            header,
            [Some(self), self.scan.as_deref()]
                .into_iter()
                .flatten()
                .map(Report::row),
        )
    }

    fn json(&self) -> Value {
        json!(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_from_the_counts() {
        let report = Report::new(
            "produce",
            1000,
            1 << 30,
            2.0,
            CpuUse {
                own: 1.0,
                others: Some(3.0),
            },
            None,
        );
        assert_eq!(report.records_per_second, 500.0);
        assert_eq!(report.cpu_seconds_per_gib, Some(4.0));
        assert!((report.mb_per_second - 536.87).abs() < 0.01);
        assert_eq!(report.json()["other_cpu_seconds"], 3.0);
        assert!(report.table().contains("536.9"));
    }
}
