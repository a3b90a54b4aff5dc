//! `jangada consume`: records to stdout.
//!
//! Everything that came together is written together, and flushed before waiting for more, so that a reader of the pipe
//! never waits for what is there. Ctrl-C ends it as it ends any other filter.

use std::future::pending;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use jangada_client::{ClientError, ConsumedRecord, Consumer, ConsumerConfig, OffsetReset, Skipped};
use tokio::time::sleep;

use super::consume_group;
use super::consume_range::{Ends, Plan, matching};
use crate::brokers::Brokers;
use crate::cli::{ConsumeArgs, ConsumeOutput, UntilArg};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::note::note;
use crate::text::format::{Format, Forms};
use crate::text::jsonl;

/// After so long without a record somebody is told what is waited for.
const QUIET: Duration = Duration::from_secs(1);

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
            None => Format::parse(&args.format, forms(args))
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

fn forms(args: &ConsumeArgs) -> Forms {
    Forms {
        key: args.key_as,
        value: args.value_as,
        null: args.null.clone(),
    }
}

pub async fn run(brokers: &Brokers, args: &ConsumeArgs) -> Result<()> {
    if let Some(group) = &args.group.group {
        return consume_group::run(brokers, args, group).await;
    }
    let printer = Printer::new(args)?;
    let client = connect(brokers).await?;
    let topics = matching(&client, args).await?;
    let plan = Plan::of(&client, args, &topics).await?;
    let mut consumer = client.consumer(ConsumerConfig {
        offset_reset: args.reset.map_or(OffsetReset::Error, OffsetReset::from),
        on_bad_batch: args.on_bad_batch.into(),
        ..ConsumerConfig::default()
    })?;
    let partitions = plan.partitions.clone();
    consumer.assign(partitions).await?;
    // Who asks for an end wants what is there now.
    if args.partition.is_empty() && !args.exit_at_end && args.until.is_none() {
        consumer.follow(topics.iter().map(String::as_str).collect()).await?;
    }
    let ends = plan.ends(&client, args, &consumer).await?;

    let mut out = BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock());
    let mut left = args.max.unwrap_or(u64::MAX);
    let mut waits = Waits::new(args, &topics);
    while left > 0 && !ends.reached(&consumer) {
        let batch = match waits.next_batch(&mut consumer, left).await {
            Err(error) if passes(args, &error) => {
                note(&format!("warning: {error}; still trying"));
                continue;
            }
            batch => batch?,
        };
        left = print(&printer, &mut out, &ends, batch, left)?;
        out.flush()?;
    }
    tell_skipped(consumer.skipped());
    Ok(())
}

/// Prints the records that are wanted, of at most so many; gives how many are left.
fn print(
    printer: &Printer,
    out: &mut impl Write,
    ends: &Ends,
    batch: Vec<ConsumedRecord>,
    mut left: u64,
) -> io::Result<u64> {
    // A batch is of one partition, which may run ahead while another is not at its end yet.
    let Some(first) = batch.first() else { return Ok(left) };
    let end = ends.of(&first.topic, first.partition);
    for record in batch.iter().take_while(|record| record.offset < end) {
        if left == 0 {
            break;
        }
        printer.print(out, record)?;
        left -= 1;
    }
    Ok(left)
}

/// What this waits for, to be told once.
pub struct Waits {
    /// What of, and what it ends with.
    message: Option<(String, String)>,
    counts: bool,
}

impl Waits {
    /// Nothing is to be told of what ends with what is there now.
    pub fn new(args: &ConsumeArgs, topics: &[String]) -> Waits {
        let and = match &args.group.group {
            None => "ends this, and --exit-at-end would have ended it here".to_owned(),
            Some(group) => format!("commits what was printed and leaves group {group}"),
        };
        let until = match (args.until, args.max) {
            (Some(UntilArg::Offset(offset)), None) => format!(" until offset {offset}"),
            (Some(UntilArg::Offset(offset)), Some(_)) => format!(" or until offset {offset}"),
            _ => String::new(),
        };
        let message = (format!("{}{until}", topics.join(", ")), and);
        Waits {
            message: (!args.ends_now()).then_some(message),
            counts: args.max.is_some(),
        }
    }

    /// Completes with what is to be told when it has been quiet for so long; never if there is nothing to tell. `left`: how many
    /// records are still to come, if they are counted.
    pub async fn told(&mut self, left: u64) -> String {
        if self.message.is_none() {
            pending::<()>().await;
        }
        sleep(QUIET).await;
        let (of, and) = self.message.take().unwrap_or_default();
        let records = match (self.counts, left) {
            (false, _) => "more records".to_owned(),
            (true, 1) => "1 more record".to_owned(),
            (true, left) => format!("{left} more records"),
        };
        format!("waiting for {records} of {of}; Ctrl-C {and}")
    }

    /// The next records.
    async fn next_batch(
        &mut self,
        consumer: &mut Consumer,
        left: u64,
    ) -> std::result::Result<Vec<ConsumedRecord>, ClientError> {
        loop {
            tokio::select! {
                biased;
                batch = consumer.next_batch() => return batch,
                message = self.told(left) => note(&message),
            }
        }
    }
}

/// Says at the end what was left out.
pub fn tell_skipped(skipped: Skipped) {
    if skipped.batches > 0 {
        let Skipped { batches, records } = skipped;
        note(&format!(
            "warning: skipped {batches} batches that cannot be decoded, {records} records in all"
        ));
    }
}

/// Whether an error is waited out: one that may pass, unless the caller waits for this to end.
pub fn passes(args: &ConsumeArgs, error: &ClientError) -> bool {
    error.is_retryable() && !args.ends()
}
