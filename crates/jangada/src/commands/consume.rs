//! `jangada consume`: records to stdout.
//!
//! Records that came together are written together, and flushed before waiting for more, so that a reader of the pipe
//! never waits for records that are there. Ctrl-C ends it as it ends any other filter.

use std::io::{self, BufWriter, Write};

use jangada_client::ConsumedRecord;

use super::consume_output::{Printer, WRITE_BYTES, Waits, config, passes, report_skipped};
use super::consume_range::{Ends, Plan, matching};
use super::{consume_group, consume_table};
use crate::brokers::Brokers;
use crate::cli::ConsumeArgs;
use crate::connect::connect;
use crate::errors::Result;
use crate::note::note;

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
