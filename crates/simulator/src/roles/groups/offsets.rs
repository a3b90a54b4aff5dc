//! What groups have committed, and how far they lag: read from outside.

use std::time::Duration;

use jangada_check::Pending;
use jangada_check::call::{Call, Done, Offsets, Reply};
use jangada_client::{Client, ClientError, CommittedOffset, Isolation, OffsetAt, Reason, TopicPartition};
use tokio::time::{Instant, sleep};

use crate::play::stage::Stage;
use crate::roles::log::chance::Chance;
use crate::roles::log::records::place;
use crate::roles::team::Finding;

/// Within so long a group has no members any more: their sessions have ended.
const EMPTY_WITHIN: Duration = Duration::from_secs(40);
const PAUSE: Duration = Duration::from_millis(300);

/// All partitions of topics; none if nobody tells.
pub async fn partitions_of(client: &Client, topics: &[String]) -> Option<Vec<TopicPartition>> {
    let mut all = Vec::new();
    for topic in topics {
        all.extend(client.admin().topic_partitions(topic).await.ok()?);
    }
    Some(all)
}

/// Committed offsets of a group, recorded for the checker; none if nobody answers.
pub async fn fetch(
    stage: &Stage,
    client: &Client,
    process: u32,
    (group, partitions): (&str, &[TopicPartition]),
) -> Option<Vec<CommittedOffset>> {
    let call = Call::FetchOffsets {
        group: group.to_owned(),
    };
    let pending = stage.recorder.invoke(process, call);
    match client.admin().fetch_offsets(group, Some(partitions)).await {
        Ok(offsets) => {
            let named = offsets.iter().map(|committed| {
                let partition = &committed.partition;
                (place(&partition.topic, partition.partition), committed.offset)
            });
            let named = Offsets {
                offsets: named.collect(),
            };
            pending.ok(Reply::Offsets(named));
            Some(offsets)
        }
        Err(_) => {
            pending.fail();
            None
        }
    }
}

/// Reads what a group has committed, until the stage is over.
pub async fn watch(stage: Stage, chance: Chance, group: String, topics: Vec<String>) {
    let Some(client) = stage.until_over(stage.connect(&format!("watcher-{group}"))).await else {
        return;
    };
    let process = stage.process();
    while !stage.is_over() {
        let watching = async {
            if let Some(partitions) = partitions_of(&client, &topics).await {
                fetch(&stage, &client, process, (&group, &partitions)).await;
            }
        };
        stage.until_over(watching).await;
        stage.pause(chance.ms(200..1_500)).await;
    }
}

/// Waits until a group has no members: sessions of those who died have ended.
///
/// # Errors
/// Says who is still there after a bound.
pub async fn empty(client: &Client, group: &str) -> Result<(), Finding> {
    let deadline = Instant::now() + EMPTY_WITHIN;
    loop {
        let why = match client.admin().describe_group(group).await {
            Ok(described) if described.members.is_empty() => return Ok(()),
            Ok(described) => format!("it has {} members and is {}", described.members.len(), described.state),
            Err(error) if error.reason() == Some(Reason::UnknownGroup) => return Ok(()),
            Err(error) => error.to_string(),
        };
        if Instant::now() >= deadline {
            return Err(format!(
                "group {group} does not get rid of members that are gone: {why}"
            ));
        }
        sleep(PAUSE).await;
    }
}

/// Partitions that a group has not read to their ends, with what it has committed and the end; none if nobody tells. What members commit
/// by themselves is not in the history, and so the answer is not recorded.
pub async fn lag(
    stage: &Stage,
    client: &Client,
    process: u32,
    (group, topics): (&str, &[String]),
    is_recorded: bool,
) -> Option<Vec<(String, Option<i64>, i64)>> {
    let partitions = partitions_of(client, topics).await?;
    let committed = match is_recorded {
        true => fetch(stage, client, process, (group, &partitions)).await?,
        false => client.admin().fetch_offsets(group, Some(&partitions)).await.ok()?,
    };
    let mut behind = Vec::new();
    for committed in committed {
        let TopicPartition { topic, partition, .. } = &committed.partition;
        let end = client.list_offsets_as(topic, *partition, OffsetAt::Latest, Isolation::Committed);
        let end = end.await.ok()?.offset.unwrap_or(0);
        if committed.offset.unwrap_or(0) < end {
            behind.push((place(topic, *partition), committed.offset, end));
        }
    }
    Some(behind)
}

/// Records what became of a commit.
pub fn answered(pending: Pending, outcome: &Result<(), ClientError>) {
    match outcome {
        Ok(()) => pending.ok(Reply::Done(Done {})),
        Err(error) if error.is_definite() => pending.fail(),
        Err(_) => pending.unknown(),
    }
}
