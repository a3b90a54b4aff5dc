//! Calls that are passed on, and their answers, between the api's structs and the messages between brokers. Those have the contract's
//! messages inside, so each side of a call stands beside the other here.

use std::sync::Arc;
use std::time::Duration;

use jangada_controller::Image;
use jangada_proto::internal::forward_request::Call as Message;
use jangada_proto::internal::forward_response::Answer as AnswerMessage;
use jangada_proto::internal::{
    AwaitBytesResponse, CountQueueResponse, JoinTransactionResponse, KnowsLeadersRequest, KnowsLeadersResponse,
    KnowsVersionRequest, KnowsVersionResponse, ListBrokersRequest, ListBrokersResponse,
};
use jangada_proto::v1;
use jangada_types::{BrokerId, LeaderEpoch, Offset, PartitionIndex, QueueId, Reason};

use super::cluster_wire as cluster;
use super::group_wire::{self as groups, room_for};
use super::names;
use super::passed_exchange_logs as exchange_logs;
use super::passed_queue_admin as queue_admin;
use super::passed_queues as queues;
use super::queue_wire;
use super::record_wire::{self as records, invalid};
use super::schedule_wire as schedules;
use super::transaction_wire as transactions;
use crate::api::call::admin::{NewLeader, TransferLeader, TrimPartition};
use crate::api::call::cluster::{
    DescribeDamage, DescribePartitions, KnowsLeaders, KnowsVersion, ListBrokers, ListGroups,
};
use crate::api::call::groups::{Commit, DeleteGroup, DeleteOffsets, DescribeGroup, ReadOffsets};
use crate::api::call::queue_admin::{CountQueue, ListDead, PurgeDead, RedriveDead};
use crate::api::call::queues::{Cancelled, Received};
use crate::api::call::records::{AppendBatch, AwaitBytes, FindOffset, ReadBatches};
use crate::api::call::transactions::{AbortTransaction, DescribeProducers, DescribeTransaction, ListTransactions};
use crate::api::call::{Answer, Call};
use crate::api::resolve;
use crate::error::RequestError;

/// A time in milliseconds, not 0 for one that is shorter.
fn ms(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros().div_ceil(1_000)).unwrap_or(u32::MAX)
}

fn duration(ms: u32) -> Duration {
    Duration::from_millis(u64::from(ms))
}

