//! The tables that a partition keeps rows in, beside its log and its state: each with its declaration and the form of its rows.

pub mod key_rows;
pub mod offset_index;

use jangada_types::Table;

pub use self::key_rows::KEY_INDEX;
pub use self::offset_index::{IndexEntry, OFFSET_INDEX};

/// All of them.
pub static TABLES: [&Table; 2] = [&OFFSET_INDEX, &KEY_INDEX];
