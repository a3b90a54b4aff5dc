//! Calls about transactions on their way between brokers, there and back.

use std::sync::Arc;

use jangada_controller::Image;
use jangada_coordinator::TopicPartition;
use jangada_log::{OpenTransaction, ProducerState};
use jangada_transactions::{Delivery, Producer, Target, TransactionState};
use jangada_types::{BrokerId, GroupId, Offset, PartitionIndex, ProducerEpoch, ProducerId, TopicId};

use super::passed_wire::{answer_of, answer_to, call_of, call_to};
use crate::api::call::transactions::{
    AbortTransaction, DescribeProducers, DescribeTransaction, EndTransaction, EndTransactions, FindProducer,
    InitTransactions, JoinTransaction, ListTransactions, ProducerFound, TransactionDescription, TransactionEnd,
    TransactionEnded, TransactionList,
};
use crate::api::call::{Answer, Call};
use crate::api::resolve::{PartitionRef, TopicRef};

const TOPIC: TopicId = TopicId::from_u128(7);
const PRODUCER: Producer = Producer {
    id: ProducerId(9),
    epoch: ProducerEpoch(4),
};

/// The epochs of its id were used up.
const LAST: Producer = Producer {
    id: ProducerId(8),
    epoch: ProducerEpoch(32_766),
};

fn id() -> Arc<str> {
    "transfers".into()
}

fn end(target: Target) -> TransactionEnd {
    TransactionEnd {
        target,
        producer: PRODUCER,
        seq: 11,
        commit: true,
        coordinator_epoch: 6,
    }
}

fn calls() -> Vec<Call> {
    let init = |holder| {
        Call::InitTransactions(InitTransactions {
            id: id(),
            timeout_ms: 5_000,
            holder,
        })
    };
    vec![
        init(None),
        init(Some(PRODUCER)),
        Call::EndTransaction(EndTransaction {
            id: id(),
            producer: PRODUCER,
            commit: true,
            early: true,
        }),
        Call::DescribeTransaction(DescribeTransaction { id: id() }),
        Call::AbortTransaction(AbortTransaction { id: id() }),
        Call::ListTransactions(ListTransactions),
        Call::DescribeProducers(DescribeProducers {
            partition: PartitionRef {
                topic: TopicRef::Id(TOPIC),
                index: PartitionIndex(3),
            },
        }),
        Call::JoinTransaction(JoinTransaction {
            id: id(),
            producer: PRODUCER,
            partitions: vec![GroupId(5), GroupId(6)],
            groups: vec!["readers".into()],
            adds: true,
            metadata_version: 12,
        }),
        Call::EndTransactions(EndTransactions(vec![
            end(Target::Partition(GroupId(5))),
            end(Target::Group("readers".into())),
        ])),
        Call::FindProducer(FindProducer {
            producer: PRODUCER.id,
            seq: 11,
            partition: GroupId(5),
        }),
    ]
}

#[test]
fn a_call_is_there_as_it_was_here() {
    let image = Image::default();
    for call in calls() {
        let before = format!("{call:?}");
        let read = call_of(&image, call_to(&image, call), "".into());
        let read = read.unwrap_or_else(|error| panic!("{before}: {error}"));
        assert_eq!(format!("{read:?}"), before);
    }
}

fn described(partitions: Vec<TopicPartition>) -> TransactionDescription {
    TransactionDescription {
        id: id(),
        state: TransactionState::PrepareCommit,
        producer: PRODUCER,
        timeout_ms: 5_000,
        started_ms: 1_700,
        groups: partitions.iter().map(|_| Arc::from("readers")).collect(),
        partitions,
        last: Some((LAST, true)),
        coordinator: BrokerId(2),
    }
}

fn answers() -> Vec<Answer> {
    let producer = |open| ProducerState {
        id: PRODUCER.id,
        epoch: PRODUCER.epoch,
        last_sequence: Some(8),
        last_ms: 1_700,
        open,
    };
    vec![
        Answer::InitTransactions(PRODUCER),
        Answer::EndTransaction(TransactionEnded {
            next: PRODUCER,
            is_visible: true,
        }),
        Answer::DescribeTransaction(described(vec![TopicPartition::new(TOPIC, 1)])),
        Answer::AbortTransaction(true),
        Answer::ListTransactions(TransactionList {
            transactions: vec![described(Vec::new())],
            missing_shards: [PartitionIndex(4)].into(),
        }),
        Answer::DescribeProducers(vec![
            producer(None),
            producer(Some(OpenTransaction {
                first: Offset(5),
                seq: 0,
                since_ms: 1_650,
            })),
        ]),
        Answer::JoinTransaction(11),
        Answer::EndTransactions(vec![
            Delivery::Done,
            Delivery::Failed,
            Delivery::NotFound { metadata_version: 0 },
            Delivery::NotFound { metadata_version: 12 },
        ]),
        Answer::FindProducer(ProducerFound {
            is_open: true,
            shards: [PartitionIndex(0), PartitionIndex(3)].into(),
        }),
    ]
}

#[test]
fn an_answer_is_here_as_it_was_there() {
    let image = Image::default();
    for answer in answers() {
        let sent = answer_to(&image, "", answer);
        let read = answer_of(sent.clone()).unwrap_or_else(|error| panic!("{sent:?}: {error}"));
        assert_eq!(answer_to(&image, "", read), sent);
    }
}

#[test]
fn what_is_no_producer_is_refused() {
    for (producer_id, producer_epoch) in [(-1, 0), (5, -1), (5, 1 << 16)] {
        let message = jangada_proto::v1::EndTransactionRequest {
            transactional_id: "transfers".to_owned(),
            producer_id,
            producer_epoch,
            commit: true,
            early: false,
        };
        let message = jangada_proto::internal::forward_request::Call::EndTransaction(message);
        let refused = call_of(&Image::default(), message, "".into()).expect_err("it is refused");
        assert_eq!(refused.reason, jangada_types::Reason::InvalidRequest);
    }
}
