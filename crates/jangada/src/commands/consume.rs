//! `jangada consume`: records to stdout.
//!
//! Everything that came together is written together, and flushed before waiting for more, so that a reader of the pipe
//! never waits for what is there. Ctrl-C ends it as it ends any other filter.

use std::io::{self, BufWriter, Write};

use jangada_client::{Client, ClientError, ConsumedRecord, ConsumerConfig, EndOffsets, OffsetAt, StartAt};

use super::consume_group;
use crate::cli::{BrokersArgs, ConsumeArgs, ConsumeOutput, FromArg};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::output::note;
use crate::text::format::Format;
use crate::text::jsonl;

/// Room for output, bytes.
pub const WRITE_BYTES: usize = 256 * 1024;

/// How records are printed.
pub enum Printer {
    Formatted(Format),
    Jsonl,
}

impl Printer {
    pub fn new(args: &ConsumeArgs) -> Result<Printer> {
        match args.output {
            Some(ConsumeOutput::Jsonl) => Ok(Printer::Jsonl),
            None => Format::parse(&args.format)
                .map(Printer::Formatted)
                .map_err(|error| CliError::usage(format!("--format {:?}: {error}", args.format))),
        }
    }

    pub fn print(&self, out: &mut impl Write, record: &ConsumedRecord) -> io::Result<()> {
        match self {
            Printer::Formatted(format) => format.write(out, record),
            Printer::Jsonl => jsonl::write(out, record),
        }
    }
}

pub async fn run(brokers: &BrokersArgs, args: &ConsumeArgs) -> Result<()> {
    if let Some(group) = &args.group.group {
        return consume_group::run(brokers, args, group).await;
    }
    let printer = Printer::new(args)?;
    let client = connect(brokers).await?;
    let partitions = partitions(args, client.topic(&args.topic).await?.partitions.len())?;
    let start = StartAt::from(args.from);
    let mut consumer = client.consumer(ConsumerConfig::default())?;
    consumer
        .assign(
            partitions
                .iter()
                .map(|partition| (args.topic.as_str(), *partition, start))
                .collect(),
        )
        .await?;
    let ends = if args.exit_at_end {
        Some(consumer.end_offsets().await?)
    } else {
        None
    };
    if let (Some(ends), StartAt::Offset(offset)) = (&ends, start) {
        for partition in partitions {
            check_start(&client, args, partition, offset, end_of(ends, partition)).await?;
        }
    }

    let mut out = BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock());
    let mut left = args.max.unwrap_or(u64::MAX);
    while left > 0 && !ends.as_ref().is_some_and(|ends| consumer.reached(ends)) {
        let batch = match consumer.next_batch().await {
            Err(error) if passes(args, &error) => {
                note(&format!("warning: {error}; still trying"));
                continue;
            }
            batch => batch?,
        };
        for record in batch {
            if left == 0 {
                break;
            }
            // One partition may run ahead while another is not at its end yet.
            if ends
                .as_ref()
                .is_none_or(|ends| record.offset < end_of(ends, record.partition))
            {
                printer.print(&mut out, &record)?;
                left -= 1;
            }
        }
        out.flush()?;
    }
    Ok(())
}

/// Whether an error is waited out: one that may pass, unless the caller waits for this to end.
pub fn passes(args: &ConsumeArgs, error: &ClientError) -> bool {
    error.is_retryable() && !args.exit_at_end && args.max.is_none()
}

/// To begin behind the end is an error, not the end that was to be waited for.
async fn check_start(client: &Client, args: &ConsumeArgs, partition: u32, offset: i64, end: i64) -> Result<()> {
    if offset <= end {
        return Ok(());
    }
    let topic = args.topic.as_str();
    let first = client.list_offsets(topic, partition, OffsetAt::Earliest).await?;
    Err(CliError::from(ClientError::OffsetOutOfRange {
        topic: topic.into(),
        partition,
        offset,
        log_start_offset: first.offset.unwrap_or(0),
        high_watermark: end,
    }))
}

/// Where a partition of the one topic ends.
fn end_of(ends: &EndOffsets, partition: u32) -> i64 {
    let end = ends.iter().find(|(_, other, _)| *other == partition);
    end.map_or(i64::MAX, |(_, _, offset)| offset)
}

/// The partitions to read.
fn partitions(args: &ConsumeArgs, count: usize) -> Result<Vec<u32>> {
    match (args.partition, args.from) {
        // One that does not exist is refused by the client, with the number of partitions.
        (Some(partition), _) => Ok(vec![partition]),
        (None, FromArg::Offset(offset)) if count > 1 => {
            let message = format!(
                "topic {:?} has {count} partitions, which do not share offset {offset}",
                args.topic
            );
            Err(CliError::usage(message)
                .hint("name one with --partition, or begin with --from earliest, latest or a time"))
        }
        (None, _) => Ok((0..).take(count).collect()),
    }
}
