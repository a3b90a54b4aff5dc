//! One RocksDB per node: the Raft logs of all groups, tables of rows that others declare, and the state of groups.
//!
//! A write goes through one queue and one writer thread, which makes everything that is queued durable with one sync.
//! Reads of recent entries come from memory; other reads block and belong on a read pool.
//!
//! ```text
//!  any thread                        writer thread                     marking thread
//!  write() -> group lock:            take all that is queued
//!             bounds, tail, pending  -> one WriteBatch -> sync WAL --> mark this commit
//!             -> commit queue        -> answer in order                (while the next one is written)
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`store`] | the contract: `Store`, operations, bounds, completions |
//! | [`conformance`] | scenarios that every `Store` must pass |
//! | [`options`] | all settings |
//! | [`statistics`] | counters |
//! | [`memory`] | [`MemoryStore`]: the same in memory, for tests and simulations |
//! | `factory` | [`StoreFactory`]: who opens a node's store |
//! | `rocks` | [`RocksStore`]: puts the parts together |
//! | `read` | reads that merge memory and RocksDB |
//! | `group`, `tail`, `pending` | what an open group has in memory |
//! | `queue`, `writer` | the commit path |
//! | `recovery` | opens the database and judges what it has |
//! | `mark` | notices a lost tail of the WAL |
//! | `wholeness`, `wal`, `commit_rows` | notice a hole in the WAL, before it is replayed |
//! | [`Damage`] | where damage to a group is told |
//! | `starts` | what a node tells its peers of its past |
//! | `quarantine` | keeps compactions off a damaged file |
//! | `scrub`, `scrub_cursor` | reads what is at rest, to find damage before a reader does |
//! | `fence`, `reserve`, `reclaim` | failed disk, full disk, space of purged entries |
//! | `tables`, `floors` | the tables that the store was opened with, and which of their rows may go |
//! | `database`, `keys`, `places`, `codec` | RocksDB and the format on disk |

#![allow(
    clippy::disallowed_methods,
    reason = "RocksStore is the seam to the real disk, with real delays; a simulated cluster has another Store"
)]

mod codec;
mod commit_rows;
pub mod conformance;
mod damage;
mod database;
mod error;
mod factory;
#[cfg(test)]
mod failure_tests;
mod fence;
mod floors;
mod group;
mod keys;
mod mark;
pub mod memory;
pub mod options;
mod pending;
mod places;
#[cfg(test)]
mod places_tests;
mod quarantine;
mod queue;
mod read;
mod reclaim;
mod recovery;
mod reserve;
mod rocks;
mod scrub;
mod scrub_cursor;
mod starts;
pub mod statistics;
pub mod store;
mod tables;
mod tail;
mod wal;
mod wholeness;
mod writer;

pub use damage::{Damage, OnDamage};
pub use error::StoreError;
pub use factory::{NodeStore, RocksStores, StoreFactory};
pub use fence::OnFence;
pub use mark::{CommitPoint, LostTail, LostTailCause};
pub use memory::{Changed, Changes, DurableView, GroupView, MemoryDisk, MemoryImage, MemoryStore, OnWait, WriteMoment};
pub use options::StoreOptions;
pub use recovery::Recovery;
pub use rocks::RocksStore;
pub use scrub_cursor::{ScrubCursor, Scrubbed};
pub use starts::{Past, STARTS_KEPT, Start, Starts};
pub use statistics::{LATENCY_BUCKETS, Latency, LatencyHistogram, StoreStatistics};
pub use store::{
    Completion, Durability, KeyRange, LogBounds, LogEntry, LogPosition, Op, RowVisitor, StateKind, Store,
    StoreCondition, first_at_or_after, next_state, read_row,
};
