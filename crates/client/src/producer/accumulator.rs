//! Gathers a partition's records into batches.
//!
//! Senders append under a short lock; the driver takes batches out. An open batch is taken when it is due: its linger
//! is over, or a flush was asked for. Until then, and while the partition's lane has no room, it grows up to its limit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use jangada_types::batch::{Records, set_producer};
use jangada_types::limits::{DECOMPRESSED_BYTES_MAX, RECORDS_PER_BATCH_MAX};
use jangada_types::{BatchBuilder, BatchError, BatchHeader, Codec, Record};
use tokio::time::Instant;

use super::delivery::{BatchReport, Delivery, Reporter};
use super::identity::Stamp;
use super::record::{Condition, ProducerRecord};
use crate::error::ClientError;

/// Records that are sent together and have one outcome.
pub(crate) struct Batch {
    /// The builder, until the batch is built.
    builder: Option<BatchBuilder>,
    /// The record batch, once it is built.
    bytes: Bytes,
    /// The producer's id, epoch and sequence in the batch's header.
    stamp: Stamp,
    pub reporter: Reporter,
    /// The time at which its first record came: the delivery timeout runs from here.
    pub opened: Instant,
    /// Bytes of the producer's buffer that it holds.
    pub charged: usize,
    pub records: i32,
    /// The condition under which it may be appended.
    pub condition: Option<Condition>,
}

impl Batch {
    /// Its bytes as it was sent last; 0 before.
    pub fn sent_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The record batch with this stamp. It is built the first time, patched when the stamp is another one, and shared
    /// otherwise.
    pub fn bytes_as(&mut self, stamp: Stamp) -> Bytes {
        if let Some(mut builder) = self.builder.take() {
            builder.producer(stamp.id, stamp.epoch, stamp.sequence);
            self.bytes = builder.build();
        } else if self.stamp != stamp {
            let bytes = std::mem::take(&mut self.bytes);
            let mut bytes = bytes
                .try_into_mut()
                .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
            set_producer(&mut bytes, stamp.id, stamp.epoch, stamp.sequence);
            self.bytes = bytes.freeze();
        }
        self.stamp = stamp;
        self.bytes.clone()
    }

    /// Divides the records among at least two batches, each as large as the limit allows as far as can be told before
    /// compression; without a limit about half as large. One record alone may still be too large. Only for a batch that
    /// was sent, with at least two records.
    pub fn split(self, codec: Codec, limit: Option<usize>) -> Vec<Self> {
        let records =
            Records::new(&self.bytes, DECOMPRESSED_BYTES_MAX).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let records: Vec<Record> = records.expect("the batch was built here");
        assert!(records.len() > 1, "a record is not divided");
        let is_transactional = BatchHeader::parse(&self.bytes).is_ok_and(|header| header.attributes.is_transactional());
        let unpacked: usize = BatchHeader::LEN + records.iter().map(size_max).sum::<usize>();
        let half = unpacked.div_ceil(2);
        let target = match limit {
            // Parts compress about as well as the whole; a little worse, as they are smaller.
            Some(limit) => {
                let packs = limit.saturating_mul(unpacked) / self.bytes.len().max(1);
                limit.max(packs - packs / 8).min(half)
            }
            None => half,
        };
        let mut builders: Vec<BatchBuilder> = Vec::new();
        for record in &records {
            let fits = |builder: &&mut BatchBuilder| builder.estimated_size() + size_max(record) <= target;
            let builder = match builders.last_mut().filter(fits) {
                Some(builder) => builder,
                None => {
                    let mut builder = BatchBuilder::new(codec);
                    if is_transactional {
                        builder.transactional();
                    }
                    builders.push(builder);
                    builders.last_mut().expect("just pushed")
                }
            };
            builder.append_record(record).expect("it was in a larger batch");
        }
        let counts: Vec<i32> = builders.iter().map(|builder| builder.len() as i32).collect();
        let charges = shares(self.charged, &counts);
        let reporters = self.reporter.split(&counts);
        let parts = builders.into_iter().zip(reporters).zip(counts.iter().zip(charges));
        let part = |((builder, reporter), (records, charged)): ((BatchBuilder, Reporter), (&i32, usize))| Self {
            builder: None,
            bytes: builder.build(),
            stamp: Stamp::NONE,
            reporter,
            opened: self.opened,
            charged,
            records: *records,
            condition: None,
        };
        parts.map(part).collect()
    }

    /// Closes the batch for further records. Compression, which costs time, is done here, in the sender's task.
    fn seal(&mut self, codec: Codec) {
        if codec != Codec::None
            && let Some(builder) = self.builder.take()
        {
            self.bytes = builder.build();
        }
    }
}

