//! `jangada server confirm-tail`: the operator accepts that a store has lost a part of its write-ahead log, and the broker goes on
//! with what is left.
//!
//! Called by the binary while the broker is stopped. A broker never decides this by itself: the lost part may have votes that its
//! replicas cast and entries that they acknowledged.

use std::fmt;
use std::sync::Arc;

use jangada_env::{Files, SystemFiles};
use jangada_storage::{LostTail, LostTailCause, RocksStore, RocksStores, StoreError};
use jangada_types::BrokerId;

use crate::broker::StartError;
use crate::cluster::directory::DataDirectory;
use crate::settings::BrokerSettings;

/// The store of a stopped broker that has lost a part of its write-ahead log. It is open, which locks it, so that the broker
/// cannot start meanwhile.
pub struct DoubtfulTail {
    store: RocksStore,
    lost: LostTail,
}

impl DoubtfulTail {
    /// Opens the store of a stopped broker; `None` when nothing is missing. Blocks.
    pub fn open(settings: &BrokerSettings) -> Result<Option<Self>, StartError> {
        let files: Arc<dyn Files> = Arc::new(SystemFiles);
        let directory = DataDirectory::open_existing(&files, &settings.data_dir, BrokerId(settings.broker_id))?;
        directory.expect_store(&RocksStores)?;
        let options = settings.storage.store_options(directory.store_path());
        // The callback would stop a broker; here a failed write is returned to its caller, which suffices.
        let (store, recovery) = RocksStore::open(options, Box::new(|_| ()))?;
        Ok(recovery.lost_tail.map(|lost| Self { store, lost }))
    }

    /// Accepts the loss: from its next start on the broker joins its groups with the entries that it has. Blocks.
    pub fn accept(self) -> Result<(), StoreError> {
        self.store.confirm_tail()?;
        self.store.shutdown();
        Ok(())
    }

    /// The sequence number of the last commit that was known to be durable, or 0 if that is unknown.
    pub fn marked_commit(&self) -> u64 {
        self.lost.marked.sequence
    }

    /// The sequence number of the last commit that the store still has.
    pub fn last_commit(&self) -> u64 {
        self.lost.recovered.sequence
    }
}

impl fmt::Display for DoubtfulTail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Missing(self.lost).fmt(f)
    }
}

/// Describes the missing commits in words.
pub(crate) struct Missing(pub LostTail);

impl Missing {
    /// The part of the write-ahead log that is missing: `the end` or `a part`.
    pub fn part(&self) -> &'static str {
        match self.0.cause {
            LostTailCause::Hole => "a part",
            _ => "the end",
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (marked, last) = (self.0.marked.sequence, self.0.recovered.sequence);
        match self.0.cause {
            LostTailCause::Behind => write!(f, "commits {} to {marked} are missing", last + 1),
            LostTailCause::Hole => write!(
                f,
                "commits {} to {marked} are missing from its middle (a file of it is gone, cut or damaged), and later ones are there",
                last + 1
            ),
            LostTailCause::Diverged => write!(f, "commit {marked} is not the one that was acknowledged"),
            LostTailCause::PutBack if last < marked => write!(
                f,
                "commits {} to {marked}, which other brokers have seen, are missing: the data directory was put back to an older state",
                last + 1
            ),
            LostTailCause::PutBack => write!(
                f,
                "commit {marked}, which other brokers have seen, is not in the past of the data directory: it was put back to an \
                 older state, and written since"
            ),
            LostTailCause::MarkMissing => write!(
                f,
                "the file commit-mark is gone, so whether anything after commit {last} is missing is unknown"
            ),
            LostTailCause::MarkDamaged => write!(
                f,
                "the file commit-mark cannot be read, so whether anything after commit {last} is missing is unknown"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use jangada_storage::CommitPoint;

    use super::*;

    #[test]
    fn what_is_missing_is_named_by_its_commits() {
        let point = |sequence| CommitPoint { sequence, chain: 0 };
        let lost = LostTail {
            cause: LostTailCause::Behind,
            marked: point(40),
            recovered: point(30),
        };
        assert_eq!(Missing(lost).to_string(), "commits 31 to 40 are missing");
        let put_back = LostTail {
            cause: LostTailCause::PutBack,
            ..lost
        };
        let said = Missing(put_back).to_string();
        assert!(
            said.starts_with("commits 31 to 40, which other brokers have seen, are missing"),
            "{said}"
        );
        let went_on = LostTail {
            recovered: point(90),
            ..put_back
        };
        let said = Missing(went_on).to_string();
        assert!(
            said.starts_with("commit 40, which other brokers have seen, is not in the past"),
            "{said}"
        );
        let hole = LostTail {
            cause: LostTailCause::Hole,
            ..lost
        };
        assert!(
            Missing(hole)
                .to_string()
                .starts_with("commits 31 to 40 are missing from its middle")
        );
    }
}
