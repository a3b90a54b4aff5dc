//! Data at rest that rots, on a minority of the disks.

use std::time::Duration;

use super::world::{Read, World, at, play, producer, send};
use crate::trace::Trace;

const TOPIC: &str = "orders";
const RECORDS: i64 = 60;

/// A topic with records, and what it has.
async fn written(world: &World, topic: &str) -> Read {
    world.topic(topic).await;
    let client = world.client(&format!("producer of {topic}")).await;
    let producer = producer(&client);
    let values: Vec<String> = (0..RECORDS).map(|number| format!("{topic} {number}")).collect();
    for (number, value) in (0..).zip(&values) {
        assert_eq!(send(&producer, topic, value).await, number);
    }
    at(0, values.iter().map(String::as_str))
}

/// Some bits flip on one broker's disk, which is read again after a restart. No record is gone, and the broker mends what was damaged.
///
/// # Panics
/// It does not come out so.
pub fn flipped_bits(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        let expected = written(&world, TOPIC).await;
        let damaged = world.leader(TOPIC).await;
        world.cluster.kill(damaged);
        for place in world.rot(damaged, 5) {
            world.sim.note(format_args!("broken: {place}"));
        }
        assert_eq!(world.read(TOPIC).await, expected, "the others have everything");
        world.restart(&[damaged]).await;
        world.pass(Duration::from_secs(10)).await;
        assert_eq!(world.read(TOPIC).await, expected);
        let client = world.client("another producer").await;
        assert_eq!(send(&producer(&client), TOPIC, "more").await, RECORDS);
        let after = [expected, at(RECORDS, ["more"])].concat();
        assert_eq!(world.read(TOPIC).await, after);
        // The damaged one is not needed.
        let others = world
            .cluster
            .ids()
            .filter(|broker| *broker != damaged)
            .collect::<Vec<_>>();
        world.lead(TOPIC, others[0]).await;
        assert_eq!(world.read(TOPIC).await, after);
    })
}

/// Nearly all that lies on one broker's disk is damaged, snapshots too. The others delete nothing for that, and take records.
///
/// # Panics
/// It does not come out so.
pub fn snapshot_of_a_minority(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        let expected = written(&world, TOPIC).await;
        let trimmed = world
            .eventually("the first records are trimmed", async || {
                world.admin.admin().trim(TOPIC, 0, Some(RECORDS)).await.ok()
            })
            .await;
        assert_eq!(trimmed, RECORDS);
        let other = written(&world, "other").await;
        world.pass(Duration::from_secs(5)).await;
        let ids = ids(&world).await;
        let damaged = 3;
        world.cluster.kill(damaged);
        assert!(world.rot(damaged, 300).len() > 100, "there is much to damage");
        world.restart(&[damaged]).await;
        world.pass(Duration::from_secs(20)).await;
        assert_eq!(ids, self::ids(&world).await, "topics are what they were");
        assert_eq!(world.read("other").await, other);
        assert_eq!(world.end_of(TOPIC).await, RECORDS);
        let client = world.client("another producer").await;
        assert_eq!(send(&producer(&client), TOPIC, "more").await, RECORDS);
        assert_eq!(world.read(TOPIC).await, at(RECORDS, ["more"]));
        assert_eq!(expected.len(), 60);
    })
}

/// All topics with their ids, and how many replicas of them are in sync at least.
async fn ids(world: &World) -> Vec<(String, String)> {
    let topics = world
        .eventually("the topics are listed", async || {
            world.admin.admin().list_topics().await.ok()
        })
        .await;
    topics
        .into_iter()
        .map(|topic| (topic.name, topic.topic_id.to_string()))
        .collect()
}