/// Upper bound of a record's size before compression, bytes.
fn size_max(record: &Record) -> usize {
    let headers = record.headers.iter();
    let headers = headers.map(|header| (header.key.as_str(), header.value.as_deref()));
    BatchBuilder::record_size_max(record.key.as_deref(), record.value.as_deref(), headers)
}

/// Divides `whole` in proportion to these numbers of records, with nothing left over.
fn shares(whole: usize, counts: &[i32]) -> Vec<usize> {
    let records = counts.iter().map(|count| *count as usize).sum::<usize>();
    let (mut left, mut records_left) = (whole, records);
    let share = |count: &i32| {
        let share = left * *count as usize / records_left;
        (left, records_left) = (left - share, records_left - *count as usize);
        share
    };
    counts.iter().map(share).collect()
}

pub(crate) struct Accumulator {
    codec: Codec,
    /// Whether its batches are parts of transactions.
    is_transactional: bool,
    /// The size at which a batch is full, bytes before compression.
    batch_bytes: usize,
    open: Option<Batch>,
    full: VecDeque<Batch>,
    /// Bytes to allocate for the next batch: the size of the last one.
    size_hint: usize,
    /// The error for later appends, once the queue is closed.
    closed: Option<ClientError>,
}

/// The batches that an append may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// A new batch is opened if need be.
    Anywhere,
    /// Only the open batch, if it has room: otherwise the caller turns to another partition.
    OpenBatch,
}

/// The effects of an append.
pub(crate) struct Appended {
    /// The record's delivery. `None`: there was no room where it was allowed to go, and the record was not taken.
    pub delivery: Option<Delivery>,
    /// The time at which a batch was opened, if one was: its linger runs from then.
    pub opened: Option<Instant>,
    /// Whether a batch became full and may leave.
    pub filled: bool,
}

impl Accumulator {
    pub fn new(codec: Codec, batch_bytes: usize) -> Self {
        Self {
            codec,
            is_transactional: false,
            batch_bytes,
            open: None,
            full: VecDeque::new(),
            size_hint: 0,
            closed: None,
        }
    }

    /// Its batches are parts of transactions.
    #[must_use]
    pub fn transactional(self, is_transactional: bool) -> Self {
        Self {
            is_transactional,
            ..self
        }
    }

    /// Sets the size at which batches are full from now on.
    pub fn set_batch_bytes(&mut self, batch_bytes: usize) {
        self.batch_bytes = batch_bytes;
    }

    /// Takes a record of at most `size` bytes for a partition.
    pub fn append(
        &mut self,
        (topic, partition): (&Arc<str>, u32),
        record: &ProducerRecord,
        (size, timestamp_ms): (usize, i64),
        (place, condition): (Place, Option<Condition>),
    ) -> Result<Appended, ClientError> {
        if let Some(error) = &self.closed {
            return Err(error.clone());
        }
        let has_room = |batch: &Batch| {
            let builder = batch.builder.as_ref().expect("an open batch is not built");
            builder.estimated_size() + size <= self.batch_bytes && batch.records < RECORDS_PER_BATCH_MAX
        };
        // A conditional record shares its batch with no other.
        let alone = condition.is_some();
        let filled = self.open.as_ref().is_some_and(|batch| alone || !has_room(batch));
        if filled {
            self.close_open();
        }
        let opens = self.open.is_none();
        if opens && place == Place::OpenBatch {
            return Ok(Appended {
                delivery: None,
                opened: None,
                filled,
            });
        }
        let begun = || {
            let mut builder = BatchBuilder::with_capacity(self.codec, self.size_hint.max(size));
            if self.is_transactional {
                builder.transactional();
            }
            Some(builder)
        };
        let batch = self.open.get_or_insert_with(|| Batch {
            builder: begun(),
            bytes: Bytes::new(),
            stamp: Stamp::NONE,
            reporter: BatchReport::open(topic.clone(), partition),
            opened: Instant::now(),
            charged: 0,
            records: 0,
            condition,
        });
        let builder = batch.builder.as_mut().expect("an open batch is not built");
        let headers = record
            .headers
            .iter()
            .map(|header| (header.key.as_str(), header.value.as_deref()));
        let appended = builder.append(timestamp_ms, record.key.as_deref(), record.value.as_deref(), headers);
        if let Err(error) = appended {
            if batch.records == 0 {
                self.open = None;
            }
            return Err(refused(topic, partition, &error));
        }
        batch.charged += size;
        batch.records += 1;
        let delivery = Delivery::new(batch.reporter.report().clone(), batch.records - 1, timestamp_ms);
        let opened = opens.then_some(batch.opened);
        if alone {
            self.close_open();
        }
        Ok(Appended {
            delivery: Some(delivery),
            opened,
            filled: filled || alone,
        })
    }

