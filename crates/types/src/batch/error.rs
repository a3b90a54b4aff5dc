//! The errors of record batches that are refused.

use crate::compression::{Codec, CompressionError};
use crate::reason::Reason;

/// The reason why a record batch is refused. Each variant is one reason of the public API.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// `INVALID_BATCH`: the batch breaks a rule of the format. Sending it again does not help.
    #[error("invalid record batch: {0}")]
    Invalid(#[from] Malformed),
    /// `CORRUPT_BATCH`: the batch was damaged after it was built.
    #[error("corrupt record batch: its CRC-32C is {actual:#010x}, its header says {expected:#010x}")]
    Corrupt {
        /// The checksum in the header.
        expected: u32,
        /// The checksum of the bytes.
        actual: u32,
    },
    /// `UNSUPPORTED_CODEC`: no codec has this number.
    #[error("unsupported compression codec {id}")]
    UnsupportedCodec {
        /// The number in the attributes.
        id: u8,
    },
    /// `BATCH_TOO_LARGE`: the batch is too large as it stands, or after decompression.
    #[error("record batch too large: {size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Bytes that the batch has, or at least has.
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
            // The checksum was right, so the producer compressed it wrongly.
            CompressionError::Damaged { codec, detail } => Malformed::Compression { codec, detail }.into(),
        }
    }
}

/// The rule of the format that a batch breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The batch ends before it should.
    #[error("{actual} bytes where {needed} are needed")]
    Truncated {
        /// Bytes that should be there.
        needed: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// Bytes follow where exactly one batch is expected.
    #[error("{extra} bytes follow the batch")]
    Trailing {
        /// Number of bytes that follow.
        extra: usize,
    },
    /// The batch length is too small for a header.
    #[error("batch length {0} is less than a header's")]
    Length(i32),
    /// The batch has another version of the format.
    #[error("magic {0}, only record batches of magic 2 are supported")]
    Magic(i8),
    /// Attribute bits are set that have no meaning.
    #[error("unknown attributes {0:#06x}")]
    UnknownAttributes(i16),
    /// Control batches are the broker's own.
    #[error("control batches are not accepted")]
    Control,
    /// A transaction is its producer's.
    #[error("a transactional batch needs a producer id")]
    TransactionalWithoutProducer,
    /// The time of the append is the broker's to set.
    #[error("a producer sends CreateTime, not LogAppendTime")]
    AppendTime,
    /// Record count and last offset delta contradict each other, or there are no records.
    #[error("record count {count} with last offset delta {last_offset_delta}")]
    Count {
        /// The header's record count.
        count: i32,
        /// The last record's offset minus the first's.
        last_offset_delta: i32,
    },
    /// More records than a batch may have.
    #[error("{count} records, at most {limit} are allowed")]
    TooManyRecords {
        /// The header's record count.
        count: i32,
        /// Most records that a batch may have.
        limit: i32,
    },
    /// The count is larger than the bytes can hold.
    #[error("{count} records in {bytes} bytes")]
    CountOutOfReach {
        /// The header's record count.
        count: i32,
        /// Bytes of the records.
        bytes: usize,
    },
    /// The greatest timestamp in the header is not that of the records.
    #[error("max timestamp {max} is not that of the records, {actual} or later")]
    MaxTimestamp {
        /// The header's timestamp, milliseconds since the Unix epoch.
        max: i64,
        /// The record's timestamp, milliseconds since the Unix epoch.
        actual: i64,
    },
    /// Producer id, epoch and sequence contradict each other.
    #[error("producer id {producer_id} with epoch {epoch} and base sequence {base_sequence}")]
    Producer {
        /// The producer id in the header.
        producer_id: i64,
        /// The producer epoch in the header.
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
        /// The codec of the batch.
        codec: Codec,
        /// The decoder's error message.
        detail: String,
    },
    /// A record breaks a rule of the format.
    #[error("record {index}: {flaw}")]
    Record {
        /// The record's index in the batch, from 0 on.
        index: i32,
        /// The rule that the record breaks.
        flaw: RecordFlaw,
    },
    /// Bytes are left after the last record.
    #[error("{bytes} bytes follow the last record")]
    TrailingRecords {
        /// Number of bytes that are left.
        bytes: usize,
    },
}

/// The rule of the format that a record breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordFlaw {
    /// The record ends before it should.
    #[error("cut off")]
    Truncated,
    /// A number is longer than its type allows.
    #[error("a variable-length number is out of range")]
    Varint,
    /// A length is negative where it must not be.
    #[error("a negative length")]
    NegativeLength,
    /// The record's fields end before the record does.
    #[error("bytes are left after its last field")]
    Trailing,
    /// The record's offset delta is not its index in the batch; of a batch that was compacted: it is not above that of the record before.
    #[error("its offset delta is not its place in the batch")]
    OffsetDelta,
    /// A header key is not text.
    #[error("a header key is not UTF-8")]
    HeaderKey,
}
