//! Work queues: a [`QueueProducer`] sends messages, a [`QueueConsumer`] or a [`Worker`] works on them, and a [`Queue`] is for calls that
//! are answered once.
//!
//! - `message`: messages as they are sent and as they come, and what is said of them.
//! - `calls`: calls that any broker takes.
//! - `producer`: gathers messages into requests. `consumer`: one task that keeps the streams, leases and settlements.
//! - `worker`: a handler over a consumer.

pub(crate) mod calls;
pub(crate) mod consumer;
mod message;
pub(crate) mod producer;
mod worker;

pub(crate) use calls::QueueLayout;
pub use calls::{Peeked, Queue, ReceiveOptions, Received};
pub use consumer::{QueueConsumer, QueueConsumerConfig, QueueDelivery};
pub(crate) use message::millis;
pub use message::{
    Due, MessagePlace, MessageState, PeekedMessage, QueueMessage, ReceivedMessage, SentMessage, Settled, Settlement,
    Token,
};
pub use producer::{QueueProducer, QueueProducerConfig};
pub use worker::{Handled, StopHandle, Verdict, Worker};
