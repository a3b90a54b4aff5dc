//! Inbox: what came is noted in the database, in the transaction of its results, so that it has its effect once however often it comes.
//!
//! ```text
//! record, message, request          one transaction of the database
//!   with an id            ──►   INSERT INTO jangada_inbox (consumer, id)   ── it was there ──► its result of then
//!                               the effect: UPDATE balances ...            ── it is new ────► the effect, and its result
//! ```
//!
//! # Guarantee
//! - Of all attempts at one id, by whatever process, one has its effect; every other one gets the result that was stored with it.
//! - The note and the effect are in one transaction: both are there, or neither.
//!
//! # What can fail
//! - Effects outside of the database (a mail, a call) are not in its transaction. Give what is called the id, if it knows what to do with
//!   it.
//! - An id that is [forgotten](SqliteInbox::forget_before) counts as new: keep ids for longer than anything can come again. In a topic that
//!   is its retention, in a queue `queue.ttl.ms` and the time until somebody redrives a dead letter.
//! - Two things with one id have one effect: an id that the *sender* gave must be unique for him, and his name belongs to it.
//!
//! # Where it comes from
//! Idempotent receiver: Hohpe and Woolf, "Enterprise Integration Patterns" (2003). Results with the ids: Helland, "Life beyond Distributed
//! Transactions" (CIDR 2007); idempotency keys of payment interfaces.

mod methods;
mod postgres;
mod sqlite;

pub use postgres::PostgresInbox;
pub use sqlite::SqliteInbox;
