//! Events that people may ask about later. The host of a shard's leader writes them down.

use std::sync::Arc;

use jangada_types::TopicId;

use crate::command::Command;
use crate::image::{Epoch, Group, Image};
use crate::removal::RemovalCause;

/// A change of a group, or one that was not possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member is removed, and its partitions go to others.
    MemberRemoved {
        /// The group's name.
        group: Arc<str>,
        /// The member's id.
        member: Arc<str>,
        /// The reason for the removal.
        cause: RemovalCause,
    },
    /// Another process takes the place of a static member.
    MemberReplaced {
        /// The group's name.
        group: Arc<str>,
        /// The id of the member that is gone.
        member: Arc<str>,
        /// The id of the member that took its place.
        by: Arc<str>,
    },
    /// The group has a new target.
    TargetSet {
        /// The group's name.
        group: Arc<str>,
        /// The target's epoch.
        epoch: Epoch,
        /// Number of members that get partitions.
        members: usize,
        /// Number of partitions that they get, all together.
        partitions: usize,
    },
    /// Offsets of topics that were deleted are gone.
    TopicsForgotten {
        /// The group's name.
        group: Arc<str>,
        /// The ids of the deleted topics.
        topics: Vec<TopicId>,
        /// Number of offsets that are gone, with those that transactions had staged.
        offsets: usize,
    },
    /// Offsets were deleted by request.
    OffsetsDeleted {
        /// The group's name.
        group: Arc<str>,
        /// Number of offsets that are gone.
        offsets: usize,
    },
    /// The group is gone with its offsets.
    GroupDeleted {
        /// The group's name.
        group: Arc<str>,
        /// Number of offsets that are gone with the group.
        offsets: usize,
        /// Whether it was empty for the retention; otherwise it was deleted by request.
        is_expired: bool,
    },
    /// The targets of the shard's groups are at their bound: the group keeps its old target, and partitions of members
    /// that are gone are not read. Emitted once, until there is room.
    NoRoomForTarget {
        /// The group's name.
        group: Arc<str>,
        /// A sentence that says which bound is passed, and by how much.
        why: String,
    },
    /// The group subscribes to more partitions than it can share, so these topics are not read. Emitted when they
    /// change.
    TopicsLeftOut {
        /// The group's name.
        group: Arc<str>,
        /// The topics' names, ascending.
        topics: Arc<[Arc<str>]>,
    },
}

impl Event {
    /// The events of a command that is applied to this state and not refused. Frequent changes have none: heartbeats,
    /// steps towards a target, commits.
    pub fn of(image: &Image, command: &Command) -> Vec<Self> {
        let group = || Arc::clone(command.group());
        let known = image.group(command.group());
        let offsets = known.map_or(0, |group| group.offsets.len());
        match command {
            Command::RemoveMembers { members, cause, .. } => {
                let is_there = |(id, version): &&(Arc<str>, u64)| {
                    known.is_some_and(|group| group.members.get(id).is_some_and(|member| member.version == *version))
                };
                let gone = members.iter().filter(is_there).map(|(id, _)| Self::MemberRemoved {
                    group: group(),
                    member: Arc::clone(id),
                    cause: *cause,
                });
                gone.collect()
            }
            Command::PutMember {
                member,
                replaces: Some(replaced),
                ..
            } => vec![Self::MemberReplaced {
                group: group(),
                member: Arc::clone(replaced),
                by: Arc::clone(member),
            }],
            Command::SetTarget { epoch, targets, .. } => vec![Self::TargetSet {
                group: group(),
                epoch: *epoch,
                members: targets.len(),
                partitions: targets.iter().map(|(_, target)| target.len()).sum(),
            }],
            Command::ForgetTopics { topics, .. } => {
                let all = known.into_iter().flat_map(Group::with_offsets);
                vec![Self::TopicsForgotten {
                    group: group(),
                    topics: topics.clone(),
                    offsets: all.filter(|partition| topics.contains(&partition.topic)).count(),
                }]
            }
            Command::DeleteOffsets { partitions, .. } => {
                let is_there = |partition: &_| known.is_some_and(|group| group.offsets.contains_key(partition));
                vec![Self::OffsetsDeleted {
                    group: group(),
                    offsets: partitions.iter().filter(is_there).count(),
                }]
            }
            Command::DeleteGroup { .. } | Command::ExpireGroup { .. } => vec![Self::GroupDeleted {
                group: group(),
                offsets,
                is_expired: matches!(command, Command::ExpireGroup { .. }),
            }],
            Command::PutMember { replaces: None, .. }
            | Command::Progress { .. }
            | Command::SetAway { .. }
            | Command::CommitOffsets { .. }
            | Command::StageOffsets { .. }
            | Command::EndStaged { .. } => Vec::new(),
        }
    }
}
