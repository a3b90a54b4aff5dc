//! What can go wrong in the store, by what a caller can do about it.

use std::path::PathBuf;
use std::sync::Arc;

use jangada_types::GroupId;

/// Error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A write or sync failed earlier. Whether this write is on disk is unknown. Nothing is acknowledged until the
    /// process starts again.
    #[error("the store stopped writing: {0}")]
    Fenced(Arc<str>),
    /// The store is shutting down and did not take the write.
    #[error("the store is shutting down")]
    ShuttingDown,
    /// The group was never opened, or was closed meanwhile. The write was not taken.
    #[error("group {0} is not open")]
    GroupNotOpen(GroupId),
    /// What is on disk contradicts itself. Retrying does not help: the replica must be rebuilt.
    #[error("damaged data: {0}")]
    Corrupt(String),
    /// Another process holds the directory.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// A setting is out of its bounds.
    #[error("setting out of bounds: {0}")]
    Setting(&'static str),
    /// RocksDB refused a read or to open.
    #[error("RocksDB: {0}")]
    Database(String),
    /// An operation on a file of our own failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StoreError {
    /// From a failed system call on one of our own files.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source: source.into(),
        }
    }
}

impl From<rocksdb::Error> for StoreError {
    fn from(error: rocksdb::Error) -> Self {
        match error.kind() {
            rocksdb::ErrorKind::Corruption => Self::Corrupt(error.into_string()),
            _ => Self::Database(error.into_string()),
        }
    }
}
