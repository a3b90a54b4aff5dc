//! `jangada group lag`: how far a group is behind.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::time::Duration;

use futures::future::try_join_all;
use jangada_client::{Client, ClientError, CommittedOffset, GroupMember, Isolation, OffsetAt, Reason, TopicPartition};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cli::LagArgs;
use crate::errors::Result;
use crate::note::note;
use crate::output::{Output, Show, or_dash, plain_table, print_text, some_text};

/// Interval between two polls with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

pub async fn run(client: &Client, args: &LagArgs) -> Result<()> {
    if !args.watch {
        return args.output.show(&Lag::of(client, &args.group).await?);
    }
    // Runs until it is interrupted, like any other filter.
    loop {
        let lag = match Lag::of(client, &args.group).await {
            // The error may pass, and a watching user waits for that.
            Err(error) if error.is_retryable() => {
                note(&format!("warning: {error}; still trying"));
                sleep(WATCH_INTERVAL).await;
                continue;
            }
            lag => lag?,
        };
        let text = match args.output.output {
            Output::Json => lag.json().to_string(),
            Output::Table if std::io::stdout().is_terminal() => format!("\x1b[H\x1b[2J{}", lag.table()),
            Output::Table => format!("{}\n", lag.table()),
        };
        print_text(&text)?;
        sleep(WATCH_INTERVAL).await;
    }
}

/// The lag by topic and partition: of partitions with a committed offset or an owner, and of the others of their
/// topics.
struct Lag(Vec<PartitionLag>);

struct PartitionLag {
    partition: TopicPartition,
    committed: Option<CommittedOffset>,
    log_start_offset: i64,
    high_watermark: i64,
    /// The member that owns the partition now.
    owner: Option<GroupMember>,
}

impl PartitionLag {
    fn offset(&self) -> Option<i64> {
        self.committed.as_ref().and_then(|committed| committed.offset)
    }

    /// Number of records that are still to be read: those that are no longer there do not count.
    fn lag(&self) -> Option<i64> {
        let offset = self.offset()?.max(self.log_start_offset);
        Some((self.high_watermark - offset).max(0))
    }
}

impl Lag {
    async fn of(client: &Client, group: &str) -> std::result::Result<Lag, ClientError> {
        let admin = client.admin();
        // Offsets are read before ends: a commit in between must not look like being ahead.
        let described = admin.describe_group(group).await?;
        let committed = admin.fetch_offsets(group, None).await?;
        let mut topics: BTreeSet<_> = committed.iter().map(|offset| offset.partition.topic.clone()).collect();
        let mut owners = BTreeMap::new();
        for member in described.members {
            topics.extend(member.target.iter().map(|partition| partition.topic.clone()));
            for owned in &member.owned {
                topics.insert(owned.partition.topic.clone());
                owners.insert(owned.partition.clone(), member.clone());
            }
        }
        let mut committed: BTreeMap<_, _> = committed.into_iter().map(|o| (o.partition.clone(), o)).collect();
        let mut rows = Vec::new();
        for topic in topics {
            let partitions = match admin.topic_partitions(&topic).await {
                Ok(partitions) => partitions,
                // The topic was deleted: the coordinator soon drops its offsets.
                Err(ClientError::UnknownTopic { .. }) => continue,
                Err(error) => return Err(error),
            };
            let bounds = try_join_all(partitions.iter().map(|partition| bounds(client, partition)));
            let bounds = match bounds.await {
                Err(error) if error.reason() == Some(Reason::UnknownTopic) => continue,
                bounds => bounds?,
            };
            for (partition, (log_start_offset, high_watermark)) in partitions.into_iter().zip(bounds) {
                rows.push(PartitionLag {
                    committed: committed.remove(&partition),
                    owner: owners.remove(&partition),
                    log_start_offset,
                    high_watermark,
                    partition,
                });
            }
        }
        Ok(Lag(rows))
    }
}

