//! Computes targets: the topics that a group's subscriptions mean now, and the division of their partitions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_types::{Rejection, TopicId};

use super::Leader;
use crate::assignor::{Assignor, Subscriber};
use crate::command::Command;
use crate::event::Event;
use crate::image::{Group, Image, SubscribedTopic, Subscription};
use crate::limits::PARTITIONS_PER_GROUP_MAX;
use crate::rules;

/// The topics that a group's subscriptions mean.
struct Resolved {
    /// The topics, ordered by name.
    topics: Arc<[SubscribedTopic]>,
    /// The topics that each member wants, in the order of the group's members.
    wanted: Vec<Arc<BTreeSet<TopicId>>>,
    /// The names of topics that are beyond the bound of a group.
    left_out: BTreeSet<Arc<str>>,
}

impl Leader {
    /// Whether this broker knows at least the metadata by which the shard's state was decided. Otherwise it can't tell
    /// which topics are gone.
    pub(super) fn knows_topics(&self, image: &Image) -> bool {
        self.topics.version() >= image.topics_version()
    }

    fn resolve(&mut self, group: &Group) -> Resolved {
        let mut all: BTreeMap<Arc<str>, SubscribedTopic> = BTreeMap::new();
        let mut left_out = BTreeSet::new();
        let mut partitions = 0;
        let mut known: Vec<(&Subscription, Arc<BTreeSet<TopicId>>)> = Vec::new();
        let mut wanted = Vec::with_capacity(group.members.len());
        for member in group.members.values() {
            let subscription = &*member.spec.subscription;
            // Mostly all members have the same subscription.
            if let Some((_, same)) = known.iter().find(|(other, _)| *other == subscription) {
                wanted.push(Arc::clone(same));
                continue;
            }
            let mut ids = BTreeSet::new();
            for topic in self.topics.resolve(subscription, &mut self.patterns).into_values() {
                if !all.contains_key(&topic.name) {
                    // Topics beyond the bound are left out, the same ones whenever it is computed.
                    if partitions + topic.partitions as usize > PARTITIONS_PER_GROUP_MAX {
                        left_out.insert(Arc::clone(&topic.name));
                        continue;
                    }
                    partitions += topic.partitions as usize;
                    all.insert(Arc::clone(&topic.name), topic.clone());
                }
                ids.insert(topic.id);
            }
            let ids = Arc::new(ids);
            known.push((subscription, Arc::clone(&ids)));
            wanted.push(ids);
        }
        let topics = all.into_values().collect();
        Resolved {
            topics,
            wanted,
            left_out,
        }
    }

    /// Checks whether the group's topics are still those of its target, and whether it has offsets of topics that are
    /// gone.
    pub(super) fn notice_topics(&mut self, image: &Image, name: &Arc<str>) {
        let Some(group) = image.group(name) else {
            return;
        };
        if !self.knows_topics(image) {
            return;
        }
        let topics_differ = !group.members.is_empty() && self.resolve(group).topics != group.topics;
        let has_gone = self.gone_topics(group).next().is_some();
        let timers = self.groups.entry(Arc::clone(name)).or_default();
        timers.topics_differ = topics_differ;
        timers.has_gone_topics = has_gone;
    }

    fn gone_topics<'a>(&'a self, group: &'a Group) -> impl Iterator<Item = TopicId> + 'a {
        let mut last = None;
        let ids = group.with_offsets().map(|partition| partition.topic);
        let distinct = ids.filter(move |id| last.replace(*id) != Some(*id));
        distinct.filter(|id| self.topics.topic(*id).is_none())
    }

    /// The command that deletes the group's offsets of topics that are gone, also those that transactions have staged.
    pub(super) fn forget(&self, image: &Image, name: &Arc<str>) -> Option<Command> {
        let topics: BTreeSet<TopicId> = self.gone_topics(image.group(name)?).collect();
        (!topics.is_empty() && self.knows_topics(image)).then(|| Command::ForgetTopics {
            group: Arc::clone(name),
            topics: topics.into_iter().collect(),
            topics_version: self.topics.version(),
        })
    }

    /// The command that sets the group's next target.
    pub(super) fn compute_target(&mut self, image: &Image, name: &Arc<str>) -> Option<Command> {
        let group = image.group(name).filter(|group| !group.members.is_empty())?;
        if !self.knows_topics(image) {
            return None;
        }
        let Resolved {
            topics,
            wanted,
            left_out,
        } = self.resolve(group);
        let partitions = topics.iter().map(|topic| (topic.id, topic.partitions)).collect();
        let members: Vec<Subscriber> = group
            .members
            .iter()
            .zip(wanted)
            .map(|((id, member), topics)| Subscriber {
                id: Arc::clone(id),
                topics,
                current: member.target.clone(),
            })
            .collect();
        let targets = preferred_assignor(group).assign(&members, &partitions);
        let targets: Vec<_> = targets.into_iter().filter(|(_, target)| !target.is_empty()).collect();
        let room = rules::room_for_targets(image, group, &topics, &targets);
        self.emit_missing(name, left_out, &room);
        room.ok()?;
        Some(Command::SetTarget {
            group: Arc::clone(name),
            epoch: group.next_assignment_epoch(),
            computed_at: group.changed_at,
            topics,
            topics_version: self.topics.version(),
            targets,
            remembers: self.topics.lets_remember(),
        })
    }
}

impl Leader {
    /// Emits events about topics that are left out and missing room, once for each change: an affected group computes
    /// its target again every few seconds.
    fn emit_missing(&mut self, name: &Arc<str>, left_out: BTreeSet<Arc<str>>, room: &Result<(), Rejection>) {
        let timers = self.groups.entry(Arc::clone(name)).or_default();
        if !timers.left_out.iter().eq(&left_out) {
            timers.left_out = left_out.into_iter().collect();
            if !timers.left_out.is_empty() {
                self.events.push(Event::TopicsLeftOut {
                    group: Arc::clone(name),
                    topics: Arc::clone(&timers.left_out),
                });
            }
        }
        let was_short = std::mem::replace(&mut timers.is_short_of_room, room.is_err());
        if let Err(rejection) = room
            && !was_short
        {
            self.events.push(Event::NoRoomForTarget {
                group: Arc::clone(name),
                why: rejection.message.clone(),
            });
        }
    }
}

/// The assignor that most members with a preference prefer; among equals the first.
fn preferred_assignor(group: &Group) -> Assignor {
    let votes = |assignor: Assignor| {
        let preferences = group.members.values().filter_map(|member| member.spec.assignor);
        preferences.filter(|preference| *preference == assignor).count()
    };
    let all = Assignor::ALL.iter().copied().rev();
    all.max_by_key(|assignor| votes(*assignor)).unwrap_or_default()
}
