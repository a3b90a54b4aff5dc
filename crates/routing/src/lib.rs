//! Exchanges and bindings, and the tables that say which queues a message is for: no clock, no I/O, no randomness, no threads.
//!
//! A message is published to an exchange with a routing key and headers. The exchange's bindings lead to queues, and to other exchanges,
//! whose bindings count then. What is said here of AMQP is its version 0-9-1, as RabbitMQ has it.
//!
//! ```text
//!   Exchange, Bindings (of the metadata) -> Router::updated -> one Table for each exchange, compiled again when its bindings changed
//!
//!   exchange, key, headers -> Router::resolve -> the queues, each once, ascending by id
//!                                 |   ^
//!                                 +---+ exchanges that bindings lead to; without any match, the alternate exchange
//! ```
//!
//! Invariants:
//! - A message passes each exchange once, so bindings may go round in a circle.
//! - The alternate exchange counts only where no binding of the exchange matches. A binding to an exchange that leads nowhere is a match.
//! - What resolving costs does not depend on bindings that share nothing with the message, and once a [`Scratch`] has its size, nothing is
//!   allocated.
//!
//! Map of the crate:
//! - [`exchange`]: exchanges and their kinds, the rule of their names. [`binding`]: bindings and their rules. [`headers`]: what a
//!   binding asks of headers. [`pattern`]: patterns of routing keys.
//! - `table`: the bindings of one exchange, compiled by its kind. `marks`: sets of numbers that are used again for each message.
//! - [`router`]: all exchanges together. [`trace`]: how a message is routed, in words of bindings.
//!
//! The default exchange of AMQP, whose name is empty and which has a binding for the name of every queue, is not in a [`Router`]: whoever
//! has the names of queues looks there.

pub mod binding;
pub mod exchange;
pub mod headers;
mod marks;
pub mod pattern;
pub mod router;
mod table;
pub mod trace;

pub use binding::{Binding, Destination, judge_binding};
pub use exchange::{Exchange, ExchangeKind, judge_exchange_name};
pub use headers::{HeaderMatch, Headers, MatchMode, NoHeaders};
pub use router::{Message, RouteError, Router, Scratch};
pub use trace::{CameBy, Hop, Trace};
