//! Calls about messages of queues on their way between brokers, there and back.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jangada_controller::{BrokerRegistration, Command, DirectoryId, Image, QUEUES_FEATURE_LEVEL, SeedBroker};
use jangada_queue::engine::{SettleItem, Settled, Settlement};
use jangada_queue::{AttemptId, CallId, LeaseId, SessionId};
use jangada_types::{
    BrokerId, ExchangeId, Header, Incarnation, Offset, PartitionIndex, ProducerEpoch, ProducerId, QueueId, Reason,
    ReplicaId, Sequence,
};

use super::passed_wire::{answer_of, answer_to, call_of, call_to};
use crate::api::call::exchange_logs::{AppendToLog, Readers};
use crate::api::call::queues::{
    CancelMessages, Cancelled, MessageState, PeekMessages, PeekedMessage, PeekedMessages, QueuePartition,
    QueueTransaction, ReceiveMessages, Received, ReceivedMessage, SendIn, SendMessages, SentMessage, SettleMessages,
};
use crate::api::call::{Answer, Call};
use crate::error::RequestError;
use crate::queues::outgoing::{Due, NewMessage};

const QUEUE: QueueId = QueueId(8);

/// The metadata of a cluster with one queue of four partitions: tokens are read by it.
fn image() -> Image {
    let broker = SeedBroker::from(BrokerRegistration {
        id: BrokerId(1),
        incarnation: Incarnation(0),
        directory: DirectoryId::new([1; 16]),
        address: "host-1:9400".to_owned(),
        internal_address: "host-1:9440".to_owned(),
        rack: String::new(),
        feature_level: QUEUES_FEATURE_LEVEL,
    });
    let replicas = vec![ReplicaId::new(BrokerId(1), Incarnation(1))];
    let commands = [
        Command::FormCluster {
            cluster_id: "cluster".to_owned(),
            brokers: vec![broker],
        },
        Command::CreateOwnedQueue {
            queue_id: QUEUE,
            name: "jobs".to_owned(),
            config: BTreeMap::new(),
            assignments: vec![replicas; 4],
        },
    ];
    let mut image = Image::default();
    for (index, command) in (1..).zip(&commands) {
        let reply = image.apply(index, command).into_result();
        reply.expect("the command is accepted");
    }
    image
}

fn at() -> QueuePartition {
    QueuePartition {
        queue: QUEUE,
        index: PartitionIndex(3),
    }
}

fn transaction() -> QueueTransaction {
    QueueTransaction {
        transactional_id: "billing".into(),
        producer_id: ProducerId(1_007),
        producer_epoch: ProducerEpoch(3),
    }
}

fn message(due: Due) -> NewMessage {
    NewMessage {
        key: Some(Bytes::from_static(b"customer 7")),
        body: Bytes::from_static(b"a lamp"),
        headers: vec![Header {
            key: "trace".to_owned(),
            value: None,
        }],
        due,
        priority: 3,
        message_id: Some("order-7".to_owned()),
        ttl_ms: Some(60_000),
    }
}

fn receive(messages: u32, lease_ms: Option<u64>) -> Call {
    Call::ReceiveMessages(ReceiveMessages {
        at: at(),
        session: SessionId(5),
        attempt: AttemptId(6),
        call: CallId(7),
        gives_back: messages == 0,
        messages,
        max_bytes: 1 << 20,
        lease_ms,
        wait: Duration::from_millis(1_500),
    })
}

fn append_to_log(readers: Readers) -> Call {
    Call::AppendToLog(AppendToLog {
        exchange: ExchangeId(9),
        index: PartitionIndex(3),
        messages: vec![message(Due::Default), message(Due::Default)],
        readers,
        version: 40,
        timeout: Duration::from_secs(10),
    })
}

