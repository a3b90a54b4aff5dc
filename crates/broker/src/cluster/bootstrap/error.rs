//! Why a broker cannot become part of a cluster.

use jangada_types::BrokerId;

use crate::cluster::directory::DirectoryError;

/// A broker that cannot become part of a cluster.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The data directory.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The cluster refused it.
    #[error("the cluster refused this broker: {0}")]
    Refused(String),
    /// A seed refused to say who it is, as it does to a broker without a protocol version in common.
    #[error("seed {seed} refused this broker: {message}")]
    RefusedBySeed {
        /// The seed's address.
        seed: String,
        /// What it said.
        message: String,
    },
    /// A seed is part of another cluster.
    #[error(
        "seed {seed} belongs to cluster {theirs}, this broker's data directory to {ours}: correct the seeds or data_dir"
    )]
    OtherCluster {
        /// The seed's address.
        seed: String,
        /// The cluster's id that the seed gave.
        theirs: String,
        /// The cluster's id in this broker's data directory.
        ours: String,
    },
    /// A seed has other seeds.
    #[error("seed {seed} lists the seeds {theirs:?}, this broker {ours:?}: all must list the same")]
    OtherSeeds {
        /// The seed's address.
        seed: String,
        /// The seeds that it lists.
        theirs: Vec<String>,
        /// The seeds that this broker lists.
        ours: Vec<String>,
    },
    /// Two brokers with one id.
    #[error("seed {seed} is broker {broker} too: every broker needs an id of its own")]
    SameId {
        /// The seed's address.
        seed: String,
        /// The id that both have.
        broker: BrokerId,
    },
}
