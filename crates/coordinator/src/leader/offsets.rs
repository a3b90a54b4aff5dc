//! Commits offsets, and deletes offsets and groups.

use std::sync::Arc;

use jangada_types::{Reason, Rejection};

use super::request::{Answer, CommitRequest, EndStagedRequest, Request, StageRequest, Step};
use super::{Decision, Leader, Now, request_rules};
use crate::command::Command;
use crate::image::{Epoch, Image};
use crate::partitions::{PartitionSet, TopicPartition};
use crate::rules;

impl Leader {
    /// Commits offsets, all or none.
    pub fn commit(&mut self, image: &Image, request: CommitRequest, now: Now) -> Step {
        self.decide(image, Request::Commit(request), 1, now)
    }

    /// Deletes a group that has no members.
    pub fn delete_group(&mut self, image: &Image, group: Arc<str>, now: Now) -> Step {
        self.decide(image, Request::DeleteGroup(group), 1, now)
    }

    /// Deletes offsets of a group that has no members.
    pub fn delete_offsets(&mut self, image: &Image, group: Arc<str>, partitions: PartitionSet, now: Now) -> Step {
        self.decide(image, Request::DeleteOffsets(group, partitions), 1, now)
    }

    /// Stages offsets of a transaction, all or none. The caller has joined the transaction at its coordinator, which gave `seq`.
    pub fn stage_offsets(&mut self, image: &Image, request: StageRequest, now: Now) -> Step {
        self.decide(image, Request::Stage(request), 1, now)
    }

    /// Ends a transaction in a group. Answered at once if the end has come already.
    pub fn end_staged(&mut self, image: &Image, request: EndStagedRequest, now: Now) -> Step {
        self.decide(image, Request::EndStaged(request), 1, now)
    }

    pub(super) fn decide_commit(&self, image: &Image, request: &CommitRequest, now: Now) -> Result<Command, Rejection> {
        self.judge_offsets(image, request)?;
        rules::may_commit(image, &request.group, who(request), &request.offsets)?;
        Ok(Command::CommitOffsets {
            group: Arc::clone(&request.group),
            member: member(request),
            offsets: request.offsets.clone(),
            at_ms: now.wall_ms,
            topics_version: self.topics.version(),
        })
    }

    pub(super) fn decide_stage(&self, image: &Image, request: &StageRequest, now: Now) -> Result<Command, Rejection> {
        let StageRequest { commit, transaction } = request;
        self.judge_offsets(image, commit)?;
        rules::may_stage(image, &commit.group, who(commit), *transaction, &commit.offsets)?;
        Ok(Command::StageOffsets {
            group: Arc::clone(&commit.group),
            member: member(commit),
            transaction: *transaction,
            offsets: commit.offsets.clone(),
            at_ms: now.wall_ms,
            topics_version: self.topics.version(),
        })
    }

    pub(super) fn decide_end(image: &Image, request: &EndStagedRequest, now: Now) -> Result<Decision, Rejection> {
        let EndStagedRequest {
            group,
            transaction,
            is_commit,
        } = request;
        request_rules::group_name(group)?;
        rules::may_end(image, group, *transaction)?;
        if image.has_ended(group, *transaction) {
            return Ok(Decision::Answer(Answer::Ended));
        }
        Ok(Decision::Propose(Command::EndStaged {
            group: Arc::clone(group),
            transaction: *transaction,
            is_commit: *is_commit,
            at_ms: now.wall_ms,
        }))
    }

    /// Judges what a commit and a staging have in common, whatever the state of the group.
    fn judge_offsets(&self, image: &Image, request: &CommitRequest) -> Result<(), Rejection> {
        request_rules::group_name(&request.group)?;
        request_rules::offsets(&request.offsets)?;
        let mut partitions = request.offsets.iter().map(|commit| commit.partition);
        partitions.try_for_each(|partition| self.judge_partition(image, partition))
    }

    fn judge_partition(&self, image: &Image, partition: TopicPartition) -> Result<(), Rejection> {
        let Some(topic) = self.topics.topic(partition.topic) else {
            // A broker that lags can't tell a topic that is gone from one that is new.
            if self.topics.version() < image.topics_version() {
                return Err(Rejection::new(
                    Reason::NotReady,
                    "this broker does not have the newest metadata yet: try again after a moment",
                ));
            }
            return Err(Rejection::new(
                Reason::UnknownTopic,
                format!(
                    "there is no topic with id {}: it was deleted; list the topics to see what exists",
                    partition.topic
                ),
            ));
        };
        if partition.partition.get() >= topic.partitions {
            return Err(Rejection::new(
                Reason::UnknownPartition,
                format!(
                    "topic {:?} has {} partitions, not {}",
                    topic.name, topic.partitions, partition.partition
                ),
            )
            .with("limit", topic.partitions)
            .with("actual", partition.partition));
        }
        Ok(())
    }

    pub(super) fn decide_delete_group(&self, image: &Image, group: &Arc<str>) -> Result<Command, Rejection> {
        request_rules::group_name(group)?;
        rules::may_delete(group, rules::group(image, group)?)?;
        Ok(Command::DeleteGroup {
            group: Arc::clone(group),
        })
    }

    pub(super) fn decide_delete_offsets(
        &self,
        image: &Image,
        group: &Arc<str>,
        partitions: &PartitionSet,
    ) -> Result<Command, Rejection> {
        request_rules::group_name(group)?;
        rules::may_delete(group, rules::group(image, group)?)?;
        Ok(Command::DeleteOffsets {
            group: Arc::clone(group),
            partitions: partitions.clone(),
        })
    }
}

/// The member that commits, and the epoch that it says.
fn who(request: &CommitRequest) -> Option<(&str, i64)> {
    request.member.as_ref().map(|(id, epoch)| (&**id, *epoch))
}

/// The member that commits, after the epoch was compared with its own: so it fits.
fn member(request: &CommitRequest) -> Option<(Arc<str>, Epoch)> {
    request.member.as_ref().map(|(id, epoch)| {
        let epoch = Epoch(u32::try_from(*epoch).unwrap_or(u32::MAX));
        (Arc::clone(id), epoch)
    })
}