    fn close_open(&mut self) {
        if let Some(mut batch) = self.open.take() {
            if let Some(builder) = &batch.builder {
                self.size_hint = builder.estimated_size();
            }
            batch.seal(self.codec);
            self.full.push_back(batch);
        }
    }

    /// Whether [`take`](Self::take) would give one.
    pub fn has_due(&self, linger: Duration, now: Instant) -> bool {
        !self.full.is_empty() || self.open.as_ref().is_some_and(|batch| batch.opened + linger <= now)
    }

    /// Whether [`take`](Self::take) would give a conditional batch.
    pub fn is_conditional(&self, linger: Duration, now: Instant) -> bool {
        let due = self.full.front().or(self.open.as_ref());
        self.has_due(linger, now) && due.is_some_and(|batch| batch.condition.is_some())
    }

    /// The oldest batch that is full or has lingered.
    pub fn take(&mut self, linger: Duration, now: Instant) -> Option<Batch> {
        if self.full.is_empty() && self.has_due(linger, now) {
            let batch = self.open.take();
            if let Some(builder) = batch.as_ref().and_then(|batch| batch.builder.as_ref()) {
                self.size_hint = builder.estimated_size();
            }
            return batch;
        }
        self.full.pop_front()
    }

    /// Makes the open batch due, whatever its linger.
    pub fn flush_now(&mut self) {
        self.close_open();
    }

    pub fn is_empty(&self) -> bool {
        self.open.is_none() && self.full.is_empty()
    }

    /// All batches, oldest first.
    pub fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.full.iter().chain(&self.open)
    }

    /// Takes out the batches whose time is over, oldest first.
    pub fn expire(&mut self, is_over: impl Fn(&Batch) -> bool) -> Vec<Batch> {
        let mut over = Vec::new();
        while self.full.front().is_some_and(&is_over) {
            over.extend(self.full.pop_front());
        }
        if self.full.is_empty() && self.open.as_ref().is_some_and(&is_over) {
            over.extend(self.open.take());
        }
        over
    }

    /// Takes everything out, and refuses later appends with `error`.
    pub fn close(&mut self, error: ClientError) -> Vec<Batch> {
        self.closed = Some(error);
        self.expire(|_| true)
    }
}

