//! What this broker is, as far as it is known: its settings, its data directory, and the cluster that this belongs to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::{BrokerRegistration, DirectoryId, Endpoints};
use jangada_env::Random;
use jangada_replication::Registry;
use jangada_replication::transport::dialer::Dialer;
use jangada_storage::StoreFactory;
use jangada_types::{BrokerId, FEATURE_LEVEL, Incarnation};
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cluster::directory::{DataDirectory, DirectoryError};
use crate::cluster::failpoint;
use crate::cluster::metadata::Metadata;

/// Between two rounds of asking the seeds.
pub(super) const ROUND: Duration = Duration::from_millis(200);
/// All seeds begin with this incarnation.
pub(super) const FIRST_INCARNATION: Incarnation = Incarnation(1);

/// What the settings say of this broker.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub broker: BrokerId,
    pub address: String,
    pub internal_address: String,
    /// The addresses of the other listeners.
    pub endpoints: Endpoints,
    pub rack: String,
    /// The addresses of the seeds, sorted.
    pub seeds: Vec<String>,
}

/// The data directory's part in the handshakes, shared with the internal service.
pub(crate) struct Bootstrap {
    pub local: Local,
    pub(super) random: Random,
    pub(super) dialer: Arc<Dialer>,
    pub(super) directory: Mutex<DataDirectory>,
    /// Changes when the directory is bound.
    pub(super) bound: watch::Sender<Option<Bound>>,
    /// Who answers peers, once the store is open.
    pub registry: watch::Sender<Option<Arc<Registry>>>,
    /// The metadata, once this broker is part of a cluster.
    pub metadata: watch::Sender<Option<Metadata>>,
}

/// The cluster that the directory belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bound {
    pub cluster_id: String,
    pub incarnation: Incarnation,
}

impl Bootstrap {
    pub fn new(local: Local, directory: DataDirectory, random: Random, dialer: Arc<Dialer>) -> Self {
        let bound = bound_to(&directory);
        Self {
            local,
            random,
            dialer,
            directory: Mutex::new(directory),
            bound: watch::Sender::new(bound),
            registry: watch::Sender::new(None),
            metadata: watch::Sender::new(None),
        }
    }

    /// What opens this broker's connections to others.
    pub fn dialer(&self) -> Arc<Dialer> {
        self.dialer.clone()
    }

    /// The directory belongs to a cluster.
    pub fn is_bound(&self) -> bool {
        self.bound.borrow().is_some()
    }

    /// The store that was there before must be there again.
    pub fn expect_store(&self, stores: &dyn StoreFactory) -> Result<(), DirectoryError> {
        self.directory.lock().expect_store(stores)
    }

    /// From now on the store must be there.
    pub fn store_opened(&self) -> Result<(), DirectoryError> {
        failpoint::reached("bootstrap.store-made");
        self.directory.lock().store_opened()?;
        failpoint::reached("bootstrap.store-remembered");
        Ok(())
    }

    /// Where the store is.
    pub fn store_path(&self) -> PathBuf {
        self.directory.lock().store_path()
    }

    pub(super) fn directory_id(&self) -> DirectoryId {
        self.directory.lock().id()
    }

    pub(super) fn bind(&self, cluster_id: &str, incarnation: Incarnation) -> Result<Bound, DirectoryError> {
        let mut directory = self.directory.lock();
        directory.bind(cluster_id, incarnation)?;
        let bound = bound_to(&directory).expect("just bound");
        self.bound.send_replace(Some(bound.clone()));
        Ok(bound)
    }

    /// What this broker says of itself.
    pub(super) fn registration(&self) -> BrokerRegistration {
        let directory = self.directory.lock();
        BrokerRegistration {
            id: self.local.broker,
            incarnation: directory.incarnation(),
            directory: directory.id(),
            address: self.local.address.clone(),
            internal_address: self.local.internal_address.clone(),
            rack: self.local.rack.clone(),
            feature_level: FEATURE_LEVEL,
        }
    }
}

fn bound_to(directory: &DataDirectory) -> Option<Bound> {
    directory.cluster_id().map(|id| Bound {
        cluster_id: id.to_owned(),
        incarnation: directory.incarnation(),
    })
}
