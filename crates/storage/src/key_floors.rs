//! From which offset on the rows of keys count, for each group: below it the log is purged. RocksDB drops such rows when
//! it compacts the family anyway, so that a key that is never written again does not keep its row for ever.
//!
//! Known from the purges since the start; what is not known stays a while longer. Rows below the log start count as none
//! to whoever reads them, so it does not matter when they go.

use std::collections::HashMap;
use std::sync::Arc;

use jangada_types::{GroupId, Offset};
use parking_lot::RwLock;
use rocksdb::CompactionDecision;

use crate::{codec, keys};

/// See the module text.
#[derive(Clone, Default)]
pub(crate) struct KeyFloors {
    floors: Arc<RwLock<HashMap<GroupId, Offset>>>,
}

impl KeyFloors {
    /// The group's rows below this offset may go.
    pub(crate) fn raise(&self, group: GroupId, floor: Offset) {
        let mut floors = self.floors.write();
        let known = floors.entry(group).or_insert(floor);
        *known = floor.max(*known);
    }

    /// The group is deleted.
    pub(crate) fn forget(&self, group: GroupId) {
        self.floors.write().remove(&group);
    }

    /// What becomes of a row in a compaction. Called by RocksDB's threads.
    pub(crate) fn judge(&self, key: &[u8], value: &[u8]) -> CompactionDecision {
        let floor = keys::group_of(key).and_then(|group| self.floors.read().get(&group).copied());
        // What cannot be read is left for whoever reads it to complain about.
        match (floor, codec::decode_key_offset(value)) {
            (Some(floor), Ok(offset)) if offset < floor => CompactionDecision::Remove,
            _ => CompactionDecision::Keep,
        }
    }
}
