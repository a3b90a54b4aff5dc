//! A store in memory, for tests and simulations: all that RocksDB's store promises, without files, threads or a clock.
//!
//! It has two layers. What is written is the data of one run of a process, and is read; what is synced lies on a [`MemoryDisk`],
//! which outlives the run, as a disk does:
//!
//! ```text
//!  MemoryStore, one run                       MemoryDisk
//!  write() -> written layer, visible at once
//!          -> operations that are not synced  -- a synced write -->  synced layer
//!          -> answers, in order                                        |
//!  open()  <-- the written layer begins as the synced one -------------+
//! ```
//!
//! A lazy write stays unsynced until the next synced one, and [`MemoryDisk::crash`] loses it. The same calls in the same order
//! give the same data and the same completions, which run on the thread of whoever writes, outside all locks.
//!
//! | module | what it is |
//! |---|---|
//! | `layer` | the data of all groups, and what operations make of it |
//! | `disk` | [`MemoryDisk`]: the synced layer, and what can happen to it |
//! | `journal` | what has changed of the synced layer since somebody asked |
//! | `look` | the synced layer, for those who judge it from outside |
//! | `run` | the written layer of one run, and the answers that are due |
//! | `store` | [`MemoryStore`]: the contract |

mod disk;
mod journal;
mod layer;
mod look;
mod run;
mod store;
#[cfg(test)]
mod tests;

pub use disk::{MemoryDisk, MemoryImage, WriteMoment};
pub use journal::{Changed, Changes};
pub use look::{DurableView, GroupView};
pub use store::{MemoryStore, OnWait};