/// A partition's first offset, and its end, confirmed with a quorum.
pub async fn bounds(client: &Client, partition: &TopicPartition) -> std::result::Result<(i64, i64), ClientError> {
    let list = async |at| {
        let (topic, partition) = (&partition.topic, partition.partition);
        let listed = client
            .list_offsets_as(topic, partition, at, Isolation::Uncommitted)
            .await?;
        Ok::<_, ClientError>(listed.offset.unwrap_or(0))
    };
    tokio::try_join!(list(OffsetAt::Earliest), list(OffsetAt::Latest))
}

impl Show for Lag {
    fn table(&self) -> String {
        let rows = self.0.iter().map(|row| {
            [
                row.partition.topic.to_string(),
                row.partition.partition.to_string(),
                or_dash(row.offset()),
                row.log_start_offset.to_string(),
                row.high_watermark.to_string(),
                or_dash(row.lag()),
                or_dash(row.owner.as_ref().map(|owner| &owner.member_id)),
                or_dash(row.owner.as_ref().map(|owner| &owner.client_id)),
            ]
        });
        let header = [
            "topic",
            "partition",
            "offset",
            "log_start_offset",
            "high_watermark",
            "lag",
            "member_id",
            "client_id",
        ];
        let total: i64 = self.0.iter().filter_map(PartitionLag::lag).sum();
        let uncommitted = self.0.iter().filter(|row| row.offset().is_none()).count();
        let mut text = plain_table(header, rows);
        text += &format!("\ntotal lag {total} over {} partitions", self.0.len() - uncommitted);
        if uncommitted > 0 {
            text += &format!("; {uncommitted} without a committed offset");
        }
        text + "\n"
    }

    fn json(&self) -> Value {
        let row = |row: &PartitionLag| {
            json!({
                "topic": *row.partition.topic,
                "topic_id": row.partition.topic_id.to_string(),
                "partition": row.partition.partition,
                "offset": row.offset(),
                "metadata": row.committed.as_ref().and_then(|committed| some_text(&committed.metadata)),
                "committed_at_ms": row.committed.as_ref().and_then(|committed| committed.committed_at_ms),
                "log_start_offset": row.log_start_offset,
                "high_watermark": row.high_watermark,
                "lag": row.lag(),
                "member_id": row.owner.as_ref().map(|owner| owner.member_id.as_str()),
                "client_id": row.owner.as_ref().and_then(|owner| some_text(&owner.client_id)),
            })
        };
        self.0.iter().map(row).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jangada_client::TopicId;

    #[test]
    fn what_is_not_known_is_null_in_json() {
        let partition = TopicPartition {
            topic: "t".into(),
            topic_id: TopicId([1; 16]),
            partition: 0,
        };
        let row = PartitionLag {
            partition,
            committed: None,
            log_start_offset: 10,
            high_watermark: 30,
            owner: None,
        };
        let json = Lag(vec![row]).json();
        for field in ["offset", "metadata", "committed_at_ms", "lag", "member_id", "client_id"] {
            assert_eq!(json[0][field], Value::Null, "{field}");
        }
    }

    #[test]
    fn lag_counts_only_what_is_still_there() {
        let row = |offset: Option<i64>| {
            let partition = TopicPartition {
                topic: "t".into(),
                topic_id: TopicId([1; 16]),
                partition: 0,
            };
            PartitionLag {
                committed: Some(CommittedOffset {
                    partition: partition.clone(),
                    offset,
                    leader_epoch: None,
                    metadata: String::new(),
                    committed_at_ms: Some(0),
                }),
                partition,
                log_start_offset: 10,
                high_watermark: 30,
                owner: None,
            }
        };
        assert_eq!(row(Some(12)).lag(), Some(18));
        assert_eq!(row(Some(3)).lag(), Some(20), "what retention took does not count");
        assert_eq!(row(Some(40)).lag(), Some(0));
        assert_eq!(row(None).lag(), None);
        assert!(
            Lag(vec![row(Some(3)), row(None)])
                .table()
                .ends_with("total lag 20 over 1 partitions; 1 without a committed offset\n")
        );
    }
}
