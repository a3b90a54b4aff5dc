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
//! - [`image`]: the state and its lookups; cheap to clone.
//! - [`command`], [`reply`]: what goes in and comes out, with their encodings. `wire` has the encoded forms.
//! - `apply`: the fold, one file per subject. `rules`: the checks that admission and apply share.
//! - [`snapshot`]: the image as bytes.
//! - [`placement`]: which brokers get the replicas of a new topic.
//! - [`metadata_quorum`]: which brokers vote in group 0.
//! - [`admission`]: checks before a command is proposed, for quick and clear errors.

pub mod admission;
mod apply;
pub mod command;
mod error;
pub mod image;
pub mod metadata_quorum;
pub mod placement;
pub mod reply;
mod rules;
pub mod snapshot;
mod wire;

pub use command::{BrokerRegistration, Command, DirectoryId, SeedBroker};
pub use error::RestoreError;
pub use image::{
    ADD_PARTITIONS_FEATURE_LEVEL, BATCH_CHECKS_FEATURE_LEVEL, Broker, CONDITIONS_FEATURE_LEVEL,
    COORDINATOR_FEATURE_LEVEL, COORDINATOR_TOPIC, Image, Partition, PartitionRef, REMEMBERED_TOPICS_FEATURE_LEVEL,
    REMOVE_BROKER_FEATURE_LEVEL, RENEWAL_FEATURE_LEVEL, Tombstone, Topic, TopicKind,
};
pub use jangada_types::{CodecError, Rejection};
pub use metadata_quorum::{QuorumCandidate, metadata_voters};
pub use placement::{BrokerView, PlacementError, place, place_more};
pub use reply::Reply;

/// The highest feature level that this build understands. A build that folds a command in another way than its
/// predecessor, or knows a new one, has a higher level.
pub const FEATURE_LEVEL: u32 = 5;
