//! Calls and answers on their way between brokers, there and back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jangada_controller::{Image, QueueStart};
use jangada_coordinator::{
    Assignor, CommitRequest, Committed, Epoch, GroupState, HeartbeatRequest, HeartbeatResponse, Holding, MemberState,
    OffsetCommit, PartitionSet, Subscription, TopicPartition,
};
use jangada_transactions::Producer;
use jangada_types::{
    BrokerId, Incarnation, LeaderEpoch, Offset, PartitionIndex, ProducerId, QueueId, ReplicaId, TopicId,
};

use super::passed_wire::{answer_of, answer_to, call_of, call_to};
use crate::api::call::admin::{NewLeader, TransferLeader, TrimPartition};
use crate::api::call::cluster::{
    Damage, DamagedReplica, DamagedStore, DescribeDamage, DescribePartitions, GroupList, GroupSummary, KnowsLeaders,
    KnowsVersion, LeadersView, ListBrokers, ListGroups, PartitionState, Voter, WriteRefusal,
};
use crate::api::call::groups::{
    Commit, DeleteGroup, DeleteOffsets, DescribeGroup, GroupDescription, Heartbeat, MemberDescription, PartitionOffset,
    ReadOffsets,
};
use crate::api::call::queue_admin::{
    AskUnused, CountQueue, DeadDone, DeadFilter, DeadFound, DeadLetter, DeadWanted, DepthTally, ExpiryStep, ListDead,
    PurgeDead, PurgeQueue, QueueAt, QueueDepth, RedriveDead, SeekQueue, SeekTo,
};
use crate::api::call::queues::{AppendLetters, QueuePartition};
use crate::api::call::records::{
    Acks, AppendBatch, AwaitBytes, FindOffset, FoundOffset, Position, Produced, ReadBatches,
};
use crate::api::call::{Answer, Call};
use crate::api::resolve::{PartitionRef, QueueName, TopicRef};
use crate::partition::{Appended, Ends, Expectation, Fetched, InTransaction, Isolation, Reading};
use crate::queues::OldestAge;

const TOPIC: TopicId = TopicId::from_u128(7);

fn partition() -> PartitionRef {
    PartitionRef {
        topic: TopicRef::Id(TOPIC),
        index: PartitionIndex(3),
    }
}

fn partitions() -> PartitionSet {
    [1, 4]
        .map(|index| TopicPartition::new(TOPIC, index))
        .into_iter()
        .collect()
}

fn queue_at() -> QueueAt {
    QueueAt {
        queue: QueueName::Id(QueueId(8)),
        index: PartitionIndex(3),
    }
}

fn dead() -> DeadWanted {
    DeadWanted {
        at: queue_at(),
        from: 11,
        most: 100,
        filter: DeadFilter {
            reasons: vec!["expired".to_owned()],
            died_from_ms: Some(5),
            died_before_ms: Some(9),
            key: Some(bytes::Bytes::from_static(b"customer 7")),
        },
        is_dry: true,
    }
}