fn calls() -> Vec<Call> {
    let settlements = [
        Settlement::Ack,
        Settlement::Nack {
            delay_ms: None,
            failed: true,
        },
        Settlement::Nack {
            delay_ms: Some(9),
            failed: false,
        },
        Settlement::Release,
        Settlement::Reject,
        Settlement::Extend { lease_ms: 70_000 },
    ];
    let items = (40..).zip(settlements).map(|(offset, settlement)| SettleItem {
        offset,
        lease: LeaseId(offset + 1),
        settlement,
    });
    vec![
        Call::SendMessages(SendMessages {
            at: at(),
            messages: [Due::Default, Due::After(5), Due::At(1_700_000_000_000)]
                .map(message)
                .into(),
            sends_in: None,
            timeout: Duration::from_secs(10),
        }),
        Call::SendMessages(SendMessages {
            at: at(),
            messages: vec![message(Due::Default)],
            sends_in: Some(SendIn {
                transaction: transaction(),
                base_sequence: Sequence(70),
            }),
            timeout: Duration::from_secs(10),
        }),
        append_to_log(Readers::All),
        append_to_log(Readers::Some {
            sets: vec![vec![QueueId(7), QueueId(1 << 90)], vec![QueueId(8)]],
            of: vec![1, 0],
        }),
        receive(7, Some(30_000)),
        receive(0, None),
        Call::SettleMessages(SettleMessages {
            at: at(),
            items: items.collect(),
            transaction: None,
        }),
        Call::SettleMessages(SettleMessages {
            at: at(),
            items: vec![SettleItem {
                offset: 40,
                lease: LeaseId(41),
                settlement: Settlement::Ack,
            }],
            transaction: Some(transaction()),
        }),
        Call::CancelMessages(CancelMessages {
            at: at(),
            offsets: vec![3, 9],
        }),
        Call::PeekMessages(PeekMessages {
            at: at(),
            from: 12,
            states: vec![
                MessageState::Ready,
                MessageState::Leased,
                MessageState::Waiting,
                MessageState::Dead,
                MessageState::Moving,
            ],
            limit: 20,
            max_bytes: 4_096,
        }),
    ]
}

