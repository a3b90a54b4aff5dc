//! `jangada consume --group`: records to stdout, as a member of a consumer group.
//!
//! A batch is finished when it is written and flushed. SIGINT and SIGTERM end the command between batches: the written
//! batches are committed, and the group is left. When stdout fails, nothing of the batch is committed; nor when the
//! reader of stdout has stalled, so that a batch is still being written a moment after the signal.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::{BoxFuture, try_join_all};
use jangada_client::{
    Client, CommitMode, ConsumedRecord, GroupConfig, GroupConsumer, GroupHandle, Isolation, ListenerError, OffsetAt,
    OffsetReset, PartitionPosition, RebalanceListener, StartPositions, TopicPartition,
};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::consume_output::{Printer, WRITE_BYTES, Waits, passes, report_skipped};
use crate::brokers::Brokers;
use crate::cli::{CommitArg, ConsumeArgs, FromArg};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::note::note;

/// Interval at which finished records are committed.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Interval at which a member without partitions checks whether it will get some, with `--exit-at-end`.
const IDLE_POLL_INTERVAL: Duration = Duration::from_millis(300);

/// How long a batch may still take to be written after a signal.
const LAST_WRITE: Duration = Duration::from_secs(1);

pub async fn run(brokers: &Brokers, args: &ConsumeArgs, group: &str) -> Result<()> {
    let printer = Arc::new(Printer::new(args)?);
    let config = config(args, group)?;
    // A signal ends the command in order from here on.
    let mut stop = Stop::new()?;
    let client = tokio::select! {
        client = connect(brokers) => client?,
        () = stop.asked() => return Ok(()),
    };
    for topic in args.topics() {
        tokio::select! {
            topic = client.topic(topic) => drop(topic?),
            () = stop.asked() => return Ok(()),
        }
    }
    let owner = Arc::new(Owner::new(args, client.clone())?);
    let mut consumer = client.group_consumer_with(config, owner.clone())?;
    let printed = print(&client, &mut consumer, &owner, &printer, args, &mut stop).await;
    if !matches!(printed, Ok(Ended::Stuck)) {
        report_skipped(consumer.skipped());
    }
    match printed {
        Ok(Ended::InOrder) => Ok(consumer.close().await?),
        Ok(Ended::Stuck) => {
            consumer.abandon().await;
            Err(stuck().await)
        }
        Err(error) => {
            consumer.abandon().await;
            Err(error)
        }
    }
}

/// The signals that end the command.
struct Stop {
    signals: [Signal; 2],
    is_asked: bool,
}

impl Stop {
    fn new() -> Result<Stop> {
        Ok(Stop {
            signals: [signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?],
            is_asked: false,
        })
    }

    /// Returns when one of the signals has come, or came before.
    async fn asked(&mut self) {
        if !self.is_asked {
            let [interrupt, terminate] = &mut self.signals;
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            self.is_asked = true;
        }
    }
}

/// The way in which printing ended.
enum Ended {
    /// All records that were handed out are written.
    InOrder,
    /// The last batch is not written, because the reader of stdout has stalled.
    Stuck,
}

/// The message for that case. Stderr may be just as stuck, so a thread that need not return prints it.
async fn stuck() -> CliError {
    let error = CliError::new("stdout is not read; the batch that was being written was not committed")
        .hint("the group's next member prints it again, unless it was committed before (--commit before)");
    let reporting = error.clone();
    let _: std::result::Result<_, _> =
        timeout(LAST_WRITE, spawn_blocking(move || -> ExitCode { reporting.report() })).await;
    error.reported()
}

