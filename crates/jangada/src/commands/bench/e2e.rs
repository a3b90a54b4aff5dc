//! `bench e2e`: measures from the scheduled send to the consumer that has the record.
//!
//! Each record carries the number of the run and its own, so that the consumer knows when it was due, and that each
//! came once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use jangada_client::{Client, Consumer, ConsumerConfig, OffsetAt, ProducerConfig, ProducerRecord, StartAt};

use super::cpu::CpuMeter;
use super::latency::Latencies;
use super::payload::Payload;
use super::report::Report;
use super::schedule::Schedule;
use crate::brokers::Brokers;
use crate::cli::{E2eBench, PayloadKind};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::progress;

/// Timeout for the last records after the last acknowledgement.
const LAST_WAIT: Duration = Duration::from_secs(30);

/// Most records of one run; each takes a byte of memory.
const RECORDS_MAX: u64 = 1 << 30;

/// Bytes of the two numbers at the front of a value.
const STAMP_BYTES: usize = 16;

pub async fn run(brokers: &Brokers, args: &E2eBench) -> Result<Report> {
    let records = (args.rate * args.seconds as f64).ceil() as u64;
    if records > RECORDS_MAX {
        let message = format!(
            "--rate {} for --seconds {} is {records} records",
            args.rate, args.seconds
        );
        return Err(CliError::usage(message).hint(format!("each is kept track of: at most {RECORDS_MAX}")));
    }
    let client = connect(brokers).await?;
    let consumer = consumer_at_end(&client, &args.topic).await?;
    let config = ProducerConfig {
        linger: Duration::from_millis(args.linger_ms),
        ..ProducerConfig::default()
    };
    let producer = client.producer(config)?;
    let topic: Arc<str> = args.topic.as_str().into();
    let run: u64 = rand::random();
    let mut payload = Payload::new(PayloadKind::Random, args.record_bytes as usize - STAMP_BYTES);

    let spinner = progress::waiting("writing and reading");
    let meter = CpuMeter::start(&args.cpu)?;
    let schedule = Arc::new(Schedule::start(args.rate));
    let start = Instant::now();
    let reading = tokio::spawn(read(consumer, run, records, schedule.clone()));
    for i in 0..records {
        let mut record = ProducerRecord::new(topic.clone());
        record.value = Some(stamped(run, i, &payload.next()));
        schedule.wait(i).await;
        // The consumer sees whether the record arrived.
        let _delivery = producer.send(record).await?;
    }
    producer.flush().await;
    let late = || {
        CliError::new(format!(
            "not every record came within {} s after the last was sent",
            LAST_WAIT.as_secs()
        ))
    };
    let read = tokio::time::timeout(LAST_WAIT, reading).await.map_err(|_| late())?;
    let latencies = read.map_err(|error| CliError::new(format!("the reading task: {error}")))??;
    let seconds = start.elapsed().as_secs_f64();
    producer.close().await;
    spinner.finish_and_clear();
    Ok(Report::new(
        "e2e",
        records,
        records * u64::from(args.record_bytes),
        seconds,
        meter.stop()?,
        latencies.figures(),
    ))
}

/// A consumer of all partitions that begins after everything that is there now.
async fn consumer_at_end(client: &Client, topic: &str) -> Result<Consumer> {
    let partitions = client.topic(topic).await?.partitions.len();
    let mut starts = Vec::new();
    for partition in (0..).take(partitions) {
        let end = client.list_offsets(topic, partition, OffsetAt::Latest).await?.offset;
        starts.push((topic, partition, end.map_or(StartAt::Latest, StartAt::Offset)));
    }
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer.assign(starts).await?;
    Ok(consumer)
}

/// Reads until each of the run's records has come; each must come once.
async fn read(mut consumer: Consumer, run: u64, records: u64, schedule: Arc<Schedule>) -> Result<Latencies> {
    let mut latencies = Latencies::new();
    let mut seen = vec![false; usize::try_from(records).expect("a count of records fits into memory")];
    let mut left = records;
    while left > 0 {
        let batch = consumer.next_batch().await?;
        let now = Instant::now();
        for i in batch.iter().filter_map(|record| stamp(record.value.as_deref()?, run)) {
            let place = usize::try_from(i).ok().and_then(|i| seen.get_mut(i));
            let place = place.ok_or_else(|| CliError::new(format!("record {i} came, which was not sent")))?;
            if std::mem::replace(place, true) {
                return Err(CliError::new(format!("record {i} came twice")));
            }
            latencies.record(now.saturating_duration_since(schedule.due(i)));
            left -= 1;
        }
    }
    Ok(latencies)
}

fn stamped(run: u64, i: u64, payload: &[u8]) -> Bytes {
    let mut value = BytesMut::with_capacity(STAMP_BYTES + payload.len());
    value.extend_from_slice(&run.to_be_bytes());
    value.extend_from_slice(&i.to_be_bytes());
    value.extend_from_slice(payload);
    value.freeze()
}

/// The number of a record of this run.
fn stamp(value: &[u8], run: u64) -> Option<u64> {
    let rest = value.strip_prefix(&run.to_be_bytes())?;
    rest.first_chunk().map(|number| u64::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_reads_back_in_its_run_only() {
        let value = stamped(7, 42, b"rest");
        assert_eq!(value.len(), STAMP_BYTES + 4);
        assert_eq!(stamp(&value, 7), Some(42));
        assert_eq!(stamp(&value, 8), None);
        assert_eq!(stamp(b"short", 7), None);
    }
}
