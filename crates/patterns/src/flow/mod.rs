//! Flow control: a consumer that takes no more than it can do, and a producer that sends no more than is taken.
//!
//! ```text
//! GroupConsumer ──► lanes by key ──► handlers, so many at once ──► finished below ... ──► committed
//!       ▲             │ one of a key at a time       │ retried, dead letters
//!       └─ paused ◄───┴─ as many as allowed are under way, or the breaker is open
//!
//! FlowProducer: send() ── window of records under way, by what the brokers acknowledge ──► Producer ──► brokers
//!                 └─ waits, and tells how long and why (Pressure)
//! ```
//!
//! # Guarantee
//! - [`Flow`]: each record is handled at least once, those with the same key one at a time, in their order. Never more than
//!   `in_flight_max` records are taken and unfinished, give or take one for each partition that comes meanwhile. Only what is finished,
//!   with all before it in its partition, is committed. Partitions are given up when what is under way of them is finished and committed.
//! - [`FlowProducer`]: as many records are under way as are acknowledged within the time aimed at; the caller of
//!   [`send`](FlowProducer::send) waits for the rest, and learns how long. Nothing is dropped.
//!
//! # What can fail
//! - A handler that never ends keeps its key, and after `rebalance_timeout` its partitions go elsewhere: bound what it waits for.
//! - After a crash all records are handled again that were finished behind one that was not, up to `in_flight_max` of them.
//! - A rate bounds this consumer, not its group: divide it by the members.
//!
//! # Where it comes from
//! Order by key with concurrency: Confluent's Parallel Consumer. Circuit breaker: Nygard, "Release It!" (2007). Token bucket: Turner, "New
//! Directions in Communications" (1986). The window: additive increase, multiplicative decrease (Chiu and Jain, 1989) by delay, as TCP
//! Vegas (Brakmo and Peterson, 1994).

mod attempts;
mod breaker;
mod config;
mod consumer;
mod lanes;
mod members;
mod producer;
mod progress;
mod rate;
mod window;

pub use breaker::{Admission, Breaker, BreakerConfig};
pub use config::{Failure, FlowConfig};
pub use consumer::{Flow, FlowState, FlowTally};
pub use lanes::Lanes;
pub use producer::{Accepted, FlowProducer, FlowProducerConfig, Pressure};
pub use rate::TokenBucket;
pub use window::Window;
