//! What people build on a broker: typed events, event sourcing, sagas, outbox and inbox, flow control.
//!
//! Everything here is made of what the [client](jangada_client) has: topics, groups, transactions, conditional append, compaction, queues.
//! Nothing stores or sends in a way of its own.
//!
//! # Map
//!
//! | module | what is in it |
//! |---|---|
//! | [`events`] | typed events with CloudEvents headers: published, subscribed to by type, brought up to the newest version |
//! | [`eventsource`] | aggregates whose state is their events, projections of these, commands and queries apart |
//! | [`saga`] | steps in several services that are all done or all undone, by an orchestrator whose state is events |
//! | [`outbox`] | records that are written in a transaction of the user's database, and sent once, in order |
//! | [`inbox`] | results that are stored with the id of what they came from, so that each comes once |
//! | [`flow`] | a consumer with bounded concurrency, order by key, a rate and a circuit breaker; a producer that slows down |
//! | [`Backoff`], [`DeadLetters`] | what they share: delays between attempts, and the topic for what no attempt mends |
//! | `rusqlite`, `sqlx` | the databases' crates in the versions that are in signatures here: take them from here |
//!
//! A page on each, with what can fail, is in `docs/patterns`. The clock and chance come from the [`Env`](jangada_client::Env) that is
//! handed in; decisions are in pure cores that are told the time.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may use the real clock and network")
)]

mod backoff;
mod dead_letters;
mod error;
pub mod events;
pub mod eventsource;
pub mod flow;
pub mod inbox;
pub mod outbox;
mod postgres;
pub mod saga;

pub use backoff::Backoff;
pub use dead_letters::{Cause, DeadLetters};
pub use error::{HandlerError, PatternError};
// Their types are in this crate's signatures, and only one crate of a program may link SQLite: no other version will do.
pub use {rusqlite, sqlx};

/// The code of `docs/patterns`, which compiles, or the test of the documentation fails.
#[cfg(doctest)]
mod pages {
    #[doc = include_str!("../../../docs/patterns/events.md")]
    struct Events;
    #[doc = include_str!("../../../docs/patterns/eventsource.md")]
    struct EventSource;
    #[doc = include_str!("../../../docs/patterns/flow.md")]
    struct Flow;
    #[doc = include_str!("../../../docs/patterns/jobs.md")]
    struct Jobs;
    #[doc = include_str!("../../../docs/patterns/outbox.md")]
    struct Outbox;
    #[doc = include_str!("../../../docs/patterns/pipeline.md")]
    struct Pipeline;
    #[doc = include_str!("../../../docs/patterns/saga.md")]
    struct Saga;
}
