//! `jangada queue ...`: creates, shows, alters, pauses and deletes queues.

use std::time::Duration;

use jangada_client::{
    Admin, NewQueue, QueueCounts, QueueDepth, QueueDescription, QueueMessages, QueueSeek, QueueSummary, QueueTally,
};
use serde_json::{Value, json};

use super::queue_messages;
use super::settings::{by_key, check_unset};
use super::topic::counted;
use super::views::{settings_json, settings_table};
use crate::brokers::Brokers;
use crate::cli::{AlterQueueArgs, CreateQueueArgs, QueueCommand, QueueFromArg};
use crate::connect::{connect, connect_to_create};
use crate::errors::{CliError, Result};
use crate::output::{OutputArgs, Show, or_dash, plain_table};

pub async fn run(brokers: &Brokers, command: QueueCommand) -> Result<()> {
    if let QueueCommand::Messages(command) = command {
        return queue_messages::run(brokers, command).await;
    }
    if let QueueCommand::Rm { name, yes: false, .. } = &command {
        let hint = "nothing was deleted";
        let message =
            format!("queue {name:?} and the messages that it has would be deleted for good: say so with --yes");
        return Err(CliError::usage(message).hint(hint));
    }
    if let QueueCommand::Purge { name, yes: false, .. } = &command {
        let message = format!("the messages of queue {name:?} would be dropped for good: say so with --yes");
        return Err(CliError::usage(message).hint("nothing was dropped"));
    }
    let client = match &command {
        QueueCommand::Create(_) => connect_to_create(brokers).await?,
        _ => connect(brokers).await?,
    };
    let admin = client.admin();
    match command {
        QueueCommand::Messages(_) => unreachable!("it was run above"),
        QueueCommand::Create(args) => create(&admin, args).await,
        QueueCommand::Ls { output } => output.show(&Queues(admin.list_queues().await?)),
        QueueCommand::Describe { name, output } => output.show(&Queue(admin.describe_queue(&name).await?)),
        QueueCommand::Alter(args) => alter(&admin, args).await,
        QueueCommand::Pause { name, output } => pause(&admin, &name, true, output).await,
        QueueCommand::Resume { name, output } => pause(&admin, &name, false, output).await,
        QueueCommand::Purge {
            name,
            partition,
            output,
            ..
        } => {
            for partition in partitions_of(&admin, &name, partition).await? {
                admin.purge_queue(&name, partition, None).await?;
            }
            output.done(&format!("dropped the messages of queue {name}"), json!({}))
        }
        QueueCommand::Seek {
            name,
            partition,
            to,
            output,
        } => seek(&admin, &name, partition, to, output).await,
        QueueCommand::Rm { name, output, .. } => {
            let version = admin.delete_queue(&name).await?;
            output.done(&format!("deleted queue {name}"), json!({ "version": version }))
        }
    }
}

async fn create(admin: &Admin, args: CreateQueueArgs) -> Result<()> {
    let config = by_key(args.config)?;
    let queue = match (&args.topic, &args.exchange) {
        (Some(topic), _) => NewQueue::reading(args.name.as_str(), topic.as_str(), args.from.0),
        (None, Some(exchange)) => NewQueue::over(args.name.as_str(), exchange.as_str()),
        (None, None) => NewQueue::new(
            args.name.as_str(),
            args.partitions.unwrap_or(0),
            args.replicas.unwrap_or(0),
        ),
    };
    let queue = NewQueue {
        config,
        if_not_exists: args.if_not_exists,
        ..queue
    };
    let messages = queue.messages.clone();
    let created = admin.create_queue(queue).await?;
    let sentence = match (created.created, messages) {
        (true, QueueMessages::Owned { .. }) => format!(
            "created queue {} with {} of {}",
            args.name,
            counted(created.partitions, "partition"),
            counted(created.replicas, "replica")
        ),
        (true, QueueMessages::Topic { topic, .. }) => format!("created queue {}, which reads topic {topic}", args.name),
        (true, QueueMessages::Exchange { exchange }) => {
            format!(
                "created queue {}, a view over the log of exchange {exchange}",
                args.name
            )
        }
        (false, _) => format!("queue {} exists already and was not changed", args.name),
    };
    let json = json!({
        "queue_id": created.queue_id.to_string(),
        "created": created.created,
        "version": created.version,
        "partitions": created.partitions,
        "replicas": created.replicas,
    });
    args.output.done(&sentence, json)
}

