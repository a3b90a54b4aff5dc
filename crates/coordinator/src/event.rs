//! What people may ask about a group later. The host of a shard's leader writes it down.

use std::sync::Arc;

use jangada_types::TopicId;

use crate::command::Command;
use crate::image::{Epoch, Image};
use crate::removal::RemovalCause;

/// Something that happened to a group, or could not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member is gone, and what it had goes to others.
    MemberRemoved {
        /// The group's name.
        group: Arc<str>,
        /// Who.
        member: Arc<str>,
        /// Why.
        cause: RemovalCause,
    },
    /// Another process has the place of a static member.
    MemberReplaced {
        /// The group's name.
        group: Arc<str>,
        /// Who is gone.
        member: Arc<str>,
        /// Who came.
        by: Arc<str>,
    },
    /// The group has a new target.
    TargetSet {
        /// The group's name.
        group: Arc<str>,
        /// The target's.
        epoch: Epoch,
        /// How many get something.
        members: usize,
        /// What they get, all together.
        partitions: usize,
    },
    /// Offsets of topics that were deleted are gone.
    TopicsForgotten {
        /// The group's name.
        group: Arc<str>,
        /// Which.
        topics: Vec<TopicId>,
        /// How many offsets.
        offsets: usize,
    },
    /// Somebody deleted offsets.
    OffsetsDeleted {
        /// The group's name.
        group: Arc<str>,
        /// How many.
        offsets: usize,
    },
    /// The group is gone with its offsets.
    GroupDeleted {
        /// The group's name.
        group: Arc<str>,
        /// How many.
        offsets: usize,
        /// It was empty for the retention; otherwise somebody deleted it.
        is_expired: bool,
    },
    /// The targets of the shard's groups are at their bound: the group goes on with the one that it has, and nobody
    /// reads the partitions of members that are gone. Said once, until there is room.
    NoRoomForTarget {
        /// The group's name.
        group: Arc<str>,
        /// What there is too much of, and how much.
        why: String,
    },
    /// The group subscribes to more partitions than it can share, so nobody reads these topics. Said when they change.
    TopicsLeftOut {
        /// The group's name.
        group: Arc<str>,
        /// Their names, ascending.
        topics: Arc<[Arc<str>]>,
    },
}

impl Event {
    /// What it comes to when the command is applied to this state and not refused. Nothing for what happens all the
    /// time: heartbeats, steps towards a target, commits.
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
                let all = known.into_iter().flat_map(|group| group.offsets.keys());
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
            | Command::CommitOffsets { .. } => Vec::new(),
        }
    }
}
