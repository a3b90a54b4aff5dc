//! Takes records out of a batch: what compaction by key leaves of it.
//!
//! ```text
//! before  base offset, delta 4, count 5   | 0 a=1 | 1 b=1 | 2 a=2 | 3 c=1 | 4 b=2 |
//! after   base offset, delta 4, count 3                   | 2 a=2 | 3 c=1 | 4 b=2 |
//! ```
//!
//! The records that stay are copied byte for byte, so each keeps its offset and its time. Of the header only length, count and checksum
//! are others, so the batch takes the offsets that it took, and says of its producer, its times and its codec what it said.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::error::{BatchError, Malformed};
use super::header::{BatchHeader, LENGTH_COUNTS_FROM, at, put};
use super::patch::set_checksum;
use super::record::{Deltas, RawRecord, check_size};
use super::validate;
use crate::compression::{self, Codec};

/// One record, as far as compaction looks at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyedRecord<'a> {
    /// The record's offset minus that of the batch's first.
    pub offset_delta: i32,
    /// The record's key, if it has one; an empty key is a key.
    pub key: Option<&'a [u8]>,
    /// Whether the record has no value: it says that its key is deleted.
    pub is_tombstone: bool,
}

/// What is left of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thinned {
    /// Every record stays, and the batch is as it was.
    Whole,
    /// The batch with fewer records, of which there is at least one.
    Fewer(Bytes),
    /// No record stays.
    Empty,
}

