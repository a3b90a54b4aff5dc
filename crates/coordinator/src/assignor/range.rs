//! The range assignor: divides each topic by itself, into runs.

use std::collections::BTreeMap;

use jangada_types::TopicId;

use super::subscriber::Subscriber;
use crate::partitions::TopicPartition;

/// `members` are ordered by id; the result has the same order.
pub(super) fn assign(members: &[&Subscriber], topics: &BTreeMap<TopicId, u32>) -> Vec<Vec<TopicPartition>> {
    let mut targets = vec![Vec::new(); members.len()];
    for (topic, partitions) in topics {
        let subscribers: Vec<usize> = (0..members.len())
            .filter(|at| members[*at].topics.contains(topic))
            .collect();
        let Ok(count) = u32::try_from(subscribers.len()) else {
            continue;
        };
        let mut next = 0;
        for (at, member) in (0..count).zip(subscribers) {
            // The first members get one more while there is a remainder.
            let run = partitions / count + u32::from(at < partitions % count);
            targets[member].extend((next..next + run).map(|partition| TopicPartition::new(*topic, partition)));
            next += run;
        }
    }
    targets
}
