//! The worst hours of other systems, played here: what went wrong there, as plays with exact expectations.
//!
//! | what went wrong elsewhere | where | play |
//! |---|---|---|
//! | a retry after the leader's death lands twice; offsets of two values | redpanda #3039, #3003 | [`retries::after_the_leaders_death`] |
//! | a sequence number used again after an abort is taken for a duplicate | redpanda PR #5026 | [`retries::sequence_after_an_abort`] |
//! | what is known of duplicates holds offsets of the Raft log | redpanda #5356 | [`retries::offset_of_a_duplicate`] |
//! | "not leader" is taken for a definite failure | jepsen redpanda client | [`retries::while_leaders_move`] |
//! | an aborted write is read | redpanda #3036 | [`commits::aborted_while_leaders_die`] |
//! | a delayed commit or abort hits a later transaction of its producer | KIP-890 | `late_commit` and `late_abort` of [`commits`] |
//! | a coordinator's state lived in memory only and is gone after an election | redpanda #6018 | [`forgotten::coordinators_state`] |
//! | SIGKILL makes a node forget a stream | nats-server #6888 | [`forgotten::topics`] |
//! | an acknowledged record is never seen after a kill and a membership change | jepsen redpanda `unseen` | [`members::kill_and_change`] |
//! | membership change, kill and partition lose 5 of 5,236 | nats-server #7545 | [`members::kill_change_and_partition`] |
//! | stale membership after a snapshot | openraft #1808 | [`members::filled_by_a_snapshot`] |
//! | stale answers form a false quorum | openraft alpha.28 | [`cuts::late_answers`] |
//! | one flipped bit in one replica makes the stream lose its tail | nats-server #7549 | [`damage::flipped_bits`] |
//! | a minority's damaged snapshot makes others delete the stream | nats-server #7556 | [`damage::snapshot_of_a_minority`] |
//! | acknowledged before fsync: power loss takes it | nats-server #7564 | [`power::of_all`] |
//! | one power loss and pauses: two histories | nats-server #7567 | [`power::loss_and_pauses`] |
//! | the last replica standing was unflushed and became leader | KIP-966 | [`power::last_one_standing`] |
//! | a hung call freezes the core | openraft #1810 | [`cuts::hung_peer`] |
//! | a partial partition blocks elections for ever | openraft #2080 | [`cuts::partial`], [`cuts::hub`] |
//! | acknowledged loss without faults, clients that hang, offsets of zero | bufstream 0.1.0 | [`calm::healthy_cluster`] |
//!
//! Each play runs on any seed and panics when it does not come out as it must. [`Invariants`](crate::Invariants) are looked at meanwhile.

pub mod calm;
pub mod commits;
pub mod cuts;
pub mod damage;
pub mod forgotten;
pub mod members;
pub mod power;
pub mod retries;
mod world;
mod writer;
