//! Changes of members while brokers die.

use std::time::Duration;

use super::world::{World, at, play, producer, send};
use super::writer::{Writer, judge};
use crate::trace::Trace;

const TOPIC: &str = "orders";
/// An election, and what a client needs to find the next leader.
const ELECTED: Duration = Duration::from_secs(15);

/// A broker is replaced by an empty one while records come, and then each of the others is killed: whoever leads has every record that was
/// acknowledged.
///
/// # Panics
/// It does not come out so.
pub fn kill_and_change(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let writer = Writer::start(&world, "writer", TOPIC).await;
        writer.goes_on(50, ELECTED).await;
        world.replace(3).await;
        // It is not full yet, and another one dies.
        let leader = world.leader(TOPIC).await;
        world.cluster.kill(leader);
        world.pass(Duration::from_secs(1)).await;
        world.restart(&[leader]).await;
        world.healthy().await;
        for broker in [1, 2] {
            world.cluster.kill(broker);
            writer.goes_on(20, ELECTED).await;
            let acked = writer.acked();
            assert!(world.read(TOPIC).await.len() >= acked, "without broker {broker}");
            world.restart(&[broker]).await;
            world.healthy().await;
        }
        let written = writer.finish().await;
        judge(&world.read(TOPIC).await, &[written]);
    })
}

/// A broker is replaced, the other two are cut off from one another, and the leader is killed, all at once.
///
/// # Panics
/// It does not come out so.
pub fn kill_change_and_partition(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let writers = [
            Writer::start(&world, "one", TOPIC).await,
            Writer::start(&world, "two", TOPIC).await,
        ];
        writers[0].goes_on(50, ELECTED).await;
        for (replaced, other) in [(3, [1, 2]), (1, [2, 3])] {
            world.replace(replaced).await;
            let [one, two] = other.map(|broker| world.cluster.host(broker).clone());
            world.cut(&one, &two);
            world.pass(Duration::from_millis(700)).await;
            let killed = other[0];
            world.cluster.kill(killed);
            world.pass(Duration::from_secs(2)).await;
            world.mend(&one, &two);
            world.restart(&[killed]).await;
            world.healthy().await;
            writers[0].goes_on(20, ELECTED).await;
        }
        let mut written = Vec::new();
        for writer in writers {
            written.push(writer.finish().await);
        }
        judge(&world.read(TOPIC).await, &written);
    })
}

/// A replica that was filled by a snapshot knows of whom a majority is needed: with it and any one of the others the partition goes on.
///
/// # Panics
/// It does not come out so.
pub fn filled_by_a_snapshot(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let client = world.client("producer").await;
        let producer = producer(&client);
        for number in 0..20 {
            assert_eq!(send(&producer, TOPIC, &format!("before {number}")).await, number);
        }
        let trimmed = world
            .eventually("the records are trimmed", async || {
                world.admin.admin().trim(TOPIC, 0, Some(20)).await.ok()
            })
            .await;
        assert_eq!(trimmed, 20);
        // The log is cut off, and only the snapshot has who votes.
        world.pass(Duration::from_secs(5)).await;
        world.replace(3).await;
        world.healthy().await;
        let mut expected = Vec::new();
        for killed in [1, 2] {
            world.cluster.kill(killed);
            for number in 0..10 {
                let value = format!("without {killed}: {number}");
                send(&producer, TOPIC, &value).await;
                expected.push(value);
            }
            world.restart(&[killed]).await;
            world.healthy().await;
        }
        assert_eq!(world.read(TOPIC).await, at(20, expected.iter().map(String::as_str)));
        has_leader(&world).await;
    })
}

/// The replica that was filled can lead.
async fn has_leader(world: &World) {
    world.lead(TOPIC, 3).await;
    assert_eq!(world.leader(TOPIC).await, 3);
}
