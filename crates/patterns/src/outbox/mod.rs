//! Transactional outbox: records are written in the transaction of the user's own database, and sent after its commit, once, in order.
//!
//! ```text
//! one transaction of the database                 Relay                        one transaction of the cluster
//!   UPDATE accounts ...                     reads rows by id   ──►   records of the rows  +  "rows up to 42 are sent"
//!   INSERT INTO jangada_outbox  id = 42                                                    (topic outbox-positions, by key)
//! ```
//!
//! # Guarantee
//! - A record is sent if, and only if, the transaction that wrote its row was committed: exactly once for who reads committed, in the order
//!   of the rows' ids, which is the order of the commits.
//! - How far the relay is lies in the cluster, in the same transaction as the records, so no crash comes between the two. A relay that
//!   begins reads it from there; what the database says of it is for cleaning up alone.
//! - One relay at a time: another one that begins with the same name fences the one before (its transactional id), which then ends.
//!
//! # What can fail
//! - While no relay runs, or no broker answers, rows wait in the database; nothing is lost, and the table grows.
//! - A row that the brokers refuse (a topic that is not there, a record that is too large) holds up all behind it: the relay ends with an
//!   error that names it, for an outbox that leaves rows out has no order.
//! - A database that is put back to a backup has ids that were sent already for rows that were not: give the outbox another name then.
//! - PostgreSQL hands ids out before transactions commit, and later ones may commit first. [`PostgresOutbox::put`] therefore takes an
//!   advisory lock, until the transaction ends: put records as the last thing in it. SQLite has one writer at a time in any case.
//! - Who reads uncommitted sees records of transactions that were aborted, and sees them again.
//!
//! # Where it comes from
//! Richardson, "Microservices Patterns" (2018), Transactional outbox with a polling publisher. The position in the records' own
//! transaction: Kafka Connect's exactly-once sources (KIP-618).

mod course;
mod methods;
mod positions;
mod postgres;
mod relay;
mod rows;
mod sqlite;

pub use positions::{POSITIONS_TOPIC, position_of};
pub use postgres::PostgresOutbox;
pub use relay::{Relay, RelayConfig, Relayed};
pub use rows::{OutboxRow, OutboxRows, RowsMax};
pub use sqlite::SqliteOutbox;
