//! The records and batches that a consumer hands out.

use std::sync::Arc;

use bytes::Bytes;
use jangada_types::batch::{BatchIter, Records};
use jangada_types::limits::DECOMPRESSED_BYTES_MAX;
use jangada_types::{BatchError, BatchHeader, Header};

/// A record that was read.
///
/// Key, value and header values are slices of the response that they came in: one that is kept keeps all of it in memory. Copy
/// what is to stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's index.
    pub partition: u32,
    /// The record's position in its partition.
    pub offset: i64,
    /// Epoch of the leader that appended the record. `None`: its batch does not say.
    pub leader_epoch: Option<u32>,
    /// The record's time, milliseconds since the Unix epoch; [`NO_TIMESTAMP`](crate::NO_TIMESTAMP) when it has none.
    pub timestamp_ms: i64,
    /// The record's key; an empty key is a key.
    pub key: Option<Bytes>,
    /// The record's value. `None`: the record is a tombstone.
    pub value: Option<Bytes>,
    /// The record's headers, in the producer's order.
    pub headers: Vec<Header>,
}

/// Record batches of one partition, undecoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBatches {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's index.
    pub partition: u32,
    /// Whole Kafka record batches (magic 2), one after the other. The first may begin below `first_offset`.
    pub batches: Bytes,
    /// The first offset that was asked for.
    pub first_offset: i64,
    /// The offset after the last record.
    pub next_offset: i64,
    /// The offset after the last committed record of the partition, as of the fetch.
    pub high_watermark: i64,
}

impl RawBatches {
    /// Number of offsets from `first_offset` on.
    pub fn records(&self) -> u64 {
        self.next_offset.saturating_sub(self.first_offset).max(0) as u64
    }
}

/// A place where batches do not follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gap {
    /// Number of bytes before the gap.
    pub at: usize,
    pub expected: i64,
    pub found: i64,
}

/// What the headers of a response's batches say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// The first place where batches are missing.
    pub gap: Option<Gap>,
    /// Whether a batch is part of a transaction, or ends one.
    pub has_transactions: bool,
    /// The offset after the last batch that can be read.
    pub end: Option<i64>,
}

/// Checks that batches are contiguous: the first begins at or below the first offset, each begins where the one before
/// ends, and the last ends at the next offset. `may_skip`: batches may be missing between them, but none comes twice. Batches that
/// cannot be read are left to the decoder.
pub(crate) fn check(raw: &RawBatches, may_skip: bool) -> Checked {
    let mut checked = Checked::default();
    let mut at = 0;
    let mut expected = None;
    for batch in BatchIter::new(raw.batches.clone()) {
        let Ok((header, bytes)) = batch else { return checked };
        checked.has_transactions |= header.attributes.is_transactional() || header.attributes.is_control();
        let found = header.base_offset;
        let wanted = expected.unwrap_or(raw.first_offset);
        if found > wanted && !may_skip || found < wanted && expected.is_some() {
            checked.gap = Some(Gap {
                at,
                expected: wanted,
                found,
            });
            return checked;
        }
        at += bytes.len();
        let end = found
            .saturating_add(i64::from(header.last_offset_delta))
            .saturating_add(1);
        // A batch that ends before the offset that was asked for proves nothing about the next one.
        expected = (end > raw.first_offset).then_some(end);
        checked.end = Some(end);
    }
    let found = raw.next_offset;
    if let Some(expected) = expected.filter(|expected| found > *expected && !may_skip) {
        checked.gap = Some(Gap { at, expected, found });
    }
    checked
}

/// A batch that cannot be decoded.
#[derive(Debug)]
pub(crate) struct BadBatch {
    pub cause: BatchError,
    /// The batch's first offset, and the one after its last, if they can be told.
    pub offsets: Option<(i64, i64)>,
}

/// Batches that are decoded one after the other: decompressed they may take a thousand times as much.
pub(crate) struct Undecoded {
    raw: RawBatches,
    rest: BatchIter,
}

impl Undecoded {
    pub fn new(raw: RawBatches) -> Self {
        let rest = BatchIter::new(raw.batches.clone());
        Self { raw, rest }
    }

