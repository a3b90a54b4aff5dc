//! What all forms of `jangada consume` share: how records are read and printed, and what the user is told meanwhile.

use std::future::pending;
use std::io::{self, Write};
use std::time::Duration;

use jangada_client::{ClientError, ConsumedRecord, Consumer, ConsumerConfig, OffsetReset, Skipped};
use tokio::time::sleep;

use crate::cli::{ConsumeArgs, ConsumeOutput, UntilArg};
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

/// How a consumer without a group reads.
pub fn config(args: &ConsumeArgs) -> ConsumerConfig {
    ConsumerConfig {
        offset_reset: args.reset.map_or(OffsetReset::Error, OffsetReset::from),
        on_bad_batch: args.on_bad_batch.into(),
        isolation: args.isolation.into(),
        ..ConsumerConfig::default()
    }
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
    pub async fn next_batch(
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
