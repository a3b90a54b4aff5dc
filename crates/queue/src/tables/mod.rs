//! The tables of rows that a partition keeps for its queues, beside its log and its state. Rows come from applying commands, so
//! replaying the log makes them again under the same keys.

mod ids;
mod marks;

use jangada_types::Table;

pub use ids::{IDS, IdRow, bucket_of, id_key, put_ids};
pub use marks::{MARKS, MarkRow, RowKind, key_of, put_origin, put_rows};

/// All of them.
pub static TABLES: [&Table; 2] = [&MARKS, &IDS];
