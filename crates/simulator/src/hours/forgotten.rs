//! What brokers know beside records, and must not forget.

use std::time::Duration;

use jangada_client::{OffsetCommit, TransactionOptions, TransactionOutcome, TransactionalProducer};

use super::world::{World, at, play, producer, record, send};
use crate::trace::Trace;

const TOPIC: &str = "orders";
const GROUP: &str = "billing";

/// Each broker dies once. What a group has committed is what it was, exactly, and a transaction that was open is committed.
///
/// # Panics
/// It does not come out so.
pub fn coordinators_state(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic_with(TOPIC, 4, &[]).await;
        let client = world.client("client").await;
        let admin = client.admin();
        let partitions = admin.topic_partitions(TOPIC).await.expect("it was made");
        let commits: Vec<OffsetCommit> = (10..)
            .zip(&partitions)
            .map(|(offset, partition)| OffsetCommit::new(partition.clone(), offset))
            .collect();
        admin
            .commit_offsets(GROUP, &commits)
            .await
            .expect("the group has no members");
        let opened = TransactionalProducer::open(&client, "payer", TransactionOptions::default()).await;
        let mut transactional = opened.expect("nobody has the id");
        let transaction = transactional.begin().await.expect("none is open");
        let delivery = transaction.send(record(TOPIC, "paid")).await.expect("it is taken");
        delivery.await.expect("the leader lives");
        for broker in 1..=3 {
            assert!(world.cluster.kill(broker), "it runs");
            has_offsets(&world, 4).await;
            world.restart(&[broker]).await;
            world.healthy().await;
        }
        if let Err(unknown) = transaction.commit().await {
            world.sim.note(format_args!("not known yet: {unknown}"));
            let outcome = transactional.resolve().await.expect("all brokers live");
            assert_eq!(outcome, TransactionOutcome::Committed);
        }
        assert_eq!(world.read(TOPIC).await, at(0, ["paid"]));
        has_offsets(&world, 4).await;
    })
}

/// The group has committed 10 in the first partition, 11 in the second, and so on.
async fn has_offsets(world: &World, partitions: usize) {
    let expected: Vec<Option<i64>> = (10..).map(Some).take(partitions).collect();
    let found = world
        .eventually("the coordinator answers", async || {
            let found = world.admin.admin().fetch_offsets(GROUP, None).await;
            if let Err(error) = &found {
                world.sim.note(format_args!("no offsets yet: {error}"));
            }
            found.ok()
        })
        .await;
    let found: Vec<Option<i64>> = found.into_iter().map(|committed| committed.offset).collect();
    assert_eq!(found, expected);
}

/// All brokers are killed at once right after a topic was made and written to, three times over. Each topic is there, with its id and its
/// records.
///
/// # Panics
/// It does not come out so.
pub fn topics(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        let client = world.client("producer").await;
        let producer = producer(&client);
        let mut made = Vec::new();
        for round in 0..3 {
            let name = format!("topic-{round}");
            world.topic(&name).await;
            let described = world.admin.admin().describe_topic(&name).await.expect("it was made");
            for number in 0..10 {
                let offset = send(&producer, &name, &format!("{round}.{number}")).await;
                assert_eq!(offset, number);
            }
            made.push((name, described.topic_id));
            for broker in 1..=3 {
                assert!(world.cluster.kill(broker), "it runs");
            }
            world.pass(Duration::from_millis(300)).await;
            world.restart(&[1, 2, 3]).await;
            world.healthy().await;
            for (number, (name, id)) in made.iter().enumerate() {
                let described = world.admin.admin().describe_topic(name).await.expect("it is there");
                assert_eq!(described.topic_id, *id, "another topic of this name");
                let values: Vec<String> = (0..10).map(|value| format!("{number}.{value}")).collect();
                assert_eq!(world.read(name).await, at(0, values.iter().map(String::as_str)));
            }
        }
    })
}
