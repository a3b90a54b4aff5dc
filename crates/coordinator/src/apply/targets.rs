//! Applies targets, and the members' steps towards them.

use std::collections::BTreeSet;
use std::sync::Arc;

use jangada_types::{Reason, Rejection};

use crate::image::{Epoch, Group, Holding, Image, Member, SubscribedTopic};
use crate::partitions::{PartitionSet, TopicPartition};
use crate::rules;
use crate::size;

/// The fields of `Command::Progress`: a member's step towards its target.
pub(super) struct ProgressStep<'a> {
    pub(super) version: u64,
    pub(super) assignment_epoch: Epoch,
    pub(super) epoch: Epoch,
    pub(super) assigned: &'a PartitionSet,
    pub(super) revoking: &'a PartitionSet,
}

/// The fields of `Command::SetTarget`.
pub(super) struct NewTarget<'a> {
    pub(super) epoch: Epoch,
    pub(super) computed_at: u64,
    pub(super) topics: &'a Arc<[SubscribedTopic]>,
    pub(super) topics_version: u64,
    pub(super) targets: &'a [(Arc<str>, PartitionSet)],
    pub(super) remembers: bool,
}

impl Image {
    pub(super) fn set_target(&mut self, name: &str, target: &NewTarget<'_>) -> Result<usize, Rejection> {
        let NewTarget {
            epoch,
            computed_at,
            topics,
            topics_version,
            targets,
            remembers,
        } = *target;
        let group = rules::group(self, name)?;
        if epoch != group.next_assignment_epoch() || epoch <= group.assignment_epoch || group.members.is_empty() {
            return Err(rules::changed(name));
        }
        judge_targets(name, topics, targets)?;
        rules::room_for_targets(self, group, topics, targets)?;
        self.topics_version = self.topics_version.max(topics_version);
        let index = self.version;
        let group = self.group_mut(name)?;
        if remembers {
            group.remember(topics);
        }
        group.epoch = epoch;
        group.assignment_epoch = epoch;
        group.bytes.targets -= size::topics(&group.topics);
        group.bytes.targets += size::topics(topics);
        group.topics = Arc::clone(topics);
        group.forget_unread();
        for member in group.members.values_mut() {
            group.bytes.targets -= size::target(&member.target);
            member.target = PartitionSet::new();
        }
        let mut count = 0;
        for (id, target) in targets {
            if let Some(member) = group.members.get_mut(id) {
                member.target = target.clone();
                group.bytes.targets += size::target(target);
                count += 1;
            }
        }
        if group.changed_at > computed_at {
            group.change(group.changed_at);
        } else if count < targets.len() {
            // The target names a member that is gone: a static member was replaced meanwhile, which changes nothing
            // else of the group. Its partitions have no owner until another target.
            group.change(index);
        }
        Ok(count)
    }

    pub(super) fn progress(&mut self, name: &str, id: &str, step: &ProgressStep<'_>) -> Result<usize, Rejection> {
        let (group, member) = rules::member(self, name, id)?;
        if member.version != step.version || group.assignment_epoch != step.assignment_epoch || member.is_away {
            return Err(rules::changed(name));
        }
        judge_step(group, member, step).ok_or_else(|| rules::changed(name))?;
        let index = self.version;
        let group = self.group_mut(name)?;
        let member = group.members.get_mut(id).ok_or_else(|| rules::changed(name))?;
        let known = |of| format!("member {id:?} of group {name:?}: {of}");
        for holding in &member.holdings {
            let was_held = group.held.remove(&holding.partition);
            assert!(was_held, "{}", known("what it has was held by nobody"));
        }
        group.bytes.others -= size::holdings(&member.holdings);
        member.take(index, step);
        group.bytes.others += size::holdings(&member.holdings);
        for holding in &member.holdings {
            let is_free = group.held.insert(holding.partition);
            assert!(is_free, "{}", known("another member holds what it takes"));
        }
        assert!(
            member.epoch <= group.assignment_epoch,
            "{}",
            known("its epoch is ahead")
        );
        Ok(1)
    }
}

