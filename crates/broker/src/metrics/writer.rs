//! Encodes families of metrics whose values are read at a scrape: HELP and TYPE, then one line per series. A family without a series
//! still has HELP and TYPE, which shows that it exists.

use std::fmt::Error;

use jangada_storage::{LATENCY_BUCKETS, LatencyHistogram};
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The first bucket of a latency that is shown: all below 2^8 µs, about a quarter of a millisecond. Finer ones would only cost series.
const FIRST_BUCKET: usize = 8;
const MICROSECONDS_PER_SECOND: f64 = 1e6;

/// The names of a series' labels with their values.
pub(crate) type Labels<'a, const N: usize> = [(&'static str, &'a str); N];

/// Encodes families into one scrape.
pub(crate) struct Writer<'a>(pub DescriptorEncoder<'a>);

impl Writer<'_> {
    fn family(&mut self, name: &str, help: &str, kind: MetricType) -> Family {
        // The registry also adds a full stop to the help of its metrics.
        let help = format!("{help}.");
        Family {
            name: name.to_owned(),
            help,
            kind,
        }
    }

    /// Encodes HELP and TYPE of a family, and then its series by `write`.
    fn write(
        &mut self,
        family: &Family,
        write: impl FnOnce(MetricEncoder<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        write(
            self.0
                .encode_descriptor(&family.name, &family.help, None, family.kind)?,
        )
    }

    /// A family of one gauge.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> Result<(), Error> {
        let family = self.family(name, help, MetricType::Gauge);
        self.write(&family, |mut encoder| encoder.encode_gauge(&value))
    }

    /// A family of one gauge, or of none while its value is unknown.
    pub fn known_gauge(&mut self, name: &str, help: &str, value: Option<impl EncodeGaugeValue>) -> Result<(), Error> {
        let family = self.family(name, help, MetricType::Gauge);
        self.write(&family, |mut encoder| match value {
            Some(value) => encoder.encode_gauge(&value),
            None => Ok(()),
        })
    }

    /// A family of gauges with labels.
    pub fn gauges<'a, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'a, N>, V)>,
    ) -> Result<(), Error> {
        let family = self.family(name, help, MetricType::Gauge);
        self.write(&family, |mut encoder| {
            for (labels, value) in series {
                encoder.encode_family(&labels)?.encode_gauge(&value)?;
            }
            Ok(())
        })
    }

    /// A family of one counter. `name` is without `_total`.
    pub fn counter(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> Result<(), Error> {
        self.known_counter(name, help, Some(value))
    }

    /// A family of one counter, or of none while its value is unknown.
    pub fn known_counter(
        &mut self,
        name: &str,
        help: &str,
        value: Option<impl EncodeCounterValue>,
    ) -> Result<(), Error> {
        let family = self.family(name, help, MetricType::Counter);
        self.write(&family, |mut encoder| match value {
            Some(value) => encoder.encode_counter::<NoLabelSet, _, f64>(&value, None),
            None => Ok(()),
        })
    }

    /// A family of counters with labels.
    pub fn counters<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'a, N>, u64)>,
    ) -> Result<(), Error> {
        let family = self.family(name, help, MetricType::Counter);
        self.write(&family, |mut encoder| {
            for (labels, value) in series {
                let mut encoder = encoder.encode_family(&labels)?;
                encoder.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
            }
            Ok(())
        })
    }

    /// A family of one histogram of durations, in seconds.
    pub fn latency(&mut self, name: &str, help: &str, latency: &LatencyHistogram) -> Result<(), Error> {
        let family = self.family(name, help, MetricType::Histogram);
        self.write(&family, |encoder| encode(encoder, latency))
    }

    /// A family of histograms of durations with labels.
    pub fn latencies<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Labels<'a, N>, LatencyHistogram)>,
    ) -> Result<(), Error> {
        let family = self.family(name, help, MetricType::Histogram);
        self.write(&family, |mut encoder| {
            for (labels, latency) in series {
                encode(encoder.encode_family(&labels)?, &latency)?;
            }
            Ok(())
        })
    }
}

/// Name, HELP and TYPE of a family.
struct Family {
    name: String,
    help: String,
    kind: MetricType,
}

fn encode(mut encoder: MetricEncoder<'_>, latency: &LatencyHistogram) -> Result<(), Error> {
    let below: u64 = latency.buckets[..FIRST_BUCKET].iter().sum();
    let buckets: Vec<(f64, u64)> = (FIRST_BUCKET..LATENCY_BUCKETS)
        .map(|bucket| {
            let bound = LatencyHistogram::bound_us(bucket);
            let bound = bound.map_or(f64::INFINITY, |us| us as f64 / MICROSECONDS_PER_SECOND);
            let more = if bucket == FIRST_BUCKET { below } else { 0 };
            (bound, latency.buckets[bucket] + more)
        })
        .collect();
    let sum = latency.sum_us as f64 / MICROSECONDS_PER_SECOND;
    encoder.encode_histogram::<NoLabelSet>(sum, latency.count(), &buckets, None)
}
