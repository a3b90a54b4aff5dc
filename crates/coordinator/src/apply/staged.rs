//! Offsets that are part of a transaction: staging them, and ending the transaction.

use std::sync::Arc;

use jangada_types::Rejection;
use jangada_types::planted::{self, Bug};

use crate::image::{Epoch, Group, Image};
use crate::offset_commit::OffsetCommit;
use crate::rules;
use crate::size;
use crate::transaction::{Committed, PendingOffsets, TransactionRef};

/// The fields of `Command::StageOffsets`, without the group.
pub(super) struct Staging<'a> {
    pub(super) member: Option<&'a (Arc<str>, Epoch)>,
    pub(super) transaction: TransactionRef,
    pub(super) offsets: &'a [OffsetCommit],
    pub(super) at_ms: u64,
    pub(super) topics_version: u64,
}

impl Image {
    pub(super) fn stage_offsets(&mut self, name: &Arc<str>, staging: &Staging<'_>) -> Result<usize, Rejection> {
        let Staging {
            member,
            transaction,
            offsets,
            at_ms,
            topics_version,
        } = *staging;
        let who = member.map(|(id, epoch)| (&**id, i64::from(epoch.get())));
        rules::may_stage(self, name, who, transaction, offsets)?;
        self.topics_version = self.topics_version.max(topics_version);
        let group = self
            .groups
            .entry(Arc::clone(name))
            .or_insert_with(|| Arc::new(Group::new()));
        let group = Arc::make_mut(group);
        group.stay_from(at_ms);
        // A command that names nothing, which no leader proposes.
        if offsets.is_empty() {
            return Ok(0);
        }
        let bytes = &mut group.bytes.offsets;
        let pending = group.pending.entry(transaction.producer_id).or_insert_with(|| {
            *bytes += size::pending_alone();
            PendingOffsets {
                epoch: transaction.epoch,
                seq: transaction.seq,
                since_ms: at_ms,
                offsets: Default::default(),
            }
        });
        for commit in offsets {
            let staged = Committed {
                offset: commit.offset,
                leader_epoch: commit.leader_epoch,
                metadata: commit.metadata.clone(),
                committed_at_ms: at_ms,
            };
            *bytes += size::offset(&staged);
            let old = pending.offsets.insert(commit.partition, staged);
            *bytes -= old.as_ref().map_or(0, size::offset);
        }
        Ok(offsets.len())
    }

    /// Whatever the transaction has staged takes effect here, behind every commit that was applied meanwhile (Kafka's and
    /// Redpanda's coordinators once ordered it by the staging, so that a later commit was undone).
    pub(super) fn end_staged(
        &mut self,
        name: &str,
        transaction: TransactionRef,
        is_commit: bool,
        at_ms: u64,
    ) -> Result<usize, Rejection> {
        rules::may_end(self, name, transaction)?;
        self.ended.remember(transaction, self.version);
        if !self.is_open(name, transaction) {
            return Ok(0);
        }
        let group = self.group_mut(name)?;
        let Some(pending) = group.pending.remove(&transaction.producer_id) else {
            return Ok(0);
        };
        group.bytes.offsets -= size::pending(&pending);
        let count = pending.offsets.len();
        if is_commit || planted::is(Bug::AbortedOffsetsCommitted) {
            group.stay_from(at_ms);
            for (partition, staged) in pending.offsets {
                let committed = Committed {
                    committed_at_ms: at_ms,
                    ..staged
                };
                group.bytes.offsets += size::offset(&committed);
                let old = group.offsets.insert(partition, committed);
                group.bytes.offsets -= old.as_ref().map_or(0, size::offset);
            }
        } else {
            group.forget_unread();
        }
        Ok(count)
    }
}

impl Image {
    /// Whether offsets of this very transaction wait for its end in the group.
    fn is_open(&self, name: &str, transaction: TransactionRef) -> bool {
        let group = self.group(name);
        let pending = group.and_then(|group| group.pending.get(&transaction.producer_id));
        pending.is_some_and(|pending| pending.seq == transaction.seq)
    }

    /// Whether the end of the transaction has come to the group: another one would change nothing.
    pub(crate) fn has_ended(&self, name: &str, transaction: TransactionRef) -> bool {
        self.ended.has(transaction) && !self.is_open(name, transaction)
    }
}
