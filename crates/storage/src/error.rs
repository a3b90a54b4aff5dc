//! What can go wrong in the store, by what a caller can do about it.

use std::path::PathBuf;
use std::sync::Arc;

use jangada_types::{GroupId, RowError};

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
    /// What is on disk contradicts itself, and not in one group alone. Retrying does not help: the directory must be
    /// rebuilt.
    #[error("damaged data: {0}")]
    Corrupt(String),
    /// The data of one group is damaged: something is missing, out of order or unreadable. Retrying does not help: this
    /// replica must be given up and filled again from the others. Told to [`Damage`](crate::Damage) as well.
    #[error("group {group}: damaged data: {what}")]
    Damaged {
        /// The group whose data is damaged.
        group: GroupId,
        /// What was expected, and what was found.
        what: Arc<str>,
    },
    /// Written by a later version of this program, which alone can read it. Not damage.
    #[error("{0}")]
    LaterVersion(String),
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
        /// The file or directory that the action was on.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StoreError {
    /// The error of a read for one group, which damages only that.
    pub(crate) fn of_group(self, group: GroupId) -> Self {
        match self {
            Self::Corrupt(what) => Self::Damaged {
                group,
                what: what.into(),
            },
            other => other,
        }
    }

    /// From a failed system call on one of our own files.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self::Io {
            action,
            path: path.into(),
            source: source.into(),
        }
    }
}

impl From<RowError> for StoreError {
    fn from(error: RowError) -> Self {
        match error {
            RowError::Damaged(what) => Self::Corrupt(what),
            RowError::LaterVersion(what) => Self::LaterVersion(what),
        }
    }
}

impl From<rocksdb::Error> for StoreError {
    fn from(error: rocksdb::Error) -> Self {
        match error.kind() {
            rocksdb::ErrorKind::Corruption => Self::Corrupt(error.into_string()),
            rocksdb::ErrorKind::IOError if is_lost(error.as_ref()) => Self::Corrupt(error.into_string()),
            _ => Self::Database(error.into_string()),
        }
    }
}

/// Whether a file that should be there is not, or its disk cannot read it any more. RocksDB has one kind of error for these
/// and for what passes (too many open files), so the system's words decide.
pub(crate) fn is_lost(text: &str) -> bool {
    text.contains("No such file or directory") || text.contains("Input/output error")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_file_is_damage_and_a_lack_of_descriptors_is_not() {
        assert!(is_lost(
            "IO error: No such file or directory: While open a file: /x/000012.blob"
        ));
        assert!(is_lost(
            "IO error: Input/output error: While pread offset 0: /x/000012.sst"
        ));
        assert!(!is_lost(
            "IO error: Too many open files: While open a file: /x/000012.sst"
        ));
    }

    #[test]
    fn damage_names_its_group_and_passes_the_rest() {
        let damaged = StoreError::Corrupt("entry 7 is missing".into()).of_group(GroupId(3));
        assert_eq!(damaged.to_string(), "group 3: damaged data: entry 7 is missing");
        assert!(matches!(
            StoreError::ShuttingDown.of_group(GroupId(3)),
            StoreError::ShuttingDown
        ));
    }
}
