//! The cluster's metadata as a pure state machine: no clock, no I/O, no randomness, no threads.
//!
//! Group 0 replicates [`Command`]s; every broker folds the same log into the same [`Image`] and so knows the whole
//! cluster locally.
//!
//! ```text
//!   request -> admission (advisory) -> placement -> Command -> group 0's log -> Image::apply (judges again) -> Reply
//!                                                                                   |
//!                                                             clone, Arc, publish to the rest of the broker
//! ```
//!
//! Map of the crate:
//! - [`image`]: the state and its lookups; cheap to clone. [`queues`], [`exchanges`]: the queues and exchanges in it.
//! - [`command`], [`reply`]: the input and output of the fold, with their encodings. [`registration`]: what brokers say
//!   of themselves. [`endpoints`]: the addresses of brokers. `wire`: the messages that these and the image are made of.
//! - `apply`: the fold, one file per subject. `rules`, `queue_rules`, `exchange_rules`: the checks that admission and
//!   apply share.
//! - [`snapshot`]: the image as bytes. `machine`: the image as `replication` runs it.
//! - [`placement`]: which brokers get the replicas of a new topic.
//! - [`metadata_quorum`]: which brokers vote in group 0.
//! - [`admission`]: checks before a command is proposed, for quick and clear errors.

pub mod admission;
mod apply;
pub mod command;
pub mod endpoints;
mod error;
mod exchange_rules;
pub mod exchanges;
pub mod image;
mod machine;
pub mod metadata_quorum;
pub mod placement;
mod queue_rules;
pub mod queues;
pub mod registration;
pub mod reply;
mod rules;
pub mod snapshot;
mod wire;

pub use command::{
    Command, CommandKind, ENDPOINTS_FEATURE_LEVEL, EXCHANGES_FEATURE_LEVEL, QUEUES_FEATURE_LEVEL, RENEWAL_FEATURE_LEVEL,
};
pub use endpoints::{Endpoint, Endpoints, INTERNAL_LISTENER, PUBLIC_LISTENER};
pub use error::RestoreError;
pub use exchanges::Exchanges;
pub use image::{Broker, COORDINATOR_TOPIC, Image, Partition, PartitionRef, Tombstone, Topic, TopicKind};
pub use jangada_types::{CodecError, FEATURE_LEVEL, Rejection};
pub use metadata_quorum::{QuorumCandidate, metadata_voters};
pub use placement::{BrokerView, PlacementError, place, place_more};
pub use queues::{Queue, QueueKind, QueueStart};
pub use registration::{BrokerRegistration, DirectoryId, SeedBroker};
pub use reply::{Reply, ReplyKind};
