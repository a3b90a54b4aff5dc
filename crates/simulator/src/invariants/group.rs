//! What all disks together say of a group.

use super::entries::Entries;
use super::states::States;
use super::votes::Leaders;

/// What was seen of a group on all disks.
#[derive(Default)]
pub(super) struct Group {
    pub entries: Entries,
    pub leaders: Leaders,
    pub states: States,
    /// A replica was deleted, and nothing says that another takes its place.
    pub is_deleted: bool,
}
