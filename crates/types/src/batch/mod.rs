//! Kafka's record batch, format v2 (magic 2): the form of records in storage, in replication and on the fast path of
//! clients.
//!
//! ```text
//!  0  base offset            i64   set by the broker ┐
//!  8  batch length           i32   bytes after it    │ outside the checksum
//! 12  partition leader epoch i32   set by the broker │
//! 16  magic                  i8    2                 │
//! 17  CRC-32C                u32   of all that follows
//! 21  attributes             i16   codec 0-2, timestamp type 3, transactional 4, control 5
//! 23  last offset delta      i32   record count - 1, as its producer sends it
//! 27  base timestamp         i64   of the first record
//! 35  max timestamp          i64   of all records, or the time of the append
//! 43  producer id            i64
//! 51  producer epoch         i16
//! 53  base sequence          i32
//! 57  record count           i32
//! 61  records, compressed together
//! ```
//!
//! All numbers are big endian. The functions, by caller:
//!
//! - a broker that takes a batch: [`validate_with_times`], [`validate_packed`] when it is compressed, [`validate_records`] when
//!   the topic asks for it, [`set_append_time`];
//! - a broker that serves one: [`set_position`] on its own copy;
//! - a leader that ends a transaction: [`EndMarker`];
//! - compaction: [`each_keyed`], [`thin`];
//! - a client: [`BatchBuilder`] to send, [`BatchIter`] and [`decode_records`] or [`Records`] to read.
//!
//! Sources: the message format in Kafka's documentation and KIP-98. Whether a transactional batch comes from its transaction is not
//! judged here.

mod builder;
mod control;
mod error;
mod header;
mod iter;
mod patch;
mod record;
mod scan;
mod thin;
mod validate;
mod varint;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod property_tests;

pub use builder::BatchBuilder;
pub use control::EndMarker;
pub use error::{BatchError, Malformed, RecordFlaw};
#[cfg(test)]
use header::checksum;
pub use header::{Attributes, BatchHeader, RECORD_BYTES_MIN, TimestampType};
pub use iter::BatchIter;
pub use patch::{header_alone, set_append_time, set_position, set_producer};
pub use record::{
    Header, Record, Records, decode_records, validate_packed, validate_records, validate_records_with_times,
};
pub use scan::{NO_TIMESTAMP, RecordTime, RecordTimes};
pub use thin::{KeyedRecord, Thinned, each_keyed, thin};
pub use validate::{BatchLimits, validate, validate_with_times, verify};
