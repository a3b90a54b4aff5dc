//! The gRPC services, thin: they decode, call the broker, and encode. Errors are mapped in [`status`],
//! and what tonic says of messages that it cannot read in [`decode_errors`].

pub(crate) mod admin;
mod cluster_wire;
pub(crate) mod decode_errors;
mod exchange_wire;
pub(crate) mod exchanges;
pub(crate) mod fetch;
mod forwarded;
pub(crate) mod group_wire;
pub(crate) mod groups;
pub(crate) mod internal;
pub(crate) mod log;
pub(crate) mod metadata;
mod names;
mod pack;
mod passed_exchange_logs;
mod passed_queue_admin;
#[cfg(test)]
mod passed_queue_tests;
mod passed_queues;
#[cfg(test)]
mod passed_transaction_tests;
mod passed_wire;
#[cfg(test)]
mod passed_wire_tests;
pub(crate) mod passing;
mod plain;
pub(crate) mod produce;
pub(crate) mod queue;
pub(crate) mod queue_admin;
pub(crate) mod queue_streams;
mod queue_transaction_wire;
mod queue_wire;
mod record_wire;
mod schedule_wire;
pub(crate) mod status;
mod transaction_wire;
pub(crate) mod transactions;
mod unanswered;
