//! Answers calls that another broker has passed on to this one, in the same way as those of this broker's own clients, and questions
//! of that broker itself.

use std::sync::Arc;

use super::call::cluster::{Damage, DescribePartitions, GroupList, PartitionState};
use super::call::queues::{Cancelled, Received};
use super::call::{Answer, Call};
use super::context::RequestContext;
use super::fetch::{Fetch, Form, PartitionReader, Read};
use super::groups::GroupCoordinator;
use super::produce::{self, Append, Patience, ReadyBatch};
use super::queue_messages::{self, letters, peek, receive, send, settle};
use super::resolve::QueueName;
use super::transactions::{self, TransactionCoordinator};
use super::{
    damage, exchange_log, group_list, metadata, offsets, partition_admin, partition_states, queue_depth, queue_expiry,
    resolve, schedules,
};
use crate::error::RequestError;
use crate::node::Node;
use crate::quota::Holding;

/// An answer, with the room that it takes until it is sent.
pub(crate) struct CarriedOut {
    pub answer: Answer,
    pub room: Option<Holding>,
}

/// The state of partitions as far as this broker knows it.
pub(crate) async fn partitions_here(node: &Arc<Node>, wanted: DescribePartitions) -> Vec<PartitionState> {
    partition_states::of_this_broker(node, wanted.topic).await
}

/// The damage of this broker alone.
pub(crate) fn damage_here(node: &Node) -> Damage {
    damage::of_this_broker(node)
}

/// The groups of the shards that this broker leads.
pub(crate) async fn groups_here(node: &Arc<Node>) -> Result<GroupList, RequestError> {
    group_list::of_this_broker(node).await
}

/// Answers a question of another broker; none: it is a call of a client, who is to be named.
///
/// # Errors
/// NOT_READY: this broker does not know the answer yet.
pub(crate) async fn answer(node: &Arc<Node>, question: &Call) -> Result<Option<Answer>, RequestError> {
    Ok(Some(match question {
        Call::DescribePartitions(wanted) => {
            Answer::DescribePartitions(partition_states::of_this_broker(node, wanted.topic).await)
        }
        Call::DescribeDamage(_) => Answer::DescribeDamage(damage::of_this_broker(node)),
        Call::ListGroups(_) => Answer::ListGroups(group_list::of_this_broker(node).await?),
        Call::KnowsLeaders(asked) => Answer::KnowsLeaders(metadata::knows_leaders(node, asked).await?),
        Call::KnowsVersion(asked) => Answer::KnowsVersion(metadata::knows_version(node, asked).await?),
        Call::SchedulesHere(asked) => Answer::SchedulesHere(schedules::of_this_broker(node, asked)),
        Call::CountQueue(asked) => Answer::CountQueue(queue_depth::of_this_broker(node, asked.queue).await),
        Call::AskUnused(asked) => Answer::AskUnused(queue_expiry::of_this_broker(node, asked.queue, asked.step)),
        Call::ListTransactions(_) => Answer::ListTransactions(transactions::list_here(node).await?),
        Call::JoinTransaction(wanted) => Answer::JoinTransaction(transactions::join_for_another(node, wanted).await?),
        Call::EndTransactions(wanted) => Answer::EndTransactions(transactions::end_here(node, wanted.0.clone()).await),
        Call::FindProducer(wanted) => Answer::FindProducer(transactions::find_producer_here(node, wanted).await),
        Call::ListBrokers(_) => {
            let image = node.metadata.image();
            Answer::ListBrokers(image.brokers().map(|broker| broker.id).collect())
        }
        _ => return Ok(None),
    }))
}

