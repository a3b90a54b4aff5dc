//! The uniform assignor: balanced and sticky.
//!
//! First each member keeps what it had and may still have. Then:
//! - When all members want the same topics, each has a quota, and the larger quotas go to those that had most. A member
//!   gives up what is beyond its quota, and partitions without an owner fill the quotas up: fewer moves can't balance.
//! - Otherwise partitions without an owner go to the subscriber with the least, topics with few subscribers first. Then
//!   one partition at a time moves from a member to another with at least two fewer, until none can. Each move makes the
//!   sum of the squares smaller, so that ends.

use std::collections::{BTreeMap, BTreeSet};

use jangada_types::TopicId;

use super::subscriber::Subscriber;
use crate::partitions::TopicPartition;

/// `members` are ordered by id; the result has the same order.
pub(super) fn assign(members: &[&Subscriber], topics: &BTreeMap<TopicId, u32>) -> Vec<Vec<TopicPartition>> {
    let wanted: Vec<BTreeSet<TopicId>> = members
        .iter()
        .map(|member| {
            member
                .topics
                .iter()
                .copied()
                .filter(|topic| topics.contains_key(topic))
                .collect()
        })
        .collect();
    let Some(first) = wanted.first() else {
        return Vec::new();
    };
    if wanted.iter().all(|topics| topics == first) {
        equal(members, first, topics)
    } else {
        different(members, &wanted, topics)
    }
}

/// The partitions that each member had and may keep: of topics that it wants, existing ones, each with one member.
fn kept(
    members: &[&Subscriber],
    topics: &BTreeMap<TopicId, u32>,
    wants: impl Fn(usize, TopicId) -> bool,
) -> Vec<Vec<TopicPartition>> {
    let mut taken = BTreeSet::new();
    let mut is_free = |partition: &TopicPartition| {
        let exists = topics
            .get(&partition.topic)
            .is_some_and(|count| partition.partition.get() < *count);
        exists && taken.insert(*partition)
    };
    let keep = |(at, member): (usize, &&Subscriber)| {
        let mine = member.current.iter().filter(|partition| wants(at, partition.topic));
        mine.filter(&mut is_free).collect()
    };
    members.iter().enumerate().map(keep).collect()
}

fn all_of(topic: TopicId, partitions: u32) -> impl Iterator<Item = TopicPartition> {
    (0..partitions).map(move |partition| TopicPartition::new(topic, partition))
}

fn equal(
    members: &[&Subscriber],
    wanted: &BTreeSet<TopicId>,
    topics: &BTreeMap<TopicId, u32>,
) -> Vec<Vec<TopicPartition>> {
    let mut targets = kept(members, topics, |_, topic| wanted.contains(&topic));
    let total: usize = wanted.iter().map(|topic| topics[topic] as usize).sum();
    let (quota, larger) = (total / members.len(), total % members.len());
    let mut by_count: Vec<usize> = (0..members.len()).collect();
    by_count.sort_by_key(|at| std::cmp::Reverse(targets[*at].len()));
    let mut quotas = vec![quota; members.len()];
    for at in &by_count[..larger] {
        quotas[*at] += 1;
    }
    for (target, quota) in targets.iter_mut().zip(&quotas) {
        target.truncate(*quota);
    }
    let taken: BTreeSet<TopicPartition> = targets.iter().flatten().copied().collect();
    let mut free = wanted
        .iter()
        .flat_map(|topic| all_of(*topic, topics[topic]))
        .filter(|p| !taken.contains(p));
    for (target, quota) in targets.iter_mut().zip(&quotas) {
        let missing = quota - target.len();
        target.extend(free.by_ref().take(missing));
    }
    targets
}

fn different(
    members: &[&Subscriber],
    wanted: &[BTreeSet<TopicId>],
    topics: &BTreeMap<TopicId, u32>,
) -> Vec<Vec<TopicPartition>> {
    let kept = kept(members, topics, |at, topic| wanted[at].contains(&topic));
    let mut sharing = Sharing {
        loads: kept.iter().map(Vec::len).collect(),
        owners: BTreeMap::new(),
    };
    for (at, partition) in kept
        .iter()
        .enumerate()
        .flat_map(|(at, kept)| kept.iter().map(move |p| (at, *p)))
    {
        sharing
            .owners
            .entry(partition.topic)
            .or_default()
            .insert(partition, (at, true));
    }
    let mut order: Vec<(Vec<usize>, TopicId)> = topics
        .keys()
        .map(|topic| {
            (
                (0..members.len()).filter(|at| wanted[*at].contains(topic)).collect(),
                *topic,
            )
        })
        .filter(|(subscribers, _): &(Vec<usize>, _)| !subscribers.is_empty())
        .collect();
    order.sort_by_key(|(subscribers, _)| subscribers.len());
    for (subscribers, topic) in &order {
        sharing.give_out(*topic, topics[topic], subscribers);
    }
    while order.iter().fold(false, |moved, (subscribers, topic)| {
        sharing.balance(*topic, subscribers) || moved
    }) {}
    let mut targets = vec![Vec::new(); members.len()];
    for (partition, (at, _)) in sharing.owners.into_values().flatten() {
        targets[at].push(partition);
    }
    targets
}

/// A target that is being computed.
struct Sharing {
    /// The number of partitions of each member.
    loads: Vec<usize>,
    /// The owner of each partition, and whether it owned it before.
    owners: BTreeMap<TopicId, BTreeMap<TopicPartition, (usize, bool)>>,
}

impl Sharing {
    fn least(&self, subscribers: &[usize]) -> Option<usize> {
        subscribers.iter().copied().min_by_key(|at| (self.loads[*at], *at))
    }

    fn give_out(&mut self, topic: TopicId, partitions: u32, subscribers: &[usize]) {
        for partition in all_of(topic, partitions) {
            let is_taken = self
                .owners
                .get(&topic)
                .is_some_and(|owners| owners.contains_key(&partition));
            if let (false, Some(to)) = (is_taken, self.least(subscribers)) {
                self.owners.entry(topic).or_default().insert(partition, (to, false));
                self.loads[to] += 1;
            }
        }
    }

    /// Moves partitions of one topic while that improves the balance. Returns whether any moved.
    fn balance(&mut self, topic: TopicId, subscribers: &[usize]) -> bool {
        let Some(mut owners) = self.owners.remove(&topic) else {
            return false;
        };
        // The last partition of a member moves first, but partitions that it did not have before move before all
        // others.
        let mut stacks: BTreeMap<usize, Vec<(bool, TopicPartition)>> = BTreeMap::new();
        for (partition, (at, was_its)) in &owners {
            stacks.entry(*at).or_default().push((!*was_its, *partition));
        }
        stacks.values_mut().for_each(|stack| stack.sort_unstable());
        let mut moved = false;
        loop {
            let holders = stacks.iter().filter(|(_, stack)| !stack.is_empty()).map(|(at, _)| *at);
            let most = holders.max_by_key(|at| (self.loads[*at], std::cmp::Reverse(*at)));
            let (Some(from), Some(to)) = (most, self.least(subscribers)) else {
                break;
            };
            if self.loads[from] <= self.loads[to] + 1 {
                break;
            }
            let Some((_, partition)) = stacks.get_mut(&from).and_then(Vec::pop) else {
                break;
            };
            stacks.entry(to).or_default().push((true, partition));
            owners.insert(partition, (to, false));
            self.loads[from] -= 1;
            self.loads[to] += 1;
            moved = true;
        }
        self.owners.insert(topic, owners);
        moved
    }
}
