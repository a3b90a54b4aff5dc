//! What a broker does for its clients, whatever protocol they speak: plain structs in, [`RequestError`] out. Nothing here knows
//! a wire format; the services decode, call, and encode.
//!
//! ```text
//!   connection -> front (gRPC) -> boundary::begin -> RequestContext -> produce | fetch | groups | ... -> partition
//!                                 boundary::end   <- outcome        <-
//! ```
//!
//! - [`operation`]: what can be called.
//! - [`context`]: who calls.
//! - [`boundary`]: where each call begins and ends, is counted, and may be refused.
//! - [`resolve`]: the partition that a call names.
//! - [`produce`]: the one way of a batch to its partition; [`producers`]: ids of producers.
//! - [`fetch`]: reading; [`offsets`]: where.
//! - [`groups`]: consumer groups. [`transactions`]: transactional ids; both are in the coordinator's [`shards`].
//! - [`queue_messages`]: messages of queues, sent, handed out, and settled. [`queue_depth`]: how many there are, and what is done to all of
//!   a partition; [`queue_redrive`]: to dead letters of all partitions.
//! - [`exchange_log`]: messages that are published to an exchange with a log, for all of its queues at once.
//! - [`schedules`]: schedules of queues.
//! - [`beyond_desks`]: dead letters that go to other topics, with this broker as their client.
//! - [`queue_expiry`]: the end of queues that nobody uses.
//! - [`exchanges`]: exchanges and bindings, created, shown and deleted. [`publish`]: messages to the queues that are bound for them.
//! - [`topics`]: creating, changing and deleting them; [`leaders_known`]: until clients can use them.
//! - [`partition_admin`]: dropping records, handing a leadership over.
//! - [`metadata`]: brokers, topics, leaders.
//! - [`cluster`]: what tools are shown, with [`partition_states`], [`damage`] and [`group_list`]; [`gathering`] asks all brokers once
//!   for all who ask at a time.
//! - [`call`]: what is passed on to other brokers; [`passing`] does it, by [`peers`]; [`carry_out`] is their side of it.
//!
//! [`RequestError`]: crate::error::RequestError

pub(crate) mod beyond_desks;
pub(crate) mod boundary;
pub(crate) mod call;
pub(crate) mod carry_out;
pub(crate) mod cluster;
pub(crate) mod context;
mod damage;
pub(crate) mod exchange_log;
pub(crate) mod exchanges;
pub(crate) mod fetch;
mod gathering;
mod group_list;
pub(crate) mod groups;
mod leaders_known;
pub(crate) mod metadata;
pub(crate) mod offsets;
pub(crate) mod operation;
pub(crate) mod partition_admin;
pub(crate) mod partition_states;
mod passing;
pub(crate) mod peers;
pub(crate) mod produce;
pub(crate) mod producers;
pub(crate) mod publish;
pub(crate) mod queue_depth;
mod queue_expiry;
pub(crate) mod queue_messages;
pub(crate) mod queue_redrive;
pub(crate) mod queues;
pub(crate) mod resolve;
pub(crate) mod schedules;
mod shards;
pub(crate) mod topics;
pub(crate) mod transactions;
