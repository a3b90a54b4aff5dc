//! The figures of a run with a queue.

use serde::Serialize;
use serde_json::{Value, json};

use super::super::latency::LatencyFigures;
use super::super::memory::MemoryUse;
use crate::output::{Show, or_dash, plain_table};

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct QueueReport {
    /// The name of the bench.
    pub bench: &'static str,
    /// Messages that were sent, handed out, and acknowledged, or what was asked for of that.
    pub messages: u64,
    /// Messages that came more than once, counted each time.
    pub duplicates: u64,
    /// Messages whose lease was lost before they were acknowledged.
    pub lease_lost: u64,
    /// Messages that came before they were due.
    pub early: u64,
    /// Failures of poisoned messages.
    pub failures: u64,
    /// From the first send, or with a delay from the first due message, to the last acknowledgement.
    pub seconds: f64,
    pub messages_per_second: f64,
    /// From the time at which a message was due to be sent, or with a delay to come, until a consumer has it.
    pub latency: Option<LatencyFigures>,
    /// CPU seconds of this process.
    pub cpu_seconds: f64,
    /// CPU seconds of the named processes, if any were named.
    pub other_cpu_seconds: Option<f64>,
    /// Microseconds of CPU time of the named processes for each message, sent, handed out and acknowledged.
    pub other_cpu_us_per_message: Option<f64>,
    /// What the named processes take, before and after.
    pub memory: Vec<MemoryUse>,
}

impl QueueReport {
    /// The largest growth of a named process, bytes.
    fn grown_bytes(&self) -> Option<i64> {
        self.memory.iter().map(MemoryUse::grown_bytes).max()
    }
}

impl Show for QueueReport {
    fn table(&self) -> String {
        let latency =
            |figure: fn(&LatencyFigures) -> f64| or_dash(self.latency.as_ref().map(|l| format!("{:.3}", figure(l))));
        let header = [
            "bench",
            "messages",
            "duplicates",
            "lost",
            "early",
            "failures",
            "seconds",
            "messages/s",
            "p50_ms",
            "p99_ms",
            "p999_ms",
            "max_ms",
            "cpu_s",
            "other_cpu_s",
            "other_cpu_us/msg",
            "grown_mb",
        ];
        let row = [
            self.bench.to_owned(),
            self.messages.to_string(),
            self.duplicates.to_string(),
            self.lease_lost.to_string(),
            self.early.to_string(),
            self.failures.to_string(),
            format!("{:.2}", self.seconds),
            format!("{:.0}", self.messages_per_second),
            latency(|l| l.p50_ms),
            latency(|l| l.p99_ms),
            latency(|l| l.p999_ms),
            latency(|l| l.max_ms),
            format!("{:.2}", self.cpu_seconds),
            or_dash(self.other_cpu_seconds.map(|seconds| format!("{seconds:.2}"))),
            or_dash(self.other_cpu_us_per_message.map(|us| format!("{us:.1}"))),
            or_dash(self.grown_bytes().map(|bytes| format!("{:.1}", bytes as f64 / 1e6))),
        ];
        plain_table(header, [row])
    }

    fn json(&self) -> Value {
        json!(self)
    }
}
