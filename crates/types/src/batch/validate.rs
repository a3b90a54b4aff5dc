//! The broker's checks of a batch without decompressing it.
//!
//! They run on the leader's request path for every batch, up to 8 MiB: one pass over the bytes for the checksum, a few
//! bytes of each uncompressed record, and no allocation.

use super::error::{BatchError, Malformed};
use super::header::{BatchHeader, RECORD_BYTES_MIN, TimestampType};
use super::record;
use super::scan::RecordTimes;
use crate::compression::Codec;
use crate::ids::{ProducerEpoch, ProducerId, Sequence};
use crate::limits::{BATCH_BYTES_DEFAULT, RECORDS_PER_BATCH_MAX};

/// The bounds that a topic sets for batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most bytes of a batch, header included.
    pub max_batch_bytes: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            max_batch_bytes: BATCH_BYTES_DEFAULT,
        }
    }
}

/// Like [`validate_with_times`], without the times.
///
/// # Errors
/// The first rule that the batch breaks; the size is judged before all else.
pub fn validate(bytes: &[u8], limits: &BatchLimits) -> Result<BatchHeader, BatchError> {
    validate_with_times(bytes, limits).map(|(header, _)| header)
}

/// Checks a batch that a producer sent: the checks of [`verify`], size, codec, count, producer, and that nothing is set
/// that only the broker may set or that is not supported. The base offset and the leader epoch are ignored.
/// Uncompressed records are counted, and each must have its index as its offset delta;
/// [`validate_packed`](super::validate_packed) does that for compressed ones, and
/// [`validate_records`](super::validate_records) checks the contents of records.
///
/// Also returns the times of the records; of compressed ones those in the header.
///
/// # Errors
/// The first rule that the batch breaks; the size is judged before all else.
pub fn validate_with_times(bytes: &[u8], limits: &BatchLimits) -> Result<(BatchHeader, RecordTimes), BatchError> {
    if bytes.len() > limits.max_batch_bytes {
        return Err(BatchError::TooLarge {
            size: bytes.len(),
            limit: limits.max_batch_bytes,
        });
    }
    let header = verify(bytes)?;
    let codec = header.attributes.codec()?;
    check_attributes(&header)?;
    let unpacked = (codec == Codec::None).then(|| &bytes[BatchHeader::LEN..]);
    check_count(&header, unpacked.map(<[u8]>::len))?;
    check_producer(&header)?;
    if header.max_timestamp < header.base_timestamp {
        return Err(Malformed::MaxTimestamp {
            max: header.max_timestamp,
            actual: header.base_timestamp,
        }
        .into());
    }
    // The header's time counts in any case: retention goes by it.
    let mut times = match unpacked {
        Some(records) => record::check_places(records, &header)?,
        None => RecordTimes::default(),
    };
    times.add(header.base_timestamp, None);
    times.add(header.max_timestamp, None);
    Ok((header, times))
}

/// Checks that `bytes` are exactly one batch of magic 2 and that the checksum is right: a reader's check of a batch
/// that a broker has accepted.
///
/// # Errors
/// [`BatchError::Invalid`] or [`BatchError::Corrupt`], by the check that failed.
pub fn verify(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    let size = header.total_size();
    if bytes.len() < size {
        return Err(Malformed::Truncated {
            needed: size,
            actual: bytes.len(),
        }
        .into());
    }
    if bytes.len() > size {
        return Err(Malformed::Trailing {
            extra: bytes.len() - size,
        }
        .into());
    }
    let actual = super::header::checksum(bytes);
    if header.crc != actual {
        return Err(BatchError::Corrupt {
            expected: header.crc,
            actual,
        });
    }
    Ok(header)
}

fn check_attributes(header: &BatchHeader) -> Result<(), Malformed> {
    let attributes = header.attributes;
    if attributes.has_unknown() {
        return Err(Malformed::UnknownAttributes(attributes.0));
    }
    if attributes.is_control() {
        return Err(Malformed::Control);
    }
    if attributes.is_transactional() && !header.producer_id.is_some() {
        return Err(Malformed::TransactionalWithoutProducer);
    }
    if attributes.timestamp_type() == TimestampType::LogAppendTime {
        return Err(Malformed::AppendTime);
    }
    Ok(())
}

/// [`check_count_left`] of a batch that is as its producer made it: each of its offsets has a record.
pub(super) fn check_count(header: &BatchHeader, unpacked_bytes: Option<usize>) -> Result<(), Malformed> {
    let BatchHeader {
        record_count: count,
        last_offset_delta,
        ..
    } = *header;
    if last_offset_delta != count.wrapping_sub(1) {
        return Err(Malformed::Count {
            count,
            last_offset_delta,
        });
    }
    check_count_left(header, unpacked_bytes)
}

