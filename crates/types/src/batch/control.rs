//! Control batches: what a partition's leader writes into the log at the end of a transaction. No client sends one, and readers
//! skip them.
//!
//! ```text
//! a batch of one record: attributes 0x30 (transactional, control), the transaction's producer id and epoch, no sequence
//! key    version i16, 0 | type i16, 0 abort, 1 commit
//! value  version i16, 0 | coordinator epoch i32
//! ```
//!
//! Sources: KIP-98, and Kafka's `EndTransactionMarker`, whose bytes the tests compare.

use bytes::{Buf, BufMut, Bytes};

use super::builder::BatchBuilder;
use super::error::BatchError;
use super::header::BatchHeader;
use super::record::Records;
use crate::compression::Codec;
use crate::ids::{ProducerEpoch, ProducerId, Sequence};

const KEY_VERSION: i16 = 0;
const VALUE_VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;
const KEY_BYTES: usize = 2 + 2;
const VALUE_BYTES: usize = 2 + 4;

/// The end of a transaction in one partition's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndMarker {
    /// The producer whose transaction it was.
    pub producer_id: ProducerId,
    /// The epoch from which on the producer may write again.
    pub producer_epoch: ProducerEpoch,
    /// The epoch of the coordinator that decided it; for people who look into a log.
    pub coordinator_epoch: i32,
    /// Whether the transaction was committed; otherwise it was aborted.
    pub commit: bool,
}

impl EndMarker {
    /// Bytes of each such batch.
    pub const BATCH_BYTES: usize = BatchHeader::LEN + 17;

    /// The control batch, with the leader's time in milliseconds since the Unix epoch.
    pub fn build(&self, timestamp_ms: i64) -> Bytes {
        let mut key = [0; KEY_BYTES];
        let mut out = &mut key[..];
        out.put_i16(KEY_VERSION);
        out.put_i16(if self.commit { COMMIT } else { ABORT });
        let mut value = [0; VALUE_BYTES];
        let mut out = &mut value[..];
        out.put_i16(VALUE_VERSION);
        out.put_i32(self.coordinator_epoch);
        let mut builder = BatchBuilder::new(Codec::None);
        builder
            .producer(self.producer_id, self.producer_epoch, Sequence::NONE)
            .control()
            .append(timestamp_ms, Some(&key), Some(&value), [])
            .expect("one small record fits into a batch");
        builder.build()
    }

    /// The marker that a batch is. `None`: it is another batch, or a control batch of another kind, which a reader passes over.
    ///
    /// # Errors
    /// It is a control batch, and its record cannot be read.
    pub fn read(batch: &Bytes) -> Result<Option<Self>, BatchError> {
        let header = BatchHeader::parse(batch)?;
        if !header.attributes.is_control() {
            return Ok(None);
        }
        let Some(record) = Records::new(batch, batch.len())?.next() else {
            return Ok(None);
        };
        let record = record?;
        // A later version of either has more behind these fields, and keeps them (as Kafka reads them).
        let (mut key, mut value) = (record.key.unwrap_or_default(), record.value.unwrap_or_default());
        if key.len() < KEY_BYTES || value.len() < VALUE_BYTES || key.get_i16() < KEY_VERSION {
            return Ok(None);
        }
        let kind = key.get_i16();
        if value.get_i16() < VALUE_VERSION || !matches!(kind, ABORT | COMMIT) {
            return Ok(None);
        }
        Ok(Some(Self {
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            coordinator_epoch: value.get_i32(),
            commit: kind == COMMIT,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BatchLimits, Malformed, validate, verify};
    use super::*;

    fn marker(commit: bool) -> EndMarker {
        EndMarker {
            producer_id: ProducerId(4242),
            producer_epoch: ProducerEpoch(7),
            coordinator_epoch: 11,
            commit,
        }
    }

    #[test]
    fn a_marker_comes_back() {
        for commit in [false, true] {
            let batch = marker(commit).build(1_700_000_000_000);
            assert_eq!(EndMarker::read(&batch), Ok(Some(marker(commit))));
            let header = verify(&batch).expect("its checksum is right");
            assert_eq!(header.attributes.0, 0x30);
            assert_eq!((header.record_count, header.base_sequence), (1, Sequence::NONE));
        }
    }

    #[test]
    fn no_client_may_send_one() {
        let refused = validate(&marker(true).build(0), &BatchLimits::default());
        assert_eq!(refused, Err(Malformed::Control.into()));
    }

    #[test]
    fn other_batches_are_none() {
        let mut builder = BatchBuilder::new(Codec::None);
        builder
            .append(0, Some(&[0, 0, 0, 1]), Some(&[0; 6]), [])
            .expect("it is small");
        assert_eq!(EndMarker::read(&builder.build()), Ok(None));
        for (key, value) in [
            (&[0, 0, 0, 2][..], &[0; 6][..]),
            (&[0, 0, 0], &[0; 6]),
            (&[0; 4], &[0; 5]),
        ] {
            let mut builder = BatchBuilder::new(Codec::None);
            builder.control().append(0, Some(key), Some(value), []).expect("small");
            assert_eq!(EndMarker::read(&builder.build()), Ok(None), "{key:?} {value:?}");
        }
    }
}
