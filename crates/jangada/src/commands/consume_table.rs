//! `jangada consume --as-table`: the newest record of each key, then the changes.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write as _};

use bytes::Bytes;
use jangada_client::ConsumedRecord;

use super::consume_output::{Printer, WRITE_BYTES, config, passes, report_skipped};
use super::consume_range::{Plan, matching};
use crate::brokers::Brokers;
use crate::cli::ConsumeArgs;
use crate::connect::connect;
use crate::errors::Result;
use crate::note::note;

/// The newest record of each key, by topic and key.
#[derive(Default)]
struct Rows(BTreeMap<(String, Bytes), ConsumedRecord>);

impl Rows {
    fn take(&mut self, record: ConsumedRecord) {
        let Some(key) = &record.key else { return };
        let place = (record.topic.to_string(), Bytes::copy_from_slice(key));
        match &record.value {
            // Copied: what a record has are slices of the whole response.
            Some(value) => {
                let kept = ConsumedRecord {
                    key: Some(place.1.clone()),
                    value: Some(Bytes::copy_from_slice(value)),
                    headers: record.headers.iter().map(copied).collect(),
                    ..record
                };
                self.0.insert(place, kept);
            }
            None => drop(self.0.remove(&place)),
        }
    }
}

fn copied(header: &jangada_client::Header) -> jangada_client::Header {
    jangada_client::Header {
        key: header.key.clone(),
        value: header.value.as_deref().map(Bytes::copy_from_slice),
    }
}

pub async fn run(brokers: &Brokers, args: &ConsumeArgs) -> Result<()> {
    let printer = Printer::new(args)?;
    let client = connect(brokers).await?;
    let topics = matching(&client, args).await?;
    let plan = Plan::of(&client, args, &topics).await?;
    let mut consumer = client.consumer(config(args))?;
    consumer.assign(plan.partitions.clone()).await?;
    if args.partition.is_empty() && !args.exit_at_end {
        consumer.follow(topics.iter().map(String::as_str).collect()).await?;
    }
    let ends = consumer.end_offsets().await?;
    let mut rows = Rows::default();
    while !consumer.reached(&ends) {
        consumer
            .next_batch()
            .await?
            .into_iter()
            .for_each(|record| rows.take(record));
    }
    let mut out = BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock());
    for record in std::mem::take(&mut rows.0).values() {
        printer.print(&mut out, record)?;
    }
    out.flush()?;
    if args.exit_at_end {
        report_skipped(consumer.skipped());
        return Ok(());
    }
    loop {
        let batch = match consumer.next_batch().await {
            Err(error) if passes(args, &error) => {
                note(&format!("warning: {error}; still trying"));
                continue;
            }
            batch => batch?,
        };
        for record in batch.iter().filter(|record| record.key.is_some()) {
            printer.print(&mut out, record)?;
        }
        out.flush()?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: Option<&str>, value: Option<&str>) -> ConsumedRecord {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        ConsumedRecord {
            topic: "t".into(),
            partition: 0,
            offset: 0,
            leader_epoch: None,
            timestamp_ms: 0,
            key: key.map(bytes),
            value: value.map(bytes),
            headers: Vec::new(),
        }
    }

    #[test]
    fn the_newest_value_of_each_key_stays() {
        let mut rows = Rows::default();
        for (key, value) in [
            (Some("b"), Some("1")),
            (Some("a"), Some("2")),
            (None, Some("nothing")),
            (Some("b"), Some("3")),
            (Some("c"), Some("4")),
            (Some("a"), None),
        ] {
            rows.take(record(key, value));
        }
        let values: Vec<_> = rows.0.values().map(|record| record.value.clone()).collect();
        assert_eq!(values, [Some(Bytes::from("3")), Some(Bytes::from("4"))]);
    }
}
