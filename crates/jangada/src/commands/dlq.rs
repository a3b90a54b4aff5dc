//! `jangada dlq ...`: lists dead letters of queues, shows them, lets them go out again, deletes them.

use std::collections::BTreeMap;
use std::io::{self, BufWriter, Write as _};

use indicatif::HumanCount;
use jangada_client::{Admin, Client, DeadFilter, DeadLetter, DeadLetters, MessageState, PeekedMessage, Redrive};
use serde_json::{Value, json};
use tokio::signal::ctrl_c;

use super::queue::partitions_of;
use super::queue_messages::print;
use crate::brokers::Brokers;
use crate::cli::{DeadArgs, DlqCommand, QueueOutput};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::output::{OutputArgs, Show, plain_table};
use crate::progress;
use crate::text::queue_jsonl;

/// Dead letters that one call shows.
const PEEK_MAX: u32 = 1_000;
/// Bytes of the output buffer.
const WRITE_BYTES: usize = 256 * 1024;

pub async fn run(brokers: &Brokers, command: DlqCommand) -> Result<()> {
    if let DlqCommand::Purge { dead, yes: false, .. } = &command {
        let message = format!(
            "dead letters of queue {:?} would be deleted for good: say so with --yes",
            dead.name
        );
        return Err(CliError::usage(message).hint("nothing was deleted"));
    }
    let client = connect(brokers).await?;
    match command {
        DlqCommand::Ls { dead, output } => list(&client.admin(), &dead, output).await,
        DlqCommand::Peek { dead, max, output } => peek(&client, &dead, max, output).await,
        DlqCommand::Redrive {
            dead,
            rate,
            dry_run,
            output,
        } => redrive(&client.admin(), &dead, (rate.unwrap_or(0), dry_run), output).await,
        DlqCommand::Purge { dead, output, .. } => purge(&client.admin(), &dead, output).await,
    }
}

fn filter(args: &DeadArgs) -> DeadFilter {
    let ms = |ms: i64| u64::try_from(ms).unwrap_or(0);
    DeadFilter {
        reasons: args.reason.clone(),
        died_from_ms: args.died_since.map(|since| ms(since.0)),
        died_before_ms: args.died_before.map(|before| ms(before.0)),
        key: args.key.clone().map(Into::into),
    }
}

fn wanted(args: &DeadArgs, partition: u32) -> DeadLetters {
    DeadLetters {
        partition,
        filter: filter(args),
        ..DeadLetters::default()
    }
}

async fn list(admin: &Admin, args: &DeadArgs, output: OutputArgs) -> Result<()> {
    let mut listed = Listed(Vec::new());
    for partition in partitions_of(admin, &args.name, args.partition).await? {
        let mut wanted = wanted(args, partition);
        loop {
            let (letters, next) = admin.list_dead(&args.name, &wanted).await?;
            listed.0.extend(letters.into_iter().map(|letter| (partition, letter)));
            match next {
                Some(next) => wanted.from_offset = next,
                None => break,
            }
        }
    }
    output.show(&listed)
}

/// Shows dead letters: a list says which of them fit, and their messages are looked at from the first of these on.
async fn peek(client: &Client, args: &DeadArgs, max: u64, output: QueueOutput) -> Result<()> {
    let (admin, queue) = (client.admin(), client.queue(args.name.as_str()));
    let mut out = BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock());
    for partition in partitions_of(&admin, &args.name, args.partition).await? {
        let (mut wanted, mut left) = (wanted(args, partition), max);
        'letters: loop {
            let (letters, next) = admin.list_dead(&args.name, &wanted).await?;
            let fits: BTreeMap<i64, DeadLetter> = letters.into_iter().map(|letter| (letter.offset, letter)).collect();
            let mut from = fits.keys().next().copied();
            let end = fits.keys().next_back().copied();
            while let Some(at) = from {
                let peeked = queue.peek(partition, at, &[MessageState::Dead], PEEK_MAX).await?;
                for shown in peeked
                    .messages
                    .iter()
                    .filter(|shown| fits.contains_key(&shown.message.place.offset))
                {
                    show(&mut out, output, shown)?;
                    left -= 1;
                    if left == 0 {
                        break 'letters;
                    }
                }
                from = peeked.next_offset.filter(|next| Some(*next) <= end && *next > at);
            }
            match next {
                Some(next) => wanted.from_offset = next,
                None => break,
            }
        }
    }
    Ok(out.flush()?)
}

