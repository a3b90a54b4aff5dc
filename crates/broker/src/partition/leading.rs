//! What the leader of a partition (`jangada_log::leader`) goes by, and what it tells.

use jangada_log::Leader;
use jangada_log::leader::{Event, Surroundings};
use jangada_types::TopicConfig;

use crate::queues::QueueSpec;
use crate::replica::{Observer, ReplicaName};

/// When the leaders of a broker look for what may go, and from when on its clock may say so.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetentionClock {
    /// Time between two looks, milliseconds.
    pub check_interval_ms: u64,
    /// How long the wall clock must have been steady at most, milliseconds.
    pub steady_clock_ms: u64,
}

impl RetentionClock {
    /// What the leader of a topic's partition goes by, given the queues of the topic, and how many bytes compaction has taken, if that is
    /// known.
    pub fn surroundings(&self, config: &TopicConfig, queues: &[QueueSpec], gone_bytes: Option<u64>) -> Surroundings {
        let holds = queues.iter().filter(|queue| queue.hold_bytes > 0);
        let policy = config.cleanup_policy;
        // Where there is nothing known of what is gone, too much would go by bytes.
        let goes_by_bytes = policy.deletes() && (!policy.compacts() || gone_bytes.is_some());
        Surroundings {
            retention_ms: config.retention_ms.filter(|_| policy.deletes()),
            retention_bytes: config.retention_bytes.filter(|_| goes_by_bytes),
            gone_bytes: gone_bytes.filter(|_| policy.compacts()),
            segment_bytes: config.segment_bytes,
            check_interval_ms: self.check_interval_ms,
            steady_clock_ms: self.steady_clock_ms,
            holds: holds.map(|queue| (queue.id, queue.hold_bytes)).collect(),
        }
    }
}

/// Writes new log starts of the partitions that are led here to the log.
pub(crate) struct LogStarts;

impl Observer<Leader> for LogStarts {
    fn event(&self, partition: &ReplicaName, event: &Event) {
        let Event::LogStartAdvanced {
            from,
            to,
            dropped_bytes,
        } = event;
        tracing::info!(%partition, %from, %to, dropped_bytes, "log start advanced");
    }
}
