//! Why a record batch is refused.

use crate::compression::{Codec, CompressionError};
use crate::reason::Reason;

/// Why a record batch is refused. Each variant is one reason of the public API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// `INVALID_BATCH`: it breaks a rule of the format. Sending it again does not help.
    #[error("invalid record batch: {0}")]
    Invalid(#[from] Malformed),
    /// `CORRUPT_BATCH`: it was damaged after it was built.
    #[error("corrupt record batch: its CRC-32C is {actual:#010x}, its header says {expected:#010x}")]
    Corrupt {
        /// What the header says.
        expected: u32,
        /// What the bytes give.
        actual: u32,
    },
    /// `UNSUPPORTED_CODEC`: no codec has this number.
    #[error("unsupported compression codec {id}")]
    UnsupportedCodec {
        /// The number in the attributes.
        id: u8,
    },
    /// `BATCH_TOO_LARGE`: as it stands, or after decompression.
    #[error("record batch too large: {size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Bytes that it has, or at least has.
        size: usize,
        /// Bytes that it may have.
        limit: usize,
    },
}

impl BatchError {
    /// The reason for the public API.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Invalid(_) => Reason::InvalidBatch,
            Self::Corrupt { .. } => Reason::CorruptBatch,
            Self::UnsupportedCodec { .. } => Reason::UnsupportedCodec,
            Self::TooLarge { .. } => Reason::BatchTooLarge,
        }
    }
}

impl From<CompressionError> for BatchError {
    fn from(error: CompressionError) -> Self {
        match error {
            CompressionError::TooLarge { max } => Self::TooLarge {
                size: max.saturating_add(1),
                limit: max,
            },
            // The checksum was right, so it was the producer that packed it wrongly.
            CompressionError::Damaged { codec, detail } => Malformed::Compression { codec, detail }.into(),
        }
    }
}

/// The rule of the format that a batch breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It ends before it should.
    #[error("{actual} bytes where {needed} are needed")]
    Truncated {
        /// Bytes that should be there.
        needed: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// Something follows it where exactly one batch is expected.
    #[error("{extra} bytes follow the batch")]
    Trailing {
        /// Bytes that follow.
        extra: usize,
    },
    /// The batch length is too small for a header.
    #[error("batch length {0} is less than a header's")]
    Length(i32),
    /// Another version of the format.
    #[error("magic {0}, only record batches of magic 2 are supported")]
    Magic(i8),
    /// Attribute bits without a meaning.
    #[error("unknown attributes {0:#06x}")]
    UnknownAttributes(i16),
    /// Control batches are the broker's own.
    #[error("control batches are not accepted")]
    Control,
    /// Transactions do not exist yet.
    #[error("transactional batches are not supported")]
    Transactional,
    /// The time of the append is the broker's to set.
    #[error("a producer sends CreateTime, not LogAppendTime")]
    AppendTime,
    /// Record count and last offset delta contradict each other, or there are no records.
    #[error("record count {count} with last offset delta {last_offset_delta}")]
    Count {
        /// Records that the header claims.
        count: i32,
        /// The last record's offset less the first's.
        last_offset_delta: i32,
    },
    /// More records than a batch may have.
    #[error("{count} records, at most {limit} are allowed")]
    TooManyRecords {
        /// Records that the header claims.
        count: i32,
        /// Records that a batch may have.
        limit: i32,
    },
    /// More records than its bytes can hold.
    #[error("{count} records in {bytes} bytes")]
    CountOutOfReach {
        /// Records that the header claims.
        count: i32,
        /// Bytes of records.
        bytes: usize,
    },
    /// The greatest timestamp is not that of the records.
    #[error("max timestamp {max} is not that of the records, {actual} or later")]
    MaxTimestamp {
        /// What the header says, milliseconds.
        max: i64,
        /// What a record says, milliseconds.
        actual: i64,
    },
    /// Producer id, epoch and sequence contradict each other.
    #[error("producer id {producer_id} with epoch {epoch} and base sequence {base_sequence}")]
    Producer {
        /// The producer id.
        producer_id: i64,
        /// The producer's epoch.
        epoch: i16,
        /// The first record's sequence.
        base_sequence: i32,
    },
    /// The last offset is beyond the largest.
    #[error("base offset {0} leaves no room for the records")]
    BaseOffset(i64),
    /// The records could not be decompressed.
    #[error("the records are not valid {codec}: {detail}")]
    Compression {
        /// The codec.
        codec: Codec,
        /// What its decoder says.
        detail: String,
    },
    /// A record breaks a rule.
    #[error("record {index}: {flaw}")]
    Record {
        /// The record's place in the batch, from 0 on.
        index: i32,
        /// What is wrong.
        flaw: RecordFlaw,
    },
    /// Bytes are left after the last record.
    #[error("{bytes} bytes follow the last record")]
    TrailingRecords {
        /// Bytes that are left.
        bytes: usize,
    },
}

/// What is wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFlaw {
    /// It ends before it should.
    #[error("cut off")]
    Truncated,
    /// A number that is longer than its type.
    #[error("a variable-length number is out of range")]
    Varint,
    /// A length below what it can be.
    #[error("a negative length")]
    NegativeLength,
    /// The fields end before the record does.
    #[error("bytes are left after its last field")]
    Trailing,
    /// Its offset is not its place in the batch.
    #[error("its offset delta is not its place in the batch")]
    OffsetDelta,
    /// A header key that is not text.
    #[error("a header key is not UTF-8")]
    HeaderKey,
}
