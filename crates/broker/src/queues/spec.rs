//! A queue as the metadata has it, as far as one partition of its topic is concerned.

use std::sync::Arc;

use jangada_controller::{Queue, QueueKind, QueueStart, Topic};
use jangada_queue::engine::{Attempts, Expired, OnDead, Order, Overflow, Policy};
use jangada_queue::{KeepsOrder, QueueId, SlotKind};
use jangada_types::queue_config::{AttemptsCount, OnExpiry, OnOverflow, OrderOnDead, QueueOrder};
use jangada_types::{PartitionIndex, QueueConfig};

/// A queue that a partition is to have a slot of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueSpec {
    pub id: QueueId,
    pub name: Arc<str>,
    pub kind: SlotKind,
    pub order: KeepsOrder,
    /// Where the slot begins in this partition.
    pub start: QueueStart,
    /// The settings, as the engine goes by them.
    pub policy: Policy,
    /// So many bytes of the log it keeps from the topic's retention, until it has settled them.
    pub hold_bytes: u64,
    /// All of them.
    pub config: Arc<QueueConfig>,
}

impl QueueSpec {
    /// The queue in one partition of its topic. An error is for the log: this build cannot read the settings.
    pub fn of(queue: &Queue, topic: &Topic, index: PartitionIndex) -> Result<Self, String> {
        let settings = queue.settings();
        let config =
            settings.map_err(|error| format!("the settings of queue {} cannot be used: {error}", queue.name))?;
        let (kind, start) = match queue.kind {
            QueueKind::Owned => (SlotKind::Owned, QueueStart::Earliest),
            QueueKind::Group { start, partitions } if index.get() < partitions => (SlotKind::Group, start),
            QueueKind::Group { .. } => (SlotKind::Group, QueueStart::Earliest),
            QueueKind::Bound => (SlotKind::Bound, QueueStart::Latest),
        };
        let keeps_order = config.order == QueueOrder::Key || config.priorities > 1;
        let partitions = topic.partitions.len() as u64;
        Ok(Self {
            id: queue.id,
            name: queue.name.clone(),
            kind,
            order: if keeps_order { KeepsOrder::Yes } else { KeepsOrder::No },
            start,
            policy: policy_of(&config, kind, partitions),
            hold_bytes: config.hold_bytes,
            config,
        })
    }

    /// A queue over a topic, or an exchange's log, whose settings this build cannot read: it keeps its slot as it is, and hands out
    /// nothing. Without any spec the slot would be closed, and all its messages would go out again. None: it has a log of its own, and
    /// nothing closes its slot.
    fn unreadable(queue: &Queue) -> Option<Self> {
        let (kind, start) = match queue.kind {
            QueueKind::Owned => return None,
            QueueKind::Group { start, .. } => (SlotKind::Group, start),
            QueueKind::Bound => (SlotKind::Bound, QueueStart::Latest),
        };
        Some(Self::idle(queue.id, queue.name.clone(), (kind, start)))
    }

    fn idle(id: QueueId, name: Arc<str>, (kind, start): (SlotKind, QueueStart)) -> Self {
        Self {
            id,
            name,
            kind,
            order: KeepsOrder::No,
            start,
            policy: Policy {
                attempts_max: None,
                dead_max: None,
                dead_ttl_ms: None,
                is_paused: true,
                ..Policy::default()
            },
            hold_bytes: 0,
            config: Arc::default(),
        }
    }

    /// The queues of a topic in one of its partitions. Those whose settings this build cannot read are logged, and hand out nothing.
    pub fn all_of<'a>(
        queues: impl Iterator<Item = &'a Arc<Queue>>,
        topic: &Topic,
        index: PartitionIndex,
    ) -> Arc<[Self]> {
        let specs = queues.filter_map(|queue| {
            let spec = Self::of(queue, topic, index);
            spec.inspect_err(|error| tracing::error!(topic = %topic.name, %index, "{error}"))
                .map_or_else(|_| Self::unreadable(queue), Some)
        });
        specs.collect()
    }
}

/// The settings as the engine of one of so many partitions goes by them.
fn policy_of(config: &QueueConfig, kind: SlotKind, partitions: u64) -> Policy {
    let on_dead = match config.order_on_dead {
        OrderOnDead::Continue => OnDead::Continue,
        OrderOnDead::Block => OnDead::Block,
    };
    // A sender may give its message a time to live, where there is none by setting.
    let expired = (kind == SlotKind::Owned).then_some(match config.expired {
        OnExpiry::Drop => Expired::Drop,
        OnExpiry::Dead => Expired::Dead,
    });
    Policy {
        attempts_max: config.attempts_max,
        attempts: match config.attempts_count {
            AttemptsCount::Failures => Attempts::Failures,
            AttemptsCount::Deliveries => Attempts::Deliveries,
        },
        retry_min_ms: config.retry_min_ms,
        retry_factor: config.retry_factor,
        retry_max_ms: config.retry_max_ms,
        order: match config.order {
            QueueOrder::None => Order::None,
            QueueOrder::Key => Order::ByKey(on_dead),
        },
        has_lanes: config.priorities > 1,
        min_share: config.priority_min_share,
        expired,
        messages_max: config.messages_max.map(|most| most.div_ceil(partitions.max(1))),
        bytes_max: config.bytes_max.map(|most| most.div_ceil(partitions.max(1))),
        dead_max: Some(config.dead_max),
        dead_ttl_ms: config.dead_ttl_ms,
        unused_max_ms: config.expires_ms,
        forwards_dead: config.dead_letter_topic.is_some(),
        overflow: match config.overflow {
            OnOverflow::Reject => Overflow::Reject,
            OnOverflow::DropOldest => Overflow::DropOldest,
        },
        is_paused: config.is_paused,
        ..Policy::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_whose_settings_cannot_be_read_keeps_what_it_has() {
        let spec = QueueSpec::idle(QueueId(7), "billing".into(), (SlotKind::Group, QueueStart::Latest));
        assert_eq!(
            (spec.id, spec.kind, spec.start),
            (QueueId(7), SlotKind::Group, QueueStart::Latest)
        );
        let Policy {
            is_paused,
            attempts_max,
            dead_max,
            dead_ttl_ms,
            forwards_dead,
            expired,
            unused_max_ms,
            ..
        } = spec.policy;
        assert!(is_paused, "it hands out nothing");
        assert_eq!(
            (attempts_max, dead_max, dead_ttl_ms),
            (None, None, None),
            "no message dies or goes"
        );
        assert_eq!((forwards_dead, expired, unused_max_ms), (false, None, None));
    }
}
