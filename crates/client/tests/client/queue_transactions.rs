//! Messages of queues in transactions: what is sent and acknowledged with them, and when they can only be aborted.

use std::time::Duration;

use jangada_client::{
    Client, ClientError, QueueMessage, Reason, SentMessage, Token, TransactionOptions, TransactionalProducer,
};
use jangada_proto::v1;
use jangada_proto::v1::consume_request::Message as Says;
use tokio::time::timeout;

use crate::fake::{Cluster, Error, QueueFault};
use crate::group::soon;
use crate::queue_consumers::{WAIT, consumer, next, stream, token};

async fn open(client: &Client) -> TransactionalProducer {
    let opened = TransactionalProducer::open(client, "billing", TransactionOptions::default());
    soon(opened).await.expect("a life")
}

/// A queue of three partitions, and a producer.
async fn begin() -> (Cluster, Client, TransactionalProducer) {
    let cluster = Cluster::start(1);
    cluster.state().queue.leaders = [vec![1, 1, 1]].into();
    let client = cluster.client().await;
    let producer = open(&client).await;
    (cluster, client, producer)
}

fn messages(count: usize) -> Vec<QueueMessage> {
    (0..count).map(|number| QueueMessage::new(number.to_string())).collect()
}

/// The partition, the sequence and the number of messages of each batch that was sent.
fn batches(cluster: &Cluster) -> Vec<(u32, i32, usize)> {
    let state = cluster.state();
    let batch = |request: &v1::SendRequest| {
        let partition = request.partition.expect("it is named");
        (partition, request.base_sequence, request.messages.len())
    };
    state.queue.sent.iter().map(batch).collect()
}

fn ended(cluster: &Cluster) -> Vec<bool> {
    let state = cluster.state();
    state.transactions.ended.iter().map(|(_, commit)| *commit).collect()
}

