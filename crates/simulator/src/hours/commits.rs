//! Ends of transactions that come late, and transactions whose leaders die.

use std::rc::Rc;
use std::time::Duration;

use jangada_client::{Client, ClientError, Isolation, TransactionOptions, TransactionOutcome, TransactionalProducer};
use tokio::task::spawn_local;

use super::world::{World, play, record};
use crate::trace::Trace;

const TOPIC: &str = "payments";
const ID: &str = "payer";
/// What is under way is held back for so long.
const LATE: Duration = Duration::from_secs(8);

/// How a transaction is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Commit,
    Abort,
}

async fn open(client: &Client, early: bool) -> TransactionalProducer {
    let options = TransactionOptions {
        early,
        ..TransactionOptions::default()
    };
    let opened = TransactionalProducer::open(client, ID, options).await;
    opened.expect("the coordinator lives")
}

/// A commit is under way for so long that another life of the producer has begun a transaction meanwhile: it ends neither that one nor its
/// own, which was aborted when the other life began.
///
/// # Panics
/// It does not come out so.
pub fn late_commit(seed: u64) -> Trace {
    play(seed, 3, |world| late(world, End::Commit))
}

/// The same with an abort.
///
/// # Panics
/// It does not come out so.
pub fn late_abort(seed: u64) -> Trace {
    play(seed, 3, |world| late(world, End::Abort))
}

async fn late(world: Rc<World>, end: End) {
    world.topic(TOPIC).await;
    let (zombie, client) = (world.client("zombie").await, world.client("successor").await);
    let mut before = open(&zombie, false).await;
    let host = world.cluster.client_host("zombie");
    let (told, was_told) = tokio::sync::oneshot::channel();
    let ending = {
        let world = world.clone();
        spawn_local(async move {
            let transaction = before.begin().await.expect("none is open");
            let delivery = transaction
                .send(record(TOPIC, "of the zombie"))
                .await
                .expect("it is taken");
            delivery.await.expect("the leader lives");
            for broker in world.cluster.hosts() {
                world.sim.network().stall(&host, broker, LATE);
            }
            told.send(()).expect("the play waits");
            match end {
                End::Commit => transaction.commit().await.map(drop),
                End::Abort => transaction.abort().await,
            }
        })
    };
    was_told.await.expect("the zombie has sent its record");
    let mut after = open(&client, false).await;
    let transaction = after.begin().await.expect("none is open");
    let delivery = transaction.send(record(TOPIC, "first")).await.expect("it is taken");
    delivery.await.expect("the leader lives");
    // The end of the other life has come by then.
    world.pass(2 * LATE).await;
    assert_eq!(
        world.read(TOPIC).await,
        [],
        "the transaction is open, and the one before was aborted"
    );
    match end {
        End::Commit => transaction.abort().await.expect("it is this life's"),
        End::Abort => drop(transaction.commit().await.expect("it is this life's")),
    }
    let transaction = after.begin().await.expect("none is open");
    let delivery = transaction.send(record(TOPIC, "second")).await.expect("it is taken");
    delivery.await.expect("the leader lives");
    transaction.commit().await.expect("nobody ends it");
    let ended = ending.await.expect("it does not panic");
    assert!(
        end == End::Abort || ended.is_err(),
        "it was aborted, and its commit ends with {ended:?}"
    );
    let values: Vec<String> = world.read(TOPIC).await.into_iter().map(|(_, value)| value).collect();
    let expected: &[&str] = match end {
        End::Commit => &["second"],
        End::Abort => &["first", "second"],
    };
    assert_eq!(values, expected);
    let all: Vec<String> = world
        .read_as(TOPIC, Isolation::Uncommitted)
        .await
        .into_iter()
        .map(|(_, value)| value)
        .collect();
    assert_eq!(all, ["of the zombie", "first", "second"]);
}

/// A transaction is committed, and before its markers are everywhere the next one has written; then the leader dies, and the transaction is
/// aborted. What was committed is read, what was aborted never, each in its place.
///
/// # Panics
/// It does not come out so.
pub fn aborted_while_leaders_die(seed: u64) -> Trace {
    play(seed, 3, |world| async move {
        world.topic(TOPIC).await;
        let client = world.client("producer").await;
        let mut producer = open(&client, true).await;
        let mut expected = Vec::new();
        for round in 0..4 {
            let kept = format!("kept {round}");
            commit(&mut producer, &kept).await;
            expected.push(kept);
            let transaction = producer.begin().await.expect("none is open");
            let delivery = transaction
                .send(record(TOPIC, &format!("gone {round}")))
                .await
                .expect("it is taken");
            let leader = world.leader(TOPIC).await;
            world.cluster.kill(leader);
            // Whether it was stored or not: it is aborted.
            drop(delivery.await);
            drop(transaction.abort().await);
            world.restart(&[leader]).await;
            world.healthy().await;
            reads(&world, &expected).await;
        }
        commit(&mut producer, "last").await;
        expected.push("last".to_owned());
        reads(&world, &expected).await;
    })
}

/// What is committed is read before long, as its markers may be under way; nothing else ever is.
async fn reads(world: &World, expected: &[String]) {
    world
        .eventually("all that is committed is read", async || {
            let read: Vec<String> = world.read(TOPIC).await.into_iter().map(|(_, value)| value).collect();
            assert!(
                expected.starts_with(&read),
                "{read:?} is read, and committed is {expected:?}"
            );
            (read == expected).then_some(())
        })
        .await;
}

/// Writes a value in a transaction, again and again until it is known to be committed.
async fn commit(producer: &mut TransactionalProducer, value: &str) {
    for _ in 0..10 {
        let Ok(transaction) = producer.begin().await else {
            continue;
        };
        let Ok(delivery) = transaction.send(record(TOPIC, value)).await else {
            continue;
        };
        drop(delivery.await);
        match transaction.commit().await {
            Ok(_) => return,
            Err(ClientError::TransactionUnknown(_)) => {}
            Err(_) => continue,
        }
        loop {
            match producer.resolve().await {
                Ok(TransactionOutcome::Committed) => return,
                Ok(TransactionOutcome::Aborted) => break,
                Err(ClientError::Unavailable(_) | ClientError::OutcomeUnknown(_)) => {}
                Err(error) => panic!("{value}: {error}"),
            }
        }
    }
    panic!("{value} is not committed after ten tries");
}
