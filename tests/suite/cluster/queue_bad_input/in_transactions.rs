//! What is asked in transactions, and how it is refused.

use bytes::Bytes;
use jangada_proto::v1;
use jangada_proto::v1::settle_item::Settlement;

use super::Asks;
use super::rows::{Row, acks, message};

/// A transactional id that is open, with a producer that the rows do not know.
pub const ID: &str = "billing";

fn named(id: &str, producer_id: i64, producer_epoch: i32) -> v1::QueueTransaction {
    v1::QueueTransaction {
        transactional_id: id.to_owned(),
        producer_id,
        producer_epoch,
    }
}

fn send(queue: &str, change: impl FnOnce(&mut v1::SendRequest)) -> Asks {
    let mut request = v1::SendRequest {
        queue: queue.to_owned(),
        partition: Some(0),
        messages: vec![message()],
        transaction: Some(named(ID, 1_000_000, 0)),
        ..v1::SendRequest::default()
    };
    change(&mut request);
    Asks::Send(request)
}

fn ack(token: &Bytes, transaction: v1::QueueTransaction) -> Asks {
    match acks(vec![token.clone()]) {
        Asks::Settle(request) => Asks::Settle(v1::SettleRequest {
            transaction: Some(transaction),
            ..request
        }),
        _ => unreachable!("it settles"),
    }
}

/// `token`: of a message of "jobs" that is leased.
pub fn rows(token: &Bytes) -> Vec<Row> {
    let nack = v1::SettleItem {
        token: token.clone(),
        settlement: Some(Settlement::Nack(v1::Nack::default())),
    };
    let mut mixed = ack(token, named(ID, 1_000_000, 0));
    if let Asks::Settle(request) = &mut mixed {
        request.items.push(nack);
    }
    vec![
        (
            "to fail a message in a transaction",
            mixed,
            "INVALID_REQUEST",
            &["item 1", "acknowledgement", "nothing was done"],
        ),
        (
            "to acknowledge under an empty transactional id",
            ack(token, named("", 1_000_000, 0)),
            "INVALID_TRANSACTIONAL_ID",
            &["249"],
        ),
        (
            "to acknowledge under a transactional id that is too long",
            ack(token, named(&"i".repeat(250), 1_000_000, 0)),
            "INVALID_TRANSACTIONAL_ID",
            &["249"],
        ),
        (
            "to acknowledge under a transactional id that nobody has",
            ack(token, named("nobody", 1_000_000, 0)),
            "UNKNOWN_TRANSACTIONAL_ID",
            &["nobody"],
        ),
        (
            "to acknowledge for a producer that does not have the id",
            ack(token, named(ID, 1_000_000, 0)),
            "PRODUCER_FENCED",
            &[ID],
        ),
        (
            "to acknowledge for no producer",
            ack(token, named(ID, -1, 0)),
            "INVALID_REQUEST",
            &["producer id", "InitTransactions"],
        ),
        (
            "to acknowledge in an epoch that there is not",
            ack(token, named(ID, 7, 32_768)),
            "INVALID_REQUEST",
            &["producer epoch", "32767"],
        ),
        (
            "to send in a transaction to any partition",
            send("jobs", |request| request.partition = None),
            "INVALID_REQUEST",
            &["name the partition"],
        ),
        (
            "to send in a transaction to a partition that the queue has not",
            send("jobs", |request| request.partition = Some(7)),
            "UNKNOWN_PARTITION",
            &["7"],
        ),
        (
            "to send in a transaction where repetitions are recognized",
            send("deduped", |_| ()),
            "INVALID_REQUEST",
            &["queue.dedup", "an abort"],
        ),
        (
            "to send for a producer that does not have the id",
            send("jobs", |_| ()),
            "PRODUCER_FENCED",
            &[ID],
        ),
        (
            "to send under a transactional id that nobody has",
            send("jobs", |request| {
                request.transaction = Some(named("nobody", 1_000_000, 0))
            }),
            "UNKNOWN_TRANSACTIONAL_ID",
            &["nobody"],
        ),
        (
            "a sequence below zero",
            send("jobs", |request| request.base_sequence = -1),
            "INVALID_REQUEST",
            &["base_sequence"],
        ),
        (
            "a sequence without a transaction",
            send("jobs", |request| {
                (request.transaction, request.base_sequence) = (None, 5)
            }),
            "INVALID_REQUEST",
            &["base_sequence", "no transaction"],
        ),
        (
            "one message among others that the queue does not take",
            send("jobs", |request| {
                let keyed = v1::QueueMessage {
                    key: Some(Bytes::from_static(b"k")),
                    ..message()
                };
                request.messages.push(keyed);
            }),
            "INVALID_REQUEST",
            &["message 1", "queue.order", "nothing was sent"],
        ),
        (
            "a batch that is larger than the queue takes",
            send("jobs", |request| {
                let half = v1::QueueMessage {
                    body: vec![7; 600 << 10].into(),
                    ..message()
                };
                request.messages = vec![half; 2];
            }),
            "BATCH_TOO_LARGE",
            &["1048576"],
        ),
    ]
}
