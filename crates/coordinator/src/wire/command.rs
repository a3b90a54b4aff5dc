//! The encoded form of commands.

use std::sync::Arc;

use bytes::Bytes;
use jangada_types::frame::{CodecError, frame, malformed, message, topic_id, unframe};
use jangada_types::{LeaderEpoch, Offset};

use super::{
    WirePartitions, WireSpec, WireTopic, leader_epoch_to_wire, partitions_from_wire, partitions_to_wire,
    topics_from_wire, topics_to_wire,
};
use crate::command::{Command, OffsetCommit, RemovalCause};
use crate::image::Epoch;
use crate::partitions::TopicPartition;

const PUT_MEMBER: u8 = 1;
const SET_TARGET: u8 = 2;
const PROGRESS: u8 = 3;
const SET_AWAY: u8 = 4;
const REMOVE_MEMBERS: u8 = 5;
const COMMIT_OFFSETS: u8 = 6;
const DELETE_OFFSETS: u8 = 7;
const FORGET_TOPICS: u8 = 8;
const DELETE_GROUP: u8 = 9;
const EXPIRE_GROUP: u8 = 10;
/// SET_TARGET after which the group remembers the topics' partitions; from feature level 5 on.
const SET_TARGET_REMEMBERING: u8 = 11;

#[derive(Clone, PartialEq, prost::Message)]
struct PutMember {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(string, tag = "2")]
    member: String,
    #[prost(string, optional, tag = "3")]
    replaces: Option<String>,
    #[prost(uint64, tag = "4")]
    version: u64,
    #[prost(message, required, tag = "5")]
    spec: WireSpec,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SetTarget {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(uint32, tag = "2")]
    epoch: u32,
    #[prost(uint64, tag = "3")]
    computed_at: u64,
    #[prost(message, repeated, tag = "4")]
    topics: Vec<WireTopic>,
    #[prost(uint64, tag = "5")]
    topics_version: u64,
    #[prost(message, repeated, tag = "6")]
    targets: Vec<WireTarget>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireTarget {
    #[prost(string, tag = "1")]
    member: String,
    #[prost(message, repeated, tag = "2")]
    partitions: Vec<WirePartitions>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Progress {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(string, tag = "2")]
    member: String,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(uint32, tag = "4")]
    assignment_epoch: u32,
    #[prost(uint32, tag = "5")]
    epoch: u32,
    #[prost(message, repeated, tag = "6")]
    assigned: Vec<WirePartitions>,
    #[prost(message, repeated, tag = "7")]
    revoking: Vec<WirePartitions>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireMember {
    #[prost(string, tag = "1")]
    member: String,
    #[prost(uint64, tag = "2")]
    version: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SetAway {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(message, required, tag = "2")]
    member: WireMember,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RemoveMembers {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(message, repeated, tag = "2")]
    members: Vec<WireMember>,
    #[prost(uint32, tag = "3")]
    cause: u32,
    #[prost(uint64, tag = "4")]
    at_ms: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireCommitter {
    #[prost(string, tag = "1")]
    member: String,
    #[prost(uint32, tag = "2")]
    epoch: u32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CommitOffsets {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(message, optional, tag = "2")]
    member: Option<WireCommitter>,
    #[prost(message, repeated, tag = "3")]
    offsets: Vec<WireOffset>,
    #[prost(uint64, tag = "4")]
    at_ms: u64,
    #[prost(uint64, tag = "5")]
    topics_version: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireOffset {
    #[prost(bytes = "vec", tag = "1")]
    topic: Vec<u8>,
    #[prost(uint32, tag = "2")]
    partition: u32,
    #[prost(int64, tag = "3")]
    offset: i64,
    #[prost(uint32, optional, tag = "4")]
    leader_epoch: Option<u32>,
    #[prost(string, tag = "5")]
    metadata: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeleteOffsets {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(message, repeated, tag = "2")]
    partitions: Vec<WirePartitions>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ForgetTopics {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(bytes = "vec", repeated, tag = "2")]
    topics: Vec<Vec<u8>>,
    #[prost(uint64, tag = "3")]
    topics_version: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DeleteGroup {
    #[prost(string, tag = "1")]
    group: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ExpireGroup {
    #[prost(string, tag = "1")]
    group: String,
    #[prost(uint64, tag = "2")]
    empty_since_ms: u64,
}

fn cause_to_wire(cause: RemovalCause) -> u32 {
    match cause {
        RemovalCause::Left => 1,
        RemovalCause::SessionExpired => 2,
        RemovalCause::RebalanceTimedOut => 3,
    }
}

fn cause_from_wire(cause: u32) -> Result<RemovalCause, CodecError> {
    match cause {
        1 => Ok(RemovalCause::Left),
        2 => Ok(RemovalCause::SessionExpired),
        3 => Ok(RemovalCause::RebalanceTimedOut),
        other => Err(malformed("command RemoveMembers", format!("unknown cause {other}"))),
    }
}

impl From<&OffsetCommit> for WireOffset {
    fn from(commit: &OffsetCommit) -> Self {
        Self {
            topic: commit.partition.topic.as_bytes().to_vec(),
            partition: commit.partition.partition.get(),
            offset: commit.offset.get(),
            leader_epoch: leader_epoch_to_wire(commit.leader_epoch),
            metadata: commit.metadata.to_string(),
        }
    }
}

impl WireOffset {
    fn into_commit(self) -> Result<OffsetCommit, CodecError> {
        let topic = topic_id("command CommitOffsets", &self.topic)?;
        Ok(OffsetCommit {
            partition: TopicPartition::new(topic, self.partition),
            offset: Offset(self.offset),
            leader_epoch: self.leader_epoch.map(LeaderEpoch),
            metadata: self.metadata.into(),
        })
    }
}

fn member_to_wire(member: &Arc<str>, version: u64) -> WireMember {
    WireMember {
        member: member.to_string(),
        version,
    }
}

pub(crate) fn encode(command: &Command) -> Bytes {
    let group = command.group().to_string();
    match command {
        Command::PutMember {
            member,
            replaces,
            version,
            spec,
            ..
        } => frame(
            Some(PUT_MEMBER),
            &PutMember {
                group,
                member: member.to_string(),
                replaces: replaces.as_deref().map(str::to_owned),
                version: *version,
                spec: spec.into(),
            },
        ),
        Command::SetTarget {
            epoch,
            computed_at,
            topics,
            topics_version,
            targets,
            remembers,
            ..
        } => {
            let kind = if *remembers { SET_TARGET_REMEMBERING } else { SET_TARGET };
            let target = |(member, set): &(Arc<str>, _)| WireTarget {
                member: member.to_string(),
                partitions: partitions_to_wire(set),
            };
            frame(
                Some(kind),
                &SetTarget {
                    group,
                    epoch: epoch.get(),
                    computed_at: *computed_at,
                    topics: topics_to_wire(topics),
                    topics_version: *topics_version,
                    targets: targets.iter().map(target).collect(),
                },
            )
        }
        Command::Progress {
            member,
            version,
            assignment_epoch,
            epoch,
            assigned,
            revoking,
            ..
        } => frame(
            Some(PROGRESS),
            &Progress {
                group,
                member: member.to_string(),
                version: *version,
                assignment_epoch: assignment_epoch.get(),
                epoch: epoch.get(),
                assigned: partitions_to_wire(assigned),
                revoking: partitions_to_wire(revoking),
            },
        ),
        Command::SetAway { member, version, .. } => {
            let member = member_to_wire(member, *version);
            frame(Some(SET_AWAY), &SetAway { group, member })
        }
        Command::RemoveMembers {
            members, cause, at_ms, ..
        } => frame(
            Some(REMOVE_MEMBERS),
            &RemoveMembers {
                group,
                members: members
                    .iter()
                    .map(|(id, version)| member_to_wire(id, *version))
                    .collect(),
                cause: cause_to_wire(*cause),
                at_ms: *at_ms,
            },
        ),
        Command::CommitOffsets {
            member,
            offsets,
            at_ms,
            topics_version,
            ..
        } => frame(
            Some(COMMIT_OFFSETS),
            &CommitOffsets {
                group,
                member: member.as_ref().map(|(member, epoch)| WireCommitter {
                    member: member.to_string(),
                    epoch: epoch.get(),
                }),
                offsets: offsets.iter().map(WireOffset::from).collect(),
                at_ms: *at_ms,
                topics_version: *topics_version,
            },
        ),
        Command::DeleteOffsets { partitions, .. } => {
            let partitions = partitions_to_wire(partitions);
            frame(Some(DELETE_OFFSETS), &DeleteOffsets { group, partitions })
        }
        Command::ForgetTopics {
            topics, topics_version, ..
        } => frame(
            Some(FORGET_TOPICS),
            &ForgetTopics {
                group,
                topics: topics.iter().map(|topic| topic.as_bytes().to_vec()).collect(),
                topics_version: *topics_version,
            },
        ),
        Command::DeleteGroup { .. } => frame(Some(DELETE_GROUP), &DeleteGroup { group }),
        Command::ExpireGroup { empty_since_ms, .. } => {
            let empty_since_ms = *empty_since_ms;
            frame(Some(EXPIRE_GROUP), &ExpireGroup { group, empty_since_ms })
        }
    }
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Command, CodecError> {
    let (kind, body) = unframe("command", bytes)?;
    match kind {
        PUT_MEMBER => {
            let wire: PutMember = message("command PutMember", body)?;
            Ok(Command::PutMember {
                group: wire.group.into(),
                member: wire.member.into(),
                replaces: wire.replaces.map(Arc::from),
                version: wire.version,
                spec: wire.spec.into_spec("command PutMember")?,
            })
        }
        SET_TARGET | SET_TARGET_REMEMBERING => {
            set_target(message("command SetTarget", body)?, kind == SET_TARGET_REMEMBERING)
        }
        PROGRESS => {
            let wire: Progress = message("command Progress", body)?;
            Ok(Command::Progress {
                group: wire.group.into(),
                member: wire.member.into(),
                version: wire.version,
                assignment_epoch: Epoch(wire.assignment_epoch),
                epoch: Epoch(wire.epoch),
                assigned: partitions_from_wire("command Progress", wire.assigned)?,
                revoking: partitions_from_wire("command Progress", wire.revoking)?,
            })
        }
        SET_AWAY => {
            let wire: SetAway = message("command SetAway", body)?;
            Ok(Command::SetAway {
                group: wire.group.into(),
                member: wire.member.member.into(),
                version: wire.member.version,
            })
        }
        REMOVE_MEMBERS => {
            let wire: RemoveMembers = message("command RemoveMembers", body)?;
            let members = wire.members.into_iter();
            Ok(Command::RemoveMembers {
                group: wire.group.into(),
                members: members.map(|member| (member.member.into(), member.version)).collect(),
                cause: cause_from_wire(wire.cause)?,
                at_ms: wire.at_ms,
            })
        }
        COMMIT_OFFSETS => {
            let wire: CommitOffsets = message("command CommitOffsets", body)?;
            Ok(Command::CommitOffsets {
                group: wire.group.into(),
                member: wire.member.map(|by| (by.member.into(), Epoch(by.epoch))),
                offsets: wire
                    .offsets
                    .into_iter()
                    .map(WireOffset::into_commit)
                    .collect::<Result<_, _>>()?,
                at_ms: wire.at_ms,
                topics_version: wire.topics_version,
            })
        }
        DELETE_OFFSETS => {
            let wire: DeleteOffsets = message("command DeleteOffsets", body)?;
            Ok(Command::DeleteOffsets {
                group: wire.group.into(),
                partitions: partitions_from_wire("command DeleteOffsets", wire.partitions)?,
            })
        }
        FORGET_TOPICS => {
            let wire: ForgetTopics = message("command ForgetTopics", body)?;
            let topics = wire.topics.iter().map(|topic| topic_id("command ForgetTopics", topic));
            Ok(Command::ForgetTopics {
                group: wire.group.into(),
                topics: topics.collect::<Result<_, _>>()?,
                topics_version: wire.topics_version,
            })
        }
        DELETE_GROUP => {
            let wire: DeleteGroup = message("command DeleteGroup", body)?;
            Ok(Command::DeleteGroup {
                group: wire.group.into(),
            })
        }
        EXPIRE_GROUP => {
            let wire: ExpireGroup = message("command ExpireGroup", body)?;
            Ok(Command::ExpireGroup {
                group: wire.group.into(),
                empty_since_ms: wire.empty_since_ms,
            })
        }
        kind => Err(CodecError::UnknownKind { what: "command", kind }),
    }
}

fn set_target(wire: SetTarget, remembers: bool) -> Result<Command, CodecError> {
    let target = |target: WireTarget| {
        let set = partitions_from_wire("command SetTarget", target.partitions)?;
        Ok((target.member.into(), set))
    };
    Ok(Command::SetTarget {
        group: wire.group.into(),
        epoch: Epoch(wire.epoch),
        computed_at: wire.computed_at,
        topics: topics_from_wire("command SetTarget", wire.topics)?,
        topics_version: wire.topics_version,
        targets: wire.targets.into_iter().map(target).collect::<Result<_, _>>()?,
        remembers,
    })
}