fn show(out: &mut impl io::Write, output: QueueOutput, shown: &PeekedMessage) -> io::Result<()> {
    match output {
        QueueOutput::Jsonl => queue_jsonl::write_peeked(out, shown),
        QueueOutput::Lines => print(out, output, &shown.message),
    }
}

async fn redrive(admin: &Admin, args: &DeadArgs, (rate, dry_run): (u32, bool), output: OutputArgs) -> Result<()> {
    let wanted = Redrive {
        places: args.partition.map(|partition| (partition, 0)).into_iter().collect(),
        filter: filter(args),
        rate,
        dry_run,
    };
    let mut redriving = admin.redrive_dead(&args.name, wanted).await?;
    let bar = progress::waiting("looking for dead letters");
    let mut is_interrupted = false;
    let failed = loop {
        let step = tokio::select! {
            step = redriving.next() => step,
            _ = ctrl_c() => {
                is_interrupted = true;
                None
            }
        };
        match step {
            Some(Ok(progress)) => {
                let messages = HumanCount(progress.messages);
                let left = progress.left.len();
                bar.set_message(format!("{messages} dead letters, {left} partitions left"));
            }
            Some(Err(error)) => break Some(error),
            None => break None,
        }
    };
    bar.finish_and_clear();
    let progress = redriving.progress();
    let did = if dry_run { "would go out again" } else { "go out again" };
    let stay = match progress.refused {
        0 => String::new(),
        stay => format!("; {stay} stay dead: a later message of their key is done"),
    };
    let sentence = format!("{} dead letters of queue {} {did}{stay}", progress.messages, args.name);
    if let Some(error) = failed {
        return Err(CliError::from(error).doing(format_args!("{sentence}; then")));
    }
    if is_interrupted {
        return Err(CliError::new(format!("interrupted: {sentence}")));
    }
    let json = json!({ "messages": progress.messages, "refused": progress.refused });
    output.done(&sentence, json)
}

async fn purge(admin: &Admin, args: &DeadArgs, output: OutputArgs) -> Result<()> {
    let (mut messages, mut refused) = (0u64, 0u64);
    for partition in partitions_of(admin, &args.name, args.partition).await? {
        let mut wanted = wanted(args, partition);
        loop {
            let done = admin.purge_dead(&args.name, &wanted).await?;
            messages += u64::from(done.messages);
            refused += u64::from(done.refused);
            match done.next_offset {
                Some(next) => wanted.from_offset = next,
                None => break,
            }
        }
    }
    let stay = match refused {
        0 => String::new(),
        stay => format!("; {stay} stay: something became of them meanwhile"),
    };
    let sentence = format!("{messages} dead letters of queue {} were deleted{stay}", args.name);
    output.done(&sentence, json!({ "messages": messages, "refused": refused }))
}

/// A time as people read it.
fn time(ms: u64) -> String {
    let time = i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| ms.to_string(), |time| format!("{time:.3}"))
}

/// The view of `dlq ls`: partitions with their dead letters.
struct Listed(Vec<(u32, DeadLetter)>);

impl Show for Listed {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|(partition, letter)| {
            [
                partition.to_string(),
                letter.offset.to_string(),
                letter.reason.clone(),
                letter.failures.to_string(),
                letter.deliveries.to_string(),
                time(letter.died_at_ms),
            ]
        });
        let titles = ["partition", "offset", "reason", "failures", "deliveries", "died"];
        plain_table(titles, rows)
    }

    fn json(&self) -> Value {
        let row = |(partition, letter): &(u32, DeadLetter)| {
            json!({
                "partition": partition,
                "offset": letter.offset,
                "reason": letter.reason,
                "failures": letter.failures,
                "deliveries": letter.deliveries,
                "died_at_ms": letter.died_at_ms,
            })
        };
        self.0.iter().map(row).collect()
    }
}
