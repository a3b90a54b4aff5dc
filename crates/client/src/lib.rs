//! Jangada's client: [`Producer`], [`TransactionalProducer`], [`Consumer`], [`GroupConsumer`], [`Table`], [`QueueProducer`],
//! [`QueueConsumer`], [`Publisher`], [`Admin`].
//!
//! ```no_run
//! # async fn example() -> Result<(), jangada_client::ClientError> {
//! use jangada_client::{Client, ClientConfig, ConsumerConfig, NewTopic, ProducerConfig, ProducerRecord, StartAt};
//!
//! let client = Client::connect(ClientConfig::new(["127.0.0.1:9400", "127.0.0.1:9401"])).await?;
//! client.admin().create_topic(NewTopic::new("orders", 3, 3)).await?;
//!
//! let producer = client.producer(ProducerConfig::default())?;
//! let delivery = producer.send(ProducerRecord::new("orders").with_key("customer 7").with_value("a lamp")).await?;
//! println!("stored at offset {:?}", delivery.await?.offset);
//! producer.close().await;
//!
//! let mut consumer = client.consumer(ConsumerConfig::default())?;
//! consumer.assign_topic("orders", StartAt::Earliest).await?;
//! let record = consumer.next().await?;
//! println!("{:?} = {:?}", record.key, record.value);
//! # Ok(())
//! # }
//! ```
//!
//! # Map
//!
//! | module | what is in it |
//! |---|---|
//! | [`client`](Client), `config` | the entry point and its settings |
//! | `cluster` | calls to any broker or to a partition's leader, with retry; `backoff` has the delays, `attempts` what failed |
//! | `channels` | HTTP/2 connections to each broker: one for calls, and one for each so many streams |
//! | `offset_at`, `isolation` | finds offsets by position or by time; which records of transactions are read |
//! | `metadata` | the image of brokers, topics and leaders, and the cache that keeps it fresh and calls the brokers that it knows |
//! | `notice` | the events that a client tells its user of: retries, waits, resets, skips |
//! | `error`, `wire_error` | the errors that callers see, and the one place where gRPC's errors become those |
//! | `producer` | `accumulator` gathers records into batches, `lane` numbers and orders a partition's batches (pure), `driver` sends them |
//! | `consumer` | a `fetcher` per partition fills the `inbox`, from which the `reader` hands out |
//! | `group` | a member of a consumer group: `membership` heartbeats, `committer` commits, `coordinator` finds the
//! broker to talk to |
//! | `transaction` | a producer whose records are parts of transactions, and the loop that reads, transforms and writes exactly once |
//! | `table` | the newest value of each key of a topic |
//! | `queue` | work queues: a producer, a consumer with streams and leases, a worker, and calls that are answered once |
//! | `exchange` | exchanges: a publisher, and bindings |
//! | `sending` | what the producers of queues and the publishers share: messages are gathered into requests, lane by lane |
//! | `admin` | one method for each call of the AdminService, the QueueAdminService and the ExchangeService, but for Publish, and the calls
//! on groups from outside |
//!
//! # What holds
//!
//! - The client survives the death of any broker: every broker that it knows is asked in turn, and the configured ones again.
//! - With the default settings each record that is acknowledged is in its partition once, in the order of the `send` calls.
//! - An error says whether the outcome is definite: [`ClientError::is_definite`].
//! - Memory is bounded: a producer by `buffer_bytes`, a consumer by `prefetch_bytes` and what is unpacked of one response, which is
//!   1 MiB and one batch more.

#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, reason = "tests may use the real clock and network")
)]

mod admin;
mod asked;
mod attempts;
mod backoff;
mod channels;
mod client;
mod cluster;
mod config;
mod consumer;
mod error;
mod exchange;
mod group;
mod isolation;
mod metadata;
mod notice;
mod offset_at;
mod producer;
mod queue;
mod sending;
mod table;
mod transaction;
mod wire_error;

pub use admin::{
    Admin, BrokerState, CameBy, CatchUp, ClusterDescription, CommittedOffset, ConfigEntry, CreatedExchange,
    CreatedQueue, CreatedTopic, DamagedReplica, DeadFilter, DeadLetter, DeadLetters, DeadLettersDone,
    ExchangeDescription, ExchangeLog, ExchangeSummary, GroupDescription, GroupListing, GroupMember, GroupSummary,
    Leader, MessageTrace, MetadataRole, NewExchange, NewQueue, NewSchedule, NewTopic, OwnedPartition,
    PartitionProducer, PartitionState, QueueCounts, QueueDepth, QueueDescription, QueueMessages, QueueSchedule,
    QueueSchedules, QueueSeek, QueueSummary, QueueTally, Redrive, RedriveProgress, Redriving, ScheduleIsPut,
    ScheduleTiming, TopicDescription, TopicSummary, TraceHop, TransactionDescription, TransactionListing, WriteRefusal,
};
pub use client::Client;
pub use config::ClientConfig;
pub use consumer::{
    ConsumedRecord, Consumer, ConsumerConfig, EndOffsets, OffsetReset, OnBadBatch, RawBatches, Skipped, StartAt,
};
pub use error::{ClientError, Rejection};
pub use exchange::{
    Binding, BindingDestination, ExchangeKind, HeaderMatch, MatchMode, Publication, PublishedPlace, Publisher,
    PublisherConfig,
};
pub use group::{
    Assignor, CommitMode, GroupConfig, GroupConsumer, GroupHandle, GroupMetadata, ListenerError, OffsetCommit,
    PartitionPosition, RebalanceListener, StartPositions, TopicPartition,
};
pub use isolation::Isolation;
pub use jangada_env::Env;
pub use jangada_types::{BrokerId, Codec, ExchangeId, Header, Incarnation, NO_TIMESTAMP, QueueId, Reason, TopicId};
pub use metadata::{PartitionMetadata, TopicMetadata};
pub use notice::{NOTICE_TARGET, Notice, OnNotice, PositionReset, Retrying};
pub use offset_at::{ListedOffset, OffsetAt};
pub use producer::{Acks, Condition, Delivery, Producer, ProducerConfig, ProducerRecord, RecordMetadata};
pub use queue::{
    Due, Handled, MessagePlace, MessageState, Peeked, PeekedMessage, Queue, QueueConsumer, QueueConsumerConfig,
    QueueDelivery, QueueMessage, QueueProducer, QueueProducerConfig, ReceiveOptions, Received, ReceivedMessage,
    SentMessage, Settled, Settlement, StopHandle, Token, Verdict, Worker,
};
pub use table::{Table, TableChange, TableOptions};
pub use transaction::{
    Committed, ExactlyOnceOptions, Processed, Transaction, TransactionOptions, TransactionOutcome,
    TransactionalProducer,
};
