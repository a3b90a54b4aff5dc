//! Where a scrub goes on, and what a piece of it came to.

/// Where the scrub of a group goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubCursor {
    /// Place among the families: first the log, then the tables.
    pub(crate) family: usize,
    /// First key to be read; empty: the family's first.
    pub(crate) key: Vec<u8>,
    /// What the next row is judged by, if it is known: the index of the next entry of the log, or what a table's check gave.
    pub(crate) next: Option<u64>,
}

/// One piece of a scrub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes of keys and values that were read and are sound.
    pub bytes: u64,
    /// Where to go on; none: the group is through.
    pub next: Option<ScrubCursor>,
}
