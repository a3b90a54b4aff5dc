//! The vocabulary of Jangada: ids, names, limits, topic settings, error reasons, and the record batch.
//!
//! Everything here is pure: no I/O, no clock, no async. Every other crate depends on this one, and it depends on none
//! of them.
//!
//! | module | what is in it |
//! |---|---|
//! | [`ids`] | a newtype for each id, offset, epoch and sequence |
//! | [`log`] | places in a replicated log |
//! | [`names`] | the rule of topic names |
//! | [`limits`] | every limit that a client can run into |
//! | [`reason`] | the reasons of the public API's errors |
//! | [`rejection`] | a refusal with its reason |
//! | [`frame`] | the encoded form of replicated commands, replies and snapshots |
//! | [`mod@replicated`] | commands and replies by declaration |
//! | [`table`] | tables of rows by declaration |
//! | [`feature_level`] | the feature levels of brokers of different versions |
//! | [`topic_config`] | the settings of a topic |
//! | [`queue_config`] | the settings of a queue |
//! | [`compression`] | the codecs of a record batch, with bounded decompression |
//! | [`batch`] | Kafka's record batch v2: check, read, build, patch |
//! | [`partitioner`] | the partition that a key belongs to |
//! | [`planted`] | bugs that are planted to see whether tests find them |

pub mod batch;
pub mod compression;
pub mod feature_level;
pub mod frame;
pub mod ids;
pub mod limits;
pub mod log;
pub mod names;
pub mod partitioner;
pub mod planted;
pub mod queue_config;
pub mod reason;
pub mod rejection;
pub mod replicated;
pub mod table;
pub mod topic_config;
pub mod units;

pub use batch::{
    Attributes, BatchBuilder, BatchError, BatchHeader, BatchIter, BatchLimits, Header, NO_TIMESTAMP, Record,
    RecordTimes, Records, TimestampType,
};
pub use compression::{Codec, CompressionError};
pub use feature_level::FEATURE_LEVEL;
pub use frame::CodecError;
pub use ids::{
    BrokerId, ExchangeId, GroupId, Incarnation, LeaderEpoch, Offset, PartitionIndex, ProducerEpoch, ProducerId,
    QueueId, ReplicaId, Sequence, TopicId,
};
pub use log::LogPosition;
pub use names::{NameError, is_internal_topic, validate_topic_name};
pub use partitioner::{murmur2, partition_for_key};
pub use queue_config::{QueueConfig, QueueConfigError};
pub use reason::{Category, Reason};
pub use rejection::Rejection;
pub use table::row::RowError;
pub use table::{RowChange, Table, TableId};
pub use topic_config::{ConfigError, TopicConfig};
pub use units::{Quantity, UnitError};
