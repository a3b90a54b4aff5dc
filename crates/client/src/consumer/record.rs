//! What a consumer hands out.

use std::sync::Arc;

use bytes::Bytes;
use jangada_types::batch::{BatchIter, Records};
use jangada_types::limits::DECOMPRESSED_BYTES_MAX;
use jangada_types::{BatchError, Header};

/// A record that was read.
///
/// Key, value and header values are slices of the response that they came in: one that is kept keeps all of it in memory. Copy
/// what is to stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// Its position in the partition.
    pub offset: i64,
    /// Of the leader that appended it. `None`: its batch does not say.
    pub leader_epoch: Option<u32>,
    /// Milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// An empty key is a key.
    pub key: Option<Bytes>,
    /// Without one it is a tombstone.
    pub value: Option<Bytes>,
    /// In the producer's order.
    pub headers: Vec<Header>,
}

/// Record batches of one partition, undecoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawBatches {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: u32,
    /// Whole Kafka record batches (magic 2), one after the other. The first may begin below `first_offset`.
    pub batches: Bytes,
    /// The first offset that was asked for.
    pub first_offset: i64,
    /// The offset after the last record.
    pub next_offset: i64,
    /// The offset after the last committed record of the partition, as of then.
    pub high_watermark: i64,
}

impl RawBatches {
    /// How many offsets there are from `first_offset` on.
    pub fn records(&self) -> u64 {
        self.next_offset.saturating_sub(self.first_offset).max(0) as u64
    }
}

/// Batches that are decoded one after the other: unpacked they may take a thousand times as much.
pub(crate) struct Undecoded {
    raw: RawBatches,
    rest: BatchIter,
}

impl Undecoded {
    pub fn new(raw: RawBatches) -> Self {
        let rest = BatchIter::new(raw.batches.clone());
        Self { raw, rest }
    }

    /// Where they come from.
    pub fn raw(&self) -> &RawBatches {
        &self.raw
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next batch's records from `first_offset` on, appended to `records`; about how many bytes they take. On an error those
    /// before it are there.
    pub fn decode_next(&mut self, records: &mut impl Extend<ConsumedRecord>) -> Result<usize, BatchError> {
        let Some(batch) = self.rest.next() else { return Ok(0) };
        let (header, bytes) = batch?;
        let first_offset = self.raw.first_offset;
        if header.base_offset.saturating_add(i64::from(header.last_offset_delta)) < first_offset {
            return Ok(0);
        }
        let mut size = 0;
        for record in Records::new(&bytes, DECOMPRESSED_BYTES_MAX)? {
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
}
