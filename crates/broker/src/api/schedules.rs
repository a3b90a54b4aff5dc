//! Schedules of queues. Each belongs to one partition of its queue, and sends to that one: the partition of its message's key, where the
//! queue keeps an order by key, or else that of the schedule's name. Any broker takes such a call, and passes it on to the leader.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::StreamExt;
use jangada_types::partitioner::partition_for_key;
use jangada_types::queue_config::QueueOrder;
use jangada_types::{BrokerId, PartitionIndex, Reason};

use super::call::Passable;
use super::call::schedules::{DeleteSchedule, PartitionSchedules, PutSchedule, SchedulesHere};
use super::context::RequestContext;
use super::passing::{PASS_TIMEOUT, QUESTION_TIMEOUT, ask, pass_on};
use super::queue_messages::{QueueRef, send};
use crate::error::RequestError;
use crate::leader_lookup::Lead;
use crate::node::Node;
use crate::partition::Partition;
use crate::queues::{NewSchedule, ScheduleFound, ScheduleIsPut};
use crate::replica::LEADER_RETRY;

/// Calls to other brokers at once.
const MAX_CONCURRENT: usize = 16;

/// Schedules of a queue, by name.
#[derive(Debug)]
pub(crate) struct SchedulesListed {
    pub schedules: Vec<(PartitionIndex, ScheduleFound)>,
    /// There are more, behind this name.
    pub next_after: Option<String>,
    /// Partitions whose leader did not answer.
    pub unanswered: Vec<PartitionIndex>,
}

/// The partition of a schedule that is put.
fn partition_of(queue: &QueueRef, schedule: &NewSchedule) -> PartitionIndex {
    let key = schedule.message.key.as_deref();
    let key = key.filter(|_| queue.config.order == QueueOrder::Key);
    partition_for_key(key.unwrap_or(schedule.name.as_bytes()), count(queue))
}

fn count(queue: &QueueRef) -> u32 {
    super::topics::count(queue.topic.partitions.len())
}

/// A schedule of one name may lie in any of several partitions: it is where the key of its message is.
fn may_lie_anywhere(queue: &QueueRef) -> bool {
    queue.config.order == QueueOrder::Key && count(queue) > 1
}

/// Puts a schedule. Returns its partition, too.
///
/// # Errors
/// Those of `PutSchedule` in the contract.
pub(crate) async fn put(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    schedule: NewSchedule,
) -> Result<(PartitionIndex, ScheduleIsPut), RequestError> {
    queue.check_owned()?;
    send::check(&schedule.message, queue, send::now_ms(node))?;
    let index = partition_of(queue, &schedule);
    let name = schedule.name.clone();
    let mut elsewhere = Vec::new();
    if may_lie_anywhere(queue) {
        elsewhere = where_it_lies(node, queue, &name).await?;
        elsewhere.retain(|other| *other != index);
    }
    let at = queue.partition(index);
    let wanted = PutSchedule { at, schedule };
    let target = queue.target(index)?;
    let found = node.leaders.find::<Partition>(&target, context.route.or_pass_on());
    let mut put = match found.await? {
        Lead::Here(_) => put_here(node, queue, wanted).await?,
        Lead::At(leader) => pass_on(node, context, (&target, leader), wanted, PASS_TIMEOUT).await?,
    };
    put.created &= elsewhere.is_empty();
    // One name is one schedule: where it lay with another key it goes, and not before the new one is there. What is refused changes
    // nothing.
    for other in elsewhere {
        match delete_at(node, context, queue, (other, name.clone())).await {
            // It had no further occurrence, or another call was faster.
            Err(error) if error.reason == Reason::UnknownSchedule => {}
            deleted => deleted?,
        }
    }
    Ok((index, put))
}

/// Puts a schedule into a partition that is led here, for a client of this broker or of another one.
///
/// # Errors
/// NOT_LEADER, and those of `PutSchedule` in the contract.
pub(crate) async fn put_here(
    node: &Arc<Node>,
    queue: &QueueRef,
    wanted: PutSchedule,
) -> Result<ScheduleIsPut, RequestError> {
    let partition = node
        .leaders
        .leading::<Partition>(&queue.target(wanted.at.index)?)
        .await?;
    partition.check_disk()?;
    partition.desk()?.put_schedule(queue.id(), &wanted.schedule).await
}

