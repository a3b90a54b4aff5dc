//! Compaction by key: of a log whose topic asks for it, only the last record of each key is wanted. The Raft log is the data, and no
//! entry can go from its middle. So entries are rewritten where they stand, with fewer records or with none, on each replica by itself.
//!
//! ```text
//!  log start      cleaned to                   ceiling          end
//!     |  clean: one    |  dirty: these keys are    |  not yet     |
//!     |  record a key  |  put into a map first     |  looked at   |
//! ----+================+===========================+==============+
//!     '---- then every batch is held against the map ----'
//! ```
//!
//! A pass looks only at what is committed and applied, and any older form of a batch is right as well, so replicas clean when they like,
//! and a crash leaves a mixture that is right. What is left of an entry is applied to the same state as the entry was ([`rewritten`]).
//!
//! What the replicas must agree on is when a *tombstone* may go: one that goes from one replica while another still has the value before
//! it would bring that value back with the next leader. The partition's state has the horizon below which all have cleaned
//! ([`PartitionState::clean_horizon`](crate::PartitionState::clean_horizon)); it moves by command.
//!
//! - [`rewritten`]: what is left of an append.
//! - [`key_map`]: the last offset of each key, in a bounded memory.
//! - [`pass`]: the decision for each record, and the merging of index rows.
//! - [`plan`]: whether a pass is due, and how far it may go.
//!
//! Sources: Kafka's log cleaner (KIP-58, KIP-354, KIP-534), and what went wrong there and elsewhere: KAFKA-4529, KAFKA-8764, KAFKA-13727,
//! redpanda issues 16295 and 16952.

pub mod key_map;
pub mod pass;
pub mod plan;
pub mod rewritten;

pub use self::key_map::KeyMap;
pub use self::pass::{Pass, Replacement, TakenTombstone, Tally, Unreadable, Writes};
pub use self::plan::{Ceilings, Rules, Survey};
pub use self::rewritten::{Form, Original, Remains};
