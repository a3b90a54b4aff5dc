//! `jangada consume`: records to stdout.
//!
//! Records that came together are written together, and flushed before waiting for more, so that a reader of the pipe
//! never waits for records that are there. Ctrl-C ends it as it ends any other filter.

use std::future::pending;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use jangada_client::{ClientError, ConsumedRecord, Consumer, ConsumerConfig, OffsetReset, Skipped};
use tokio::time::sleep;

use super::consume_range::{Ends, Plan, matching};
use super::{consume_group, consume_table};
use crate::brokers::Brokers;
use crate::cli::{ConsumeArgs, ConsumeOutput, UntilArg};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::note::note;
use crate::text::format::{Format, Forms};
use crate::text::jsonl;

/// Delay without a record after which the user is told what is waited for.
const QUIET_DELAY: Duration = Duration::from_secs(1);

/// Bytes of the output buffer.
pub const WRITE_BYTES: usize = 256 * 1024;

/// The format in which records are printed.
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
    if args.as_table {
        return consume_table::run(brokers, args).await;
    }
    let printer = Printer::new(args)?;
    let client = connect(brokers).await?;
    let topics = matching(&client, args).await?;
    let plan = Plan::of(&client, args, &topics).await?;
    let mut consumer = client.consumer(config(args))?;
    let partitions = plan.partitions.clone();
    consumer.assign(partitions).await?;
    // A user who asks for an end wants the records that are there now.
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
    report_skipped(consumer.skipped());
    Ok(())
}

/// How a consumer without a group reads.
pub fn config(args: &ConsumeArgs) -> ConsumerConfig {
    ConsumerConfig {
        offset_reset: args.reset.map_or(OffsetReset::Error, OffsetReset::from),
        on_bad_batch: args.on_bad_batch.into(),
        isolation: args.isolation.into(),
        ..ConsumerConfig::default()
    }
}

/// Prints the wanted records, of at most `left`; returns how many are left.
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

/// The message about what is waited for, which is shown once.
pub struct Waits {
    /// The message: what is waited for, and how the waiting ends.
    message: Option<(String, String)>,
    counts: bool,
}

impl Waits {
    /// There is no message for a command that ends with the records that are there now.
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

    /// Completes with the message when no record has come for [`QUIET_DELAY`]; never if there is no message. `left` is
    /// the number of records that are still to come, if they are counted.
    pub async fn message_when_quiet(&mut self, left: u64) -> String {
        if self.message.is_none() {
            pending::<()>().await;
        }
        sleep(QUIET_DELAY).await;
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
                message = self.message_when_quiet(left) => note(&message),
            }
        }
    }
}

/// Reports at the end which records were skipped.
pub fn report_skipped(skipped: Skipped) {
    if skipped.batches > 0 {
        let Skipped { batches, records } = skipped;
        note(&format!(
            "warning: skipped {batches} batches that cannot be decoded, {records} records in all"
        ));
    }
}

/// Whether the command waits until the error passes: it may pass, and the caller does not wait for the command to end.
pub fn passes(args: &ConsumeArgs, error: &ClientError) -> bool {
    error.is_retryable() && !args.ends()
}
