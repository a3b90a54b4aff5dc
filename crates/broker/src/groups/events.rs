//! What happens to groups and transactional ids, in the log and the counters of the broker that leads their shard, for people who ask
//! later: why a member is gone, where offsets went, what could not be done.

use std::sync::Arc;

use jangada_coordinator::{self as coordinator, Event};
use jangada_shard::{self as shard, ShardLeader};
use jangada_transactions as transactions;

use super::endings::Endings;
use crate::metrics::{GroupMetrics, REPLACED, TransactionMetrics};
use crate::replica::{Observer, ReplicaName};

/// Writes the events of the shards that are led here to the log, and counts them.
pub(super) struct EventLog {
    pub metrics: GroupMetrics,
    pub transactions: TransactionMetrics,
    pub endings: Arc<Endings>,
}

impl Observer<ShardLeader> for EventLog {
    fn took_effect(&self, command: &shard::Command) {
        match command {
            shard::Command::Group(coordinator::Command::CommitOffsets { .. }) => {
                self.metrics.commits.inc();
            }
            shard::Command::Group(_) => {}
            shard::Command::Transaction(command) => {
                if let transactions::Command::End { outcome, .. } = command {
                    self.transactions.decided(*outcome);
                }
                self.endings.took_effect(command);
            }
        }
    }

    fn event(&self, shard: &ReplicaName, event: &shard::Event) {
        match event {
            shard::Event::Group(event) => self.of_group(event),
            shard::Event::Transaction(event) => of_transactional_id(shard, event),
        }
    }
}

fn of_transactional_id(shard: &ReplicaName, event: &transactions::Event) {
    match event {
        transactions::Event::Aborted {
            id,
            producer,
            seq,
            outcome,
            partitions,
            groups,
        } => {
            let outcome = outcome.as_str();
            tracing::info!(%shard, %id, %producer, seq, outcome, partitions, groups, "a transaction is aborted");
        }
        transactions::Event::Expired { id } => {
            tracing::info!(%shard, %id, "a transactional id that was not used for long is forgotten");
        }
        transactions::Event::MarkerWaits {
            id,
            seq,
            target,
            attempts,
        } => {
            tracing::warn!(%shard, %id, seq, ?target, attempts, "the end of a transaction cannot be written");
        }
    }
}

impl EventLog {
    fn of_group(&self, event: &Event) {
        match event {
            Event::MemberRemoved { group, member, cause } => {
                let cause = cause.as_str();
                self.metrics.removed(cause);
                tracing::info!(%group, %member, cause, "a member was removed from its group");
            }
            Event::MemberReplaced { group, member, by } => {
                self.metrics.removed(REPLACED);
                tracing::info!(%group, %member, %by, "another process took the place of a static member");
            }
            Event::TargetSet {
                group,
                epoch,
                members,
                partitions,
            } => {
                self.metrics.rebalances.inc();
                tracing::info!(%group, %epoch, members, partitions, "a group has a new assignment");
            }
            Event::TopicsForgotten { group, topics, offsets } => {
                tracing::info!(%group, ?topics, offsets, "a group's offsets of deleted topics are gone");
            }
            Event::OffsetsDeleted { group, offsets } => {
                tracing::info!(%group, offsets, "a group's offsets were deleted by hand");
            }
            Event::GroupDeleted {
                group,
                offsets,
                is_expired,
            } => {
                let cause = if *is_expired { "expired" } else { "by hand" };
                tracing::info!(%group, offsets, cause, "a group and its offsets are gone");
            }
            Event::NoRoomForTarget { group, why } => {
                tracing::warn!(%group, %why, "a group keeps its old assignment: there is no room for a new one");
            }
            Event::TopicsLeftOut { group, topics } => {
                tracing::warn!(
                    %group,
                    count = topics.len(),
                    first = %topics.first().map_or("", |name| name),
                    "a group subscribes to more partitions than it can share: nobody reads these topics"
                );
            }
        }
    }
}