/// Deletes a schedule.
///
/// # Errors
/// Those of `DeleteSchedule` in the contract.
pub(crate) async fn delete(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    name: String,
) -> Result<(), RequestError> {
    queue.check_owned()?;
    if !may_lie_anywhere(queue) {
        let index = partition_for_key(name.as_bytes(), count(queue));
        return delete_at(node, context, queue, (index, name)).await;
    }
    let places = where_it_lies(node, queue, &name).await?;
    if places.is_empty() {
        let message = format!("queue {:?} has no schedule {name:?}", queue.name());
        return Err(RequestError::new(Reason::UnknownSchedule, message));
    }
    for index in places {
        delete_at(node, context, queue, (index, name.clone())).await?;
    }
    Ok(())
}

async fn delete_at(
    node: &Arc<Node>,
    context: &RequestContext,
    queue: &QueueRef,
    (index, name): (PartitionIndex, String),
) -> Result<(), RequestError> {
    let wanted = DeleteSchedule {
        at: queue.partition(index),
        name,
    };
    let target = queue.target(index)?;
    let found = node.leaders.find::<Partition>(&target, context.route.or_pass_on());
    match found.await? {
        Lead::Here(_) => delete_here(node, queue, wanted).await,
        Lead::At(leader) => pass_on(node, context, (&target, leader), wanted, PASS_TIMEOUT).await,
    }
}

/// Deletes a schedule of a partition that is led here, for a client of this broker or of another one.
///
/// # Errors
/// NOT_LEADER, and those of `DeleteSchedule` in the contract.
pub(crate) async fn delete_here(
    node: &Arc<Node>,
    queue: &QueueRef,
    wanted: DeleteSchedule,
) -> Result<(), RequestError> {
    let partition = node
        .leaders
        .leading::<Partition>(&queue.target(wanted.at.index)?)
        .await?;
    partition.desk()?.delete_schedule(queue.id(), &wanted.name).await
}

/// Schedules of a queue behind a name, at most so many.
///
/// # Errors
/// WRONG_QUEUE_KIND.
pub(crate) async fn list(
    node: &Arc<Node>,
    queue: &QueueRef,
    (after, limit): (String, usize),
) -> Result<SchedulesListed, RequestError> {
    queue.check_owned()?;
    let wanted = SchedulesHere {
        queue: queue.id(),
        name: None,
        after,
        limit: limit + 1,
    };
    let answered = of_all_brokers(node, queue, wanted).await;
    let unanswered = queue
        .partitions()
        .filter(|index| !answered.contains_key(index))
        .collect();
    Ok(merge(answered, limit, unanswered))
}

/// The first of the schedules of all partitions.
fn merge(
    answered: BTreeMap<PartitionIndex, Vec<ScheduleFound>>,
    limit: usize,
    unanswered: Vec<PartitionIndex>,
) -> SchedulesListed {
    let mut schedules: Vec<_> = answered
        .into_iter()
        .flat_map(|(index, schedules)| schedules.into_iter().map(move |schedule| (index, schedule)))
        .collect();
    schedules.sort_by(|(one, first), (other, second)| (&first.name, one).cmp(&(&second.name, other)));
    let has_more = schedules.len() > limit;
    schedules.truncate(limit);
    let last = schedules.last().map(|(_, schedule)| schedule.name.clone());
    SchedulesListed {
        schedules,
        next_after: last.filter(|_| has_more),
        unanswered,
    }
}

/// The partitions that have a schedule of a name.
async fn where_it_lies(node: &Arc<Node>, queue: &QueueRef, name: &str) -> Result<Vec<PartitionIndex>, RequestError> {
    let wanted = SchedulesHere {
        queue: queue.id(),
        name: Some(name.to_owned()),
        after: String::new(),
        limit: 1,
    };
    let answered = of_all_brokers(node, queue, wanted).await;
    if let Some(index) = queue.partitions().find(|index| !answered.contains_key(index)) {
        let message = format!(
            "queue {:?}: the leader of partition {index} does not say whether it has the schedule {name:?}: try again after a moment",
            queue.name()
        );
        return Err(RequestError::new(Reason::LeaderNotAvailable, message).retry_after(LEADER_RETRY));
    }
    let lie = answered.into_iter().filter(|(_, schedules)| !schedules.is_empty());
    Ok(lie.map(|(index, _)| index).collect())
}

