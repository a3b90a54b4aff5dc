//! Builds a record batch.

use bytes::Bytes;

use super::error::{BatchError, Malformed};
use super::header::{Attributes, BatchHeader, LENGTH_COUNTS_FROM, MAGIC, at, put};
use super::record::Record;
use super::varint;
use crate::compression::{self, Codec};
use crate::ids::{ProducerEpoch, ProducerId, Sequence};
use crate::limits::{DECOMPRESSED_BYTES_MAX, RECORDS_PER_BATCH_MAX};

/// Most bytes that a record's own fields take beside key, value and headers: length, attributes, timestamp, offset, two
/// lengths and a count.
const RECORD_OVERHEAD_MAX: usize = 5 + 1 + 10 + 5 + 5 + 5 + 5;
/// Most bytes that a header's lengths take.
const HEADER_OVERHEAD_MAX: usize = 5 + 5;

/// Collects records into one batch: in the client's producer, and in the broker for records in the plain form.
///
/// Records are encoded as they come, behind room for the header, so that an uncompressed batch is never copied.
#[derive(Debug)]
pub struct BatchBuilder {
    codec: Codec,
    /// The flags among the attributes: transactional, control.
    flags: Attributes,
    /// Room for the header, then the uncompressed records.
    buffer: Vec<u8>,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    base_sequence: Sequence,
}

impl BatchBuilder {
    /// An empty batch.
    pub fn new(codec: Codec) -> Self {
        Self::with_capacity(codec, BatchHeader::LEN)
    }

    /// An empty batch with room for this many bytes before compression, header included.
    pub fn with_capacity(codec: Codec, bytes: usize) -> Self {
        let mut buffer = Vec::with_capacity(bytes.max(BatchHeader::LEN));
        buffer.resize(BatchHeader::LEN, 0);
        Self {
            codec,
            flags: Attributes::default(),
            buffer,
            count: 0,
            base_timestamp: 0,
            max_timestamp: i64::MIN,
            producer_id: ProducerId::NONE,
            producer_epoch: ProducerEpoch::NONE,
            base_sequence: Sequence::NONE,
        }
    }

