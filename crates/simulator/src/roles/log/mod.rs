//! Teams that write to topics and read them: producers of all kinds, readers of all kinds, trimming, retention and compaction.
//!
//! | module | what it is |
//! |---|---|
//! | `idempotent` | producers with an id, with every codec, many records in flight |
//! | `plain` | producers without an id, and those that wait for no answer |
//! | `unary` | clients without a library: records in the plain form, one call each, long polls, passed on by any broker |
//! | `conditional` | records that are appended only at an offset, or only behind the last one of their key |
//! | `trimming` | logs whose beginning is trimmed, or deleted by age and size |
//! | `compacted` | keys, deletions, and tables that follow them |
//! | `readers` | clients that read, seek, and ask where partitions end: of each of the teams above |
//! | `outbox`, `reading`, `finals` | how sends, polls and the last reads are recorded |
//! | `records`, `chance`, `cut` | values and their names, what is drawn, and clients that die |

pub(crate) mod chance;
mod compacted;
mod conditional;
pub(crate) mod cut;
pub(crate) mod finals;
mod idempotent;
pub(crate) mod outbox;
mod plain;
pub(crate) mod readers;
pub(crate) mod reading;
pub(crate) mod records;
mod trimming;
mod unary;

pub use compacted::compacted;
pub use conditional::conditional;
pub use idempotent::producers;
pub use plain::plain_producers;
pub use trimming::trimming;
pub use unary::unary;
