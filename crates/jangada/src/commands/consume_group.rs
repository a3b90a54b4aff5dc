//! `jangada consume --group`: records to stdout, as a member of a consumer group.
//!
//! A batch is finished when it is written and flushed. SIGINT and SIGTERM end the command between batches: what was written is
//! committed, and the group is left. When stdout fails, nothing of the batch is committed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use jangada_client::{
    Client, CommitMode, GroupConfig, GroupConsumer, GroupHandle, ListenerError, OffsetAt, OffsetReset,
    PartitionPosition, RebalanceListener, StartPositions, TopicPartition,
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::consume::{Printer, WRITE_BYTES};
use crate::cli::{BrokersArgs, CommitArg, ConsumeArgs, FromArg};
use crate::connect::connect;
use crate::errors::{CliError, Result};

/// How often finished records are committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// How often a member without partitions looks whether it will get some, with `--exit-at-end`.
const IDLE_LOOK: Duration = Duration::from_millis(300);

pub async fn run(brokers: &BrokersArgs, args: &ConsumeArgs, group: &str) -> Result<()> {
    let printer = Printer::new(args)?;
    let config = config(args, group)?;
    // From here on a signal ends the command in order.
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let client = connect(brokers).await?;
    client.topic(&args.topic).await?;
    let owner = Arc::new(Owner::new(args, client.clone())?);
    let mut consumer = client.group_consumer_with(config, owner.clone())?;
    let printed = tokio::select! {
        printed = print(&client, &mut consumer, &owner, &printer, args) => printed,
        _ = interrupt.recv() => Ok(()),
        _ = terminate.recv() => Ok(()),
    };
    match printed {
        Ok(()) => Ok(consumer.close().await?),
        Err(error) => {
            consumer.abandon().await;
            Err(error)
        }
    }
}

fn config(args: &ConsumeArgs, group: &str) -> Result<GroupConfig> {
    let mut config = GroupConfig::new(group, [args.topic.as_str()]);
    config.instance_id.clone_from(&args.group.instance_id);
    config.session_timeout = Duration::from_millis(args.group.session_timeout_ms.into());
    config.offset_reset = match args.from {
        FromArg::Earliest => OffsetReset::Earliest,
        FromArg::Latest => OffsetReset::Latest,
        FromArg::Offset(_) | FromArg::Timestamp(_) => {
            return Err(CliError::usage(
                "with --group, --from is earliest or latest, for partitions without a committed offset",
            )
            .hint(format!(
                "`jangada group seek {group} --topic {} --to ...` moves a group elsewhere",
                args.topic
            )));
        }
    };
    config.commit = match args.group.commit {
        CommitArg::Before => CommitMode::Before,
        CommitArg::After => CommitMode::After {
            interval: COMMIT_INTERVAL,
        },
        CommitArg::None => CommitMode::Manual,
    };
    Ok(config)
}

/// Prints until the end, the last record wanted, or an error. What was printed is flushed whenever this waits.
async fn print(
    client: &Client,
    consumer: &mut GroupConsumer,
    owner: &Owner,
    printer: &Printer,
    args: &ConsumeArgs,
) -> Result<()> {
    let mut out = BufWriter::with_capacity(WRITE_BYTES, io::stdout());
    let mut left = args.max.unwrap_or(u64::MAX);
    while left > 0 {
        let max = usize::try_from(left).unwrap_or(usize::MAX);
        let batch = if args.exit_at_end {
            tokio::select! {
                batch = consumer.next_batch(max) => Some(batch?),
                () = sleep(IDLE_LOOK) => None,
            }
        } else {
            Some(consumer.next_batch(max).await?)
        };
        for record in batch.into_iter().flatten() {
            printer.print(&mut out, &record)?;
            left -= 1;
        }
        out.flush()?;
        if args.exit_at_end && is_at_end(client, consumer, owner).await? {
            break;
        }
    }
    Ok(())
}

