//! What all shards of a broker share.

use std::sync::Arc;

use jangada_controller::{Image, Topic, TopicKind};
use jangada_coordinator::{CommandKind, Config, TopicTable};
use parking_lot::RwLock;

use super::time::{Alarm, Clock};
use crate::clock_guard::ClockGuard;
use crate::metrics::GroupMetrics;
use crate::settings::GroupSettings;

/// What all shards of a broker share.
pub(crate) struct Shared {
    pub clock: Clock,
    pub alarm: Alarm,
    pub config: Config,
    pub metrics: GroupMetrics,
    topics: RwLock<Arc<TopicTable>>,
}

impl Shared {
    pub fn new(settings: &GroupSettings, clock: Arc<ClockGuard>, metrics: GroupMetrics) -> Self {
        let config = Config {
            heartbeat_interval_ms: settings.heartbeat_interval_ms,
            busy_heartbeat_interval_ms: settings.busy_heartbeat_interval_ms,
            batch_window_ms: settings.batch_window_ms,
            batch_window_ms_max: settings.batch_window_ms_max,
            offsets_retention_ms: settings.offsets_retention_ms,
        };
        Self {
            clock: Clock::new(clock),
            alarm: Alarm::new(),
            config,
            metrics,
            topics: RwLock::default(),
        }
    }

    /// The cluster's topics as this broker knows them.
    pub fn topics(&self) -> Arc<TopicTable> {
        self.topics.read().clone()
    }

    /// Takes the topics of a newer image. Most versions change something else: then only the number is new, and the shards
    /// have nothing to look at.
    pub fn learn(&self, image: &Image) {
        let known = self.topics();
        if image.version() <= known.version() {
            return;
        }
        let logs = || image.topics().filter(|topic| topic.kind == TopicKind::Log);
        let partitions = |topic: &Topic| u32::try_from(topic.partitions.len()).unwrap_or(u32::MAX);
        let table = if known.is_all(logs().map(|topic| (topic.id, &*topic.name, partitions(topic)))) {
            known.at_version(image.version())
        } else {
            let rows = logs().map(|topic| (topic.id, topic.name.clone(), partitions(topic)));
            TopicTable::new(image.version(), rows)
        };
        let table = table.letting_groups_remember(image.feature_level() >= CommandKind::SetTargetRemembering.since());
        let mut known = self.topics.write();
        if known.version() < table.version() {
            *known = Arc::new(table);
        }
    }
}
