//! `jangada group ...`: shows, deletes and moves consumer groups and their offsets.

use jangada_client::{Admin, ClientError, TopicPartition};
use serde_json::json;

use super::group_views::{Group, Groups};
use super::{group_lag, group_seek};
use crate::brokers::Brokers;
use crate::cli::{GroupCommand, GroupRemoveArgs};
use crate::connect::connect;
use crate::errors::{CliError, Result};
use crate::output::join;

pub async fn run(brokers: &Brokers, command: GroupCommand) -> Result<()> {
    if let GroupCommand::Rm(args) = &command
        && !args.yes
    {
        let what = match args.topic.is_empty() {
            true => format!("group {:?} and its offsets", args.group),
            false => format!("the offsets of group {:?} in {}", args.group, args.topic.join(", ")),
        };
        let message = format!("{what} would be deleted for good: say so with --yes");
        return Err(CliError::usage(message).hint("nothing was deleted"));
    }
    let client = connect(brokers).await?;
    let admin = client.admin();
    match command {
        GroupCommand::Ls { output } => {
            let listing = admin.list_groups().await?;
            output.show(&Groups(listing.groups))?;
            if listing.missing_shards.is_empty() {
                return Ok(());
            }
            let shards = join(&listing.missing_shards);
            let message = format!("the listing is not whole: the coordinators of shards {shards} did not answer");
            Err(CliError::unhealthy(message).hint("`jangada cluster health` tells what is wrong with the cluster"))
        }
        GroupCommand::Describe { group, output } => output.show(&Group(admin.describe_group(&group).await?)),
        GroupCommand::Lag(args) => group_lag::run(&client, &args).await,
        GroupCommand::Rm(args) => remove(&admin, &args).await,
        GroupCommand::Seek(args) => group_seek::run(&client, &args).await,
    }
}

async fn remove(admin: &Admin, args: &GroupRemoveArgs) -> Result<()> {
    let group = &args.group;
    if args.topic.is_empty() {
        admin.delete_group(group).await?;
        return args
            .output
            .done(&format!("deleted group {group}"), json!({ "deleted": 1 }));
    }
    let partitions = partitions_of(admin, &args.topic, &args.partition).await?;
    let deleted = admin.delete_offsets(group, &partitions).await?;
    let sentence = format!(
        "deleted {deleted} offsets of group {group} in {}",
        args.topic.join(", ")
    );
    args.output.done(&sentence, json!({ "deleted_offsets": deleted }))
}

/// The partitions of the topics: those in `wanted`, or all if it is empty.
pub async fn partitions_of(admin: &Admin, topics: &[String], wanted: &[u32]) -> Result<Vec<TopicPartition>> {
    let mut found = Vec::new();
    for topic in topics {
        let partitions = admin.topic_partitions(topic).await?;
        let count = partitions.len() as u32;
        if let Some(partition) = wanted.iter().find(|partition| **partition >= count) {
            return Err(CliError::from(ClientError::UnknownPartition {
                topic: topic.as_str().into(),
                partition: *partition,
                partitions: count,
            }));
        }
        let is_wanted = |partition: &TopicPartition| wanted.is_empty() || wanted.contains(&partition.partition);
        found.extend(partitions.into_iter().filter(is_wanted));
    }
    Ok(found)
}