/// Answers a call, or refuses what only another broker could answer: the route of the context says that it was passed on.
/// `message_bytes`: the length of the message that it came in.
///
/// # Errors
/// Those of the call in the contract.
pub(crate) async fn carry_out(
    node: &Arc<Node>,
    context: &RequestContext,
    call: Call,
    message_bytes: usize,
) -> Result<CarriedOut, RequestError> {
    let answer = match call {
        Call::Append(append) => {
            let target = resolve::partition_of_records(&node.metadata.image(), &append.partition)?;
            let append = Append {
                payload: ReadyBatch {
                    batch: append.batch,
                    message_bytes,
                },
                expected: append.expected,
                transaction: append.transaction,
                acks: append.acks,
                timeout: append.timeout,
            };
            let accepted = produce::admit(node, context, &target, append, Patience::Wait).await?;
            Answer::Append(accepted.answer().await?)
        }
        Call::Read(wanted) => {
            let reader = PartitionReader::open(node, context, &wanted.partition, wanted.leader_epoch).await?;
            let fetch = Fetch {
                offset: wanted.offset,
                max_bytes: wanted.max_bytes,
                form: Form::Batches,
                reading: wanted.reading,
            };
            let Read { fetched, mut room, .. } = reader.read(fetch).await?;
            room.shrink_to(fetched.batches.len());
            return Ok(CarriedOut {
                answer: Answer::Read(fetched),
                room: Some(room),
            });
        }
        Call::Await(wanted) => {
            let reader = PartitionReader::open(node, context, &wanted.partition, wanted.leader_epoch).await?;
            let waited = reader.await_bytes((wanted.offset, wanted.isolation), wanted.min_bytes, wanted.max_wait);
            Answer::Await(waited.await?)
        }
        Call::FindOffset(wanted) => Answer::FindOffset(offsets::find(node, context, wanted).await?),
        Call::Heartbeat(heartbeat) => {
            let coordinator = GroupCoordinator::of(node, context, &heartbeat.request.group).await?;
            Answer::Heartbeat(coordinator.heartbeat(heartbeat).await?)
        }
        Call::Commit(commit) => {
            let coordinator = GroupCoordinator::of(node, context, &commit.request.group).await?;
            let topics: Vec<_> = commit
                .request
                .offsets
                .iter()
                .map(|offset| offset.partition.topic)
                .collect();
            coordinator.begin_commit(&topics).await?;
            Answer::Commit(coordinator.commit(commit).await?)
        }
        Call::ReadOffsets(wanted) => {
            let coordinator = GroupCoordinator::of(node, context, &wanted.group).await?;
            Answer::ReadOffsets(coordinator.offsets(wanted).await?)
        }
        Call::DescribeGroup(wanted) => {
            let coordinator = GroupCoordinator::of(node, context, &wanted.group).await?;
            Answer::DescribeGroup(coordinator.describe(wanted).await?)
        }
        Call::DeleteGroup(wanted) => {
            let coordinator = GroupCoordinator::of(node, context, &wanted.group).await?;
            Answer::DeleteGroup(coordinator.delete(wanted).await?)
        }
        Call::DeleteOffsets(wanted) => {
            let coordinator = GroupCoordinator::of(node, context, &wanted.group).await?;
            Answer::DeleteOffsets(coordinator.delete_offsets(wanted).await?)
        }
        Call::InitTransactions(wanted) => {
            let coordinator = TransactionCoordinator::of(node, context, &wanted.id).await?;
            Answer::InitTransactions(coordinator.init(wanted).await?)
        }
        Call::EndTransaction(wanted) => {
            let coordinator = TransactionCoordinator::of(node, context, &wanted.id).await?;
            Answer::EndTransaction(coordinator.end(wanted).await?)
        }
        Call::DescribeTransaction(wanted) => {
            let coordinator = TransactionCoordinator::of(node, context, &wanted.id).await?;
            Answer::DescribeTransaction(coordinator.describe(wanted).await?)
        }
        Call::AbortTransaction(wanted) => {
            let coordinator = TransactionCoordinator::of(node, context, &wanted.id).await?;
            Answer::AbortTransaction(coordinator.abort(wanted).await?)
        }
        Call::DescribeProducers(wanted) => {
            Answer::DescribeProducers(transactions::describe_producers(node, context, wanted).await?)
        }
        Call::SendMessages(wanted) => {
            let queue = queue_messages::find(node, &QueueName::Id(wanted.at.queue))?;
            Answer::SendMessages(send::send_here(node, context, &queue, wanted).await?)
        }
        Call::AppendLetters(wanted) => {
            let queue = queue_messages::find(node, &QueueName::Id(wanted.at.queue))?;
            Answer::AppendLetters(letters::append_here(node, context, &queue, wanted).await?)
        }
        Call::AppendToLog(wanted) => Answer::AppendToLog(exchange_log::append_here(node, context, wanted).await?),
        Call::ReceiveMessages(wanted) => {
            let queue = queue_messages::find(node, &QueueName::Id(wanted.at.queue))?;
            let received = receive::receive_here(node, context, &queue, wanted).await?;
            return Ok(CarriedOut {
                answer: Answer::ReceiveMessages(Received {
                    messages: received.messages,
                    in_flight_full: received.in_flight_full,
                }),
                room: received.room,
            });
        }
        Call::SettleMessages(wanted) => {
            let queue = queue_messages::find(node, &QueueName::Id(wanted.at.queue))?;
            Answer::SettleMessages(settle::settle_here(node, &queue, wanted).await?)
        }
        Call::CancelMessages(wanted) => {
            let queue = queue_messages::find(node, &QueueName::Id(wanted.at.queue))?;
            Answer::CancelMessages(Cancelled(settle::cancel_here(node, &queue, wanted).await?))
        }
        Call::PeekMessages(wanted) => {
            let queue = queue_messages::find(node, &QueueName::Id(wanted.at.queue))?;
            let shown = peek::peek_here(node, context, &queue, wanted).await?;
            return Ok(CarriedOut {
                answer: Answer::PeekMessages(shown.peeked),
                room: shown.room,
            });
        }
        Call::TrimPartition(request) => Answer::TrimPartition(partition_admin::trim(node, context, request).await?),
        Call::TransferLeader(request) => {
            Answer::TransferLeader(partition_admin::transfer_leader(node, context, request).await?)
        }
        Call::PurgeQueue(request) => Answer::PurgeQueue(queue_depth::purge(node, context, request).await?),
        Call::SeekQueue(request) => Answer::SeekQueue(queue_depth::seek(node, context, request).await?),
        Call::ListDead(request) => Answer::ListDead(queue_depth::list_dead(node, context, request).await?),
        Call::RedriveDead(request) => Answer::RedriveDead(queue_depth::redrive_dead(node, context, request).await?),
        Call::PurgeDead(request) => Answer::PurgeDead(queue_depth::purge_dead(node, context, request).await?),
        Call::PutSchedule(wanted) => {
            let queue = queue_messages::find(node, &QueueName::Id(wanted.at.queue))?;
            Answer::PutSchedule(schedules::put_here(node, &queue, wanted).await?)
        }
        Call::DeleteSchedule(wanted) => {
            let queue = queue_messages::find(node, &QueueName::Id(wanted.at.queue))?;
            Answer::DeleteSchedule(schedules::delete_here(node, &queue, wanted).await?)
        }
        question => {
            let answer = answer(node, &question).await?;
            answer.expect("all calls of clients are matched above")
        }
    };
    Ok(CarriedOut { answer, room: None })
}
