//! Settings of a consumer, and where it starts.

use jangada_types::limits::{FETCH_BYTES_DEFAULT, FETCH_BYTES_MAX};

use crate::error::ClientError;
use crate::isolation::Isolation;

/// Where reading a partition begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// The first record that the partition still has.
    Earliest,
    /// After the last record that can be read now.
    Latest,
    /// The record with this offset.
    Offset(i64),
    /// The first record at or after this time, milliseconds since the Unix epoch; after the last one when there is none.
    Timestamp(i64),
}

/// The reaction when the offset to read is not there, because retention took it or it is beyond the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetReset {
    /// [`ClientError::OffsetOutOfRange`]; the partition then waits for a seek.
    Error,
    /// Reading goes on at the first record that the partition still has.
    Earliest,
    /// Reading goes on after the last record.
    Latest,
}

/// The reaction to a batch that cannot be decoded, because its producer wrote it so or because it was damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadBatch {
    /// [`ClientError::Corrupt`], which names the offset; the partition then waits for a seek.
    #[default]
    Stop,
    /// Reading goes on behind it. Each one is told as [`Notice::BatchSkipped`](crate::Notice::BatchSkipped), which is logged, and
    /// counted in [`Skipped`]. Records of the batch before the damage are handed out. Where not even the end of the batch can be
    /// told, reading stops all the same.
    Skip,
}

/// How much a consumer skipped because it could not be decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Number of batches that were skipped, in whole or in part.
    pub batches: u64,
    /// Number of offsets of these batches that were not handed out.
    pub records: u64,
}

/// How a consumer reads.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// Bytes of batches that are fetched ahead, over all partitions, each of which gets an equal share but at least 64 KiB; one
    /// batch per partition may come on top, and what is handed out next is unpacked: 1 MiB and a batch, which may take 64 MiB then.
    /// Default: 32 MiB.
    pub prefetch_bytes: usize,
    /// Bytes of one response, 1 KiB to 16 MiB; a larger batch still comes. Default: 1 MiB.
    pub max_partition_bytes: usize,
    /// The reaction when the offset to read is not there. Default: [`OffsetReset::Error`].
    pub offset_reset: OffsetReset,
    /// The reaction to a batch that cannot be decoded. Default: [`OnBadBatch::Stop`].
    pub on_bad_batch: OnBadBatch,
    /// Which records of transactions are read. Default: [`Isolation::Committed`].
    pub isolation: Isolation,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            prefetch_bytes: 32 * 1024 * 1024,
            max_partition_bytes: FETCH_BYTES_DEFAULT,
            offset_reset: OffsetReset::Error,
            on_bad_batch: OnBadBatch::Stop,
            isolation: Isolation::Committed,
        }
    }
}

/// Least number of bytes that a partition may fetch ahead: a batch of a producer's default size.
const SHARE_BYTES_MIN: usize = 64 * 1024;

const PARTITION_BYTES_MIN: usize = 1024;

impl ConsumerConfig {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        if !(PARTITION_BYTES_MIN..=FETCH_BYTES_MAX).contains(&self.max_partition_bytes) {
            let text = format!(
                "max_partition_bytes {}: {PARTITION_BYTES_MIN} to {FETCH_BYTES_MAX}",
                self.max_partition_bytes
            );
            return Err(ClientError::Config(text));
        }
        if self.prefetch_bytes < SHARE_BYTES_MIN {
            let text = format!("prefetch_bytes {}: at least {SHARE_BYTES_MIN}", self.prefetch_bytes);
            return Err(ClientError::Config(text));
        }
        Ok(())
    }

    /// Bytes that each partition may fetch ahead when `partitions` are read.
    pub(crate) fn share_bytes(&self, partitions: usize) -> usize {
        (self.prefetch_bytes / partitions.max(1)).max(SHARE_BYTES_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_share_what_is_fetched_ahead() {
        let config = ConsumerConfig {
            prefetch_bytes: 1024 * 1024,
            ..ConsumerConfig::default()
        };
        assert_eq!(config.share_bytes(1), 1024 * 1024);
        assert_eq!(config.share_bytes(4), 256 * 1024);
        assert_eq!(config.share_bytes(1000), SHARE_BYTES_MIN);
    }

    #[test]
    fn bounds_are_checked() {
        ConsumerConfig::default().check().expect("the defaults");
        ConsumerConfig {
            prefetch_bytes: 1,
            ..ConsumerConfig::default()
        }
        .check()
        .expect_err("too little");
        ConsumerConfig {
            max_partition_bytes: 17 << 20,
            ..ConsumerConfig::default()
        }
        .check()
        .expect_err("too much");
    }
}
