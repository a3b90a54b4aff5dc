//! What unit tests of this crate need of a broker: a store on disk and a registry of groups, without peers.

use std::sync::Arc;

use jangada_log::TABLES;
use jangada_replication::{Identity, Registry, Timing};
use jangada_storage::{RocksStore, StoreOptions};
use jangada_types::{BrokerId, Incarnation};
use tempfile::TempDir;

/// Broker 1, which is alone.
pub struct Alone {
    /// The data; gone with it.
    pub directory: TempDir,
    pub store: Arc<RocksStore>,
    pub registry: Arc<Registry>,
}

impl Alone {
    /// Opens an empty store. Elections take up to 0.3 s.
    pub fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let mut options = StoreOptions::new(directory.path());
        options.disk_reserve_bytes = 0;
        options.tables = TABLES.to_vec();
        let (store, _) = RocksStore::open(options, Box::new(|cause| panic!("fenced: {cause}"))).expect("it is new");
        let store = Arc::new(store);
        let identity = Identity {
            cluster_id: "one".to_owned(),
            broker: BrokerId(1),
            incarnation: Incarnation(1),
        };
        let timing = Timing {
            heartbeat_ms: 50,
            election_timeout_min_ms: 150,
            election_timeout_max_ms: 300,
        };
        let registry = Registry::start(identity, store.clone(), timing, Default::default());
        Self {
            directory,
            store,
            registry: registry.expect("the timing is sound"),
        }
    }
}
