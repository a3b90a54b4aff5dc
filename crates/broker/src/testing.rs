//! A broker without peers for the unit tests of this crate: a store in memory and a registry of groups.

use std::sync::Arc;

use jangada_env::Env;
use jangada_log::TABLES;
use jangada_replication::transport::dialer::Dialer;
use jangada_replication::{Identity, Registry, Timing};
use jangada_storage::MemoryStore;
use jangada_types::{BrokerId, Incarnation};

/// Broker 1, the only one of its cluster.
pub struct Alone {
    pub store: Arc<MemoryStore>,
    pub registry: Arc<Registry>,
}

impl Alone {
    /// Opens an empty store. Elections take up to 0.3 s.
    pub fn start() -> Self {
        let store = Arc::new(MemoryStore::new(&TABLES));
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
        let env = Env::system();
        let registry = Registry::start(
            identity,
            store.clone(),
            timing,
            Default::default(),
            Dialer::new(env.network.clone()),
            &env,
        );
        Self {
            store,
            registry: registry.expect("the timing is sound"),
        }
    }
}