/// Checks the header's count, of a batch of which compaction may have taken records, against its other fields and, given the size of
/// the uncompressed records, against their bytes: after that memory may be allocated by it.
pub(super) fn check_count_left(header: &BatchHeader, unpacked_bytes: Option<usize>) -> Result<(), Malformed> {
    let BatchHeader {
        record_count: count,
        last_offset_delta,
        ..
    } = *header;
    if count < 1 || last_offset_delta < count - 1 {
        return Err(Malformed::Count {
            count,
            last_offset_delta,
        });
    }
    if last_offset_delta >= RECORDS_PER_BATCH_MAX {
        return Err(Malformed::TooManyRecords {
            count: last_offset_delta.saturating_add(1),
            limit: RECORDS_PER_BATCH_MAX,
        });
    }
    match unpacked_bytes {
        Some(bytes) if count as usize > bytes / RECORD_BYTES_MIN => Err(Malformed::CountOutOfReach { count, bytes }),
        _ => Ok(()),
    }
}

/// Without a producer id the epoch and the sequence mean nothing, and some clients leave 0 there.
fn check_producer(header: &BatchHeader) -> Result<(), Malformed> {
    let BatchHeader {
        producer_id,
        producer_epoch,
        base_sequence,
        ..
    } = *header;
    let is_named = producer_id.is_some() && producer_epoch >= ProducerEpoch(0) && base_sequence >= Sequence(0);
    if is_named || producer_id == ProducerId::NONE {
        return Ok(());
    }
    Err(Malformed::Producer {
        producer_id: producer_id.get(),
        epoch: producer_epoch.get(),
        base_sequence: base_sequence.get(),
    })
}

#[cfg(test)]
mod tests {
    use super::super::error::RecordFlaw;
    use super::super::header::{LENGTH_COUNTS_FROM, at, put};
    use super::super::{BatchBuilder, checksum, set_append_time};
    use super::*;
    use crate::reason::Reason;

    /// Bytes of each record of [`build`]: seven fields of a byte, and the value.
    const RECORD: usize = 12;

    /// A batch of three records.
    fn build(codec: Codec) -> Vec<u8> {
        let mut builder = BatchBuilder::new(codec);
        builder.producer(ProducerId(1), ProducerEpoch(0), Sequence(0));
        for _ in 0..3 {
            builder.append(1000, None, Some(b"value"), []).unwrap();
        }
        builder.build().to_vec()
    }

    fn check(batch: &[u8]) -> Result<BatchHeader, BatchError> {
        validate(batch, &BatchLimits::default())
    }

    /// The error for a batch with one field changed and the checksum corrected.
    fn with<const N: usize>(place: usize, bytes: [u8; N]) -> BatchError {
        let mut batch = build(Codec::None);
        put(&mut batch, place, bytes);
        let crc = checksum(&batch);
        put(&mut batch, at::CRC, crc.to_be_bytes());
        check(&batch).unwrap_err()
    }

    fn with_count(codec: Codec, count: i32) -> Result<BatchHeader, BatchError> {
        let mut batch = build(codec);
        put(&mut batch, at::RECORD_COUNT, count.to_be_bytes());
        put(&mut batch, at::LAST_OFFSET_DELTA, count.wrapping_sub(1).to_be_bytes());
        let crc = checksum(&batch);
        put(&mut batch, at::CRC, crc.to_be_bytes());
        check(&batch)
    }

    #[test]
    fn every_codec_is_accepted() {
        for codec in Codec::ALL {
            assert!(check(&build(codec)).is_ok(), "{codec}");
        }
    }

    #[test]
    fn a_wrong_checksum_is_corruption() {
        let mut batch = build(Codec::None);
        *batch.last_mut().unwrap() ^= 1;
        let error = check(&batch).unwrap_err();
        assert!(matches!(error, BatchError::Corrupt { .. }));
        assert_eq!(error.reason(), Reason::CorruptBatch);
    }

    #[test]
    fn size_is_judged_first_and_exactly() {
        let mut batch = build(Codec::None);
        let limits = |max_batch_bytes| BatchLimits { max_batch_bytes };
        assert!(validate(&batch, &limits(batch.len())).is_ok());
        *batch.last_mut().unwrap() ^= 1;
        let error = validate(&batch, &limits(batch.len() - 1)).unwrap_err();
        assert_eq!(
            error,
            BatchError::TooLarge {
                size: batch.len(),
                limit: batch.len() - 1
            }
        );
        assert_eq!(error.reason(), Reason::BatchTooLarge);
    }