fn judge_targets(
    name: &str,
    topics: &[SubscribedTopic],
    targets: &[(Arc<str>, PartitionSet)],
) -> Result<(), Rejection> {
    let refuse = |what: &str| {
        Err(Rejection::new(
            Reason::InvalidRequest,
            format!("target of group {name:?}: {what}"),
        ))
    };
    if !topics.is_sorted_by(|a, b| a.name < b.name) {
        return refuse("its topics are not ascending");
    }
    let mut members = BTreeSet::new();
    let mut partitions = BTreeSet::new();
    for (id, target) in targets {
        if !members.insert(id) {
            return refuse("it names a member twice");
        }
        if !target.iter().all(|partition| partitions.insert(partition)) {
            return refuse("it gives a partition to two members");
        }
    }
    Ok(())
}

/// Keeps the invariants whatever the leader computed: a member takes no partition that another holds or that is not in
/// its target, and takes none while it gives some up.
fn judge_step(group: &Group, member: &Member, step: &ProgressStep<'_>) -> Option<()> {
    let gained = |partition: &_| !member.holds(*partition);
    let is_gain_fine = step
        .assigned
        .iter()
        .filter(gained)
        .all(|partition| step.revoking.is_empty() && group.is_free_for(member, partition));
    let is_epoch_fine = if step.revoking.is_empty() {
        step.epoch == step.assignment_epoch
    } else {
        step.epoch == member.epoch
    };
    let is_fine = is_epoch_fine
        && is_gain_fine
        && step.assigned.is_subset(&member.target)
        && step.revoking.is_disjoint(step.assigned)
        && !step.revoking.iter().any(|partition| gained(&partition));
    is_fine.then_some(())
}

impl Group {
    /// Remembers how many partitions each topic had when the group began to read it. A topic that appears while no member
    /// changed was created after the group subscribed to it: all of it is new.
    fn remember(&mut self, topics: &[SubscribedTopic]) {
        let is_change_of_members = self.is_assigning();
        for topic in topics {
            let before = self.topics.iter().find(|before| before.id == topic.id);
            self.first_partitions.entry(topic.id).or_insert(match before {
                // The topic was read before groups remembered this.
                Some(before) => before.partitions,
                None if is_change_of_members => topic.partitions,
                None => 0,
            });
        }
    }

    /// Forgets topics that the group neither reads nor has offsets of. A group that comes back to a topic begins anew.
    pub(super) fn forget_unread(&mut self) {
        let Self {
            topics,
            offsets,
            pending,
            first_partitions,
            ..
        } = self;
        first_partitions.retain(|id, _| {
            topics.iter().any(|topic| topic.id == *id)
                || offsets
                    .range(TopicPartition::new(*id, 0)..=TopicPartition::new(*id, u32::MAX))
                    .next()
                    .is_some()
                || pending.values().any(|pending| pending.has_topic(*id))
        });
    }

    /// The epoch that the next target gets.
    pub(crate) fn next_assignment_epoch(&self) -> Epoch {
        self.epoch.max(self.assignment_epoch.next())
    }
}

impl Member {
    fn take(&mut self, index: u64, step: &ProgressStep<'_>) {
        let since = |partition, held: &[Holding]| {
            let found = held.binary_search_by_key(&partition, |holding| holding.partition);
            found.map_or(step.epoch, |at| held[at].since)
        };
        let holdings: Box<[Holding]> = step
            .assigned
            .union(step.revoking)
            .iter()
            .map(|partition| Holding {
                partition,
                since: since(partition, &self.holdings),
                is_revoking: step.revoking.contains(partition),
            })
            .collect();
        self.holdings = holdings;
        assert!(
            self.epoch <= step.epoch,
            "epoch {} is followed by {}",
            self.epoch,
            step.epoch
        );
        if self.epoch != step.epoch {
            self.previous_epoch = self.epoch;
            self.epoch = step.epoch;
        }
        self.version = index;
    }
}
