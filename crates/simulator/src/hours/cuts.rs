//! Networks of which only a part works, and peers that say nothing.

use std::time::Duration;

use super::world::{World, at, play, producer, send};
use super::writer::{Writer, judge};
use crate::trace::Trace;

const TOPIC: &str = "orders";
/// A lease, an election, and what a client needs to find the next leader.
const ELECTED: Duration = Duration::from_secs(15);

/// A broker hangs: its connections stand, and nothing is answered. Whoever waits for it keeps nobody else waiting.
///
/// # Panics
/// It does not come out so.
pub fn hung_peer(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let client = world.client("producer").await;
        let producer = producer(&client);
        // It has its id and its connections before anybody hangs.
        send(&producer, TOPIC, "first").await;
        let mut expected = vec!["first".to_owned()];
        for hung in world.followers(TOPIC).await {
            assert!(world.cluster.with(hung, |process| process.pause()), "it runs");
            for number in 0..50 {
                let value = format!("while {hung} hangs: {number}");
                let began = world.sim.now();
                send(&producer, TOPIC, &value).await;
                let took = world.sim.now() - began;
                assert!(took < Duration::from_secs(2), "{value} takes {took:?}");
                expected.push(value);
                world.pass(Duration::from_millis(100)).await;
            }
            let began = world.sim.now();
            world.topic(&format!("made-while-{hung}-hangs")).await;
            let took = world.sim.now() - began;
            assert!(took < ELECTED, "making a topic takes {took:?}");
            world.cluster.with(hung, |process| process.resume());
            world.healthy().await;
        }
        assert_eq!(world.read(TOPIC).await, at(0, expected.iter().map(String::as_str)));
    })
}

/// Two of three do not hear each other, and both hear the third: records are taken all the time, whoever leads; also when the leader dies
/// then, and the others can talk.
///
/// # Panics
/// It does not come out so.
pub fn partial(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let writer = Writer::start(&world, "writer", TOPIC).await;
        writer.goes_on(20, ELECTED).await;
        let leader = world.leader(TOPIC).await;
        let others = world.followers(TOPIC).await;
        for cut_off in others {
            let (one, other) = (world.cluster.host(leader).clone(), world.cluster.host(cut_off).clone());
            world.cut(&one, &other);
            for _ in 0..4 {
                writer.goes_on(20, ELECTED).await;
                world.pass(Duration::from_secs(2)).await;
            }
            world.mend(&one, &other);
            world.healthy().await;
        }
        let leader = world.leader(TOPIC).await;
        let other = world.followers(TOPIC).await[0];
        let (one, other) = (world.cluster.host(leader).clone(), world.cluster.host(other).clone());
        world.cut(&one, &other);
        world.pass(Duration::from_secs(3)).await;
        world.cluster.kill(leader);
        writer.goes_on(20, ELECTED).await;
        world.mend(&one, &other);
        world.restart(&[leader]).await;
        world.healthy().await;
        let written = writer.finish().await;
        judge(&world.read(TOPIC).await, &[written]);
    })
}

/// Of five brokers only one hears all others, and those hear only that one. The leader, which is another, has no majority any more: the one
/// that has it leads before long.
///
/// # Panics
/// It does not come out so.
pub fn hub(seed: u64) -> Trace {
    play(seed, 5, |world| async move {
        world.topic(TOPIC).await;
        let writer = Writer::start(&world, "writer", TOPIC).await;
        writer.goes_on(20, ELECTED).await;
        let replicas = replicas(&world).await;
        let leader = world.leader(TOPIC).await;
        let hub = *replicas.iter().find(|broker| **broker != leader).expect("it has three");
        let spokes: Vec<u32> = world.cluster.ids().filter(|broker| *broker != hub).collect();
        for (at, one) in spokes.iter().enumerate() {
            for other in &spokes[at + 1..] {
                world.cut(world.cluster.host(*one), world.cluster.host(*other));
            }
        }
        world.pass(Duration::from_secs(5)).await;
        for _ in 0..3 {
            writer.goes_on(20, 4 * ELECTED).await;
            world.pass(Duration::from_secs(2)).await;
        }
        world.sim.network().mend_all();
        world.healthy().await;
        let written = writer.finish().await;
        judge(&world.read(TOPIC).await, &[written]);
    })
}

/// The brokers that have a replica of the first partition.
async fn replicas(world: &World) -> Vec<u32> {
    let described = world.admin.admin().describe_topic(TOPIC).await.expect("it was made");
    described.partitions[0]
        .replicas
        .iter()
        .map(|broker| broker.get())
        .collect()
}

/// What followers answer is on its way for longer than a leadership lasts, and comes to the same broker in a later one. It counts for
/// nothing then: what was acknowledged survives a power failure of the others.
///
/// # Panics
/// It does not come out so.
pub fn late_answers(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let writer = Writer::start(&world, "writer", TOPIC).await;
        for _ in 0..3 {
            writer.goes_on(20, ELECTED).await;
            let leader = world.leader(TOPIC).await;
            let others = world.followers(TOPIC).await;
            let host = world.cluster.host(leader);
            let late = Duration::from_millis(400)..Duration::from_millis(3_000);
            world.sim.network().delay(world.cluster.host(others[0]), host, late);
            world.lead(TOPIC, others[1]).await;
            world.lead(TOPIC, leader).await;
            world.pass(Duration::from_secs(1)).await;
            world.cluster.power_off(others[0]);
            world.cluster.power_off(others[1]);
            world.pass(Duration::from_millis(300)).await;
            world.sim.network().mend(world.cluster.host(others[0]), host);
            world.restart(&others).await;
            world.healthy().await;
        }
        let written = writer.finish().await;
        judge(&world.read(TOPIC).await, &[written]);
    })
}