/// The partition that was named, or all of the queue's.
pub(super) async fn partitions_of(admin: &Admin, queue: &str, partition: Option<u32>) -> Result<Vec<u32>> {
    match partition {
        Some(partition) => Ok(vec![partition]),
        None => Ok((0..admin.describe_queue(queue).await?.queue.partitions).collect()),
    }
}

async fn seek(admin: &Admin, name: &str, partition: Option<u32>, to: QueueFromArg, output: OutputArgs) -> Result<()> {
    let mut sought = Sought {
        queue: name.to_owned(),
        starts: Vec::new(),
    };
    for partition in partitions_of(admin, name, partition).await? {
        let start = admin.seek_queue(name, partition, QueueSeek::At(to.0)).await?;
        sought.starts.push((partition, start));
    }
    output.show(&sought)
}

/// The result of `queue seek`.
struct Sought {
    queue: String,
    /// Partitions with the offsets where the queue begins.
    starts: Vec<(u32, i64)>,
}

impl Show for Sought {
    fn table(&self) -> String {
        let rows = self
            .starts
            .iter()
            .map(|(partition, start)| [self.queue.clone(), partition.to_string(), start.to_string()]);
        plain_table(["queue", "partition", "offset"], rows)
    }

    fn json(&self) -> Value {
        let row =
            |(partition, start): &(u32, i64)| json!({ "queue": self.queue, "partition": partition, "offset": start });
        self.starts.iter().map(row).collect()
    }
}

async fn alter(admin: &Admin, args: AlterQueueArgs) -> Result<()> {
    let set = by_key(args.config)?;
    check_unset(&set, &args.unset)?;
    let version = admin.alter_queue(&args.name, set, args.unset).await?;
    args.output
        .done(&format!("changed queue {}", args.name), json!({ "version": version }))
}

async fn pause(admin: &Admin, name: &str, is_paused: bool, output: OutputArgs) -> Result<()> {
    let version = admin.pause_queue(name, is_paused).await?;
    let sentence = match is_paused {
        true => format!("queue {name} is paused: `jangada queue resume {name}` lets it go on"),
        false => format!("queue {name} hands out messages"),
    };
    output.done(&sentence, json!({ "version": version }))
}

/// The view of `queue ls`.
struct Queues(Vec<QueueSummary>);

impl Show for Queues {
    fn table(&self) -> String {
        queues_table(&self.0)
    }

    fn json(&self) -> Value {
        self.0.iter().map(queue_json).collect()
    }
}

fn queues_table(queues: &[QueueSummary]) -> String {
    let rows = queues.iter().map(|queue| {
        [
            queue.name.clone(),
            kind(queue).to_owned(),
            queue.topic.clone(),
            queue.partitions.to_string(),
            queue.replicas.to_string(),
            if queue.is_paused { "yes" } else { "no" }.to_owned(),
            queue.queue_id.to_string(),
        ]
    });
    plain_table(
        ["name", "kind", "topic", "partitions", "replicas", "paused", "queue_id"],
        rows,
    )
}

fn kind(queue: &QueueSummary) -> &'static str {
    match queue.is_owned {
        true => "owned",
        false => "group",
    }
}

fn queue_json(queue: &QueueSummary) -> Value {
    json!({
        "name": queue.name,
        "queue_id": queue.queue_id.to_string(),
        "kind": kind(queue),
        "topic": queue.topic,
        "topic_id": queue.topic_id.to_string(),
        "partitions": queue.partitions,
        "replicas": queue.replicas,
        "is_paused": queue.is_paused,
    })
}

