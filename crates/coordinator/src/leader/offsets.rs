//! Commits offsets, and deletes offsets and groups.

use std::sync::Arc;

use jangada_types::{Reason, Rejection};

use super::request::{CommitRequest, Request, Step};
use super::{Leader, Now, request_rules};
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

    pub(super) fn decide_commit(&self, image: &Image, request: &CommitRequest, now: Now) -> Result<Command, Rejection> {
        request_rules::group_name(&request.group)?;
        request_rules::offsets(&request.offsets)?;
        for commit in &request.offsets {
            self.judge_partition(image, commit.partition)?;
        }
        let who = request.member.as_ref().map(|(id, epoch)| (&**id, *epoch));
        rules::may_commit(image, &request.group, who, &request.offsets)?;
        // The epoch was compared with the member's own, so it fits.
        let member = request.member.as_ref().map(|(id, epoch)| {
            let epoch = Epoch(u32::try_from(*epoch).unwrap_or(u32::MAX));
            (Arc::clone(id), epoch)
        });
        Ok(Command::CommitOffsets {
            group: Arc::clone(&request.group),
            member,
            offsets: request.offsets.clone(),
            at_ms: now.wall_ms,
            topics_version: self.topics.version(),
        })
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
        rules::no_members(group, rules::group(image, group)?)?;
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
        rules::no_members(group, rules::group(image, group)?)?;
        Ok(Command::DeleteOffsets {
            group: Arc::clone(group),
            partitions: partitions.clone(),
        })
    }
}
