//! `bench consume`: reads a topic from its start to the end that it has now.

use std::time::Instant;

use jangada_client::{ConsumerConfig, StartAt};

use super::cpu::CpuMeter;
use super::report::Report;
use crate::brokers::Brokers;
use crate::cli::ConsumeBench;
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::progress;

pub async fn run(brokers: &Brokers, args: &ConsumeBench) -> Result<Report> {
    let client = connect(brokers).await?;
    let config = ConsumerConfig {
        prefetch_bytes: args.prefetch_bytes as usize,
        isolation: args.isolation.into(),
        ..ConsumerConfig::default()
    };
    let mut consumer = client.consumer(config)?;
    let bar = progress::bytes(None, "read");
    let meter = CpuMeter::start(&args.cpu)?;
    let start = Instant::now();
    consumer.assign_topic(&args.topic, StartAt::Earliest).await?;
    let ends = consumer.end_offsets().await?;
    let (mut records, mut bytes) = (0, 0);
    while !consumer.reached(&ends) {
        let (more_records, more_bytes) = if args.decode {
            let batch = consumer.next_batch().await?;
            let size = |record: &jangada_client::ConsumedRecord| {
                record.key.as_ref().map_or(0, |k| k.len()) + record.value.as_ref().map_or(0, |v| v.len())
            };
            (batch.len() as u64, batch.iter().map(size).sum::<usize>() as u64)
        } else {
            let raw = consumer.next_raw().await?;
            (raw.records(), raw.batches.len() as u64)
        };
        records += more_records;
        bytes += more_bytes;
        bar.inc(more_bytes);
    }
    let seconds = start.elapsed().as_secs_f64();
    bar.finish_and_clear();
    if records == 0 {
        return Err(CliError::new(format!("topic {:?} has no records to read", args.topic))
            .hint("`jangada bench produce` writes some"));
    }
    Ok(Report::new("consume", records, bytes, seconds, meter.stop()?, None))
}
