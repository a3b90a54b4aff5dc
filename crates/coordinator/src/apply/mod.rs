//! The fold: one command, one state, one reply. Total and deterministic: the same commands at the same indexes give
//! the same state on every replica, and no command that can be decoded makes it panic. The leader's decisions are
//! judged again, since other commands may have come in between, and whether there is room is judged here, in the order
//! of the log. Other limits of requests are not judged here: replicas of several versions must agree.
//!
//! Each command is judged first and changes the state after, so a rejected one changes nothing but the version.

mod members;
mod offsets;
mod staged;
mod targets;

use std::sync::Arc;

use jangada_types::{Reason, Rejection};

use crate::command::Command;
use crate::image::{Group, Image};
use crate::reply::Reply;
use crate::rules;

impl Image {
    /// Applies the command at `index` of the shard's log. `index` is above that of every command before; it becomes
    /// the version.
    pub fn apply(&mut self, index: u64, command: &Command) -> Reply {
        match self.try_apply(index, command) {
            Ok(count) => Reply::Applied {
                version: index,
                count: u32::try_from(count).unwrap_or(u32::MAX),
            },
            Err(rejection) => Reply::Rejected(rejection),
        }
    }

    fn try_apply(&mut self, index: u64, command: &Command) -> Result<usize, Rejection> {
        if index <= self.version {
            return Err(Rejection::new(
                Reason::Internal,
                format!(
                    "log index {index} came to a coordinator that is at {} already",
                    self.version
                ),
            ));
        }
        self.version = index;
        let before = self.bytes_of(command.group());
        let outcome = self.fold(command);
        self.bytes = self.bytes - before + self.bytes_of(command.group());
        outcome
    }

    fn fold(&mut self, command: &Command) -> Result<usize, Rejection> {
        match command {
            Command::PutMember {
                group,
                member,
                replaces,
                version,
                spec,
            } => self.put_member(group, member, replaces.as_ref(), *version, spec),
            Command::SetTarget {
                group,
                epoch,
                computed_at,
                topics,
                topics_version,
                targets,
                remembers,
            } => {
                let target = targets::NewTarget {
                    epoch: *epoch,
                    computed_at: *computed_at,
                    topics,
                    topics_version: *topics_version,
                    targets,
                    remembers: *remembers,
                };
                self.set_target(group, &target)
            }
            Command::Progress {
                group,
                member,
                version,
                assignment_epoch,
                epoch,
                assigned,
                revoking,
            } => {
                let step = targets::ProgressStep {
                    version: *version,
                    assignment_epoch: *assignment_epoch,
                    epoch: *epoch,
                    assigned,
                    revoking,
                };
                self.progress(group, member, &step)
            }
            Command::SetAway { group, member, version } => self.set_away(group, member, *version),
            Command::RemoveMembers {
                group, members, at_ms, ..
            } => self.remove_members(group, members, *at_ms),
            Command::CommitOffsets {
                group,
                member,
                offsets,
                at_ms,
                topics_version,
            } => self.commit_offsets(group, member.as_ref(), offsets, *at_ms, *topics_version),
            Command::DeleteOffsets { group, partitions } => self.delete_offsets(group, partitions),
            Command::ForgetTopics {
                group,
                topics,
                topics_version,
            } => self.forget_topics(group, topics, *topics_version),
            Command::DeleteGroup { group } => self.delete_group(group),
            Command::ExpireGroup { group, empty_since_ms } => self.expire_group(group, *empty_since_ms),
            Command::StageOffsets {
                group,
                member,
                transaction,
                offsets,
                at_ms,
                topics_version,
            } => {
                let staging = staged::Staging {
                    member: member.as_ref(),
                    transaction: *transaction,
                    offsets,
                    at_ms: *at_ms,
                    topics_version: *topics_version,
                };
                self.stage_offsets(group, &staging)
            }
            Command::EndStaged {
                group,
                transaction,
                is_commit,
                at_ms,
            } => self.end_staged(group, *transaction, *is_commit, *at_ms),
        }
    }

    /// The group to change, after the command was judged.
    fn group_mut(&mut self, name: &str) -> Result<&mut Group, Rejection> {
        let group = self.groups.get_mut(name).ok_or_else(|| rules::changed(name))?;
        Ok(Arc::make_mut(group))
    }
}
