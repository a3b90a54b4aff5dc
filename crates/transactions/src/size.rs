//! Upper bound of the state's size in a snapshot: the sum of what is counted here for its rows. Each command updates it, so that the bound
//! of a shard is judged without going through the whole state.
//!
//! **Part of the replicated format**, as the bounds in `limits` that apply judges by: a replica that counts otherwise takes a command that
//! the others refuse.

use std::sync::Arc;

use crate::image::TransactionalId;
use crate::limits::{BYTES_MAX, ID_BYTES_MAX, PARTICIPANTS_MAX};

/// Bytes of a row without its texts and participants.
const ROW_BYTES: u64 = 160;
/// Bytes of a partition: a number of at most 64 bits.
pub(crate) const PARTITION_BYTES: u64 = 10;
/// Bytes of a group's name beside its text.
const NAME_BYTES: u64 = 6;
/// Bytes of a group's name, by the rule of topic names.
const GROUP_NAME_BYTES_MAX: u64 = 249;

/// Bytes of a row with an id of this length, without participants.
pub(crate) const fn new_row(id_bytes: usize) -> u64 {
    ROW_BYTES + id_bytes as u64
}

pub(crate) fn group(name: &Arc<str>) -> u64 {
    NAME_BYTES + name.len() as u64
}

/// The size of a row, counted anew.
pub(crate) fn row(id: &str, row: &TransactionalId) -> u64 {
    let groups: u64 = row.groups.iter().map(group).sum();
    new_row(id.len()) + PARTITION_BYTES * row.partitions.len() as u64 + groups
}

/// The size of the largest row.
const fn largest_row() -> u64 {
    let participants = PARTICIPANTS_MAX as u64 * (PARTITION_BYTES + NAME_BYTES + GROUP_NAME_BYTES_MAX);
    new_row(ID_BYTES_MAX) + participants
}

const _: () = assert!(
    largest_row() <= BYTES_MAX,
    "a transaction of any size fits an empty shard"
);