    /// The batches that it decodes.
    pub fn raw(&self) -> &RawBatches {
        &self.raw
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Appends the next batch's records from `first_offset` on to `records`. Returns about how many bytes they take. On
    /// an error the records before it have been appended.
    pub fn decode_next(&mut self, records: &mut impl Extend<ConsumedRecord>) -> Result<usize, BadBatch> {
        let Some(batch) = self.rest.next() else { return Ok(0) };
        let (header, bytes) = batch.map_err(|cause| BadBatch { cause, offsets: None })?;
        self.decode(&header, &bytes, records).map_err(|cause| BadBatch {
            cause,
            offsets: self.offsets_of(&header),
        })
    }

    /// The offsets of a batch whose checksum may be wrong: where the next one begins says where it ends.
    fn offsets_of(&self, header: &BatchHeader) -> Option<(i64, i64)> {
        let end = match self.rest.clone().next() {
            Some(next) => next.ok()?.0.base_offset,
            None => self.raw.next_offset,
        };
        (header.base_offset < end && end <= self.raw.next_offset).then_some((header.base_offset, end))
    }

    fn decode(
        &self,
        header: &BatchHeader,
        bytes: &Bytes,
        records: &mut impl Extend<ConsumedRecord>,
    ) -> Result<usize, BatchError> {
        let first_offset = self.raw.first_offset;
        if header.base_offset.saturating_add(i64::from(header.last_offset_delta)) < first_offset {
            return Ok(0);
        }
        let mut size = 0;
        for record in Records::new(bytes, DECOMPRESSED_BYTES_MAX)? {
            let record = record?;
            let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
            size += size_of::<ConsumedRecord>() + length(&record.key) + length(&record.value);
            if record.offset.get() < first_offset {
                continue;
            }
            records.extend([ConsumedRecord {
                topic: self.raw.topic.clone(),
                partition: self.raw.partition,
                offset: record.offset.get(),
                leader_epoch: u32::try_from(header.partition_leader_epoch).ok(),
                timestamp_ms: record.timestamp_ms,
                key: record.key,
                value: record.value,
                headers: record.headers,
            }]);
        }
        Ok(size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use jangada_types::batch::set_position;
    use jangada_types::{BatchBuilder, Codec, LeaderEpoch, Offset};

    fn batch(base: i64, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::Lz4);
        for value in values {
            builder.append(5, None, Some(value.as_bytes()), []).expect("small");
        }
        let mut bytes = BytesMut::from(&builder.build()[..]);
        set_position(&mut bytes, Offset(base), LeaderEpoch(1));
        bytes.freeze()
    }

    #[test]
    fn a_bad_batch_ends_where_the_next_one_begins() {
        let mut bad = batch(12, &["c", "d", "e"]).to_vec();
        *bad.last_mut().expect("not empty") ^= 1;
        let batches = [
            batch(10, &["a", "b"]),
            bad.clone().into(),
            batch(15, &["f"]),
            bad.into(),
        ]
        .concat();
        let raw = RawBatches {
            topic: "t".into(),
            partition: 2,
            batches: batches.into(),
            first_offset: 10,
            next_offset: 19,
            high_watermark: 20,
        };
        let mut records = Vec::new();
        let mut undecoded = Undecoded::new(raw);
        undecoded.decode_next(&mut records).expect("good");
        let bad = undecoded.decode_next(&mut records).expect_err("damaged");
        assert_eq!(bad.offsets, Some((12, 15)));
        undecoded.decode_next(&mut records).expect("good");
        let last = undecoded.decode_next(&mut records).expect_err("damaged");
        assert_eq!(
            last.offsets,
            Some((12, 19)),
            "the response says where the last one ends"
        );
        assert_eq!(records.len(), 3);
    }

    #[test]
    fn records_below_the_offset_asked_for_are_left_out() {
        let batches = [batch(10, &["a", "b"]), batch(12, &["c", "d", "e"]), batch(15, &["f"])].concat();
        let raw = RawBatches {
            topic: "t".into(),
            partition: 2,
            batches: batches.into(),
            first_offset: 13,
            next_offset: 16,
            high_watermark: 20,
        };
        let mut records = Vec::new();
        let mut undecoded = Undecoded::new(raw.clone());
        while !undecoded.is_empty() {
            undecoded.decode_next(&mut records).expect("good batches");
        }
        let offsets: Vec<i64> = records.iter().map(|record| record.offset).collect();
        assert_eq!(offsets, [13, 14, 15]);
        assert_eq!(raw.records(), 3);
        assert_eq!(records[0].value.as_deref(), Some(&b"d"[..]));
        assert!(records.iter().all(|record| record.leader_epoch == Some(1)));
    }

    fn raw(batches: &[Bytes], first_offset: i64, next_offset: i64) -> RawBatches {
        RawBatches {
            topic: "t".into(),
            partition: 2,
            batches: batches.concat().into(),
            first_offset,
            next_offset,
            high_watermark: 20,
        }
    }

    #[test]
    fn batches_that_do_not_follow_one_another_are_a_gap() {
        let find_gap = |raw: &RawBatches| check(raw, false).gap;
        let three = [batch(10, &["a", "b"]), batch(12, &["c", "d", "e"]), batch(15, &["f"])];
        assert_eq!(find_gap(&raw(&three, 11, 16)), None);
        assert_eq!(find_gap(&raw(&three, 13, 16)), None, "the first batch lies below");
        let gap = |at, expected, found| Some(Gap { at, expected, found });
        assert_eq!(find_gap(&raw(&three, 9, 16)), gap(0, 9, 10));
        assert_eq!(find_gap(&raw(&three, 11, 18)), gap(three.concat().len(), 16, 18));
        let [first, _, last] = three;
        assert_eq!(
            find_gap(&raw(&[first.clone(), last.clone()], 10, 16)),
            gap(first.len(), 12, 15)
        );
        assert_eq!(find_gap(&raw(&[last.clone(), first], 15, 16)), gap(last.len(), 16, 10));
        assert_eq!(find_gap(&raw(&[Bytes::from_static(b"garbage")], 3, 9)), None);
    }

    #[test]
    fn batches_may_be_missing_in_a_compacted_topic_and_none_comes_twice() {
        let (first, last) = (batch(10, &["a", "b"]), batch(15, &["f"]));
        let with_holes = raw(&[first.clone(), last.clone()], 8, 20);
        assert_eq!(check(&with_holes, true).gap, None);
        let backwards = check(&raw(&[last, first], 15, 16), true);
        assert!(backwards.gap.is_some());
    }
}
