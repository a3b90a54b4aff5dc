//! The commands that are replicated through a shard's log. A command carries results: what the leader decided (the next producer, the
//! outcome, time stamps). Each replica decides only what depends on the order of the log: whether the state that the command was decided
//! from is still the same, and whether there is room.
//!
//! Each command names the producer and the `seq` that it was decided from. If they have changed meanwhile it is refused, without an
//! effect, and the leader decides again.
//!
//! The declaration is all that there is of a command's encoding; [`jangada_types::replicated`] says how to read it.

use std::sync::Arc;

use jangada_types::{GroupId, replicated};

use crate::outcome::Outcome;
use crate::producer::Producer;
use crate::wire::{WireEnded, WireProducer};

replicated! {
    /// A change of transactional ids.
    pub enum Command, CommandKind, "transaction command" {
        /// A process takes the id, or its holder asks for another epoch. Makes the id if there is none.
        Init = 1 since 8 {
            /// The transactional id.
            #[prost(string, tag = "1")]
            id: Arc<str> as String,
            /// The producer that it has; none: there is no such id.
            #[prost(message, optional, tag = "2")]
            from: Option<Producer> as Option<WireProducer>,
            /// The producer from now on.
            #[prost(message, required, tag = "3")]
            next: Producer as WireProducer,
            /// Whether its holder asked, who may ask again by the producer that it has.
            #[prost(bool, tag = "4")]
            is_by_holder: bool,
            /// How long a transaction may be open, milliseconds.
            #[prost(uint32, tag = "5")]
            timeout_ms: u32,
            /// The leader's clock, milliseconds since the Unix epoch.
            #[prost(uint64, tag = "6")]
            at_ms: u64,
        },
        /// Partitions and groups become part of the open transaction; the first ones begin it.
        Add = 2 since 8 {
            /// The transactional id.
            #[prost(string, tag = "1")]
            id: Arc<str> as String,
            /// The producer whose transaction it is.
            #[prost(message, required, tag = "2")]
            producer: Producer as WireProducer,
            /// The transaction: the open one, or the next.
            #[prost(uint64, tag = "3")]
            seq: u64,
            /// The partitions, by their Raft groups.
            #[prost(uint64, repeated, tag = "4")]
            partitions: Vec<GroupId> as Vec<u64>,
            /// The names of the consumer groups.
            #[prost(string, repeated, tag = "5")]
            groups: Vec<Arc<str>> as Vec<String>,
            /// The version of the cluster's metadata that has the partitions.
            #[prost(uint64, tag = "6")]
            metadata_version: u64,
            /// The leader's clock, milliseconds since the Unix epoch.
            #[prost(uint64, tag = "7")]
            at_ms: u64,
        },
        /// It is decided how the transaction ends. Without participants it has ended.
        End = 3 since 8 {
            /// The transactional id.
            #[prost(string, tag = "1")]
            id: Arc<str> as String,
            /// The producer whose transaction it is.
            #[prost(message, required, tag = "2")]
            producer: Producer as WireProducer,
            /// The transaction, or the last one when nothing was added.
            #[prost(uint64, tag = "3")]
            seq: u64,
            /// How it ends.
            #[prost(uint32, tag = "4")]
            outcome: Outcome as u32,
            /// The producer from now on; the same for a client that takes no new epoch (before KIP-890).
            #[prost(message, required, tag = "5")]
            next: Producer as WireProducer,
            /// The leader's clock, milliseconds since the Unix epoch.
            #[prost(uint64, tag = "6")]
            at_ms: u64,
        },
        /// All markers of these transactions are written.
        Complete = 4 since 8 {
            /// The transactional ids, with the number of the transaction.
            #[prost(message, repeated, tag = "1")]
            ended: Vec<(Arc<str>, u64)> as Vec<WireEnded>,
            /// The leader's clock, milliseconds since the Unix epoch.
            #[prost(uint64, tag = "2")]
            at_ms: u64,
        },
        /// Forgets an id that was not used for long.
        Expire = 5 since 8 {
            /// The transactional id.
            #[prost(string, tag = "1")]
            id: Arc<str> as String,
            /// The id's last change when its expiry was decided, milliseconds since the Unix epoch.
            #[prost(uint64, tag = "2")]
            touched_ms: u64,
        },
        /// All markers of the last transaction are written, and the next one begins: [`Command::Complete`] and [`Command::Add`] in one.
        Begin = 6 since 10 {
            /// The transactional id.
            #[prost(string, tag = "1")]
            id: Arc<str> as String,
            /// The producer whose transaction it is.
            #[prost(message, required, tag = "2")]
            producer: Producer as WireProducer,
            /// The transaction that begins.
            #[prost(uint64, tag = "3")]
            seq: u64,
            /// The partitions, by their Raft groups.
            #[prost(uint64, repeated, tag = "4")]
            partitions: Vec<GroupId> as Vec<u64>,
            /// The names of the consumer groups.
            #[prost(string, repeated, tag = "5")]
            groups: Vec<Arc<str>> as Vec<String>,
            /// The version of the cluster's metadata that has the partitions.
            #[prost(uint64, tag = "6")]
            metadata_version: u64,
            /// The leader's clock, milliseconds since the Unix epoch.
            #[prost(uint64, tag = "7")]
            at_ms: u64,
        },
    }
}
