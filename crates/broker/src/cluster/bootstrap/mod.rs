//! How a broker comes to belong to a cluster.
//!
//! ```text
//!  directory is bound to a cluster ------------------------------> start as its broker
//!  directory is new:
//!    some seed belongs to a cluster and takes joiners -----------> join it
//!    all seeds answer, all are new, and this has the lowest id --> form a cluster: bind the own directory, let all others adopt it
//!    otherwise --------------------------------------------------> wait to be adopted, ask again
//! ```
//!
//! Two clusters can never come to be: only the seed with the lowest broker id forms one, only after it reached all
//! seeds and none belonged to a cluster; it binds its own directory before it asks the first other one, and each
//! binds its directory before it answers. A seed that is killed at any step finds its directory bound or new when it
//! comes back, and goes on from there: tests let it die at each `failpoint`.
//!
//! - [`seeds`]: asking them.
//! - [`find`]: joining, or deciding to form.
//! - [`form`][]: forming.
//! - [`register`]: coming back.
//! - [`answers`]: what others are told.

mod answers;
mod error;
mod find;
mod form;
mod register;
mod seeds;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jangada_controller::DirectoryId;
use jangada_proto::internal::Member;
use jangada_replication::Registry;
use jangada_types::{BrokerId, FEATURE_LEVEL, Incarnation};
use parking_lot::Mutex;
use tokio::sync::watch;

pub(crate) use self::answers::admit;
pub use self::error::BootstrapError;
pub(crate) use self::register::addresses;
use super::directory::{DataDirectory, DirectoryError};
use super::failpoint;
use super::metadata::Metadata;
use crate::seams::IdSource;

/// Between two rounds of asking the seeds.
const ROUND: Duration = Duration::from_millis(200);
/// How long a start waits for the seeds to say who they are, before it asks those that it knows.
const ASK_SEEDS_WITHIN: Duration = Duration::from_secs(1);
/// All seeds begin with this incarnation.
const FIRST_INCARNATION: Incarnation = Incarnation(1);

/// What the settings say of this broker.
#[derive(Clone, Debug)]
pub(crate) struct Local {
    pub broker: BrokerId,
    pub address: String,
    pub internal_address: String,
    pub rack: String,
    /// Sorted.
    pub seeds: Vec<String>,
}

/// The data directory's part in the handshakes, shared with the internal service.
pub(crate) struct Bootstrap {
    pub local: Local,
    ids: Arc<dyn IdSource>,
    directory: Mutex<DataDirectory>,
    /// Changes when the directory is bound.
    bound: watch::Sender<Option<Bound>>,
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
    pub fn new(local: Local, directory: DataDirectory, ids: Arc<dyn IdSource>) -> Self {
        let bound = bound_to(&directory);
        Self {
            local,
            ids,
            directory: Mutex::new(directory),
            bound: watch::Sender::new(bound),
            registry: watch::Sender::new(None),
            metadata: watch::Sender::new(None),
        }
    }

    /// The directory belongs to a cluster.
    pub fn is_bound(&self) -> bool {
        self.bound.borrow().is_some()
    }

    /// Calls the peers that this broker has met and the seeds, and returns when each has judged its past, or is not there.
    pub async fn ask_peers(&self, registry: &Registry) {
        let met = registry.met();
        registry.set_peers(&met);
        let probed = async {
            // What is wrong with the seeds is told when the cluster is completed.
            let mut found = met.clone();
            let seeds = self.probe_seeds().await.unwrap_or_default().into_iter();
            let bound = seeds.filter(|seed| !seed.answer.cluster_id.is_empty());
            found.extend(bound.map(|seed| (BrokerId(seed.answer.broker_id), seed.answer.internal_address)));
            registry.set_peers(&found);
        };
        // A seed that is silent has been called as one that was met, if it ever was.
        let _ = tokio::time::timeout(ASK_SEEDS_WITHIN, probed).await;
        registry.ask_peers().await;
    }

    /// The store that was there before must be there again.
    pub fn expect_store(&self) -> Result<(), DirectoryError> {
        self.directory.lock().expect_store()
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

    fn directory_id(&self) -> DirectoryId {
        self.directory.lock().id()
    }

    fn bind(&self, cluster_id: &str, incarnation: Incarnation) -> Result<Bound, DirectoryError> {
        let mut directory = self.directory.lock();
        directory.bind(cluster_id, incarnation)?;
        let bound = bound_to(&directory).expect("just bound");
        self.bound.send_replace(Some(bound.clone()));
        Ok(bound)
    }

    fn member(&self) -> Member {
        let directory = self.directory.lock();
        Member {
            broker_id: self.local.broker.get(),
            incarnation: directory.incarnation().get(),
            internal_address: self.local.internal_address.clone(),
            address: self.local.address.clone(),
            rack: self.local.rack.clone(),
            directory_id: directory.id().as_bytes().to_vec().into(),
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
