//! Power failures: what is not synced is gone, and peers are told nothing.

use std::rc::Rc;
use std::time::Duration;

use jangada_client::{OffsetAt, ProducerConfig};
use tokio::task::spawn_local;

use super::world::{World, at, play, producer, record, send};
use super::writer::{Writer, judge};
use crate::trace::Trace;

const TOPIC: &str = "orders";
/// An election, and what a client needs to find the next leader.
const ELECTED: Duration = Duration::from_secs(15);

/// The power fails for all brokers at once, three times, while records come. What was acknowledged is there.
///
/// # Panics
/// It does not come out so.
pub fn of_all(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let writer = Writer::start(&world, "writer", TOPIC).await;
        for _ in 0..3 {
            writer.goes_on(50, ELECTED).await;
            for broker in 1..=3 {
                assert!(world.cluster.power_off(broker), "it runs");
            }
            world.pass(Duration::from_millis(500)).await;
            world.restart(&[1, 2, 3]).await;
            world.healthy().await;
        }
        let written = writer.finish().await;
        assert!(written.acked.len() > 150);
        judge(&world.read(TOPIC).await, &[written]);
    })
}

/// The leader stands still, and the others go on without it; the power fails for one of these, and then the old leader goes on. There is
/// one history.
///
/// # Panics
/// It does not come out so.
pub fn loss_and_pauses(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let writers = [
            Writer::start(&world, "one", TOPIC).await,
            Writer::start(&world, "two", TOPIC).await,
        ];
        for _ in 0..2 {
            writers[0].goes_on(20, ELECTED).await;
            let old = world.leader(TOPIC).await;
            let others = world.followers(TOPIC).await;
            assert!(world.cluster.with(old, |process| process.pause()), "it runs");
            writers[0].goes_on(20, 2 * ELECTED).await;
            let before = world.read(TOPIC).await;
            assert!(world.cluster.power_off(others[0]), "it runs");
            world.cluster.with(old, |process| process.resume());
            world.pass(Duration::from_secs(1)).await;
            world.restart(&[others[0]]).await;
            world.healthy().await;
            let after = world.read(TOPIC).await;
            assert_eq!(after[..before.len()], before[..], "what was read once stays");
        }
        let mut written = Vec::new();
        for writer in writers {
            written.push(writer.finish().await);
        }
        judge(&world.read(TOPIC).await, &written);
    })
}

/// Two of three are dead, and the power of the last one fails while it takes a record that nobody else has. Alone it acknowledges and leads
/// nothing; with another one everything is there that was acknowledged.
///
/// # Panics
/// It does not come out so.
pub fn last_one_standing(seed: u64) -> Trace {
    play(seed, 3, hour)
}

async fn hour(world: Rc<World>) {
    world.topic(TOPIC).await;
    let client = world.client("producer").await;
    let sure = producer(&client);
    let values: Vec<String> = (0..20).map(|number| format!("acknowledged {number}")).collect();
    for (number, value) in (0..).zip(&values) {
        assert_eq!(send(&sure, TOPIC, value).await, number);
    }
    let last = world.leader(TOPIC).await;
    let others = world.followers(TOPIC).await;
    for other in &others {
        world.cluster.kill(*other);
    }
    let hasty = ProducerConfig {
        linger: Duration::ZERO,
        request_timeout: Duration::from_secs(1),
        delivery_timeout: Duration::from_secs(3),
        ..ProducerConfig::default()
    };
    let hasty = client.producer(hasty).expect("the settings are sound");
    let delivery = hasty.send(record(TOPIC, "alone")).await.expect("it is taken");
    world.pass(Duration::from_millis(100)).await;
    assert!(world.cluster.power_off(last), "it runs");
    let alone = delivery.await;
    assert!(alone.is_err(), "nobody else has it, and it is acknowledged: {alone:?}");
    // It may take until another one is there that it has started.
    let starting = {
        let world = world.clone();
        spawn_local(async move { world.cluster.start(last).await })
    };
    world.pass(Duration::from_secs(10)).await;
    let read = client.list_offsets(TOPIC, 0, OffsetAt::Latest).await;
    assert!(read.is_err(), "alone it leads, and says where the log ends: {read:?}");
    world.restart(&others[..1]).await;
    let started = starting.await.expect("it does not panic");
    started.expect("nothing is in its way");
    world.leader(TOPIC).await;
    world.restart(&others).await;
    world.healthy().await;
    let read = world.read(TOPIC).await;
    let acknowledged = at(0, values.iter().map(String::as_str));
    assert_eq!(read[..20], acknowledged[..]);
    let behind: Vec<&str> = read[20..].iter().map(|(_, value)| value.as_str()).collect();
    assert!(behind.is_empty() || behind == ["alone"], "{behind:?}");
}
