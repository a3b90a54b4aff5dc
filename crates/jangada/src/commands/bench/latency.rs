//! Latencies, in nanoseconds, with three significant digits from 1 ns to 10 minutes.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer latencies count as this one.
const LONGEST: Duration = Duration::from_secs(600);

/// A distribution of latencies.
pub struct Latencies {
    histogram: Histogram<u64>,
}

/// The figures of a distribution, milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LatencyFigures {
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Latencies {
    pub fn new() -> Latencies {
        let longest = u64::try_from(LONGEST.as_nanos()).expect("10 minutes are few nanoseconds");
        Latencies {
            histogram: Histogram::new_with_bounds(1, longest, 3).expect("the bounds are valid"),
        }
    }

    pub fn record(&mut self, latency: Duration) {
        self.histogram
            .saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    pub fn merge(&mut self, other: &Latencies) {
        self.histogram.add(&other.histogram).expect("all have the same bounds");
    }

    /// The figures; none if nothing was recorded.
    pub fn figures(&self) -> Option<LatencyFigures> {
        if self.histogram.is_empty() {
            return None;
        }
        let milliseconds = |nanoseconds: u64| nanoseconds as f64 / 1e6;
        let quantile = |q: f64| milliseconds(self.histogram.value_at_quantile(q));
        Some(LatencyFigures {
            count: self.histogram.len(),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
            max_ms: milliseconds(self.histogram.max()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_within_a_thousandth() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.figures(), None);
        for milliseconds in 1..=1000 {
            latencies.record(Duration::from_millis(milliseconds));
        }
        latencies.record(Duration::from_secs(10_000));
        let figures = latencies.figures().expect("there are some");
        assert_eq!(figures.count, 1001);
        assert!((figures.p50_ms - 501.0).abs() < 1.0, "{figures:?}");
        assert!((figures.p99_ms - 991.0).abs() < 1.5, "{figures:?}");
        assert!((figures.max_ms - 600_000.0).abs() < 600.0, "{figures:?}");
    }
}