    #[test]
    fn exactly_one_batch_is_accepted() {
        let mut batch = build(Codec::None);
        let size = batch.len();
        let cut = Malformed::Truncated {
            needed: size,
            actual: size - 1,
        };
        assert_eq!(check(&batch[..size - 1]), Err(cut.into()));
        batch.extend_from_within(..);
        assert_eq!(check(&batch), Err(Malformed::Trailing { extra: size }.into()));
        assert_eq!(check(&[]), Err(Malformed::Truncated { needed: 61, actual: 0 }.into()));
    }

    #[test]
    fn unsupported_attributes_are_refused() {
        let with_attributes = |bits: i16| with(at::ATTRIBUTES, bits.to_be_bytes());
        assert_eq!(with_attributes(5), BatchError::UnsupportedCodec { id: 5 });
        assert_eq!(with_attributes(5).reason(), Reason::UnsupportedCodec);
        assert_eq!(with_attributes(0x08), Malformed::AppendTime.into());
        assert_eq!(with_attributes(0x20), Malformed::Control.into());
        assert_eq!(with_attributes(0x30), Malformed::Control.into());
        assert_eq!(with_attributes(0x40), Malformed::UnknownAttributes(0x40).into());
        assert_eq!(with_attributes(0x40).reason(), Reason::InvalidBatch);
    }

    #[test]
    fn a_transactional_batch_needs_a_producer() {
        let mut builder = BatchBuilder::new(Codec::Lz4);
        builder.transactional().append(0, None, Some(b"v"), []).unwrap();
        let without = Malformed::TransactionalWithoutProducer;
        assert_eq!(check(&builder.build()), Err(without.into()));
        let mut builder = BatchBuilder::new(Codec::Lz4);
        builder
            .producer(ProducerId(1), ProducerEpoch(0), Sequence(0))
            .transactional();
        builder.append(0, None, Some(&[7; 1000]), []).unwrap();
        let header = check(&builder.build()).unwrap();
        assert!(header.attributes.is_transactional() && !header.attributes.is_control());
        assert_eq!(header.attributes.codec(), Ok(Codec::Lz4));
    }

    #[test]
    fn count_and_last_offset_agree() {
        let contradiction = |count, last_offset_delta| {
            Malformed::Count {
                count,
                last_offset_delta,
            }
            .into()
        };
        assert_eq!(with(at::RECORD_COUNT, 2_i32.to_be_bytes()), contradiction(2, 2));
        assert_eq!(
            with(at::LAST_OFFSET_DELTA, i32::MAX.to_be_bytes()),
            contradiction(3, i32::MAX)
        );
        assert_eq!(with_count(Codec::None, 0), Err(contradiction(0, -1)));
        assert_eq!(
            with_count(Codec::None, i32::MIN),
            Err(contradiction(i32::MIN, i32::MAX))
        );
    }

    #[test]
    fn count_is_bounded() {
        let bytes = build(Codec::None).len() - BatchHeader::LEN;
        let out_of_reach = |count| Err(Malformed::CountOutOfReach { count, bytes }.into());
        assert_eq!(with_count(Codec::None, 100), out_of_reach(100));
        assert!(with_count(Codec::Zstd, 100).is_ok(), "only unpacking can tell");
        let limit = RECORDS_PER_BATCH_MAX;
        assert!(with_count(Codec::Zstd, limit).is_ok());
        let too_many = Malformed::TooManyRecords {
            count: limit + 1,
            limit,
        };
        assert_eq!(with_count(Codec::Zstd, limit + 1), Err(too_many.into()));
    }

    #[test]
    fn records_that_are_not_compressed_are_counted() {
        assert_eq!(build(Codec::None).len(), BatchHeader::LEN + 3 * RECORD);
        let left = |records: usize| {
            let bytes = records * RECORD;
            Err(Malformed::TrailingRecords { bytes }.into())
        };
        assert_eq!(with_count(Codec::None, 1), left(2));
        assert_eq!(with_count(Codec::None, 2), left(1));
        let missing = Malformed::Record {
            index: 3,
            flaw: RecordFlaw::Truncated,
        };
        assert_eq!(with_count(Codec::None, 4), Err(missing.into()));
        assert!(with_count(Codec::Zstd, 1).is_ok(), "only unpacking can tell");
    }

