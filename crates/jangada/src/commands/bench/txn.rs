//! `bench txn`: what transactions cost, beside plain records in the same run.
//!
//! First the time of one transaction after the other: a plain record and its acknowledgement, then a transaction, in turn, so that both
//! meet the same cluster. Then throughput: plain records as fast as possible, then the same in transactions that are committed every so
//! often.

use std::time::{Duration, Instant};

use jangada_client::{
    Client, GroupMetadata, OffsetCommit, Producer, ProducerConfig, ProducerRecord, TopicPartition, TransactionOptions,
    TransactionalProducer,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::latency::{Latencies, LatencyFigures};
use super::payload::Payload;
use crate::brokers::Brokers;
use crate::cli::{PayloadKind, TxnBench};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::output::{Show, plain_table};

/// The figures of both kinds of records.
#[derive(Debug, Serialize)]
pub struct TxnReport {
    /// Number of transactions whose times are below.
    transactions: u64,
    /// Records of each.
    records: u32,
    /// A plain record until it is acknowledged.
    plain: Option<LatencyFigures>,
    /// A transaction from its first record until it is seen.
    whole: Option<LatencyFigures>,
    /// The commit alone, after all records and offsets were acknowledged, until the transaction is seen.
    commit: Option<LatencyFigures>,
    /// Plain records a second, as fast as possible.
    plain_records_per_second: f64,
    /// The same in transactions.
    transactional_records_per_second: f64,
    /// Number of transactions that those were in.
    throughput_transactions: u64,
}

impl TxnReport {
    fn ratio(&self) -> f64 {
        match self.plain_records_per_second > 0.0 {
            true => self.transactional_records_per_second / self.plain_records_per_second,
            false => 0.0,
        }
    }
}

impl Show for TxnReport {
    fn table(&self) -> String {
        let row = |name: &str, figures: &Option<LatencyFigures>| {
            let show = |figure: fn(&LatencyFigures) -> f64| {
                figures
                    .as_ref()
                    .map_or_else(|| "-".to_owned(), |figures| format!("{:.3}", figure(figures)))
            };
            [
                name.to_owned(),
                show(|figures| figures.p50_ms),
                show(|figures| figures.p99_ms),
                show(|figures| figures.max_ms),
            ]
        };
        let latencies = plain_table(
            ["time", "p50_ms", "p99_ms", "max_ms"],
            [
                row("plain record", &self.plain),
                row("transaction", &self.whole),
                row("commit alone", &self.commit),
            ],
        );
        let throughput = plain_table(
            ["throughput", "records/s", "transactions"],
            [
                [
                    "plain".to_owned(),
                    format!("{:.0}", self.plain_records_per_second),
                    "-".to_owned(),
                ],
                [
                    "in transactions".to_owned(),
                    format!(
                        "{:.0} ({:.0} %)",
                        self.transactional_records_per_second,
                        100.0 * self.ratio()
                    ),
                    self.throughput_transactions.to_string(),
                ],
            ],
        );
        format!("{latencies}\n{throughput}")
    }

    fn json(&self) -> Value {
        let mut json = json!(self);
        json["throughput_ratio"] = json!(self.ratio());
        json
    }
}

struct Work<'a> {
    args: &'a TxnBench,
    partitions: Vec<TopicPartition>,
    plain: Producer,
    transactional: TransactionalProducer,
    payload: Payload,
    /// Counts the records, for their partitions.
    sent: u64,
}

pub async fn run(brokers: &Brokers, args: &TxnBench) -> Result<TxnReport> {
    let client = connect(brokers).await?;
    let mut work = Work::new(&client, args).await?;
    let mut report = work.times().await?;
    let duration = Duration::from_secs(args.seconds);
    if args.seconds > 0 {
        report.plain_records_per_second = work.plain_throughput(duration).await?;
        let (rate, transactions) = work.transactional_throughput(duration).await?;
        report.transactional_records_per_second = rate;
        report.throughput_transactions = transactions;
    }
    work.plain.close().await;
    work.transactional.close().await;
    Ok(report)
}