/// Whether all of the member's partitions are where they ended when the member got them. One without partitions is there when its
/// group has come to rest.
async fn is_at_end(client: &Client, consumer: &GroupConsumer, owner: &Owner) -> Result<bool> {
    let assignment = consumer.assignment();
    if !assignment.is_empty() {
        let ends = owner.ends();
        return Ok(assignment.iter().all(|partition| {
            let end = ends.get(partition);
            let position = consumer.position(&partition.topic, partition.partition);
            end.zip(position).is_some_and(|(end, position)| position >= *end)
        }));
    }
    if consumer.member_epoch() == 0 {
        return Ok(false);
    }
    let group = client.admin().describe_group(owner.group()).await?;
    let me = group
        .members
        .iter()
        .find(|member| member.member_id == consumer.member_id());
    Ok(group.state == "Stable" && me.is_some_and(|me| me.owned.is_empty() && me.target.is_empty()))
}

/// Keeps what the member owns and where its partitions ended, and the log of that.
struct Owner {
    client: Client,
    group: String,
    wants_ends: bool,
    ends: Mutex<BTreeMap<TopicPartition, i64>>,
    owned: Mutex<BTreeSet<TopicPartition>>,
    log: Option<File>,
}

impl Owner {
    fn new(args: &ConsumeArgs, client: Client) -> Result<Owner> {
        let open = |path: &std::path::PathBuf| {
            let file = File::options().create(true).append(true).open(path);
            file.map_err(|error| CliError::new(format!("--ownership-log {}: {error}", path.display())))
        };
        Ok(Owner {
            client,
            group: args.group.group.clone().unwrap_or_default(),
            wants_ends: args.exit_at_end,
            ends: Mutex::default(),
            owned: Mutex::default(),
            log: args.group.ownership_log.as_ref().map(open).transpose()?,
        })
    }

    fn group(&self) -> &str {
        &self.group
    }

    fn ends(&self) -> MutexGuard<'_, BTreeMap<TopicPartition, i64>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, event: &str, group: &GroupHandle, partitions: &[TopicPartition]) {
        let mut owned = self.owned.lock().unwrap_or_else(PoisonError::into_inner);
        for partition in partitions {
            match event {
                "assigned" => owned.insert(partition.clone()),
                _ => owned.remove(partition),
            };
        }
        let Some(mut log) = self.log.as_ref() else { return };
        let names = |partitions: &mut dyn Iterator<Item = &TopicPartition>| -> Vec<String> {
            partitions.map(|p| format!("{}-{}", p.topic, p.partition)).collect()
        };
        let line = json!({
            "event": event,
            "at_ms": jiff::Timestamp::now().as_millisecond(),
            "group": group.group(),
            "member_id": group.member_id(),
            "member_epoch": group.member_epoch(),
            "partitions": names(&mut partitions.iter()),
            "owned": names(&mut owned.iter()),
        });
        // One write, so that lines of several processes do not mix.
        if let Err(error) = log.write_all(format!("{line}\n").as_bytes()) {
            tracing::error!(%error, "the ownership log cannot be written");
        }
    }

    fn gone(&self, event: &str, group: &GroupHandle, partitions: &[PartitionPosition]) {
        let partitions: Vec<_> = partitions.iter().map(|given_up| given_up.partition.clone()).collect();
        self.ends().retain(|partition, _| !partitions.contains(partition));
        self.changed(event, group, &partitions);
    }
}

impl RebalanceListener for Owner {
    fn on_assigned<'a>(
        &'a self,
        group: &'a GroupHandle,
        partitions: &'a [TopicPartition],
    ) -> BoxFuture<'a, std::result::Result<StartPositions, ListenerError>> {
        Box::pin(async move {
            if self.wants_ends {
                let ends = try_join_all(partitions.iter().map(|partition| async move {
                    let latest = self
                        .client
                        .list_offsets(&partition.topic, partition.partition, OffsetAt::Latest)
                        .await?;
                    Ok::<_, ListenerError>((partition.clone(), latest.offset.unwrap_or(0)))
                }));
                let ends = ends.await?;
                self.ends().extend(ends);
            }
            self.changed("assigned", group, partitions);
            Ok(Vec::new())
        })
    }

    fn on_revoked<'a>(&'a self, group: &'a GroupHandle, partitions: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.gone("revoked", group, partitions) })
    }

    fn on_lost<'a>(&'a self, group: &'a GroupHandle, partitions: &'a [PartitionPosition]) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.gone("lost", group, partitions) })
    }
}