    #[test]
    fn compressed_records_are_counted_when_they_are_unpacked() {
        const MAX: usize = 1 << 20;
        let with = |codec, change: &dyn Fn(&mut Vec<u8>)| {
            let mut builder = BatchBuilder::new(codec);
            for _ in 0..300 {
                builder.append(1000, None, Some(b"value"), []).unwrap();
            }
            let mut batch = builder.build().to_vec();
            change(&mut batch);
            let length = (batch.len() - LENGTH_COUNTS_FROM) as i32;
            put(&mut batch, at::BATCH_LENGTH, length.to_be_bytes());
            let crc = checksum(&batch);
            put(&mut batch, at::CRC, crc.to_be_bytes());
            check(&batch).expect("the header is fine");
            super::super::validate_packed(&batch, MAX)
        };
        let counted = |count: i32| {
            move |batch: &mut Vec<u8>| {
                put(batch, at::RECORD_COUNT, count.to_be_bytes());
                put(batch, at::LAST_OFFSET_DELTA, (count - 1).to_be_bytes());
            }
        };
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let whole = with(codec, &|_| {}).expect("sound");
            assert_eq!(whole.latest().map(|time| time.ms), Some(1000), "{codec}");
            assert!(matches!(
                with(codec, &counted(1)),
                Err(BatchError::Invalid(Malformed::TrailingRecords { .. }))
            ));
            let missing = Malformed::Record {
                index: 300,
                flaw: RecordFlaw::Truncated,
            };
            assert_eq!(with(codec, &counted(301)), Err(missing.into()), "{codec}");
            let garbage = with(codec, &|batch| batch[BatchHeader::LEN..].fill(0xa5));
            let is_named = |error: &BatchError| match error {
                BatchError::Invalid(Malformed::Compression { codec: named, .. }) => *named == codec,
                _ => false,
            };
            assert!(garbage.as_ref().is_err_and(is_named), "{codec}: {garbage:?}");
            let cut = with(codec, &|batch| batch.truncate(BatchHeader::LEN + 40));
            assert!(cut.is_err(), "{codec}");
        }
    }

    #[test]
    fn each_record_has_its_place_as_its_offset_delta() {
        // Length, attributes and timestamp delta come before it.
        let delta_of = |index: usize| BatchHeader::LEN + index * RECORD + 3;
        for (index, delta) in [(0, 1_i32), (1, 0), (1, 2), (2, -1)] {
            let wrong = Malformed::Record {
                index,
                flaw: RecordFlaw::OffsetDelta,
            };
            let zigzag = ((delta << 1) ^ (delta >> 31)) as u8;
            assert_eq!(
                with(delta_of(index as usize), [zigzag]),
                wrong.into(),
                "{index}: {delta}"
            );
        }
        let wrong = Malformed::Record {
            index: 1,
            flaw: RecordFlaw::NegativeLength,
        };
        assert_eq!(with(BatchHeader::LEN + RECORD, [1]), wrong.into());
    }

    #[test]
    fn producer_fields_agree() {
        let refused = |error: BatchError| matches!(error, BatchError::Invalid(Malformed::Producer { .. }));
        assert!(refused(with(at::PRODUCER_ID, (-2_i64).to_be_bytes())));
        assert!(refused(with(at::PRODUCER_EPOCH, (-1_i16).to_be_bytes())));
        assert!(refused(with(at::BASE_SEQUENCE, (-1_i32).to_be_bytes())));
    }

    #[test]
    fn without_producer_the_sequence_is_ignored() {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.producer(ProducerId::NONE, ProducerEpoch::NONE, Sequence(0));
        builder.append(0, None, None, []).unwrap();
        let header = check(&builder.build()).unwrap();
        assert!(!header.is_idempotent());
        assert_eq!(header.last_sequence(), Sequence::NONE);
    }

    #[test]
    fn max_timestamp_is_not_before_the_first() {
        let error = with(at::MAX_TIMESTAMP, 999_i64.to_be_bytes());
        assert_eq!(error, Malformed::MaxTimestamp { max: 999, actual: 1000 }.into());
    }

    #[test]
    fn what_the_broker_stored_verifies() {
        let mut batch = build(Codec::Lz4);
        set_append_time(&mut batch, 5);
        assert!(verify(&batch).is_ok());
        assert_eq!(
            check(&batch),
            Err(Malformed::AppendTime.into()),
            "a producer may not send it"
        );
    }

    #[test]
    fn a_header_alone_has_no_records() {
        let mut batch = build(Codec::None);
        batch.truncate(BatchHeader::LEN);
        let length = (batch.len() - LENGTH_COUNTS_FROM) as i32;
        put(&mut batch, at::BATCH_LENGTH, length.to_be_bytes());
        let crc = checksum(&batch);
        put(&mut batch, at::CRC, crc.to_be_bytes());
        assert_eq!(
            check(&batch),
            Err(Malformed::CountOutOfReach { count: 3, bytes: 0 }.into())
        );
    }
}