/// The schedules of each partition whose leader answers.
async fn of_all_brokers(
    node: &Arc<Node>,
    queue: &QueueRef,
    wanted: SchedulesHere,
) -> BTreeMap<PartitionIndex, Vec<ScheduleFound>> {
    let leaders = queue.topic.partitions.iter();
    let leaders = leaders.filter_map(|partition| Some(node.replicas.live_leader_of(partition.group)?.0));
    let others: BTreeSet<BrokerId> = leaders.filter(|leader| *leader != node.broker()).collect();
    let asked = futures::stream::iter(others)
        .map(|broker| ask(node, broker, wanted.clone(), QUESTION_TIMEOUT))
        .buffer_unordered(MAX_CONCURRENT);
    let answers: Vec<Option<<SchedulesHere as Passable>::Answer>> = asked.collect().await;
    of_this_broker(node, &wanted)
        .into_iter()
        .chain(answers.into_iter().flatten().flatten())
        .map(|of| (of.index, of.schedules))
        .collect()
}

/// The schedules of the partitions that are led here.
pub(crate) fn of_this_broker(node: &Arc<Node>, wanted: &SchedulesHere) -> Vec<PartitionSchedules> {
    let image = node.metadata.image();
    let Some(topic) = image.queue(wanted.queue).and_then(|queue| image.topic(queue.topic_id)) else {
        return Vec::new();
    };
    let found = |(index, partition): (PartitionIndex, &jangada_controller::Partition)| {
        let led = node.replicas.front::<Partition>(partition.group)?;
        let (name, range) = (wanted.name.as_deref(), (wanted.after.as_str(), wanted.limit));
        let found = led.desk().ok()?.schedules(wanted.queue, name, range);
        let schedules = found
            .inspect_err(|error| tracing::warn!(%error, "schedules cannot be listed"))
            .ok()?;
        Some(PartitionSchedules { index, schedules })
    };
    topic.indexed().filter_map(found).collect()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use jangada_queue::schedule::CatchUp;

    use super::*;
    use crate::queues::Recurrence;
    use crate::queues::outgoing::{Due, NewMessage};

    fn found(name: &str) -> ScheduleFound {
        ScheduleFound {
            name: name.to_owned(),
            recurrence: Recurrence::Every { every_ms: 1_000 },
            anchor_ms: Some(0),
            end_ms: None,
            catch_up: CatchUp::Skip,
            message: NewMessage {
                key: None,
                body: Bytes::new(),
                headers: Vec::new(),
                due: Due::Default,
                priority: 0,
                message_id: None,
                ttl_ms: None,
            },
            next_ms: 1,
            last_ms: None,
            sent: 0,
            refusal: String::new(),
        }
    }

    #[test]
    fn schedules_of_several_partitions_are_one_list_by_name() {
        let answered = || {
            let of = |names: &[&str]| names.iter().map(|name| found(name)).collect::<Vec<_>>();
            BTreeMap::from([
                (PartitionIndex(0), of(&["b", "d"])),
                (PartitionIndex(1), of(&["a", "c"])),
            ])
        };
        let names = |listed: &SchedulesListed| -> String {
            listed
                .schedules
                .iter()
                .map(|(_, schedule)| schedule.name.as_str())
                .collect()
        };
        let all = merge(answered(), 4, Vec::new());
        assert_eq!((names(&all).as_str(), all.next_after), ("abcd", None));
        let some = merge(answered(), 3, vec![PartitionIndex(2)]);
        assert_eq!(names(&some), "abc");
        assert_eq!(some.next_after.as_deref(), Some("c"));
        assert_eq!(some.unanswered, [PartitionIndex(2)]);
        assert_eq!(merge(BTreeMap::new(), 3, Vec::new()).next_after, None);
    }
}
