//! Committed offsets: writing and deleting them, and deleting groups.

use std::sync::Arc;

use jangada_types::{Rejection, TopicId};

use crate::image::{Epoch, Group, Image};
use crate::offset_commit::OffsetCommit;
use crate::partitions::{PartitionSet, TopicPartition};
use crate::rules;
use crate::size;
use crate::transaction::Committed;

impl Image {
    pub(super) fn commit_offsets(
        &mut self,
        name: &Arc<str>,
        member: Option<&(Arc<str>, Epoch)>,
        commits: &[OffsetCommit],
        at_ms: u64,
        topics_version: u64,
    ) -> Result<usize, Rejection> {
        let who = member.map(|(id, epoch)| (&**id, i64::from(epoch.get())));
        rules::may_commit(self, name, who, commits)?;
        self.topics_version = self.topics_version.max(topics_version);
        let group = self
            .groups
            .entry(Arc::clone(name))
            .or_insert_with(|| Arc::new(Group::new()));
        let group = Arc::make_mut(group);
        if member.is_none() {
            group.stay_from(at_ms);
        }
        for commit in commits {
            let committed = Committed {
                offset: commit.offset,
                leader_epoch: commit.leader_epoch,
                metadata: commit.metadata.clone(),
                committed_at_ms: at_ms,
            };
            group.bytes.offsets += size::offset(&committed);
            let old = group.offsets.insert(commit.partition, committed);
            group.bytes.offsets -= old.as_ref().map_or(0, size::offset);
        }
        Ok(commits.len())
    }

    pub(super) fn delete_offsets(&mut self, name: &str, partitions: &PartitionSet) -> Result<usize, Rejection> {
        rules::may_delete(name, rules::group(self, name)?)?;
        let group = self.group_mut(name)?;
        let before = group.offsets.len();
        for partition in partitions.iter() {
            group.bytes.offsets -= group.offsets.remove(&partition).as_ref().map_or(0, size::offset);
        }
        group.forget_unread();
        Ok(before - group.offsets.len())
    }

    pub(super) fn forget_topics(
        &mut self,
        name: &str,
        topics: &[TopicId],
        topics_version: u64,
    ) -> Result<usize, Rejection> {
        rules::group(self, name)?;
        self.topics_version = self.topics_version.max(topics_version);
        let group = self.group_mut(name)?;
        let before = group.offsets.len();
        let bytes = &mut group.bytes.offsets;
        let mut keep = |partition: &TopicPartition, committed: &mut Committed| {
            let is_kept = !topics.contains(&partition.topic);
            *bytes -= if is_kept { 0 } else { size::offset(committed) };
            is_kept
        };
        group.offsets.retain(&mut keep);
        let mut staged = 0;
        for pending in group.pending.values_mut() {
            staged += pending.offsets.len();
            pending.offsets.retain(&mut keep);
            staged -= pending.offsets.len();
        }
        group.pending.retain(|_, pending| {
            let is_kept = !pending.offsets.is_empty();
            group.bytes.offsets -= if is_kept { 0 } else { size::pending(pending) };
            is_kept
        });
        group.forget_unread();
        Ok(before - group.offsets.len() + staged)
    }

    pub(super) fn delete_group(&mut self, name: &str) -> Result<usize, Rejection> {
        rules::may_delete(name, rules::group(self, name)?)?;
        self.groups.remove(name);
        Ok(1)
    }

    pub(super) fn expire_group(&mut self, name: &str, empty_since_ms: u64) -> Result<usize, Rejection> {
        let group = rules::group(self, name)?;
        rules::may_delete(name, group)?;
        if group.empty_since_ms != Some(empty_since_ms) {
            return Err(rules::changed(name));
        }
        self.groups.remove(name);
        Ok(1)
    }
}

impl Group {
    /// Puts off the expiry of a group without members: offsets were written from outside, or by the end of a transaction. The stamp
    /// goes forward even when this leader's clock is behind the last leader's: an expiry that was decided from the earlier stamp
    /// must not delete what is written now.
    pub(super) fn stay_from(&mut self, at_ms: u64) {
        if self.members.is_empty() {
            let next = self.empty_since_ms.map_or(0, |since| since.saturating_add(1));
            self.empty_since_ms = Some(at_ms.max(next));
        }
    }
}