impl<'a> Work<'a> {
    async fn new(client: &Client, args: &'a TxnBench) -> Result<Work<'a>> {
        let mut partitions = client.admin().topic_partitions(&args.topic).await?;
        if let Some(wanted) = args.partitions {
            partitions.truncate(wanted as usize);
        }
        if partitions.is_empty() {
            return Err(CliError::new(format!("topic {:?} has no partitions", args.topic)));
        }
        let options = TransactionOptions {
            producer: config(),
            early: args.early,
            ..TransactionOptions::default()
        };
        Ok(Work {
            args,
            partitions,
            plain: client.producer(config())?,
            transactional: TransactionalProducer::open(client, args.transactional_id.as_str(), options).await?,
            payload: Payload::new(PayloadKind::Random, args.record_bytes as usize),
            sent: 0,
        })
    }

    fn record(&mut self) -> ProducerRecord {
        record(&self.partitions, &mut self.payload, &mut self.sent)
    }

    /// The times of one transaction after the other, each behind a plain record.
    async fn times(&mut self) -> Result<TxnReport> {
        let (mut plain, mut whole, mut commit) = (Latencies::new(), Latencies::new(), Latencies::new());
        for nth in 0..self.args.transactions {
            let record = self.record();
            let start = Instant::now();
            self.plain.send(record).await?.await?;
            plain.record(start.elapsed());
            let records: Vec<_> = (0..self.args.records).map(|_| self.record()).collect();
            let start = Instant::now();
            let transaction = self.transactional.begin().await?;
            let mut deliveries = Vec::with_capacity(records.len());
            for record in records {
                deliveries.push(transaction.send(record).await?);
            }
            if let Some(group) = &self.args.group {
                let offset = OffsetCommit::new(self.partitions[0].clone(), nth as i64);
                let group = GroupMetadata::outside(group.as_str());
                transaction.commit_offsets(&group, &[offset]).await?;
            }
            for delivery in deliveries {
                delivery.await?;
            }
            let end = Instant::now();
            transaction.commit().await?;
            commit.record(end.elapsed());
            whole.record(start.elapsed());
        }
        Ok(TxnReport {
            transactions: self.args.transactions,
            records: self.args.records,
            plain: plain.figures(),
            whole: whole.figures(),
            commit: commit.figures(),
            plain_records_per_second: 0.0,
            transactional_records_per_second: 0.0,
            throughput_transactions: 0,
        })
    }

    async fn plain_throughput(&mut self, duration: Duration) -> Result<f64> {
        let (start, first) = (Instant::now(), self.sent);
        let mut last = None;
        while start.elapsed() < duration {
            let record = self.record();
            last = Some(self.plain.send(record).await?);
        }
        self.plain.flush().await;
        if let Some(delivery) = last {
            delivery.await?;
        }
        Ok((self.sent - first) as f64 / start.elapsed().as_secs_f64())
    }

    async fn transactional_throughput(&mut self, duration: Duration) -> Result<(f64, u64)> {
        let interval = Duration::from_millis(self.args.interval_ms);
        let (start, first) = (Instant::now(), self.sent);
        let mut transactions = 0;
        while start.elapsed() < duration {
            let begun = Instant::now();
            // The transaction borrows the producer alone.
            let Work {
                transactional,
                partitions,
                payload,
                sent,
                ..
            } = self;
            let transaction = transactional.begin().await?;
            while begun.elapsed() < interval {
                drop(transaction.send(record(partitions, payload, sent)).await?);
            }
            transaction.commit().await?;
            transactions += 1;
        }
        let rate = (self.sent - first) as f64 / start.elapsed().as_secs_f64();
        Ok((rate, transactions))
    }
}

/// The next record: each partition in turn gets one.
fn record(partitions: &[TopicPartition], payload: &mut Payload, sent: &mut u64) -> ProducerRecord {
    *sent += 1;
    let partition = &partitions[(*sent % partitions.len() as u64) as usize];
    ProducerRecord::new(partition.topic.clone())
        .with_partition(partition.partition)
        .with_value(payload.next())
}

fn config() -> ProducerConfig {
    ProducerConfig {
        linger: Duration::ZERO,
        ..ProducerConfig::default()
    }
}
