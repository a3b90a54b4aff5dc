//! `jangada topic ...`: creates, shows, alters, trims and deletes topics.

use std::collections::BTreeMap;

use jangada_client::{Admin, NewTopic};
use serde_json::json;

use super::settings::{by_key, check_unset};
use super::topic_bounds;
use super::views::{Topic, Topics};
use crate::brokers::Brokers;
use crate::cli::{AlterArgs, BeforeArg, CreateArgs, TopicCommand, TrimArgs};
use crate::connect::{connect, connect_to_create};
use crate::errors::{CliError, Result};
use crate::output::{OutputArgs, Show, plain_table};

pub async fn run(brokers: &Brokers, command: TopicCommand) -> Result<()> {
    if let TopicCommand::Rm { name, yes: false, .. } = &command {
        let hint = "nothing was deleted";
        return Err(CliError::usage(format!(
            "topic {name:?} and its data would be deleted for good: say so with --yes"
        ))
        .hint(hint));
    }
    let client = match &command {
        TopicCommand::Create(_) => connect_to_create(brokers).await?,
        _ => connect(brokers).await?,
    };
    let admin = client.admin();
    match command {
        TopicCommand::Create(args) => create(&admin, args).await,
        TopicCommand::Ls { output } => output.show(&Topics(admin.list_topics().await?)),
        TopicCommand::Describe { name, output } => describe(&admin, &name, output).await,
        TopicCommand::Alter(args) => alter(&admin, args).await,
        TopicCommand::Trim(args) => trim(&admin, args).await,
        TopicCommand::Rm { name, output, .. } => remove(&admin, &name, output).await,
    }
}

async fn describe(admin: &Admin, name: &str, output: OutputArgs) -> Result<()> {
    let topic = Topic(admin.describe_topic(name).await?);
    output.show(&topic)?;
    let settings = topic.0.config.iter();
    topic_bounds::warn(name, settings.map(|entry| (entry.key.as_str(), entry.value.as_str())));
    Ok(())
}

/// Settings that were given, as [`topic_bounds::warn`] takes them.
fn given(settings: &BTreeMap<String, String>) -> impl Iterator<Item = (&str, &str)> {
    settings.iter().map(|(key, value)| (key.as_str(), value.as_str()))
}

async fn create(admin: &Admin, args: CreateArgs) -> Result<()> {
    let (partitions, replicas) = (args.partitions.unwrap_or(0), args.replicas.unwrap_or(0));
    let mut topic = NewTopic::new(args.name.as_str(), partitions, replicas);
    topic.config = by_key(args.config)?;
    topic.if_not_exists = args.if_not_exists;
    let settings = topic.config.clone();
    let created = admin.create_topic(topic).await?;
    topic_bounds::warn(&args.name, given(&settings));
    let sentence = match created.created {
        true => format!(
            "created topic {} with {} of {}",
            args.name,
            counted(created.partitions.unwrap_or(partitions), "partition"),
            counted(created.replicas.unwrap_or(replicas), "replica")
        ),
        false => format!("topic {} exists already and was not changed", args.name),
    };
    let json = json!({
        "topic_id": created.topic_id.to_string(),
        "created": created.created,
        "version": created.version,
        "partitions": created.partitions,
        "replicas": created.replicas,
    });
    args.output.done(&sentence, json)
}

/// A number with its noun, in the singular or plural.
pub(super) fn counted(count: u32, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    }
}

async fn alter(admin: &Admin, args: AlterArgs) -> Result<()> {
    if let Some(total) = args.partitions {
        let version = admin.create_partitions(&args.name, total).await?;
        let sentence = format!("topic {} has {total} partitions", args.name);
        return args.output.done(&sentence, json!({ "version": version }));
    }
    let set = by_key(args.config)?;
    check_unset(&set, &args.unset)?;
    let settings = set.clone();
    let version = admin.alter_topic(&args.name, set, args.unset).await?;
    topic_bounds::warn(&args.name, given(&settings));
    args.output
        .done(&format!("changed topic {}", args.name), json!({ "version": version }))
}

async fn remove(admin: &Admin, name: &str, output: OutputArgs) -> Result<()> {
    let version = admin.delete_topic(name).await?;
    output.done(&format!("deleted topic {name}"), json!({ "version": version }))
}

/// Trims the partition that was named, or all. All partitions are checked before any is trimmed, so that an offset that
/// one of them does not have yet trims none.
async fn trim(admin: &Admin, args: TrimArgs) -> Result<()> {
    let before = match args.before {
        BeforeArg::Latest => None,
        BeforeArg::Offset(offset) => Some(offset),
    };
    let partitions = match args.partition {
        Some(partition) => vec![partition],
        None => {
            let partitions = admin.describe_partitions(Some(&args.name)).await?;
            for state in &partitions {
                if let (Some(before), Some(end)) = (before, state.high_watermark)
                    && before > end
                {
                    let message = format!(
                        "offset {before} is beyond the end of {}[{}], which is {end}; nothing was trimmed",
                        args.name, state.partition
                    );
                    return Err(
                        CliError::new(message).hint("trim each with --partition, or everything with --before latest")
                    );
                }
            }
            partitions.into_iter().map(|state| state.partition).collect()
        }
    };
    let mut trimmed = Trimmed {
        topic: args.name,
        starts: Vec::new(),
    };
    for partition in partitions {
        let start = admin.trim(&trimmed.topic, partition, before).await?;
        trimmed.starts.push((partition, start));
    }
    args.output.show(&trimmed)
}

/// The result of `trim`.
struct Trimmed {
    topic: String,
    /// Partitions with their log start offsets.
    starts: Vec<(u32, i64)>,
}

impl Show for Trimmed {
    fn table(&self) -> String {
        let rows = self
            .starts
            .iter()
            .map(|(partition, start)| [self.topic.clone(), partition.to_string(), start.to_string()]);
        plain_table(["topic", "partition", "log_start_offset"], rows)
    }

    fn json(&self) -> serde_json::Value {
        let row = |(partition, start): &(u32, i64)| json!({ "topic": self.topic, "partition": partition, "log_start_offset": start });
        self.starts.iter().map(row).collect()
    }
}