    /// Upper bound of the bytes that a record takes in a batch before compression.
    pub fn record_size_max<'a>(
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
    ) -> usize {
        let len = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
        let headers = headers
            .into_iter()
            .map(|(key, value)| HEADER_OVERHEAD_MAX + key.len() + len(value));
        RECORD_OVERHEAD_MAX + len(key) + len(value) + headers.sum::<usize>()
    }

    /// Adds a record. Headers are pairs of key and value; without any, pass `[]`.
    ///
    /// # Errors
    /// [`BatchError::TooLarge`] or [`BatchError::Invalid`] when the batch would have more bytes before compression,
    /// or more records, than any batch may have. The batch is then as before.
    pub fn append<'a, H>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: H,
    ) -> Result<(), BatchError>
    where
        H: IntoIterator<Item = (&'a str, Option<&'a [u8]>)>,
        H::IntoIter: ExactSizeIterator + Clone,
    {
        let headers = headers.into_iter();
        if self.count == RECORDS_PER_BATCH_MAX {
            let count = self.count.saturating_add(1);
            return Err(Malformed::TooManyRecords {
                count,
                limit: RECORDS_PER_BATCH_MAX,
            }
            .into());
        }
        // Kafka's deltas wrap, too.
        let timestamp_delta = if self.count == 0 {
            0
        } else {
            timestamp_ms.wrapping_sub(self.base_timestamp)
        };
        let offset_delta = i64::from(self.count);

        let header_bytes = headers
            .clone()
            .map(|(key, value)| nullable_len(Some(key.as_bytes())) + nullable_len(value));
        let length = 1
            + varint::len(timestamp_delta)
            + varint::len(offset_delta)
            + nullable_len(key)
            + nullable_len(value)
            + varint::len(headers.len() as i64)
            + header_bytes.sum::<usize>();
        let size = self.buffer.len() - BatchHeader::LEN + varint::len(length as i64) + length;
        if size > DECOMPRESSED_BYTES_MAX {
            return Err(BatchError::TooLarge {
                size,
                limit: DECOMPRESSED_BYTES_MAX,
            });
        }

        let out = &mut self.buffer;
        varint::put(out, length as i64);
        let start = out.len();
        out.push(0);
        varint::put(out, timestamp_delta);
        varint::put(out, offset_delta);
        put_nullable(out, key);
        put_nullable(out, value);
        varint::put(out, headers.len() as i64);
        for (key, value) in headers {
            put_nullable(out, Some(key.as_bytes()));
            put_nullable(out, value);
        }
        assert_eq!(out.len() - start, length, "a record is as long as it says");

        if self.count == 0 {
            self.base_timestamp = timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        self.count += 1;
        Ok(())
    }

    /// Adds a decoded record; its offset is ignored.
    ///
    /// # Errors
    /// The errors of [`BatchBuilder::append`].
    pub fn append_record(&mut self, record: &Record) -> Result<(), BatchError> {
        let headers = record
            .headers
            .iter()
            .map(|header| (header.key.as_str(), header.value.as_deref()));
        self.append(
            record.timestamp_ms,
            record.key.as_deref(),
            record.value.as_deref(),
            headers,
        )
    }

    /// Sets the idempotent producer that the batch is from.
    pub fn producer(&mut self, id: ProducerId, epoch: ProducerEpoch, base_sequence: Sequence) -> &mut Self {
        self.producer_id = id;
        self.producer_epoch = epoch;
        self.base_sequence = base_sequence;
        self
    }

    /// Makes it a batch of its producer's transaction.
    pub fn transactional(&mut self) -> &mut Self {
        self.flags = self.flags.transactional();
        self
    }

    /// Makes it a control batch of its producer's transaction, which only a leader writes.
    pub(super) fn control(&mut self) -> &mut Self {
        self.flags = self.flags.transactional().control();
        self
    }

    /// Bytes of the batch before compression, header included: no built batch is larger.
    pub fn estimated_size(&self) -> usize {
        self.buffer.len()
    }

    /// Number of records so far.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether it has no records yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Builds the batch, with base offset 0 and leader epoch -1. It is compressed only if that makes it smaller.
    ///
    /// # Panics
    /// Panics without records: a batch has at least one.
    pub fn build(self) -> Bytes {
        assert!(self.count > 0, "a batch has at least one record");
        let (codec, mut batch) = match self.codec {
            Codec::None => (Codec::None, self.buffer),
            codec => {
                let mut packed = vec![0; BatchHeader::LEN];
                compression::compress_into(codec, &self.buffer[BatchHeader::LEN..], &mut packed);
                // Records that do not get smaller are left uncompressed, so that no batch is larger than it was
                // estimated.
                if packed.len() < self.buffer.len() {
                    (codec, packed)
                } else {
                    (Codec::None, self.buffer)
                }
            }
        };
        let header = BatchHeader {
            base_offset: 0,
            batch_length: i32::try_from(batch.len() - LENGTH_COUNTS_FROM)
                .expect("the size before compression is bounded"),
            partition_leader_epoch: -1,
            magic: MAGIC,
            crc: 0,
            attributes: self.flags.with_codec(codec),
            last_offset_delta: self.count - 1,
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: self.base_sequence,
            record_count: self.count,
        };
        header.write(&mut batch);
        let crc = super::header::checksum(&batch);
        put(&mut batch, at::CRC, crc.to_be_bytes());
        batch.into()
    }
}