fn bytes(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// A call as it goes to another broker.
pub(super) fn call_to(image: &Image, call: Call) -> Message {
    match call {
        Call::Append(append) => Message::Produce(v1::ProduceRequest {
            partition: Some(names::partition_to(&append.partition)),
            acks: records::acks_to(append.acks).into(),
            timeout_ms: ms(append.timeout),
            payload: Some(v1::produce_request::Payload::Batch(append.batch)),
            expected_end_offset: append.expected.end_offset.map(Offset::get),
            expected_key_offset: append.expected.key_offset.map(Offset::get),
            transactional_id: records::transaction_to(append.transaction.as_ref()),
        }),
        Call::Read(wanted) => Message::Fetch(v1::FetchRequest {
            partition: Some(names::partition_to(&wanted.partition)),
            offset: wanted.offset.get(),
            max_bytes: bytes(wanted.max_bytes),
            leader_epoch: wanted.leader_epoch,
            isolation: records::isolation_to(wanted.reading.isolation),
            aborted_list: wanted.reading.aborted_list,
            ..v1::FetchRequest::default()
        }),
        Call::Await(wanted) => Message::AwaitBytes(v1::FetchRequest {
            partition: Some(names::partition_to(&wanted.partition)),
            offset: wanted.offset.get(),
            min_bytes: bytes(wanted.min_bytes),
            max_wait_ms: ms(wanted.max_wait),
            leader_epoch: wanted.leader_epoch,
            isolation: records::isolation_to(wanted.isolation),
            ..v1::FetchRequest::default()
        }),
        Call::FindOffset(wanted) => Message::ListOffsets(v1::ListOffsetsRequest {
            partition: Some(names::partition_to(&wanted.partition)),
            position: Some(records::position_to(wanted.position)),
            isolation: records::isolation_to(wanted.isolation),
        }),
        Call::Heartbeat(heartbeat) => Message::Heartbeat(groups::heartbeat_to(image, heartbeat)),
        Call::Commit(commit) => Message::CommitOffsets(groups::commit_to(image, commit)),
        Call::ReadOffsets(wanted) => Message::FetchOffsets(v1::FetchOffsetsRequest {
            group: wanted.group.to_string(),
            partitions: groups::partitions_to(image, wanted.partitions),
            require_stable: wanted.require_stable,
        }),
        Call::DescribeGroup(wanted) => Message::DescribeGroup(v1::DescribeGroupRequest {
            group: wanted.group.to_string(),
        }),
        Call::DeleteGroup(wanted) => Message::DeleteGroup(v1::DeleteGroupRequest {
            group: wanted.group.to_string(),
        }),
        Call::DeleteOffsets(wanted) => Message::DeleteOffsets(v1::DeleteOffsetsRequest {
            group: wanted.group.to_string(),
            partitions: groups::partitions_to(image, wanted.partitions.iter()),
        }),
        Call::SendMessages(wanted) => Message::SendMessages(queues::send_to(wanted)),
        Call::AppendToLog(wanted) => Message::AppendToLog(exchange_logs::append_to(wanted)),
        Call::AppendLetters(wanted) => Message::AppendLetters(queues::letters_to(wanted)),
        Call::ReceiveMessages(wanted) => Message::ReceiveMessages(queues::receive_to(&wanted)),
        Call::SettleMessages(wanted) => Message::SettleMessages(queues::settle_to(&wanted)),
        Call::CancelMessages(wanted) => Message::CancelMessages(queues::cancel_to(&wanted)),
        Call::PeekMessages(wanted) => Message::PeekMessages(queues::peek_to(&wanted)),
        Call::TrimPartition(request) => Message::TrimPartition(v1::TrimPartitionRequest {
            partition: Some(names::partition_to(&request.partition)),
            before_offset: request.before.map_or(-1, Offset::get),
        }),
        Call::TransferLeader(request) => Message::TransferLeader(v1::TransferLeaderRequest {
            partition: Some(names::partition_to(&request.partition)),
            to_broker_id: request.to.get(),
        }),
        Call::DescribePartitions(wanted) => Message::DescribePartitions(match wanted.topic {
            // Brokers of the first builds find topics by name.
            Some(id) => v1::DescribePartitionsRequest {
                topic: image.topic(id).map(|topic| topic.name.to_string()).unwrap_or_default(),
                topic_id: cluster::topic_id(id),
            },
            None => v1::DescribePartitionsRequest::default(),
        }),
        Call::DescribeDamage(DescribeDamage) => Message::DescribeDamage(v1::DescribeClusterRequest {}),
        Call::ListGroups(ListGroups) => Message::ListGroups(v1::ListGroupsRequest {}),
        Call::KnowsLeaders(asked) => Message::KnowsLeaders(KnowsLeadersRequest {
            topic_id: cluster::topic_id(asked.topic),
            min_version: asked.min_version,
        }),
        Call::KnowsVersion(KnowsVersion { min_version }) => Message::KnowsVersion(KnowsVersionRequest { min_version }),
        Call::ListBrokers(ListBrokers) => Message::ListBrokers(ListBrokersRequest {}),
        Call::PurgeQueue(request) => Message::PurgeQueue(queue_admin::purge_to(&request)),
        Call::SeekQueue(request) => Message::SeekQueue(queue_admin::seek_to(&request)),
        Call::ListDead(ListDead(wanted)) => Message::ListDead(queue_admin::dead_to(wanted)),
        Call::RedriveDead(RedriveDead(wanted)) => Message::RedriveDead(queue_admin::dead_to(wanted)),
        Call::PurgeDead(PurgeDead(wanted)) => Message::PurgeDead(queue_admin::dead_to(wanted)),
        Call::AskUnused(asked) => Message::AskUnused(queue_admin::unused_to(&asked)),
        Call::PutSchedule(wanted) => Message::PutSchedule(schedules::pass_put_to(wanted)),
        Call::DeleteSchedule(wanted) => Message::DeleteSchedule(schedules::pass_delete_to(wanted)),
        Call::SchedulesHere(wanted) => Message::ListSchedules(schedules::here_to(wanted)),
        Call::InitTransactions(wanted) => Message::InitTransactions(transactions::init_to(&wanted)),
        Call::EndTransaction(wanted) => Message::EndTransaction(transactions::end_to(&wanted)),
        Call::DescribeTransaction(wanted) => Message::DescribeTransaction(v1::DescribeTransactionRequest {
            transactional_id: wanted.id.to_string(),
        }),
        Call::AbortTransaction(wanted) => Message::AbortTransaction(v1::AbortTransactionRequest {
            transactional_id: wanted.id.to_string(),
        }),
        Call::ListTransactions(_) => Message::ListTransactions(v1::ListTransactionsRequest::default()),
        Call::DescribeProducers(wanted) => Message::DescribeProducers(v1::DescribeProducersRequest {
            partition: Some(names::partition_to(&wanted.partition)),
        }),
        Call::JoinTransaction(wanted) => Message::JoinTransaction(transactions::join_to(wanted)),
        Call::EndTransactions(wanted) => Message::EndTransactions(transactions::ends_to(wanted)),
        Call::FindProducer(wanted) => Message::FindProducer(transactions::find_to(&wanted)),
        Call::CountQueue(asked) => Message::CountQueue(v1::DescribeQueueRequest {
            queue_id: queue_admin::id_to(asked.queue),
            ..v1::DescribeQueueRequest::default()
        }),
    }
}

/// A call of a client of another broker, or a question of that broker itself.
///
/// # Errors
/// INVALID_REQUEST: a field is missing or out of its bounds.
pub(super) fn call_of(image: &Image, message: Message, client_host: Arc<str>) -> Result<Call, RequestError> {
    Ok(match message {
        Message::Produce(request) => {
            let Some(v1::produce_request::Payload::Batch(batch)) = request.payload else {
                return Err(invalid("an append that is passed on has a batch"));
            };
            Call::Append(AppendBatch {
                partition: names::partition(request.partition)?,
                batch,
                expected: records::expectation(request.expected_end_offset, request.expected_key_offset),
                transaction: records::transaction(&request.transactional_id),
                acks: records::acks(request.acks)?,
                timeout: duration(request.timeout_ms),
            })
        }
        Message::Fetch(request) => Call::Read(ReadBatches {
            partition: names::partition(request.partition)?,
            offset: Offset(request.offset),
            max_bytes: request.max_bytes as usize,
            reading: records::reading(request.isolation, request.aborted_list, request.form)?,
            leader_epoch: request.leader_epoch,
        }),
        Message::AwaitBytes(request) => Call::Await(AwaitBytes {
            partition: names::partition(request.partition)?,
            offset: Offset(request.offset),
            min_bytes: request.min_bytes as usize,
            max_wait: duration(request.max_wait_ms),
            isolation: records::isolation(request.isolation)?,
            leader_epoch: request.leader_epoch,
        }),
        Message::ListOffsets(request) => Call::FindOffset(FindOffset {
            partition: names::partition(request.partition)?,
            position: records::position(request.position)?,
            isolation: records::isolation(request.isolation)?,
        }),
        Message::Heartbeat(request) => Call::Heartbeat(groups::heartbeat_of(request, client_host)?),
        Message::CommitOffsets(request) => {
            let bytes = room_for(&request);
            let (request, transaction) = groups::commit_of(image, request)?;
            Call::Commit(Commit {
                request,
                transaction,
                bytes,
            })
        }
        Message::FetchOffsets(request) => Call::ReadOffsets(ReadOffsets {
            partitions: groups::partitions_of(image, &request.partitions).collect::<Result<_, _>>()?,
            require_stable: request.require_stable,
            group: request.group.into(),
        }),
        Message::DescribeGroup(request) => Call::DescribeGroup(DescribeGroup {
            group: request.group.into(),
        }),
        Message::DeleteGroup(request) => Call::DeleteGroup(DeleteGroup {
            group: request.group.into(),
        }),
        Message::DeleteOffsets(request) => Call::DeleteOffsets(DeleteOffsets {
            bytes: room_for(&request),
            partitions: groups::partitions_of(image, &request.partitions).collect::<Result<_, _>>()?,
            group: request.group.into(),
        }),
        Message::SendMessages(request) => Call::SendMessages(queues::send_of(request)?),
        Message::AppendToLog(message) => Call::AppendToLog(exchange_logs::append_of(message)?),
        Message::AppendLetters(request) => Call::AppendLetters(queues::letters_of(request)?),
        Message::ReceiveMessages(request) => Call::ReceiveMessages(queues::receive_of(request)?),
        Message::SettleMessages(request) => Call::SettleMessages(queues::settle_of(image, request)?),
        Message::CancelMessages(request) => Call::CancelMessages(queues::cancel_of(request)?),
        Message::PeekMessages(request) => Call::PeekMessages(queues::peek_of(request)?),
        Message::TrimPartition(request) => Call::TrimPartition(trim_of(request)?),
        Message::TransferLeader(request) => Call::TransferLeader(transfer_of(request)?),
        Message::DescribePartitions(request) => Call::DescribePartitions(states_of(image, request)?),
        Message::DescribeDamage(_) => Call::DescribeDamage(DescribeDamage),
        Message::ListGroups(_) => Call::ListGroups(ListGroups),
        Message::KnowsLeaders(asked) => Call::KnowsLeaders(KnowsLeaders {
            topic: names::topic_id(&asked.topic_id)?,
            min_version: asked.min_version,
        }),
        Message::KnowsVersion(KnowsVersionRequest { min_version }) => Call::KnowsVersion(KnowsVersion { min_version }),
        Message::ListBrokers(ListBrokersRequest {}) => Call::ListBrokers(ListBrokers),
        Message::PurgeQueue(request) => Call::PurgeQueue(queue_admin::purge_of(request)?),
        Message::SeekQueue(request) => Call::SeekQueue(queue_admin::seek_of(request)?),
        Message::ListDead(request) => Call::ListDead(ListDead(queue_admin::dead_of(request)?)),
        Message::RedriveDead(request) => Call::RedriveDead(RedriveDead(queue_admin::dead_of(request)?)),
        Message::PurgeDead(request) => Call::PurgeDead(PurgeDead(queue_admin::dead_of(request)?)),
        Message::AskUnused(asked) => Call::AskUnused(queue_admin::unused_of(&asked)?),
        Message::PutSchedule(message) => Call::PutSchedule(schedules::pass_put_of(message)?),
        Message::DeleteSchedule(message) => Call::DeleteSchedule(schedules::pass_delete_of(message)?),
        Message::ListSchedules(message) => Call::SchedulesHere(schedules::here_of(message)?),
        Message::InitTransactions(request) => Call::InitTransactions(transactions::init_of(request)?),
        Message::EndTransaction(request) => Call::EndTransaction(transactions::end_of(request)?),
        Message::DescribeTransaction(request) => Call::DescribeTransaction(DescribeTransaction {
            id: request.transactional_id.into(),
        }),
        Message::AbortTransaction(request) => Call::AbortTransaction(AbortTransaction {
            id: request.transactional_id.into(),
        }),
        Message::ListTransactions(_) => Call::ListTransactions(ListTransactions),
        Message::DescribeProducers(request) => Call::DescribeProducers(DescribeProducers {
            partition: names::partition(request.partition)?,
        }),
        Message::JoinTransaction(message) => Call::JoinTransaction(transactions::join_of(message)?),
        Message::EndTransactions(message) => Call::EndTransactions(transactions::ends_of(message)?),
        Message::FindProducer(message) => Call::FindProducer(transactions::find_of(&message)),
        Message::CountQueue(asked) => Call::CountQueue(CountQueue {
            queue: QueueId::from_slice(&asked.queue_id).ok_or_else(|| invalid("a queue is counted by its id"))?,
        }),
    })
}

/// The topic whose partitions are asked for; none: those of all.
///
/// # Errors
/// UNKNOWN_TOPIC; INVALID_REQUEST: the id has not 16 bytes.
pub(super) fn states_of(
    image: &Image,
    request: v1::DescribePartitionsRequest,
) -> Result<DescribePartitions, RequestError> {
    let v1::DescribePartitionsRequest { topic: name, topic_id } = request;
    let topic = match name.is_empty() && topic_id.is_empty() {
        true => None,
        false => Some(resolve::topic(image, &names::topic(&topic_id, name)?)?.id),
    };
    Ok(DescribePartitions { topic })
}

/// A client's call for dropping records.
///
/// # Errors
/// INVALID_REQUEST: no partition is named. OFFSET_OUT_OF_RANGE: the offset is negative.
pub(super) fn trim_of(request: v1::TrimPartitionRequest) -> Result<TrimPartition, RequestError> {
    let before = match request.before_offset {
        -1 => None,
        offset if offset < 0 => {
            let message = format!("offset {offset} is negative; -1 is the high watermark");
            return Err(RequestError::new(Reason::OffsetOutOfRange, message));
        }
        offset => Some(Offset(offset)),
    };
    let partition = names::partition(request.partition)?;
    Ok(TrimPartition { partition, before })
}

/// A client's call for handing a leadership over.
///
/// # Errors
/// INVALID_REQUEST: no partition is named.
pub(super) fn transfer_of(request: v1::TransferLeaderRequest) -> Result<TransferLeader, RequestError> {
    Ok(TransferLeader {
        partition: names::partition(request.partition)?,
        to: BrokerId(request.to_broker_id),
    })
}

pub(super) fn trimmed(log_start: Offset) -> v1::TrimPartitionResponse {
    v1::TrimPartitionResponse {
        log_start_offset: log_start.get(),
    }
}

pub(super) fn transferred(next: NewLeader) -> v1::TransferLeaderResponse {
    v1::TransferLeaderResponse {
        leader_id: next.leader.get(),
        leader_epoch: next.leader_epoch.get(),
    }
}

/// An answer as it goes back to the broker of the client.
pub(super) fn answer_to(image: &Image, group: &str, answer: Answer) -> AnswerMessage {
    match answer {
        Answer::Append(produced) => AnswerMessage::Produce(records::produced_to(&produced)),
        Answer::Read(fetched) => AnswerMessage::Fetch(records::fetched_to(fetched)),
        Answer::Await(()) => AnswerMessage::AwaitBytes(AwaitBytesResponse {}),
        Answer::FindOffset(found) => AnswerMessage::ListOffsets(records::found_to(found)),
        Answer::Heartbeat(answer) => AnswerMessage::Heartbeat(groups::heartbeat_answer_to(image, answer)),
        Answer::Commit(()) => AnswerMessage::CommitOffsets(v1::CommitOffsetsResponse {}),
        Answer::ReadOffsets(offsets) => AnswerMessage::FetchOffsets(groups::offsets_to(image, offsets)),
        Answer::DescribeGroup(described) => {
            AnswerMessage::DescribeGroup(groups::description_to(image, group, described))
        }
        Answer::DeleteGroup(deleted) => AnswerMessage::DeleteGroup(v1::DeleteGroupResponse { deleted }),
        Answer::DeleteOffsets(deleted) => AnswerMessage::DeleteOffsets(v1::DeleteOffsetsResponse { deleted }),
        Answer::SendMessages(outcomes) => AnswerMessage::SendMessages(queue_wire::sent_to(outcomes, |error| error)),
        Answer::AppendToLog(outcomes) => AnswerMessage::AppendToLog(queue_wire::sent_to(outcomes, |error| error)),
        Answer::AppendLetters(produced) => AnswerMessage::AppendLetters(records::produced_to(&produced)),
        Answer::ReceiveMessages(received) => AnswerMessage::ReceiveMessages(v1::ReceiveResponse {
            in_flight_full: queue_wire::in_flight_full_to(received.in_flight_full),
            messages: received.messages.into_iter().map(queue_wire::received_to).collect(),
            settled: Vec::new(),
        }),
        Answer::SettleMessages(outcomes) => AnswerMessage::SettleMessages(v1::SettleResponse {
            results: queue_wire::settled_to(outcomes, |error| error),
        }),
        Answer::CancelMessages(Cancelled(outcomes)) => AnswerMessage::CancelMessages(v1::CancelResponse {
            results: queue_wire::settled_to(outcomes, |error| error),
        }),
        Answer::PeekMessages(peeked) => AnswerMessage::PeekMessages(queue_wire::peeked_to(peeked)),
        Answer::TrimPartition(log_start) => AnswerMessage::TrimPartition(trimmed(log_start)),
        Answer::TransferLeader(next) => AnswerMessage::TransferLeader(transferred(next)),
        Answer::DescribePartitions(states) => AnswerMessage::DescribePartitions(v1::DescribePartitionsResponse {
            partitions: states.into_iter().map(cluster::partition_to).collect(),
        }),
        Answer::DescribeDamage(damage) => AnswerMessage::DescribeDamage(cluster::damage_to(damage)),
        Answer::ListGroups(list) => AnswerMessage::ListGroups(cluster::groups_to(list)),
        Answer::KnowsLeaders(all) => AnswerMessage::KnowsLeaders(KnowsLeadersResponse { all }),
        Answer::KnowsVersion(alive) => AnswerMessage::KnowsVersion(KnowsVersionResponse {
            alive_broker_ids: alive.into_iter().map(BrokerId::get).collect(),
        }),
        Answer::ListBrokers(brokers) => AnswerMessage::ListBrokers(ListBrokersResponse {
            broker_ids: brokers.into_iter().map(BrokerId::get).collect(),
        }),
        Answer::PurgeQueue(()) => AnswerMessage::PurgeQueue(v1::PurgeQueueResponse {}),
        Answer::SeekQueue(offset) => AnswerMessage::SeekQueue(queue_admin::sought_to(offset)),
        Answer::ListDead(found) => AnswerMessage::ListDead(queue_admin::found_to(found)),
        Answer::RedriveDead(done) => AnswerMessage::RedriveDead(queue_admin::done_to(&done)),
        Answer::PurgeDead(done) => AnswerMessage::PurgeDead(queue_admin::done_to(&done)),
        Answer::AskUnused(said) => AnswerMessage::AskUnused(queue_admin::unused_said_to(said)),
        // Whoever passed it on knows the partition.
        Answer::PutSchedule(put) => AnswerMessage::PutSchedule(schedules::put_to((PartitionIndex(0), put))),
        Answer::DeleteSchedule(()) => AnswerMessage::DeleteSchedule(v1::DeleteScheduleResponse {}),
        Answer::SchedulesHere(found) => AnswerMessage::ListSchedules(schedules::here_answer_to(found)),
        Answer::InitTransactions(producer) => AnswerMessage::InitTransactions(transactions::initialized_to(producer)),
        Answer::EndTransaction(ended) => AnswerMessage::EndTransaction(transactions::ended_to(ended)),
        Answer::DescribeTransaction(described) => {
            AnswerMessage::DescribeTransaction(transactions::described_to(image, described))
        }
        Answer::AbortTransaction(aborted) => AnswerMessage::AbortTransaction(v1::AbortTransactionResponse { aborted }),
        Answer::ListTransactions(list) => AnswerMessage::ListTransactions(transactions::list_to(image, list)),
        Answer::DescribeProducers(producers) => AnswerMessage::DescribeProducers(transactions::producers_to(producers)),
        Answer::JoinTransaction(seq) => AnswerMessage::JoinTransaction(JoinTransactionResponse { seq }),
        Answer::EndTransactions(deliveries) => AnswerMessage::EndTransactions(transactions::deliveries_to(deliveries)),
        Answer::FindProducer(found) => AnswerMessage::FindProducer(transactions::found_to(found)),
        Answer::CountQueue(depths) => AnswerMessage::CountQueue(CountQueueResponse {
            partitions: depths
                .into_iter()
                .map(|(index, depth)| queue_admin::depth_to((index, Some(depth))))
                .collect(),
        }),
    }
}

/// The answer of another broker.
///
/// # Errors
/// Says what is wrong with it.
pub(super) fn answer_of(message: AnswerMessage) -> Result<Answer, RequestError> {
    Ok(match message {
        AnswerMessage::Produce(response) => Answer::Append(records::produced_of(&response)),
        AnswerMessage::Fetch(response) => Answer::Read(records::fetched_of(response)),
        AnswerMessage::AwaitBytes(AwaitBytesResponse {}) => Answer::Await(()),
        AnswerMessage::ListOffsets(response) => Answer::FindOffset(records::found_of(&response)),
        AnswerMessage::Heartbeat(response) => Answer::Heartbeat(groups::heartbeat_answer_of(&response)?),
        AnswerMessage::CommitOffsets(v1::CommitOffsetsResponse {}) => Answer::Commit(()),
        AnswerMessage::FetchOffsets(response) => Answer::ReadOffsets(groups::offsets_of(response)?),
        AnswerMessage::DescribeGroup(response) => Answer::DescribeGroup(groups::description_of(response)?),
        AnswerMessage::DeleteGroup(response) => Answer::DeleteGroup(response.deleted),
        AnswerMessage::DeleteOffsets(response) => Answer::DeleteOffsets(response.deleted),
        AnswerMessage::SendMessages(response) => Answer::SendMessages(queue_wire::sent_of(response)?),
        AnswerMessage::AppendToLog(response) => Answer::AppendToLog(queue_wire::sent_of(response)?),
        AnswerMessage::AppendLetters(response) => Answer::AppendLetters(records::produced_of(&response)),
        AnswerMessage::ReceiveMessages(response) => {
            let messages = response.messages.into_iter().map(queue_wire::received_of);
            Answer::ReceiveMessages(Received {
                messages: messages.collect::<Result<_, _>>()?,
                in_flight_full: response.in_flight_full.into(),
            })
        }
        AnswerMessage::SettleMessages(response) => Answer::SettleMessages(queue_wire::settled_of(response.results)?),
        AnswerMessage::CancelMessages(response) => {
            Answer::CancelMessages(Cancelled(queue_wire::settled_of(response.results)?))
        }
        AnswerMessage::PeekMessages(response) => Answer::PeekMessages(queue_wire::peeked_of(response)?),
        AnswerMessage::TrimPartition(response) => Answer::TrimPartition(Offset(response.log_start_offset)),
        AnswerMessage::TransferLeader(response) => Answer::TransferLeader(NewLeader {
            leader: BrokerId(response.leader_id),
            leader_epoch: LeaderEpoch(response.leader_epoch),
        }),
        AnswerMessage::DescribePartitions(response) => {
            let states = response.partitions.into_iter().map(cluster::partition_of);
            Answer::DescribePartitions(states.collect::<Result<_, _>>()?)
        }
        AnswerMessage::DescribeDamage(response) => Answer::DescribeDamage(cluster::damage_of(response)),
        AnswerMessage::ListGroups(response) => Answer::ListGroups(cluster::groups_of(response)),
        AnswerMessage::KnowsLeaders(response) => Answer::KnowsLeaders(response.all),
        AnswerMessage::KnowsVersion(response) => {
            Answer::KnowsVersion(response.alive_broker_ids.into_iter().map(BrokerId).collect())
        }
        AnswerMessage::ListBrokers(response) => {
            Answer::ListBrokers(response.broker_ids.into_iter().map(BrokerId).collect())
        }
        AnswerMessage::PurgeQueue(v1::PurgeQueueResponse {}) => Answer::PurgeQueue(()),
        AnswerMessage::SeekQueue(response) => Answer::SeekQueue(response.offset.unsigned_abs()),
        AnswerMessage::ListDead(response) => Answer::ListDead(queue_admin::found_of(response)),
        AnswerMessage::RedriveDead(response) => Answer::RedriveDead(queue_admin::done_of(&response)),
        AnswerMessage::PurgeDead(response) => Answer::PurgeDead(queue_admin::done_of(&response)),
        AnswerMessage::AskUnused(response) => Answer::AskUnused(queue_admin::unused_said_of(response)),
        AnswerMessage::PutSchedule(response) => Answer::PutSchedule(schedules::pass_answer_of(&response)),
        AnswerMessage::DeleteSchedule(v1::DeleteScheduleResponse {}) => Answer::DeleteSchedule(()),
        AnswerMessage::ListSchedules(response) => Answer::SchedulesHere(schedules::here_answer_of(response)?),
        AnswerMessage::InitTransactions(response) => Answer::InitTransactions(transactions::producer_of(
            response.producer_id,
            response.producer_epoch,
        )?),
        AnswerMessage::EndTransaction(response) => Answer::EndTransaction(transactions::ended_of(&response)?),
        AnswerMessage::DescribeTransaction(response) => {
            Answer::DescribeTransaction(transactions::described_of(response)?)
        }
        AnswerMessage::AbortTransaction(response) => Answer::AbortTransaction(response.aborted),
        AnswerMessage::ListTransactions(response) => Answer::ListTransactions(transactions::list_of(response)?),
        AnswerMessage::DescribeProducers(response) => Answer::DescribeProducers(transactions::producers_of(response)?),
        AnswerMessage::JoinTransaction(response) => Answer::JoinTransaction(response.seq),
        AnswerMessage::EndTransactions(response) => Answer::EndTransactions(transactions::deliveries_of(&response)),
        AnswerMessage::FindProducer(response) => Answer::FindProducer(transactions::found_of(response)),
        AnswerMessage::CountQueue(response) => {
            Answer::CountQueue(response.partitions.into_iter().map(queue_admin::depth_of).collect())
        }
    })
}
