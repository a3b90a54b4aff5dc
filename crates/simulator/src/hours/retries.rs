//! Batches that are sent again, since their answer is lost or their leader is gone.

use std::rc::Rc;
use std::time::Duration;

use jangada_client::{ClientError, Condition, Isolation, Producer, TransactionOptions, TransactionalProducer};

use super::world::{World, at, play, producer, record, send};
use super::writer::{Writer, judge};
use crate::trace::Trace;

const TOPIC: &str = "orders";
/// As many as the log knows of a producer's last batches.
const BATCH: usize = 5;

/// Records are committed, and their leader dies before the producer hears of it. It sends them again to the next one: each is there once,
/// at the offset that the producer is told.
///
/// # Panics
/// It does not come out so.
pub fn after_the_leaders_death(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let client = world.client("producer").await;
        let producer = producer(&client);
        let mut expected = Vec::new();
        for round in 0..3 {
            let value = format!("before {round}");
            send(&producer, TOPIC, &value).await;
            expected.push(value);
            let leader = world.leader(TOPIC).await;
            let values: Vec<String> = (0..BATCH).map(|number| format!("{round}.{number}")).collect();
            let first = expected.len();
            expected.extend(values.clone());
            answers_are_lost(&world, &producer, &values, (first, leader)).await;
            world.restart(&[leader]).await;
            world.healthy().await;
        }
        let expected = at(0, expected.iter().map(String::as_str));
        assert_eq!(world.read(TOPIC).await, expected);
    })
}

/// Records are sent; when they are committed, and before the producer is answered, the leader is killed. Each delivery then names the
/// offset at which the record lies.
async fn answers_are_lost(world: &World, producer: &Producer, values: &[String], (first, leader): (usize, u32)) {
    let (host, client) = (world.cluster.host(leader), world.cluster.client_host("producer"));
    world.sim.network().cut(host, &client);
    let mut deliveries = Vec::new();
    for value in values {
        deliveries.push(producer.send(record(TOPIC, value)).await.expect("it is taken"));
    }
    let end = i64::try_from(first + values.len()).expect("a handful");
    world
        .eventually("the records are committed", async || {
            (world.end_of(TOPIC).await == end).then_some(())
        })
        .await;
    // What was answered is on its way, and would come when the link is mended.
    world.sim.network().reset(host, &client);
    assert!(world.cluster.kill(leader), "it runs");
    world.sim.network().mend(host, &client);
    for (expected, delivery) in (first..).zip(deliveries) {
        let delivered = delivery.await.expect("the next leader has it");
        assert_eq!(
            delivered.offset,
            i64::try_from(expected).ok(),
            "of {:?}",
            values.get(expected - first)
        );
        assert!(delivered.duplicate, "the attempt before was committed");
    }
}

/// Sequence numbers are used again after a transaction was aborted, and after a record was refused: what has them then is stored.
///
/// # Panics
/// It does not come out so.
pub fn sequence_after_an_abort(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let client = world.client("producer").await;
        let opened = TransactionalProducer::open(&client, "payments", TransactionOptions::default()).await;
        let mut transactional = opened.expect("nobody has the id");
        let (mut all, mut kept) = (Vec::new(), Vec::new());
        for round in 0..4_u32 {
            for (name, commits) in [("aborted", false), ("kept", true)] {
                let transaction = transactional.begin().await.expect("none is open");
                for number in 0..3 {
                    let value = format!("{name} {round}.{number}");
                    let delivery = transaction.send(record(TOPIC, &value)).await.expect("it is taken");
                    delivery.await.expect("the leader lives");
                    all.push(value);
                }
                if commits {
                    transaction.commit().await.expect("all is stored");
                    kept.extend(all[all.len() - 3..].to_vec());
                } else {
                    transaction.abort().await.expect("nobody fences it");
                }
            }
            let next = world.followers(TOPIC).await[0];
            world.lead(TOPIC, next).await;
        }
        let values = |read: Vec<(i64, String)>| read.into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        assert_eq!(values(world.read(TOPIC).await), kept);
        assert_eq!(values(world.read_as(TOPIC, Isolation::Uncommitted).await), all);
        refused_and_sent_again(&world, &producer(&client)).await;
    })
}

/// A record whose condition does not hold leaves its sequence number to the next one.
async fn refused_and_sent_again(world: &World, producer: &Producer) {
    const OTHER: &str = "conditional";
    world.topic(OTHER).await;
    let mut expected = Vec::new();
    for number in 0..4_i64 {
        let refused = producer
            .send_if(record(OTHER, "refused"), Condition::EndOffset(100))
            .await;
        match refused.expect("it is taken").await {
            Err(ClientError::ConditionFailed { definite, actual, .. }) => {
                assert!(definite, "its leader lives");
                assert_eq!(actual, number);
            }
            other => panic!("the condition does not hold, and it ends with {other:?}"),
        }
        let value = format!("stored {number}");
        assert_eq!(send(producer, OTHER, &value).await, number);
        expected.push(value);
        let next = world.followers(OTHER).await[0];
        world.lead(OTHER, next).await;
    }
    assert_eq!(world.read(OTHER).await, at(0, expected.iter().map(String::as_str)));
}

/// Elections and markers of transactions stand in the Raft log and have no offset of a record. A producer that sends again is told the
/// record's offset all the same.
///
/// # Panics
/// It does not come out so.
pub fn offset_of_a_duplicate(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        for broker in [2, 3, 1, 3, 2, 1] {
            world.lead(TOPIC, broker).await;
        }
        let client = world.client("producer").await;
        let producer = producer(&client);
        assert_eq!(send(&producer, TOPIC, "first").await, 0);
        let values: Vec<String> = (0..BATCH).map(|number| format!("again {number}")).collect();
        let leader = world.leader(TOPIC).await;
        answers_are_lost(&world, &producer, &values, (1, leader)).await;
        assert_eq!(send(&producer, TOPIC, "last").await, 6);
        let expected = ["first"]
            .into_iter()
            .chain(values.iter().map(String::as_str))
            .chain(["last"]);
        assert_eq!(world.read(TOPIC).await, at(0, expected));
    })
}

/// Leaderships move all the time. No record is refused for that, and none is there twice.
///
/// # Panics
/// It does not come out so.
pub fn while_leaders_move(seed: u64) -> Trace {
    async fn hour(world: Rc<World>) {
        world.topic(TOPIC).await;
        let writer = Writer::start(&world, "writer", TOPIC).await;
        for broker in [2, 3, 1, 2, 1, 3, 2, 3, 1, 2] {
            world.lead(TOPIC, broker).await;
            writer.goes_on(10, Duration::from_secs(5)).await;
        }
        let written = writer.finish().await;
        assert!(
            written.failed.is_empty() && written.unknown.is_empty(),
            "{:?}",
            (&written.failed, &written.unknown)
        );
        let read = world.read(TOPIC).await;
        assert_eq!(read.len(), written.sent.len());
        judge(&read, &[written]);
    }
    play(seed, 3, hour)
}