#[test]
fn a_call_about_messages_is_there_as_it_was_here() {
    let image = image();
    for call in calls() {
        let text = format!("{call:?}");
        let sent = call_to(&image, call);
        let read = call_of(&image, sent, "192.0.2.1".into()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(format!("{read:?}"), text);
    }
}

#[test]
fn a_message_without_its_set_of_queues_refuses_what_is_passed_on() {
    let whole = Readers::Some {
        sets: vec![vec![QueueId(7)]],
        of: vec![0, 0],
    };
    let jangada_proto::internal::forward_request::Call::AppendToLog(whole) = call_to(&image(), append_to_log(whole))
    else {
        panic!("it is an append to a log")
    };
    let broken: [fn(&mut jangada_proto::internal::AppendToLog); 4] = [
        |sent| sent.readers.clear(),
        |sent| sent.readers_of.truncate(1),
        |sent| sent.readers_of[1] = 1,
        |sent| sent.readers[0].queue_ids = Bytes::from_static(b"short"),
    ];
    for breaks in broken {
        let mut sent = whole.clone();
        breaks(&mut sent);
        let message = jangada_proto::internal::forward_request::Call::AppendToLog(sent);
        let error = call_of(&image(), message, "192.0.2.1".into()).expect_err("it is not whole");
        assert_eq!(error.reason, Reason::InvalidRequest);
    }
}

#[test]
fn a_token_of_another_queue_refuses_what_is_passed_on() {
    let settle = calls().into_iter().find(|call| matches!(call, Call::SettleMessages(_)));
    let mut sent = call_to(&image(), settle.expect("there is one"));
    let jangada_proto::internal::forward_request::Call::SettleMessages(message) = &mut sent else {
        panic!("{sent:?}")
    };
    let request = message.request.as_mut().expect("it is there");
    let token = crate::api::queue_messages::Token {
        partition: PartitionIndex(3),
        offset: 4,
        lease: LeaseId(5),
    };
    request.items[0].token = Bytes::copy_from_slice(&token.encode(QueueId(9)));
    let error = call_of(&image(), sent, "192.0.2.1".into()).expect_err("it is another queue's");
    assert_eq!(error.reason, Reason::InvalidToken);
}

fn received() -> ReceivedMessage {
    ReceivedMessage {
        token: Bytes::from_static(b"a token"),
        partition: PartitionIndex(3),
        offset: Offset(12),
        key: Some(Bytes::from_static(b"customer 7")),
        body: None,
        headers: vec![Header {
            key: "trace".to_owned(),
            value: Some(Bytes::from_static(b"1")),
        }],
        timestamp_ms: 1_700,
        message_id: Some("order-7".to_owned()),
        failures: 2,
        deliveries: 3,
        lease_left_ms: 29_000,
    }
}

fn answers() -> Vec<Answer> {
    let refused = || RequestError::new(Reason::NotLeader, "it is led elsewhere").retry_after(Duration::from_millis(50));
    let shown = |state, died_at_ms, damage: &str| PeekedMessage {
        message: received(),
        state,
        until_ms: 5,
        reason: "attempts".to_owned(),
        died_at_ms,
        damage: damage.to_owned(),
    };
    vec![
        Answer::SendMessages(vec![
            Ok(SentMessage {
                partition: PartitionIndex(3),
                offset: Offset(12),
                duplicate: true,
            }),
            Err(refused().unknown()),
        ]),
        Answer::ReceiveMessages(Received {
            messages: vec![received()],
            in_flight_full: 3,
        }),
        Answer::SettleMessages(vec![
            Ok(Settled::Done),
            Ok(Settled::AlreadySettled),
            Ok(Settled::LeaseLost),
            Err(refused()),
        ]),
        Answer::CancelMessages(Cancelled(vec![Ok(Settled::Done), Err(refused())])),
        Answer::PeekMessages(PeekedMessages {
            messages: vec![
                shown(MessageState::Ready, 0, ""),
                shown(MessageState::Dead, 1_800, "a checksum does not fit"),
            ],
            next: Some(13),
        }),
    ]
}

#[test]
fn an_answer_about_messages_is_here_as_it_was_there() {
    let image = image();
    for answer in answers() {
        let sent = answer_to(&image, "", answer);
        let read = answer_of(sent.clone()).unwrap_or_else(|error| panic!("{sent:?}: {error}"));
        match &read {
            Answer::SendMessages(outcomes) => {
                assert!(outcomes[0].as_ref().is_ok_and(|sent| sent.duplicate), "{outcomes:?}");
                assert_eq!(outcomes[1].as_ref().map_err(|error| error.definite), Err(false));
            }
            Answer::ReceiveMessages(got) => {
                assert_eq!((&got.messages[..], got.in_flight_full), (&[received()][..], 3));
            }
            Answer::SettleMessages(outcomes) => {
                let settled: Vec<_> = outcomes.iter().map_while(|outcome| outcome.as_ref().ok()).collect();
                assert_eq!(settled, [&Settled::Done, &Settled::AlreadySettled, &Settled::LeaseLost]);
                let delay = outcomes[3].as_ref().map_err(|error| error.retry_delay);
                assert_eq!(delay, Err(Some(Duration::from_millis(50))));
            }
            Answer::CancelMessages(Cancelled(outcomes)) => assert_eq!(outcomes.len(), 2),
            Answer::PeekMessages(peeked) => {
                let dead = &peeked.messages[1];
                assert_eq!(
                    (dead.died_at_ms, dead.state, peeked.next),
                    (1_800, MessageState::Dead, Some(13))
                );
                assert_eq!(dead.damage, "a checksum does not fit");
            }
            _ => panic!("{sent:?} is an answer about messages"),
        }
        assert_eq!(answer_to(&image, "", read), sent);
    }
}
