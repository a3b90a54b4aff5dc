//! The tables that a partition keeps rows in, beside its log and its state: each with its declaration and the form of its rows. Those
//! of its queues are of the crate `queue`.

pub mod aborted;
pub mod cleaned;
pub mod key_rows;
pub mod offset_index;

use jangada_queue::tables::{IDS, MARKS};
use jangada_types::Table;

pub use self::aborted::ABORTED;
pub use self::cleaned::CLEANED;
pub use self::key_rows::KEY_INDEX;
pub use self::offset_index::{IndexEntry, OFFSET_INDEX};

/// All of them.
pub static TABLES: [&Table; 6] = [&OFFSET_INDEX, &KEY_INDEX, &MARKS, &IDS, &ABORTED, &CLEANED];