fn config(args: &ConsumeArgs, group: &str) -> Result<GroupConfig> {
    let mut config = GroupConfig::new(group, args.topics());
    config.pattern.clone_from(&args.pattern);
    config.instance_id.clone_from(&args.group.instance_id);
    config.session_timeout = Duration::from_millis(args.group.session_timeout_ms.into());
    config.offset_reset = match args.from() {
        FromArg::Earliest => OffsetReset::Earliest,
        FromArg::Latest => OffsetReset::Latest,
        FromArg::Offset(_) | FromArg::Last(_) | FromArg::Timestamp(_) => {
            return Err(CliError::usage(
                "with --group, --from is earliest or latest, for partitions without a committed offset",
            )
            .hint(format!(
                "`jangada group seek {group} --topic T --to ...` moves a group elsewhere"
            )));
        }
    };
    config.out_of_range_reset = args.reset.map(OffsetReset::from);
    config.on_bad_batch = args.on_bad_batch.into();
    config.isolation = args.isolation.into();
    config.commit = match args.group.commit {
        CommitArg::Before => CommitMode::Before,
        CommitArg::After => CommitMode::After {
            interval: COMMIT_INTERVAL,
        },
        CommitArg::None => CommitMode::Manual,
    };
    Ok(config)
}

/// Prints until the end, the last record wanted, a signal, or an error. The printed records are flushed whenever this
/// waits.
async fn print(
    client: &Client,
    consumer: &mut GroupConsumer,
    owner: &Owner,
    printer: &Arc<Printer>,
    args: &ConsumeArgs,
    stop: &mut Stop,
) -> Result<Ended> {
    let mut left = args.max.unwrap_or(u64::MAX);
    let mut waits = waits(args);
    while left > 0 {
        let batch = tokio::select! {
            biased;
            () = stop.asked() => break,
            batch = next_batch(consumer, args, left, &mut waits) => batch?,
        };
        left -= batch.len() as u64;
        tokio::select! {
            biased;
            written = write(printer.clone(), batch) => written?,
            () = async { stop.asked().await; sleep(LAST_WRITE).await } => return Ok(Ended::Stuck),
        }
        if args.exit_at_end {
            tokio::select! {
                biased;
                () = stop.asked() => break,
                is_at_end = is_at_end(client, consumer, owner) => if is_at_end? { break },
            }
        }
    }
    Ok(Ended::InOrder)
}

/// The message about what a member waits for: topics by name, and by pattern.
fn waits(args: &ConsumeArgs) -> Waits {
    let topics = args.topics().into_iter().map(str::to_owned);
    let topics: Vec<_> = topics.chain(args.pattern.clone()).collect();
    Waits::new(args, &topics)
}

/// The next records, up to those that are left to read; with `--exit-at-end` perhaps none. It reports an error that may
/// pass, and waits on.
async fn next_batch(
    consumer: &mut GroupConsumer,
    args: &ConsumeArgs,
    left: u64,
    waits: &mut Waits,
) -> Result<Vec<ConsumedRecord>> {
    let max = usize::try_from(left).unwrap_or(usize::MAX);
    if args.exit_at_end {
        return tokio::select! {
            batch = consumer.next_batch(max) => Ok(batch?),
            () = sleep(IDLE_POLL_INTERVAL) => Ok(Vec::new()),
        };
    }
    loop {
        let batch = tokio::select! {
            biased;
            batch = consumer.next_batch(max) => batch,
            message = waits.message_when_quiet(left) => {
                let _ = spawn_blocking(move || note(&message)).await;
                continue;
            }
        };
        match batch {
            Err(error) if passes(args, &error) => {
                // The reader of stderr may have stalled, too.
                let _ = spawn_blocking(move || note(&format!("warning: {error}; still trying"))).await;
            }
            batch => return Ok(batch?),
        }
    }
}

/// Writes records and flushes them, in a thread of its own: a stalled pipe must not keep signals from being handled.
async fn write(printer: Arc<Printer>, records: Vec<ConsumedRecord>) -> Result<()> {
    let writing = spawn_blocking(move || {
        let mut out = BufWriter::with_capacity(WRITE_BYTES, io::stdout().lock());
        records.iter().try_for_each(|record| printer.print(&mut out, record))?;
        out.flush()
    });
    let written = writing
        .await
        .map_err(|error| CliError::new(format!("the writing thread: {error}")))?;
    Ok(written?)
}

/// Whether all of the member's partitions are where they ended when the member got them. A member without partitions is
/// done when its group has come to rest.
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

/// The member's partitions with their ends, and the log of their changes.
struct Owner {
    client: Client,
    group: String,
    wants_ends: bool,
    isolation: Isolation,
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
            isolation: args.isolation.into(),
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
                        .list_offsets_as(&partition.topic, partition.partition, OffsetAt::Latest, self.isolation)
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
