//! `jangada group seek`: moves a group's offsets while it has no members. First the plan, then, if asked for, the commit.

use futures::future::try_join_all;
use jangada_client::{Client, ClientError, OffsetAt, OffsetCommit, Reason, TopicPartition};
use serde_json::{Value, json};

use super::group_lag::bounds;
use crate::cli::{FromArg, SeekArgs, ToArg};
use crate::errors::{CliError, Result};
use crate::output::{Show, note, or_dash, plain_table};

pub async fn run(client: &Client, args: &SeekArgs) -> Result<()> {
    let admin = client.admin();
    let members = match admin.describe_group(&args.group).await {
        Ok(group) => group.members.len(),
        Err(error) if error.reason() == Some(Reason::UnknownGroup) => 0,
        Err(error) => return Err(error.into()),
    };
    if members > 0 {
        let message = format!(
            "group {:?} has {members} members (GROUP_NOT_EMPTY); nothing was changed",
            args.group
        );
        return Err(CliError::new(message).hint(format!(
            "stop them first; `jangada group describe {}` shows them",
            args.group
        )));
    }
    let plan = plan(client, args).await?;
    if !args.execute {
        args.output.show(&plan)?;
        note("nothing was changed: --execute does it");
        return Ok(());
    }
    let commits: Vec<_> = plan
        .moves
        .iter()
        .map(|to| OffsetCommit::new(to.partition.clone(), to.target))
        .collect();
    admin.commit_offsets(&args.group, &commits).await?;
    args.output.show(&plan)?;
    note(&format!("moved {} partitions of group {}", commits.len(), args.group));
    Ok(())
}

async fn plan(client: &Client, args: &SeekArgs) -> Result<Plan> {
    let admin = client.admin();
    let mut partitions = admin.topic_partitions(&args.topic).await?;
    if let Some(wanted) = args.partition {
        let count = partitions.len() as u32;
        partitions.retain(|partition| partition.partition == wanted);
        if partitions.is_empty() {
            return Err(CliError::from(ClientError::UnknownPartition {
                topic: args.topic.as_str().into(),
                partition: wanted,
                partitions: count,
            }));
        }
    }
    let committed = match admin.fetch_offsets(&args.group, Some(&partitions)).await {
        Ok(offsets) => offsets.into_iter().map(|offset| offset.offset).collect(),
        Err(error) if error.reason() == Some(Reason::UnknownGroup) => vec![None; partitions.len()],
        Err(error) => return Err(error.into()),
    };
    let moves = partitions.into_iter().zip(committed);
    let moves = moves.map(|(partition, committed)| move_of(client, args.to, partition, committed));
    Ok(Plan {
        moves: try_join_all(moves).await?,
    })
}

async fn move_of(client: &Client, to: ToArg, partition: TopicPartition, committed: Option<i64>) -> Result<Move> {
    let (start, end) = bounds(client, &partition).await?;
    let wanted = match to {
        ToArg::At(FromArg::Earliest) => start,
        ToArg::At(FromArg::Latest) => end,
        ToArg::At(FromArg::Offset(offset)) => offset,
        ToArg::At(FromArg::Timestamp(ms)) => {
            let at = OffsetAt::Timestamp(ms);
            let found = client.list_offsets(&partition.topic, partition.partition, at).await?;
            found.offset.unwrap_or(end)
        }
        ToArg::Relative(records) => {
            let committed = committed.ok_or_else(|| {
                CliError::new(format!(
                    "{partition} has no committed offset to count from; nothing was changed"
                ))
                .hint("name the partitions that have one with --partition, or seek to an absolute position")
            })?;
            committed.saturating_add(records)
        }
    };
    Ok(Move {
        partition,
        committed,
        target: wanted.clamp(start, end.max(start)),
        log_start_offset: start,
        high_watermark: end,
    })
}

/// What is to be done.
struct Plan {
    moves: Vec<Move>,
}

struct Move {
    partition: TopicPartition,
    committed: Option<i64>,
    /// Between the two below.
    target: i64,
    log_start_offset: i64,
    high_watermark: i64,
}

impl Show for Plan {
    fn table(&self) -> String {
        let rows = self.moves.iter().map(|to| {
            [
                to.partition.topic.to_string(),
                to.partition.partition.to_string(),
                or_dash(to.committed),
                to.target.to_string(),
                to.log_start_offset.to_string(),
                to.high_watermark.to_string(),
            ]
        });
        let header = [
            "topic",
            "partition",
            "offset",
            "target",
            "log_start_offset",
            "high_watermark",
        ];
        plain_table(header, rows)
    }

    fn json(&self) -> Value {
        let row = |to: &Move| {
            json!({
                "topic": *to.partition.topic,
                "topic_id": to.partition.topic_id.to_string(),
                "partition": to.partition.partition,
                "offset": to.committed.unwrap_or(-1),
                "target": to.target,
                "log_start_offset": to.log_start_offset,
                "high_watermark": to.high_watermark,
            })
        };
        self.moves.iter().map(row).collect()
    }
}