fn refused(topic: &Arc<str>, partition: u32, error: &BatchError) -> ClientError {
    let mut failure = crate::wire_error::Failure::local(tonic::Code::InvalidArgument, error.to_string(), true);
    failure.reason = Some(error.reason());
    failure.into_error(&format!("produce to {topic}[{partition}]"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jangada_types::batch::{BatchHeader, decode_records};
    use jangada_types::{ProducerEpoch, ProducerId, Sequence};

    const LINGER: Duration = Duration::from_millis(5);

    fn append(accumulator: &mut Accumulator, value: &[u8], place: Place) -> Appended {
        let record = ProducerRecord::new("t").with_value(value.to_vec());
        let size = BatchBuilder::record_size_max(None, Some(value), []);
        accumulator
            .append((&"t".into(), 0), &record, (size, 7), (place, None))
            .expect("taken")
    }

    #[tokio::test]
    async fn a_batch_is_due_when_it_lingered_or_is_full() {
        let mut accumulator = Accumulator::new(Codec::None, 300);
        let first = append(&mut accumulator, &[1; 100], Place::Anywhere);
        assert!(first.opened.is_some() && !first.filled);
        let now = Instant::now();
        assert!(!accumulator.has_due(LINGER, now));
        assert!(accumulator.take(LINGER, now).is_none());
        assert!(accumulator.has_due(LINGER, now + LINGER));
        let second = append(&mut accumulator, &[2; 100], Place::Anywhere);
        assert!(second.opened.is_some() && second.filled, "136 bytes more do not fit");
        assert_eq!(accumulator.take(LINGER, now).expect("full").records, 1);
        assert!(accumulator.take(LINGER, now).is_none());
        assert!(accumulator.take(LINGER, Instant::now() + LINGER).is_some());
        assert!(accumulator.is_empty());
    }

    #[tokio::test]
    async fn linger_zero_is_due_at_once() {
        let mut accumulator = Accumulator::new(Codec::None, 300);
        append(&mut accumulator, b"x", Place::Anywhere);
        assert!(accumulator.take(Duration::ZERO, Instant::now()).is_some());
    }

    #[tokio::test]
    async fn a_record_without_a_place_is_not_taken() {
        let mut accumulator = Accumulator::new(Codec::None, 300);
        assert!(append(&mut accumulator, &[1; 100], Place::OpenBatch).delivery.is_none());
        assert!(accumulator.is_empty());
        append(&mut accumulator, &[1; 100], Place::Anywhere);
        let refused = append(&mut accumulator, &[2; 100], Place::OpenBatch);
        assert!(refused.delivery.is_none() && refused.filled);
        assert_eq!(
            accumulator
                .take(LINGER, Instant::now())
                .expect("closed for want of room")
                .records,
            1
        );
    }

    #[tokio::test]
    async fn a_large_record_gets_a_batch_of_its_own() {
        let mut accumulator = Accumulator::new(Codec::None, 300);
        append(&mut accumulator, b"small", Place::Anywhere);
        append(&mut accumulator, &[0; 5000], Place::Anywhere);
        append(&mut accumulator, b"small", Place::Anywhere);
        let now = Instant::now();
        assert_eq!(accumulator.take(LINGER, now).expect("full").records, 1);
        assert_eq!(accumulator.take(LINGER, now).expect("full").records, 1);
        assert!(accumulator.take(LINGER, now).is_none(), "the last one lingers");
    }

    #[tokio::test]
    async fn a_new_number_changes_only_the_number() {
        for codec in [Codec::None, Codec::Lz4] {
            let mut accumulator = Accumulator::new(codec, 300);
            append(&mut accumulator, b"hello", Place::Anywhere);
            accumulator.flush_now();
            let mut batch = accumulator.take(LINGER, Instant::now()).expect("hurried");
            let stamp = |epoch, sequence| Stamp {
                id: ProducerId(9),
                epoch: ProducerEpoch(epoch),
                sequence: Sequence(sequence),
            };
            let first = batch.bytes_as(stamp(0, 40));
            assert_eq!(
                first.as_ptr(),
                batch.bytes_as(stamp(0, 40)).as_ptr(),
                "sent again uncopied"
            );
            let second = batch.bytes_as(stamp(1, 0));
            for (bytes, epoch, sequence) in [(first, 0, 40), (second, 1, 0)] {
                let header = BatchHeader::parse(&bytes).expect("a header");
                assert_eq!(
                    (header.producer_epoch, header.base_sequence),
                    (ProducerEpoch(epoch), Sequence(sequence))
                );
                let records = decode_records(&bytes, 1000).expect("the checksum is right");
                assert_eq!(records[0].value.as_deref(), Some(&b"hello"[..]));
                assert_eq!(records[0].timestamp_ms, 7);
            }
        }
    }

    #[tokio::test]
    async fn a_batch_is_split_into_parts_that_fit_and_share_its_charge() {
        for codec in Codec::ALL {
            let mut accumulator = Accumulator::new(codec, 100_000);
            for nth in 0..100_u8 {
                // One record is larger than the limit of the parts.
                let size = if nth == 40 { 3000 } else { 100 };
                append(&mut accumulator, &vec![nth; size], Place::Anywhere);
            }
            accumulator.flush_now();
            for limit in [Some(1000), None] {
                let mut batch = accumulator.take(LINGER, Instant::now());
                if batch.is_none() {
                    for nth in 0..100_u8 {
                        append(&mut accumulator, &[nth; 100], Place::Anywhere);
                    }
                    accumulator.flush_now();
                    batch = accumulator.take(LINGER, Instant::now());
                }
                let mut batch = batch.expect("hurried");
                let whole = batch.bytes_as(Stamp::NONE);
                let charged = batch.charged;
                let parts = batch.split(codec, limit);
                assert!(parts.len() > 1, "{codec}");
                assert_eq!(parts.iter().map(|part| part.charged).sum::<usize>(), charged);
                let mut values = Vec::new();
                for mut part in parts {
                    let bytes = part.bytes_as(Stamp::NONE);
                    if codec == Codec::None && limit.is_some() {
                        assert!(bytes.len() <= 1000 || part.records == 1, "{} bytes", bytes.len());
                    }
                    let records = decode_records(&bytes, 1 << 20).expect("whole");
                    assert_eq!(records.len() as i32, part.records);
                    values.extend(records.into_iter().map(|record| (record.value, record.timestamp_ms)));
                }
                let expected = decode_records(&whole, 1 << 20).expect("whole");
                let expected: Vec<_> = expected
                    .into_iter()
                    .map(|record| (record.value, record.timestamp_ms))
                    .collect();
                assert_eq!(values, expected, "{codec}");
            }
        }
    }

    #[tokio::test]
    async fn a_closed_accumulator_takes_nothing() {
        let mut accumulator = Accumulator::new(Codec::None, 300);
        append(&mut accumulator, b"x", Place::Anywhere);
        assert_eq!(accumulator.close(ClientError::Closed).len(), 1);
        let record = ProducerRecord::new("t");
        let refused = accumulator.append((&"t".into(), 0), &record, (40, 0), (Place::Anywhere, None));
        assert!(matches!(refused, Err(ClientError::Closed)));
    }
}