fn depth_json(depth: &QueueDepth) -> Value {
    let counts = depth.counts.as_ref().map(|counts| {
        json!({
            "ready": counts.ready,
            "delayed": counts.delayed,
            "leased": counts.leased,
            "waiting": counts.waiting,
            "dead": counts.dead,
            "bytes": counts.bytes,
            "consumers": counts.consumers,
            "oldest": oldest_json(counts),
            "tripped_since_ms": counts.tripped_since_ms,
            "dead_stuck_since_ms": counts.dead_stuck_since_ms,
            "tally": tally_json(&counts.tally),
        })
    });
    json!({ "partition": depth.partition, "counts": counts })
}

/// The ages of the oldest messages by priority.
fn oldest_json(counts: &QueueCounts) -> Value {
    let row = |(priority, age): &(u32, Duration)| json!({ "priority": priority, "age_ms": age.as_millis() as u64 });
    counts.oldest.iter().map(row).collect()
}

fn tally_json(tally: &QueueTally) -> Value {
    json!({
        "sent": tally.sent,
        "refused_full": tally.refused_full,
        "delivered": tally.delivered,
        "redelivered": tally.redelivered,
        "acknowledged": tally.acknowledged,
        "dead": tally.dead,
        "expired_dropped": tally.expired_dropped,
        "expired_dead": tally.expired_dead,
        "carried_bytes": tally.carried_bytes,
        "receives_in_flight_full": tally.receives_in_flight_full,
    })
}

/// What has come of the messages in each partition since its leader began, and how old the oldest one is.
fn tallies_table(partitions: &[QueueDepth]) -> String {
    let rows = partitions.iter().map(|depth| {
        let count = |of: fn(&QueueTally) -> u64| or_dash(depth.counts.as_ref().map(|counts| of(&counts.tally)));
        let ages = depth.counts.iter().flat_map(|counts| &counts.oldest);
        let oldest = ages.map(|(_, age)| *age).max();
        let breaker = depth.counts.as_ref().map(|counts| match counts.tripped_since_ms {
            Some(_) => "tripped",
            None => "closed",
        });
        [
            depth.partition.to_string(),
            or_dash(oldest.map(|age| format!("{} s", age.as_secs()))),
            or_dash(breaker),
            count(|tally| tally.sent),
            count(|tally| tally.refused_full),
            count(|tally| tally.delivered),
            count(|tally| tally.redelivered),
            count(|tally| tally.acknowledged),
            count(|tally| tally.dead),
            count(|tally| tally.expired_dropped),
        ]
    });
    let header = [
        "partition",
        "oldest",
        "breaker",
        "sent",
        "refused_full",
        "delivered",
        "redelivered",
        "acknowledged",
        "became_dead",
        "expired",
    ];
    plain_table(header, rows)
}

/// The view of `queue describe`.
struct Queue(QueueDescription);

impl Show for Queue {
    fn table(&self) -> String {
        let head = queues_table(std::slice::from_ref(&self.0.queue));
        let rows = self.0.partitions.iter().map(|depth| {
            let count = |of: fn(&QueueCounts) -> u64| or_dash(depth.counts.as_ref().map(of));
            [
                depth.partition.to_string(),
                count(|counts| counts.ready),
                count(|counts| counts.delayed),
                count(|counts| counts.leased),
                count(|counts| counts.waiting),
                count(|counts| counts.dead),
                count(|counts| counts.bytes),
                count(|counts| counts.consumers),
            ]
        });
        let header = [
            "partition",
            "ready",
            "delayed",
            "leased",
            "waiting",
            "dead",
            "bytes",
            "consumers",
        ];
        format!(
            "{head}\n{}\n{}\n{}",
            settings_table(&self.0.config),
            plain_table(header, rows),
            tallies_table(&self.0.partitions)
        )
    }

    fn json(&self) -> Value {
        let mut queue = queue_json(&self.0.queue);
        queue["config"] = settings_json(&self.0.config);
        queue["depth"] = self.0.partitions.iter().map(depth_json).collect();
        queue
    }
}
