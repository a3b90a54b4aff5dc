//! From which position on rows count, for each group, in tables that are cut off when they are compacted: below it the log is
//! purged. RocksDB drops such rows when it compacts the family anyway, so that a key that is never written again does not keep
//! its row for ever.
//!
//! Known from the purges since the start; what is not known stays a while longer. Rows below the log start count as none
//! to whoever reads them, so it does not matter when they go.

use std::collections::HashMap;
use std::sync::Arc;

use jangada_types::GroupId;
use parking_lot::RwLock;
use rocksdb::CompactionDecision;

use crate::keys;

/// The positions below which rows of groups may go. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Floors {
    floors: Arc<RwLock<HashMap<GroupId, u64>>>,
}

impl Floors {
    /// The group's rows below this position may go.
    pub(crate) fn raise(&self, group: GroupId, floor: u64) {
        let mut floors = self.floors.write();
        let known = floors.entry(group).or_insert(floor);
        *known = floor.max(*known);
    }

    /// The group is deleted.
    pub(crate) fn forget(&self, group: GroupId) {
        self.floors.write().remove(&group);
    }

    /// What becomes of a row in a compaction. Called by RocksDB's threads.
    pub(crate) fn judge(
        &self,
        key: &[u8],
        value: &[u8],
        position_of: fn(&[u8], &[u8]) -> Option<u64>,
    ) -> CompactionDecision {
        let Some((group, row_key)) = keys::split(key) else {
            return CompactionDecision::Keep;
        };
        let floor = self.floors.read().get(&group).copied();
        // What cannot be read is left for whoever reads it to complain about.
        match floor.and_then(|floor| Some(position_of(row_key, value)? < floor)) {
            Some(true) => CompactionDecision::Remove,
            _ => CompactionDecision::Keep,
        }
    }
}