fn calls() -> Vec<Call> {
    let group: Arc<str> = "readers".into();
    let heartbeat = HeartbeatRequest {
        group: group.clone(),
        member: "m-1".into(),
        epoch: -2,
        assignment_version: 5,
        owned: Some(partitions()),
        instance_id: Some("i-1".into()),
        client_id: "c".into(),
        client_host: "192.0.2.1".into(),
        rack: Some("r".into()),
        session_timeout_ms: 45_000,
        rebalance_timeout_ms: 60_000,
        subscription: Some(Subscription::new(["a", "b"], Some("c.*"))),
        assignor: Some(Assignor::Range),
    };
    let offset = OffsetCommit {
        partition: TopicPartition::new(TOPIC, 1),
        offset: Offset(9),
        leader_epoch: Some(LeaderEpoch(2)),
        metadata: "x".into(),
    };
    vec![
        Call::Append(AppendBatch {
            partition: partition(),
            batch: Bytes::from_static(b"a batch"),
            expected: Expectation {
                end_offset: Some(Offset(4)),
                key_offset: Some(Offset(-1)),
            },
            transaction: None,
            acks: Acks::None,
            timeout: Duration::from_millis(1_500),
        }),
        Call::Append(AppendBatch {
            partition: partition(),
            batch: Bytes::from_static(b"a batch"),
            expected: Expectation::default(),
            transaction: Some(InTransaction {
                transactional_id: "billing".into(),
                adds: true,
            }),
            acks: Acks::Quorum,
            timeout: Duration::from_millis(1_500),
        }),
        Call::Read(ReadBatches {
            partition: partition(),
            offset: Offset(5),
            max_bytes: 1 << 20,
            reading: Reading {
                isolation: Isolation::Committed,
                aborted_list: true,
                past_stable: false,
            },
            leader_epoch: Some(4),
        }),
        Call::Await(AwaitBytes {
            partition: partition(),
            offset: Offset(5),
            min_bytes: 100,
            max_wait: Duration::from_secs(30),
            isolation: Isolation::Uncommitted,
            leader_epoch: None,
        }),
        Call::FindOffset(FindOffset {
            partition: partition(),
            position: Position::Timestamp(1_700_000_000_000),
            isolation: Isolation::Uncommitted,
        }),
        Call::Heartbeat(Heartbeat {
            request: heartbeat,
            min_metadata_version: 12,
            bytes: 0,
        }),
        Call::Commit(Commit {
            request: CommitRequest {
                group: group.clone(),
                member: Some(("m-1".into(), 3)),
                offsets: vec![offset],
            },
            transaction: Some(("transfers".into(), Producer::first(ProducerId(7)))),
            bytes: 0,
        }),
        Call::ReadOffsets(ReadOffsets {
            group: group.clone(),
            partitions: partitions().iter().collect(),
            require_stable: true,
        }),
        Call::DescribeGroup(DescribeGroup { group: group.clone() }),
        Call::DeleteGroup(DeleteGroup { group: group.clone() }),
        Call::DeleteOffsets(DeleteOffsets {
            group,
            partitions: partitions(),
            bytes: 0,
        }),
        Call::TrimPartition(TrimPartition {
            partition: partition(),
            before: None,
        }),
        Call::TransferLeader(TransferLeader {
            partition: partition(),
            to: BrokerId(2),
        }),
        Call::AppendLetters(AppendLetters {
            at: QueuePartition {
                queue: QueueId(8),
                index: PartitionIndex(3),
            },
            batch: Bytes::from_static(b"a batch"),
            timeout: Duration::from_millis(1_500),
        }),
        Call::PurgeQueue(PurgeQueue {
            at: queue_at(),
            before: Some(7),
        }),
        Call::SeekQueue(SeekQueue {
            at: queue_at(),
            to: SeekTo::Start(QueueStart::Timestamp(5)),
        }),
        Call::SeekQueue(SeekQueue {
            at: queue_at(),
            to: SeekTo::Offset(9),
        }),
        Call::ListDead(ListDead(dead())),
        Call::RedriveDead(RedriveDead(dead())),
        Call::PurgeDead(PurgeDead(dead())),
        Call::CountQueue(CountQueue { queue: QueueId(8) }),
        Call::AskUnused(AskUnused {
            queue: QueueId(8),
            step: ExpiryStep::Hold,
        }),
        Call::DescribePartitions(DescribePartitions { topic: None }),
        Call::DescribeDamage(DescribeDamage),
        Call::ListGroups(ListGroups),
        Call::KnowsLeaders(KnowsLeaders {
            topic: TOPIC,
            min_version: 8,
        }),
        Call::KnowsVersion(KnowsVersion { min_version: 8 }),
        Call::ListBrokers(ListBrokers),
    ]
}

