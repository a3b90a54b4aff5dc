//! The client against a scripted cluster, over real sockets on loopback.

#![allow(clippy::disallowed_methods, reason = "these tests run against the real clock")]

mod admin;
mod consume;
mod exactly_once;
mod exchanges;
mod fake;
mod gaps;
mod group;
mod group_commits;
mod group_faults;
mod metadata;
mod produce;
mod produce_changes;
mod produce_faults;
mod publish;
mod queue_consumers;
mod queue_transactions;
mod table;
mod transactions;