/// Bytes of a length and of the field that it belongs to.
fn nullable_len(bytes: Option<&[u8]>) -> usize {
    bytes.map_or(1, |bytes| varint::len(bytes.len() as i64) + bytes.len())
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::put(out, -1),
        Some(bytes) => {
            varint::put(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BatchLimits, decode_records, validate};
    use super::*;

    #[test]
    fn an_empty_builder_is_a_header() {
        let builder = BatchBuilder::new(Codec::None);
        assert!(builder.is_empty());
        assert_eq!((builder.len(), builder.estimated_size()), (0, BatchHeader::LEN));
    }

    #[test]
    #[should_panic(expected = "at least one record")]
    fn an_empty_batch_is_a_bug() {
        let _ = BatchBuilder::new(Codec::None).build();
    }

    #[test]
    fn a_new_batch_has_no_position_and_no_producer() {
        let mut builder = BatchBuilder::new(Codec::Zstd);
        builder.append(7, Some(b"k"), None, []).unwrap();
        let header = validate(&builder.build(), &BatchLimits::default()).unwrap();
        assert_eq!((header.base_offset, header.partition_leader_epoch), (0, -1));
        assert_eq!((header.base_timestamp, header.max_timestamp), (7, 7));
        assert_eq!(header.producer_id, ProducerId::NONE);
    }

    #[test]
    fn an_uncompressed_batch_is_built_in_place() {
        let mut builder = BatchBuilder::with_capacity(Codec::None, 1000);
        builder.append(0, None, Some(b"value"), []).unwrap();
        let place = builder.buffer.as_ptr();
        assert_eq!(builder.build().as_ptr(), place);
    }

    #[test]
    fn what_does_not_compress_does_not_grow() {
        let mut noise = 1_u64;
        let mut byte = || {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            (noise >> 32) as u8
        };
        let value: Vec<u8> = (0..1 << 20).map(|_| byte()).collect();
        for codec in Codec::ALL {
            let mut builder = BatchBuilder::new(codec);
            builder.append(7, None, Some(&value), []).unwrap();
            let estimated = builder.estimated_size();
            let batch = builder.build();
            assert!(batch.len() <= estimated, "{codec:?}: {} bytes", batch.len());
            assert_eq!(
                decode_records(&batch, 2 << 20).unwrap()[0].value.as_deref(),
                Some(&value[..])
            );
        }
    }

    #[test]
    fn timestamps_as_far_apart_as_can_be_come_back() {
        let mut builder = BatchBuilder::new(Codec::None);
        for timestamp_ms in [i64::MAX, i64::MIN, 0, -1] {
            builder.append(timestamp_ms, None, None, []).unwrap();
        }
        let records = decode_records(&builder.build(), 1000).unwrap();
        let timestamps: Vec<_> = records.iter().map(|record| record.timestamp_ms).collect();
        assert_eq!(timestamps, [i64::MAX, i64::MIN, 0, -1]);
    }

    #[test]
    fn a_record_that_does_not_fit_leaves_the_batch_as_it_was() {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(1, None, Some(b"fits"), []).unwrap();
        let before = builder.estimated_size();
        let huge = vec![0; DECOMPRESSED_BYTES_MAX];
        assert!(matches!(
            builder.append(2, None, Some(&huge), []),
            Err(BatchError::TooLarge { .. })
        ));
        assert_eq!((builder.len(), builder.estimated_size()), (1, before));
        let records = decode_records(&builder.build(), 1000).unwrap();
        assert_eq!((records.len(), records[0].timestamp_ms), (1, 1));
    }

    #[test]
    fn the_largest_count_builds_and_reads() {
        let mut builder = BatchBuilder::new(Codec::Zstd);
        for _ in 0..RECORDS_PER_BATCH_MAX {
            builder.append(0, None, None, []).unwrap();
        }
        let too_many = Malformed::TooManyRecords {
            count: RECORDS_PER_BATCH_MAX + 1,
            limit: RECORDS_PER_BATCH_MAX,
        };
        assert_eq!(builder.append(0, None, None, []), Err(too_many.into()));
        let batch = builder.build();
        assert!(validate(&batch, &BatchLimits::default()).is_ok());
        assert_eq!(super::super::validate_records(&batch, DECOMPRESSED_BYTES_MAX), Ok(()));
    }
}