#[test]
fn a_call_is_there_as_it_was_here() {
    let image = Image::default();
    for call in calls() {
        let text = format!("{call:?}");
        let sent = call_to(&image, call);
        let read = call_of(&image, sent.clone(), "192.0.2.1".into()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(call_to(&image, read), sent, "{text}");
    }
}

#[test]
fn a_client_is_where_its_broker_says_that_it_is() {
    let image = Image::default();
    let heartbeat = calls().into_iter().find(|call| matches!(call, Call::Heartbeat(_)));
    let sent = call_to(&image, heartbeat.expect("there is one"));
    let read = call_of(&image, sent, "203.0.113.9".into());
    let Ok(Call::Heartbeat(read)) = read else {
        panic!("{read:?}")
    };
    assert_eq!(&*read.request.client_host, "203.0.113.9");
    assert!(read.bytes > 0, "it takes room");
}

fn answers() -> Vec<Answer> {
    let committed = Committed {
        offset: Offset(9),
        leader_epoch: None,
        metadata: "x".into(),
        committed_at_ms: 1_700_000_000_000,
    };
    let member = MemberDescription {
        id: "m-1".into(),
        instance_id: None,
        client_id: "c".into(),
        client_host: "192.0.2.1".into(),
        rack: "r".into(),
        state: MemberState::Revoking,
        epoch: Epoch(4),
        subscription: Arc::new(Subscription::new(["a"], None)),
        owned: Box::new([Holding {
            partition: TopicPartition::new(TOPIC, 1),
            since: Epoch(2),
            is_revoking: true,
        }]),
        target: partitions(),
        session_timeout_ms: 45_000,
        rebalance_timeout_ms: 60_000,
        assignor: Some(Assignor::Uniform),
    };
    let seen = LeadersView {
        in_sync: vec![BrokerId(1)],
        voters: vec![Voter {
            replica: ReplicaId::new(BrokerId(1), Incarnation(2)),
            in_sync: true,
            is_damaged: true,
        }],
        high_watermark: Offset(20),
        log_start: Offset(3),
        size_bytes: 1_000,
        write_refusal: Some(WriteRefusal {
            reason: "DISK_FULL".to_owned(),
            message: "the disk is full".to_owned(),
            partitions: 1,
        }),
    };
    let state = |seen| PartitionState {
        topic: "orders".into(),
        topic_id: TOPIC,
        partition: PartitionIndex(3),
        leader: Some((BrokerId(1), LeaderEpoch(4))),
        replicas: vec![BrokerId(1), BrokerId(2)],
        seen,
    };
    vec![
        Answer::Append(Produced::Appended(Appended {
            base_offset: Offset(0),
            last_offset: Offset(4),
            append_time_ms: -1,
            log_start: Offset(0),
            duplicate: true,
        })),
        Answer::Append(Produced::Taken { log_start: Offset(3) }),
        Answer::Read(Fetched {
            batches: Bytes::from_static(b"batches"),
            next_offset: Offset(9),
            ends: Ends {
                high_watermark: Offset(12),
                last_stable: Offset(10),
            },
            log_start: Offset(1),
            epoch: LeaderEpoch(5),
            aborted: vec![(ProducerId(7), Offset(2))],
            has_holes: true,
        }),
        Answer::Await(()),
        Answer::FindOffset(FoundOffset {
            offset: Some(Offset(4)),
            timestamp_ms: None,
            leader_epoch: LeaderEpoch(5),
        }),
        Answer::Heartbeat(None),
        Answer::Heartbeat(Some(HeartbeatResponse {
            epoch: Epoch(3),
            heartbeat_interval_ms: 3_000,
            assignment_version: 7,
            assignment: Some(partitions()),
        })),
        Answer::Commit(()),
        Answer::ReadOffsets(vec![
            PartitionOffset {
                partition: TopicPartition::new(TOPIC, 1),
                committed: Some(committed),
                added: false,
            },
            PartitionOffset {
                partition: TopicPartition::new(TOPIC, 2),
                committed: None,
                added: true,
            },
        ]),
        Answer::DescribeGroup(GroupDescription {
            state: GroupState::Reconciling,
            coordinator: BrokerId(3),
            epoch: Epoch(4),
            assignment_epoch: Epoch(3),
            members: vec![member],
        }),
        Answer::DeleteGroup(4),
        Answer::DeleteOffsets(2),
        Answer::TrimPartition(Offset(30)),
        Answer::TransferLeader(NewLeader {
            leader: BrokerId(2),
            leader_epoch: LeaderEpoch(9),
        }),
        Answer::DescribePartitions(vec![state(Some(seen)), state(None)]),
        Answer::DescribeDamage(Damage {
            replicas: vec![DamagedReplica {
                topic: "orders".to_owned(),
                partition: PartitionIndex(1),
                broker: BrokerId(2),
                damage: "a checksum".to_owned(),
                state: "held".to_owned(),
                detail: "it leads".to_owned(),
            }],
            stores: vec![DamagedStore {
                broker: BrokerId(2),
                damage: "a file".to_owned(),
            }],
        }),
        Answer::ListGroups(GroupList {
            groups: vec![GroupSummary {
                group: "readers".to_owned(),
                state: "Stable".to_owned(),
                members: 2,
                coordinator: BrokerId(1),
                epoch: 3,
            }],
            missing_shards: BTreeSet::from([PartitionIndex(4)]),
        }),
        Answer::AppendLetters(Produced::Appended(Appended {
            base_offset: Offset(7),
            last_offset: Offset(9),
            append_time_ms: -1,
            log_start: Offset(2),
            duplicate: true,
        })),
        Answer::PurgeQueue(()),
        Answer::SeekQueue(12),
        Answer::ListDead(DeadFound {
            letters: vec![DeadLetter {
                offset: 3,
                reason: "rejected".to_owned(),
                failures: 1,
                deliveries: 2,
                died_at_ms: 1_700,
            }],
            next: Some(4),
        }),
        Answer::RedriveDead(DeadDone {
            messages: 5,
            refused: 1,
            next: None,
        }),
        Answer::PurgeDead(DeadDone {
            messages: 5,
            refused: 0,
            next: Some(8),
        }),
        Answer::CountQueue(vec![(
            PartitionIndex(2),
            QueueDepth {
                ready: 1,
                delayed: 2,
                leased: 3,
                waiting: 4,
                dead: 5,
                bytes: 6,
                consumers: 7,
                oldest: vec![OldestAge { lane: 3, age_ms: 8 }],
                tripped_since_ms: Some(9),
                dead_stuck_since_ms: None,
                tally: DepthTally {
                    sent: 10,
                    refused_full: 11,
                    delivered: 12,
                    redelivered: 13,
                    acknowledged: 14,
                    dead: 15,
                    expired_dropped: 16,
                    expired_dead: 17,
                    carried_bytes: 18,
                    in_flight_full: 19,
                },
            },
        )]),
        Answer::AskUnused(vec![(PartitionIndex(0), true), (PartitionIndex(3), false)]),
        Answer::KnowsLeaders(true),
        Answer::KnowsVersion(vec![BrokerId(2), BrokerId(3)]),
        Answer::ListBrokers(vec![BrokerId(1), BrokerId(3)]),
    ]
}

#[test]
fn an_answer_is_here_as_it_was_there() {
    let image = Image::default();
    for answer in answers() {
        let sent = answer_to(&image, "readers", answer);
        let read = answer_of(sent.clone()).unwrap_or_else(|error| panic!("{sent:?}: {error}"));
        assert_eq!(answer_to(&image, "readers", read), sent);
    }
}