/// The transaction was aborted when it was to be committed; why.
fn cause(error: ClientError) -> ClientError {
    match error {
        ClientError::TransactionAborted { cause } => ClientError::clone(&cause),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn batches_to_a_queue_have_sequences_within_each_transaction_and_partition() {
    let (cluster, _client, mut producer) = begin().await;
    let transaction = producer.begin().await.expect("ready");
    let sent = soon(transaction.send_to_queue("q", messages(3)))
        .await
        .expect("it is sent");
    assert_eq!(sent.len(), 3);
    let places: Vec<i64> = sent.iter().map(|sent: &SentMessage| sent.place.offset).collect();
    assert_eq!(places, [0, 1, 2]);
    // Those with keys go by them, and come back in the order of the call.
    let keyed = (0..6).map(|number| QueueMessage::new("x").with_key(format!("customer {number}")));
    let sent = soon(transaction.send_to_queue("q", keyed)).await.expect("it is sent");
    let by_key: Vec<u32> = sent.iter().map(|sent| sent.place.partition).collect();
    assert!(by_key.iter().any(|partition| *partition != by_key[0]), "{by_key:?}");
    soon(transaction.send_to_queue("q", messages(2)))
        .await
        .expect("it is sent");
    soon(transaction.commit()).await.expect("committed");
    let all = batches(&cluster);
    let any = all[0].0;
    let in_any = all.iter().filter(|(partition, ..)| *partition == any);
    let mut expected = 0;
    for (_, sequence, count) in in_any {
        assert_eq!(*sequence, expected, "{all:?}");
        expected += i32::try_from(*count).expect("few");
    }
    assert!(expected >= 5, "those without a key go to one partition: {all:?}");
    let transaction = producer.begin().await.expect("ready");
    soon(transaction.send_to_queue("q", messages(1)))
        .await
        .expect("it is sent");
    assert_eq!(
        batches(&cluster).last().expect("it was sent").1,
        0,
        "it has an epoch of its own"
    );
    soon(transaction.abort()).await.expect("aborted");
    assert_eq!(ended(&cluster), [true, false]);
}

#[tokio::test]
async fn what_was_not_answered_is_sent_again_under_its_sequence() {
    let (cluster, _client, mut producer) = begin().await;
    let transaction = producer.begin().await.expect("ready");
    cluster.state().queue.faults = [QueueFault::Lose].into();
    let first = soon(transaction.send_to_queue("q", messages(2)))
        .await
        .expect("it is sent");
    let second = soon(transaction.send_to_queue("q", messages(1)))
        .await
        .expect("it is sent");
    assert_eq!(
        (first[0].place.offset, second[0].place.offset),
        (0, 2),
        "the first is there once"
    );
    let partition = first[0].place.partition;
    assert_eq!(
        batches(&cluster),
        [(partition, 0, 2), (partition, 0, 2), (partition, 2, 1)]
    );
    cluster.state().queue.faults = [QueueFault::Lose].into();
    let tokens = [Token(token(0, 1))];
    soon(transaction.acknowledge("q", &tokens))
        .await
        .expect("it is acknowledged");
    assert_eq!(cluster.state().queue.acknowledged.len(), 2);
    soon(transaction.commit()).await.expect("committed");
}

#[tokio::test]
async fn a_queue_that_takes_small_batches_gets_small_ones() {
    let (cluster, _client, mut producer) = begin().await;
    let transaction = producer.begin().await.expect("ready");
    let too_large = QueueFault::Refuse(Error::definite(Reason::BatchTooLarge));
    cluster.state().queue.faults = [too_large.clone(), too_large.clone()].into();
    let sent = soon(transaction.send_to_queue("q", messages(8)))
        .await
        .expect("it is sent");
    let places: Vec<i64> = sent.iter().map(|sent| sent.place.offset).collect();
    assert_eq!(places, [0, 1, 2, 3, 4, 5, 6, 7]);
    let sequences: Vec<(i32, usize)> = batches(&cluster)
        .iter()
        .map(|(_, sequence, count)| (*sequence, *count))
        .collect();
    assert_eq!(sequences, [(0, 8), (0, 4), (0, 2), (2, 2), (4, 2), (6, 2)]);
    cluster.state().queue.faults = [too_large].into();
    let refused = soon(transaction.send_to_queue("q", messages(1)))
        .await
        .expect_err("one is one");
    assert_eq!(refused.reason(), Some(Reason::BatchTooLarge));
    let error = soon(transaction.commit())
        .await
        .expect_err("a message of it is not sent");
    assert_eq!(cause(error).reason(), Some(Reason::BatchTooLarge));
    assert_eq!(ended(&cluster), [false]);
}

#[tokio::test]
async fn a_message_is_acknowledged_in_a_transaction_and_makes_room_for_the_next() {
    let cluster = Cluster::start(1);
    let (mut consumer, mut streams) = consumer(&cluster, &[&[1]]).await;
    let mut producer = open(&cluster.client().await).await;
    let mut one = stream(&mut streams, &[0]).await;
    one.deliver(0, 7);
    let message = next(&mut consumer, 7).await;
    let transaction = producer.begin().await.expect("ready");
    soon(message.ack_in(&transaction)).await.expect("it is acknowledged");
    // It is not settled on the stream, and another one may come.
    let said = one.said().await;
    assert!(matches!(said, Says::Credit(1)), "{said:?}");
    {
        let state = cluster.state();
        let [acknowledged] = &state.queue.acknowledged[..] else {
            panic!("it is one call")
        };
        assert_eq!(acknowledged.queue, "q");
        assert_eq!(acknowledged.items[0].token, token(0, 7));
        let named = acknowledged.transaction.as_ref().expect("it names it");
        assert_eq!(named.transactional_id, "billing");
    }
    soon(transaction.commit()).await.expect("committed");
    assert_eq!(ended(&cluster), [true]);
}

#[tokio::test]
async fn a_transaction_with_a_message_that_is_lost_is_aborted_when_it_is_to_be_committed() {
    for settled in [v1::Settled::LeaseLost, v1::Settled::Already] {
        let cluster = Cluster::start(1);
        let (mut consumer, mut streams) = consumer(&cluster, &[&[1]]).await;
        let mut producer = open(&cluster.client().await).await;
        let mut one = stream(&mut streams, &[0]).await;
        one.deliver(0, 7);
        let message = next(&mut consumer, 7).await;
        let transaction = producer.begin().await.expect("ready");
        cluster.state().queue.faults = [QueueFault::Settled(settled)].into();
        let lost = soon(message.ack_in(&transaction))
            .await
            .expect_err("somebody else has it");
        assert!(matches!(lost, ClientError::LeaseLost), "{lost}");
        one.granted(1).await;
        let refused = soon(transaction.send_to_queue("q", messages(1))).await;
        assert!(matches!(
            cause(refused.expect_err("it has failed")),
            ClientError::LeaseLost
        ));
        let error = soon(transaction.commit()).await.expect_err("it has failed");
        assert!(matches!(cause(error), ClientError::LeaseLost));
        assert_eq!(ended(&cluster), [false]);
        let next = producer.begin().await.expect("the producer goes on");
        soon(next.commit()).await.expect("committed");
    }
}

#[tokio::test]
async fn a_transaction_is_not_committed_when_a_call_in_it_was_dropped() {
    let (cluster, _client, mut producer) = begin().await;
    let tokens = [Token(token(0, 1))];
    for acknowledges in [true, false] {
        let transaction = producer.begin().await.expect("ready");
        cluster.state().queue.faults = [QueueFault::Silence].into();
        let short = Duration::from_millis(300);
        match acknowledges {
            true => drop(
                timeout(short, transaction.acknowledge("q", &tokens))
                    .await
                    .expect_err("silence"),
            ),
            false => drop(
                timeout(short, transaction.send_to_queue("q", messages(1)))
                    .await
                    .expect_err("silence"),
            ),
        }
        let error = timeout(WAIT, transaction.commit()).await.expect("it is answered");
        let cause = cause(error.expect_err("nobody knows whether it is part of it"));
        assert!(matches!(cause, ClientError::Config(_)), "{cause}");
    }
    assert_eq!(ended(&cluster), [false, false]);
}
