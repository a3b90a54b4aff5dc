//! Typed events: published with CloudEvents headers, subscribed to by type, handled with retries, dead letters and idempotence.
//!
//! ```text
//! EventBus::publish(&OrderPaid)          topic "orders"                       Subscriber, one for each service (a group each)
//!   data as JSON, headers ce_id,  ──►  [p0] e1 e4 ...  ──►  ce_type "order.paid" ── upcasters ── handler of OrderPaid
//!   ce_type, ce_source, ...            [p1] e2 e3 ...           │ seen ce_id before: passed over
//!   partition by Event::key()                                   └ failed so often: dead letters
//! ```
//!
//! # Guarantee
//! - A published event is in its topic once, on the disks of a quorum, behind the events with its key that were published before it.
//! - Each subscriber (a consumer group) handles each event at least once, those of a key in order and one at a time. With
//!   [`SeenEvents`] that are stored durably one comes again only after a crash between its handler's end and the note of it. An effect in a
//!   database that is to happen exactly once goes into the [`inbox`](crate::inbox) in the handler's own transaction.
//! - An event that no attempt could handle, or that cannot be read, is in the dead letters before the events behind it are handled.
//!
//! # What can fail
//! - A publisher that dies between its own work and [`EventBus::publish`] has published nothing, or twice if it publishes again under
//!   another id: give the event the [id](Envelope::id) of what it is about, or use the [`outbox`](crate::outbox).
//! - While a handler is retried the events behind it with its key wait; those of other keys do not.
//! - An event of a newer version than the subscriber knows is a dead letter: upgrade subscribers before publishers.
//!
//! # Where it comes from
//! CloudEvents 1.0 with its Kafka protocol binding, binary content mode. Upcasters: Young, "Versioning in an Event Sourced System" (2017).
//! Idempotent receiver and dead letter channel: Hohpe and Woolf, "Enterprise Integration Patterns" (2003).

mod attributes;
mod bus;
mod event;
mod seen;
mod subscriber;
mod upcasters;

pub use attributes::Attributes;
pub use bus::EventBus;
pub use event::{Envelope, Event};
pub use seen::{SeenEvents, SeenInMemory};
pub use subscriber::{Subscriber, SubscriberConfig, Unknown};
pub use upcasters::Upcasters;
