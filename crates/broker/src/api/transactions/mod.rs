//! Transactional ids: asked at the broker that coordinates them, which this broker passes calls on to; and what brokers do among
//! themselves to make and end transactions.
//!
//! ```text
//!   Init, End, Describe, Abort -> coordinator -> the leader of the id's shard
//!   a partition's first batch, a group's offsets -> joining -> the leader of the id's shard
//!   what is decided there -> sending -> taking, where a partition or a group is led -> markers, ends of staged offsets
//! ```
//!
//! - [`coordinator`]: what clients ask.
//! - [`joining`]: partitions and groups become parts of transactions.
//! - [`sending`]: the ends of transactions on their way to partitions and groups. [`taking`]: what the brokers there do.
//! - [`standing`]: what has become of a transaction that has been open in a partition for too long.
//! - [`listing`]: the ids of all shards. [`producers`]: what a partition remembers.

mod coordinator;
mod joining;
mod listing;
mod producers;
mod sending;
mod standing;
mod taking;

pub(crate) use coordinator::{TransactionCoordinator, find_coordinator};
pub(crate) use joining::{NodeTransactions, join, join_for_another};
pub(crate) use listing::{of_all_brokers as list_everywhere, of_this_broker as list_here};
pub(crate) use producers::describe as describe_producers;
pub(crate) use sending::send_ends;
pub(crate) use standing::of_this_broker as find_producer_here;
pub(crate) use taking::end_here;