/// Shows the records of a batch in their order until the visitor has enough.
///
/// # Errors
/// The errors of [`decode_records`](super::decode_records).
pub fn each_keyed(
    batch: &[u8],
    max_decompressed: usize,
    mut visit: impl FnMut(KeyedRecord<'_>) -> ControlFlow<()>,
) -> Result<(), BatchError> {
    let opened = Opened::new(batch, max_decompressed)?;
    opened.each(|record, _| visit(record))
}

/// Takes those records out of a batch that are not kept. The base offset and the leader epoch stay as they are.
///
/// # Errors
/// The errors of [`each_keyed`]. The batch is to be left as it is then.
pub fn thin(
    batch: &[u8],
    max_decompressed: usize,
    mut keeps: impl FnMut(KeyedRecord<'_>) -> bool,
) -> Result<Thinned, BatchError> {
    let opened = Opened::new(batch, max_decompressed)?;
    let mut kept = Vec::new();
    let mut count = 0;
    opened.each(|record, bytes| {
        if keeps(record) {
            kept.extend_from_slice(bytes);
            count += 1;
        }
        ControlFlow::Continue(())
    })?;
    if count == opened.header.record_count {
        return Ok(Thinned::Whole);
    }
    if count == 0 {
        return Ok(Thinned::Empty);
    }
    let mut thinned = batch[..BatchHeader::LEN].to_vec();
    compression::compress_into(opened.codec, &kept, &mut thinned);
    let length = i32::try_from(thinned.len() - LENGTH_COUNTS_FROM).expect("the unpacked records are bounded");
    put(&mut thinned, at::BATCH_LENGTH, length.to_be_bytes());
    put(&mut thinned, at::RECORD_COUNT, count.to_be_bytes());
    let header = BatchHeader::parse(&thinned).expect("it has a whole header");
    set_checksum(&mut thinned, &header);
    Ok(Thinned::Fewer(thinned.into()))
}

/// A batch whose checksum is right and whose records are unpacked.
struct Opened<'a> {
    header: BatchHeader,
    codec: Codec,
    packed: &'a [u8],
    unpacked: Vec<u8>,
}

impl<'a> Opened<'a> {
    fn new(batch: &'a [u8], max_decompressed: usize) -> Result<Self, BatchError> {
        let header = validate::verify(batch)?;
        let codec = header.attributes.codec()?;
        let packed = &batch[BatchHeader::LEN..];
        let unpacked = match codec {
            Codec::None => Vec::new(),
            codec => compression::decompress(codec, packed, max_decompressed)?,
        };
        let opened = Self {
            header,
            codec,
            packed,
            unpacked,
        };
        check_size(opened.body().len(), max_decompressed)?;
        validate::check_count_left(&header, Some(opened.body().len()))?;
        Ok(opened)
    }

    fn body(&self) -> &[u8] {
        match self.codec {
            Codec::None => self.packed,
            _ => &self.unpacked,
        }
    }

    /// Shows each record with all its bytes, its length included.
    fn each(&self, mut visit: impl FnMut(KeyedRecord<'_>, &[u8]) -> ControlFlow<()>) -> Result<(), BatchError> {
        let mut rest = self.body();
        let mut deltas = Deltas::up_to(self.header.last_offset_delta);
        for index in 0..self.header.record_count {
            let before = rest;
            let raw = RawRecord::take(&mut rest, deltas).map_err(|flaw| Malformed::Record { index, flaw })?;
            raw.headers()
                .try_for_each(|header| header.map(drop))
                .map_err(|flaw| Malformed::Record { index, flaw })?;
            deltas = deltas.above(raw.offset_delta);
            let record = KeyedRecord {
                offset_delta: raw.offset_delta,
                key: raw.key,
                is_tombstone: raw.value.is_none(),
            };
            if visit(record, &before[..before.len() - rest.len()]).is_break() {
                return Ok(());
            }
        }
        match rest.is_empty() {
            true => Ok(()),
            false => Err(Malformed::TrailingRecords { bytes: rest.len() }.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::{BatchBuilder, BatchIter, decode_records, set_position, validate as validate_batch, verify};
    use super::*;
    use crate::batch::BatchLimits;
    use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

    const MAX: usize = 1 << 20;

    /// Time, key and value.
    type Written = (i64, Option<Vec<u8>>, Option<Vec<u8>>);

    fn batch(codec: Codec, records: &[Written]) -> Bytes {
        let mut builder = BatchBuilder::new(codec);
        for (at_ms, key, value) in records {
            let headers = [("h", key.as_deref())];
            builder
                .append(*at_ms, key.as_deref(), value.as_deref(), headers)
                .expect("it is small");
        }
        builder.producer(ProducerId(7), ProducerEpoch(2), Sequence(30));
        builder.build()
    }

    /// What of a header compaction leaves as it is.
    fn lasting(header: &BatchHeader) -> BatchHeader {
        BatchHeader {
            batch_length: 0,
            crc: 0,
            record_count: 0,
            ..*header
        }
    }

    #[test]
    fn all_records_or_none_make_no_new_batch() {
        let batch = batch(Codec::Lz4, &[(1, Some(b"k".to_vec()), None), (2, None, Some(vec![]))]);
        assert_eq!(thin(&batch, MAX, |_| true), Ok(Thinned::Whole));
        assert_eq!(thin(&batch, MAX, |_| false), Ok(Thinned::Empty));
        let mut seen = Vec::new();
        each_keyed(&batch, MAX, |record| {
            seen.push((record.offset_delta, record.key.map(<[u8]>::to_vec), record.is_tombstone));
            ControlFlow::Continue(())
        })
        .expect("it can be read");
        assert_eq!(seen, [(0, Some(b"k".to_vec()), true), (1, None, false)]);
    }

    #[test]
    fn a_batch_that_cannot_be_read_is_left_alone() {
        let mut damaged = batch(Codec::Zstd, &[(1, None, None), (1, None, None)]).to_vec();
        *damaged.last_mut().expect("it has bytes") ^= 1;
        let error = thin(&damaged, MAX, |_| false).expect_err("its checksum is wrong");
        assert!(matches!(error, BatchError::Corrupt { .. }), "{error}");
        let whole = batch(Codec::Gzip, &[(1, None, Some(vec![7; 2_000]))]);
        let error = thin(&whole, 1_000, |_| false).expect_err("it unpacks to more");
        assert!(matches!(error, BatchError::TooLarge { .. }), "{error}");
    }

    #[test]
    fn what_a_producer_may_not_send_can_be_read() {
        let whole = batch(Codec::None, &[(1, None, None), (2, None, None), (3, None, None)]);
        let Ok(Thinned::Fewer(thinned)) = thin(&whole, MAX, |record| record.offset_delta != 1) else {
            panic!("two are left");
        };
        assert!(validate_batch(&thinned, &BatchLimits::default()).is_err());
        assert_eq!(decode_records(&thinned, MAX).map(|records| records.len()), Ok(2));
    }

    proptest! {
        /// The rule that a batch has a record for each of its offsets is the producers', and no reader's.
        #[test]
        fn a_batch_without_any_of_its_records_reads_rightly(
            codec in proptest::sample::select(&Codec::ALL[..]),
            records in vec((any::<i64>(), any::<Option<Vec<u8>>>(), any::<Option<Vec<u8>>>()), 1..40),
            picks in vec((any::<u64>(), any::<u64>()), 1..3),
            base in 0_i64..1 << 50,
        ) {
            let whole = batch(codec, &records);
            let header = verify(&whole).expect("it is sound");
            let mut stored = whole.clone();
            let mut left: Vec<usize> = (0..records.len()).collect();
            // A batch is thinned more than once.
            for (first, second) in picks {
                let keeps = |at: usize| (first.rotate_left(at as u32) ^ second) & 3 != 0;
                match thin(&stored, MAX, |record| keeps(record.offset_delta as usize)).expect("it is sound") {
                    Thinned::Whole => prop_assert!(left.iter().all(|at| keeps(*at))),
                    Thinned::Empty => {
                        prop_assert!(!left.iter().any(|at| keeps(*at)));
                        return Ok(());
                    }
                    Thinned::Fewer(fewer) => {
                        left.retain(|at| keeps(*at));
                        stored = fewer;
                    }
                }
            }
            let mut served = stored.to_vec();
            set_position(&mut served, Offset(base), LeaderEpoch(3));
            let served = Bytes::from(served);
            let found = verify(&served).expect("its checksum is right");
            let placed = BatchHeader { base_offset: base, partition_leader_epoch: 3, ..lasting(&header) };
            prop_assert_eq!(lasting(&found), placed);
            prop_assert_eq!(found.record_count as usize, left.len());
            prop_assert_eq!(found.last_sequence(), header.last_sequence());
            let split: Vec<_> = BatchIter::new(served.clone()).collect();
            prop_assert_eq!(split.len(), 1);
            let mut whole = whole.to_vec();
            set_position(&mut whole, Offset(base), LeaderEpoch(3));
            let before = decode_records(&whole.into(), MAX).expect("it is sound");
            let expected: Vec<_> = left.iter().map(|at| before[*at].clone()).collect();
            prop_assert_eq!(decode_records(&served, MAX), Ok(expected));
        }
    }
}
