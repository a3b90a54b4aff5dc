//! What all shards of a broker share.

use std::sync::Arc;

use jangada_controller::{Image, Topic, TopicKind};
use jangada_coordinator::{self as coordinator, CommandKind, Config, TopicTable};
use jangada_shard::{ShardLeader, Surroundings};
use jangada_storage::Store;
use jangada_transactions::CommandKind as TransactionCommandKind;
use jangada_types::GroupId;

use super::endings::Endings;
use super::events::EventLog;
use super::replica::KIND;
use crate::cluster::metadata::Metadata;
use crate::metrics::{GroupMetrics, TransactionMetrics};
use crate::pool::Pool;
use crate::replica::{Driven, DriverShared, ReplicaName, SurroundingsCell, Timers};
use crate::settings::{GroupSettings, TransactionSettings};

/// Settings and topics that all shards here go by.
pub(crate) struct Shared {
    driving: Arc<DriverShared<ShardLeader>>,
    /// Those of all shards.
    surroundings: Arc<SurroundingsCell<Surroundings>>,
    /// The ends of transactions that are under way here.
    pub endings: Arc<Endings>,
}

impl Shared {
    pub fn new(
        (settings, transactions): (&GroupSettings, &TransactionSettings),
        timers: Arc<Timers>,
        (metrics, transaction_metrics): (GroupMetrics, TransactionMetrics),
        (store, read_pool): (Arc<dyn Store>, Pool),
    ) -> Self {
        let config = Config {
            heartbeat_interval_ms: settings.heartbeat_interval_ms,
            busy_heartbeat_interval_ms: settings.busy_heartbeat_interval_ms,
            batch_window_ms: settings.batch_window_ms,
            batch_window_ms_max: settings.batch_window_ms_max,
            offsets_retention_ms: settings.offsets_retention_ms,
        };
        let surroundings = Surroundings {
            groups: Arc::new(coordinator::Surroundings {
                config,
                topics: Arc::default(),
            }),
            transactions: Arc::new(jangada_transactions::Config {
                timeout_ms_max: transactions.max_timeout_ms,
                timeout_ms_default: jangada_transactions::limits::TIMEOUT_MS_DEFAULT,
                expiration_ms: transactions.id_expiration_ms,
                // Until an image says that all brokers know it.
                begins_at_once: false,
            }),
        };
        let endings = Arc::new(Endings::default());
        let observer = Box::new(EventLog {
            metrics,
            transactions: transaction_metrics,
            endings: endings.clone(),
        });
        Self {
            driving: Arc::new(DriverShared {
                timers,
                store,
                read_pool,
                observer,
            }),
            endings,
            surroundings: SurroundingsCell::new(surroundings),
        }
    }

    /// The state of a shard that is to be opened.
    pub fn empty_shard(&self, shard: (GroupId, ReplicaName)) -> Arc<Driven<ShardLeader>> {
        Driven::new(shard, self.surroundings.clone(), self.driving.clone())
    }

    /// Takes the topics of each image, until the metadata is gone.
    pub async fn follow(self: Arc<Self>, metadata: Metadata) {
        let mut image = metadata.watch();
        loop {
            let current = image.borrow_and_update().clone();
            self.learn(&current);
            if image.changed().await.is_err() {
                return;
            }
        }
    }

    /// Takes the topics of a newer image. Most versions change something else: then only the number is new, and the shards
    /// have nothing to look at.
    pub fn learn(&self, image: &Image) {
        let surroundings = self.surroundings.get();
        let known = &surroundings.groups.topics;
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
        let version = table.version();
        let begins_at_once = image.feature_level() >= TransactionCommandKind::Begin.since();
        let transactions = match surroundings.transactions.begins_at_once == begins_at_once {
            true => surroundings.transactions.clone(),
            false => Arc::new(jangada_transactions::Config {
                begins_at_once,
                ..jangada_transactions::Config::clone(&surroundings.transactions)
            }),
        };
        let newer = Surroundings {
            groups: Arc::new(coordinator::Surroundings {
                config: surroundings.groups.config.clone(),
                topics: Arc::new(table),
            }),
            transactions,
        };
        if self
            .surroundings
            .set_if(newer, |known| known.groups.topics.version() < version)
        {
            self.driving.timers.wake(&KIND);
        }
    }
}
