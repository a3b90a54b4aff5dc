//! The shards that are open on this broker, and what they share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{Image, Topic, TopicKind};
use jangada_coordinator::{CommandKind, Config, TopicTable};
use jangada_types::GroupId;
use parking_lot::{Mutex, RwLock};

use super::machine::{CoordinatorMachine, State};
use super::shard::Shard;
use super::time::{Alarm, Clock};
use crate::clock_guard::ClockGuard;
use crate::metrics::GroupMetrics;
use crate::quorum;
use crate::settings::BrokerSettings;

/// What all shards of a broker share.
pub(crate) struct Shared {
    pub clock: Clock,
    pub alarm: Alarm,
    pub config: Config,
    pub metrics: GroupMetrics,
    /// A leader that no quorum answered for so long does not answer members: the others may have elected another one.
    pub quorum_within: Duration,
    topics: RwLock<Arc<TopicTable>>,
}

impl Shared {
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

/// See the module text.
pub(crate) struct Shards {
    by_group: RwLock<HashMap<GroupId, Arc<Shard>>>,
    pub shared: Arc<Shared>,
}

impl Shards {
    pub fn new(settings: &BrokerSettings, clock: Arc<ClockGuard>, metrics: GroupMetrics) -> Self {
        let groups = &settings.groups;
        let config = Config {
            heartbeat_interval_ms: groups.heartbeat_interval_ms,
            busy_heartbeat_interval_ms: groups.busy_heartbeat_interval_ms,
            batch_window_ms: groups.batch_window_ms,
            batch_window_ms_max: groups.batch_window_ms_max,
            offsets_retention_ms: groups.offsets_retention_ms,
        };
        let shared = Shared {
            clock: Clock::new(clock),
            alarm: Alarm::new(),
            config,
            metrics,
            quorum_within: quorum::within(settings),
            topics: RwLock::default(),
        };
        Self {
            by_group: RwLock::default(),
            shared: Arc::new(shared),
        }
    }

    /// The state machine for a shard that is to be opened.
    pub fn machine(&self, group: GroupId) -> (CoordinatorMachine, Arc<Mutex<State>>) {
        CoordinatorMachine::new(group, self.shared.clone())
    }

    pub fn insert(&self, shard: Shard) {
        self.by_group.write().insert(shard.group.id(), Arc::new(shard));
        // It may lead already.
        self.shared.alarm.set(Some(0));
    }

    pub fn remove(&self, group: GroupId) {
        self.by_group.write().remove(&group);
    }

    pub fn get(&self, group: GroupId) -> Option<Arc<Shard>> {
        self.by_group.read().get(&group).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Shard>> {
        self.by_group.read().values().cloned().collect()
    }

    /// Groups and members of the shards that are led here.
    pub fn count(&self) -> (u64, u64) {
        let led = self.all().into_iter().filter(|shard| shard.group.status().ready);
        led.map(|shard| shard.count())
            .fold((0, 0), |(groups, members), (g, m)| (groups + g, members + m))
    }
}
