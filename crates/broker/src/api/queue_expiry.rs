//! Deleting a queue that nobody uses, once the leaders of all of its partitions say so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::future::join_all;
use jangada_controller::{Command, Topic};
use jangada_types::{BrokerId, PartitionIndex, QueueId, Reason};

use super::call::queue_admin::AskUnused;
use super::passing::{QUESTION_TIMEOUT, ask};
use crate::node::Node;
use crate::partition::Partition;
use crate::queues::ExpiryStep;

/// What the leaders say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Unused,
    Used,
    /// A leader did not answer, or is not known.
    Unknown,
}

/// Deletes a queue if nobody uses it in any of its partitions. True: it is gone, or somebody does. False: that could not be found out.
pub(super) async fn expire(node: &Arc<Node>, id: QueueId, expires_ms: u64) -> bool {
    let image = node.metadata.image();
    let Some(queue) = image.queue(id).cloned() else {
        return true;
    };
    let Some(topic) = image.topic(queue.topic_id).cloned() else {
        return true;
    };
    for step in [ExpiryStep::Look, ExpiryStep::Hold, ExpiryStep::Hold] {
        let said = ask_all(node, id, &topic, step).await;
        if said == Said::Unused {
            continue;
        }
        if step == ExpiryStep::Hold {
            ask_all(node, id, &topic, ExpiryStep::Release).await;
        }
        return said == Said::Used;
    }
    let command = Command::ExpireQueue {
        queue_id: id,
        expires_ms,
    };
    let name = &queue.name;
    match node.metadata.propose(&command).await {
        Ok(_) => {
            tracing::info!(queue = %name, %id, expires_ms, "deleted the queue: nobody used it for as long as queue.expires.ms says");
            true
        }
        // The leader of another partition was faster.
        Err(error) if error.reason == Reason::UnknownQueue => true,
        Err(error) => {
            tracing::info!(queue = %name, %id, %error, "the queue is not used, and stays");
            ask_all(node, id, &topic, ExpiryStep::Release).await;
            error.definite && error.reason == Reason::ConditionFailed
        }
    }
}

/// Takes a step at the leaders of all partitions.
async fn ask_all(node: &Arc<Node>, queue: QueueId, topic: &Topic, step: ExpiryStep) -> Said {
    let leaders = topic.partitions.iter();
    let leaders: Option<BTreeSet<BrokerId>> = leaders
        .map(|partition| Some(node.replicas.live_leader_of(partition.group)?.0))
        .collect();
    let Some(leaders) = leaders else { return Said::Unknown };
    let asked = leaders.into_iter().map(|leader| async move {
        match leader == node.broker() {
            true => Some(of_this_broker(node, queue, step)),
            false => ask(node, leader, AskUnused { queue, step }, QUESTION_TIMEOUT).await,
        }
    });
    let answers: Option<Vec<Vec<(PartitionIndex, bool)>>> = join_all(asked).await.into_iter().collect();
    match answers {
        Some(answers) => said_of(topic.partitions.len(), answers.into_iter().flatten()),
        None => Said::Unknown,
    }
}

fn said_of(partitions: usize, answers: impl Iterator<Item = (PartitionIndex, bool)>) -> Said {
    let said: BTreeMap<PartitionIndex, bool> = answers.collect();
    match (said.values().all(|is_unused| *is_unused), said.len() == partitions) {
        (false, _) => Said::Used,
        (true, true) => Said::Unused,
        (true, false) => Said::Unknown,
    }
}

/// Takes a step in the partitions that are led here: whether nobody uses the queue there.
pub(super) fn of_this_broker(node: &Arc<Node>, queue: QueueId, step: ExpiryStep) -> Vec<(PartitionIndex, bool)> {
    let image = node.metadata.image();
    let Some(topic) = image.queue(queue).and_then(|queue| image.topic(queue.topic_id)) else {
        return Vec::new();
    };
    let answer = |(index, partition): (PartitionIndex, &jangada_controller::Partition)| {
        let led = node.replicas.front::<Partition>(partition.group)?;
        Some((index, led.desk().ok()?.step_to_expiry(queue, step)))
    };
    topic.indexed().filter_map(answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_partitions_have_to_be_unused() {
        let said = |answers: &[(u32, bool)]| {
            let answers = answers
                .iter()
                .map(|(index, is_unused)| (PartitionIndex(*index), *is_unused));
            said_of(2, answers)
        };
        assert_eq!(said(&[(0, true), (1, true)]), Said::Unused);
        assert_eq!(said(&[(0, true), (1, false)]), Said::Used);
        assert_eq!(said(&[(0, false)]), Said::Used);
        assert_eq!(said(&[(1, true)]), Said::Unknown, "one has no leader that answers");
        assert_eq!(said(&[]), Said::Unknown);
    }
}
