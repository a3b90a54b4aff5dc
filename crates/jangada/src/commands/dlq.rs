//! `jangada dlq ...`: lists dead letters of queues, lets them go out again, deletes them.

use std::time::Duration;

use jangada_client::{DeadLetter, DeadLetters};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::queue::partitions_of;
use crate::brokers::Brokers;
use crate::cli::{DeadArgs, DlqCommand};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::output::{Show, plain_table};

/// Dead letters of one call, unless a rate asks for fewer.
const AT_ONCE: u32 = 1_000;

pub async fn run(brokers: &Brokers, command: DlqCommand) -> Result<()> {
    if let DlqCommand::Purge { dead, yes: false } = &command {
        let message = format!(
            "dead letters of queue {:?} would be deleted for good: say so with --yes",
            dead.name
        );
        return Err(CliError::usage(message).hint("nothing was deleted"));
    }
    let client = connect(brokers).await?;
    let admin = client.admin();
    let (args, act) = match command {
        DlqCommand::Ls(args) => {
            let mut listed = Listed(Vec::new());
            for partition in partitions_of(&admin, &args.name, args.partition).await? {
                let mut wanted = wanted(&args, partition);
                loop {
                    let (letters, next) = admin.list_dead(&args.name, &wanted).await?;
                    listed.0.extend(letters.into_iter().map(|letter| (partition, letter)));
                    match next {
                        Some(next) => wanted.from_offset = next,
                        None => break,
                    }
                }
            }
            return args.output.show(&listed);
        }
        DlqCommand::Redrive { dead, rate, dry_run } => (dead, Act::Redrive { rate, dry_run }),
        DlqCommand::Purge { dead, .. } => (dead, Act::Purge),
    };
    let (mut messages, mut refused) = (0u64, 0u64);
    for partition in partitions_of(&admin, &args.name, args.partition).await? {
        let mut wanted = wanted(&args, partition);
        loop {
            let done = match act {
                Act::Redrive { rate, dry_run } => {
                    wanted.dry_run = dry_run;
                    wanted.max_messages = rate.unwrap_or(AT_ONCE).min(AT_ONCE);
                    admin.redrive_dead(&args.name, &wanted).await?
                }
                Act::Purge => admin.purge_dead(&args.name, &wanted).await?,
            };
            messages += u64::from(done.messages);
            refused += u64::from(done.refused);
            let Some(next) = done.next_offset else { break };
            wanted.from_offset = next;
            if let Act::Redrive {
                rate: Some(rate),
                dry_run: false,
            } = act
            {
                sleep(Duration::from_secs_f64(f64::from(done.messages) / f64::from(rate))).await;
            }
        }
    }
    let did = match act {
        Act::Redrive { dry_run: true, .. } => "would go out again",
        Act::Redrive { .. } => "go out again",
        Act::Purge => "were deleted",
    };
    let stay = match refused {
        0 => String::new(),
        stay => format!("; {stay} stay dead: a later message of their key is done"),
    };
    let sentence = format!("{messages} dead letters of queue {} {did}{stay}", args.name);
    args.output
        .done(&sentence, json!({ "messages": messages, "refused": refused }))
}

/// What becomes of dead letters.
#[derive(Clone, Copy, Debug)]
enum Act {
    Redrive { rate: Option<u32>, dry_run: bool },
    Purge,
}

fn wanted(args: &DeadArgs, partition: u32) -> DeadLetters {
    DeadLetters {
        partition,
        reasons: args.reason.clone(),
        ..DeadLetters::default()
    }
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
            ]
        });
        plain_table(["partition", "offset", "reason", "failures", "deliveries"], rows)
    }

    fn json(&self) -> Value {
        let row = |(partition, letter): &(u32, DeadLetter)| {
            json!({
                "partition": partition,
                "offset": letter.offset,
                "reason": letter.reason,
                "failures": letter.failures,
                "deliveries": letter.deliveries,
            })
        };
        self.0.iter().map(row).collect()
    }
}
