//! Nothing goes wrong, and all must be well.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_client::{CommitMode, GroupConfig};
use tokio::time::timeout;

use super::world::{World, play, text};
use super::writer::{Writer, judge};
use crate::trace::Trace;

const TOPIC: &str = "orders";
const GROUP: &str = "billing";
/// No call takes longer in a healthy cluster.
const SOON: Duration = Duration::from_secs(3);

/// Three producers write and a group reads: no record is lost, nothing hangs, and no offset is zero that was not.
///
/// # Panics
/// It does not come out so.
pub fn healthy_cluster(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let mut writers = Vec::new();
        for name in ["one", "two", "three"] {
            writers.push(Writer::start(&world, name, TOPIC).await);
        }
        for writer in &writers {
            writer.goes_on(50, SOON).await;
        }
        let read = consume(&world, 150).await;
        let mut written = Vec::new();
        for writer in writers {
            written.push(writer.finish().await);
        }
        for of_one in &written {
            let (failed, unknown) = (&of_one.failed, &of_one.unknown);
            assert!(failed.is_empty() && unknown.is_empty(), "{failed:?} {unknown:?}");
        }
        let all = world.read(TOPIC).await;
        judge(&all, &written);
        let by_offset: BTreeMap<i64, String> = all.into_iter().collect();
        for (offset, value) in read {
            assert_eq!(
                by_offset.get(&offset),
                Some(&value),
                "the group has read something else at {offset}"
            );
        }
    })
}

/// A group with one member reads so many records, and commits now and then.
async fn consume(world: &World, records: usize) -> Vec<(i64, String)> {
    let client = world.client("consumer").await;
    let mut config = GroupConfig::new(GROUP, [TOPIC]);
    config.commit = CommitMode::Manual;
    let mut consumer = client.group_consumer(config).expect("the settings are sound");
    let mut read = Vec::new();
    while read.len() < records {
        // The first one comes when the group has formed.
        let record = timeout(5 * SOON, consumer.next()).await.expect("it does not hang");
        let record = record.expect("the cluster is healthy");
        let expected = i64::try_from(read.len()).expect("a handful");
        assert_eq!(record.offset, expected, "it begins at 0 and goes on");
        read.push((record.offset, text(record.value.as_deref())));
        if read.len() % 25 == 0 {
            timeout(SOON, consumer.commit())
                .await
                .expect("it does not hang")
                .expect("it is a member");
            let committed = world
                .admin
                .admin()
                .fetch_offsets(GROUP, None)
                .await
                .expect("it has committed");
            let offset = committed.first().and_then(|committed| committed.offset);
            assert_eq!(offset, Some(expected + 1));
        }
    }
    consumer.close().await.expect("it is a member");
    read
}
