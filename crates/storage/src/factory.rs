//! Who opens the store of a node: a broker is handed one, and knows neither where its data lies nor what it is made of.

use std::path::Path;
use std::sync::Arc;

use crate::error::StoreError;
use crate::fence::OnFence;
use crate::mark::{CommitPoint, LostTail, LostTailCause};
use crate::memory::{MemoryDisk, MemoryStore};
use crate::options::StoreOptions;
use crate::recovery::Recovery;
use crate::rocks::RocksStore;
use crate::starts::Starts;
use crate::store::Store;

/// A store with its beginning and its end, which only the node that opens it has to do with.
pub trait NodeStore: Store {
    /// Adds a start of the process to those that the store knows of, durably, and gives them all. To be called once, when
    /// there is no lost tail, before anything is told to peers. Blocks.
    ///
    /// # Errors
    /// The row of the starts cannot be read or written.
    fn begin_start(&self, id: u64) -> Result<Starts, StoreError>;

    /// Peers remember this node's commits up to `remembered`, and it has them up to `last` at most: later openings say so.
    /// Returns what they will say. Blocks.
    ///
    /// # Errors
    /// It cannot be kept.
    fn keep_put_back(&self, remembered: u64, last: u64) -> Result<LostTail, StoreError>;

    /// Takes no more writes, makes durable what is queued, and answers it. Reads still work. Blocks.
    fn shutdown(&self);
}

/// Opens a node's store.
pub trait StoreFactory: Send + Sync + 'static {
    /// Whether there was a store in the directory.
    fn exists(&self, directory: &Path) -> bool;

    /// Opens it, or makes one. `on_fence` is called once when a write or sync has failed. Blocks.
    ///
    /// # Errors
    /// Another process has it open; it is damaged; the system's.
    fn open(&self, options: StoreOptions, on_fence: OnFence) -> Result<(Arc<dyn NodeStore>, Recovery), StoreError>;
}

/// Stores on RocksDB, in the directory of the options.
#[derive(Clone, Copy, Debug, Default)]
pub struct RocksStores;

impl StoreFactory for RocksStores {
    fn exists(&self, directory: &Path) -> bool {
        directory.join("rocksdb").join("CURRENT").exists()
    }

    fn open(&self, options: StoreOptions, on_fence: OnFence) -> Result<(Arc<dyn NodeStore>, Recovery), StoreError> {
        let (store, recovery) = RocksStore::open(options, on_fence)?;
        Ok((Arc::new(store), recovery))
    }
}

/// The store of one disk in memory. The options say only which tables it has.
impl StoreFactory for MemoryDisk {
    fn exists(&self, _directory: &Path) -> bool {
        self.was_used()
    }

    fn open(&self, options: StoreOptions, on_fence: OnFence) -> Result<(Arc<dyn NodeStore>, Recovery), StoreError> {
        let store = MemoryStore::open(self, &options.tables, on_fence)?;
        Ok((Arc::new(store), self.recovery()))
    }
}

impl NodeStore for RocksStore {
    fn begin_start(&self, id: u64) -> Result<Starts, StoreError> {
        Self::begin_start(self, id)
    }

    fn keep_put_back(&self, remembered: u64, last: u64) -> Result<LostTail, StoreError> {
        Self::keep_put_back(self, remembered, last)
    }

    fn shutdown(&self) {
        Self::shutdown(self);
    }
}

impl NodeStore for MemoryStore {
    fn begin_start(&self, id: u64) -> Result<Starts, StoreError> {
        Self::begin_start(self, id)
    }

    fn keep_put_back(&self, remembered: u64, last: u64) -> Result<LostTail, StoreError> {
        let lost = put_back(remembered, last);
        self.disk().keep_put_back(lost);
        Ok(lost)
    }

    fn shutdown(&self) {
        Self::shutdown(self);
    }
}

/// A node that lacks commits which others have seen.
pub(crate) fn put_back(remembered: u64, last: u64) -> LostTail {
    let at = |sequence| CommitPoint { sequence, chain: 0 };
    LostTail {
        cause: LostTailCause::PutBack,
        marked: at(remembered),
        recovered: at(last),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> StoreOptions {
        StoreOptions::new("/nowhere")
    }

    #[test]
    fn a_disk_in_memory_is_there_once_it_was_opened_and_remembers_what_it_lacks() {
        let disk = MemoryDisk::new();
        let nowhere = Path::new("/nowhere");
        assert!(!disk.exists(nowhere));
        let open = || StoreFactory::open(&disk, options(), Box::new(|_| ())).expect("nobody has it open");
        let (store, recovery) = open();
        assert_eq!(recovery.lost_tail, None);
        assert!(disk.exists(nowhere));
        let lost = store.keep_put_back(40, 30).expect("it can be kept");
        assert_eq!((lost.marked.sequence, lost.recovered.sequence), (40, 30));
        store.shutdown();
        assert_eq!(open().1.lost_tail, Some(lost));
    }
}
