//! The idempotent producers of one partition: the epoch, the time of the last append and the last five batches of each.
//!
//! Judged in log order, by every replica alike, from nothing but the batch and the time that its leader wrote into
//! the command (KIP-98, KIP-360).
//!
//! At most [`PRODUCERS_PER_PARTITION_MAX`] are remembered: when one more writes, the one whose last append lies furthest
//! back in the log is forgotten. By offset and not by time, so that no clock decides and no two are equal. One with an open
//! transaction ([`transactions`]) is not forgotten at all.

mod transactions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Buf, BufMut, BytesMut};
use jangada_machine::RestoreError;
use jangada_types::limits::{PRODUCER_BATCHES_IN_FLIGHT_MAX, PRODUCERS_PER_PARTITION_MAX};
use jangada_types::planted::{self, Bug};
use jangada_types::{BatchHeader, Offset, ProducerEpoch, ProducerId, Sequence};

pub(crate) use self::transactions::Ending;
use crate::reply::Refusal;
use crate::transactions::OpenTransaction;

/// A batch that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Appended {
    base_sequence: Sequence,
    last_sequence: Sequence,
    base_offset: Offset,
    last_offset: Offset,
}

/// What is remembered of one producer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    epoch: ProducerEpoch,
    /// The leader's time of its last append, milliseconds.
    last_append_ms: i64,
    /// At most [`PRODUCER_BATCHES_IN_FLIGHT_MAX`], oldest first. None: its epoch came with the marker of a transaction.
    batches: VecDeque<Appended>,
    /// The last offset of its last batch; without one, the log's end when that marker came.
    last_offset: Offset,
    /// The transaction that it has open here.
    open: Option<OpenTransaction>,
    /// The last of its transactions that has ended; 0: none has.
    ended_seq: u64,
}

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the next one.
    Append,
    /// It was appended, at these offsets.
    Duplicate { base_offset: Offset, last_offset: Offset },
    /// It is not to be appended.
    Refused(Refusal),
}

/// The place of a producer that has none yet.
const NOWHERE: Offset = Offset(-1);

/// Nothing is remembered of the producer, and this is not its first batch.
const UNKNOWN: Verdict = Verdict::Refused(Refusal::UnknownProducer);
/// It was appended, but longer ago than is remembered.
const TOO_OLD: Verdict = Verdict::Refused(Refusal::TooOld);

/// A batch before it is missing.
fn out_of_order(expected: Sequence) -> Verdict {
    Verdict::Refused(Refusal::OutOfOrder { expected })
}

/// A newer epoch has written.
fn fenced(current: ProducerEpoch) -> Verdict {
    Verdict::Refused(Refusal::Fenced { current })
}

/// The producer table: what a partition remembers of its idempotent producers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Producers {
    by_id: BTreeMap<ProducerId, Producer>,
    /// Those without an open transaction by the last offset of their last batch: the one that has been silent longest comes first.
    by_last_offset: BTreeSet<(Offset, ProducerId)>,
    /// The others by the first offset of their transaction.
    open_from: BTreeMap<Offset, ProducerId>,
}

impl Producer {
    /// One of which nothing is known but its epoch.
    fn new(epoch: ProducerEpoch, last_append_ms: i64) -> Self {
        Self {
            epoch,
            last_append_ms,
            batches: VecDeque::new(),
            last_offset: NOWHERE,
            open: None,
            ended_seq: 0,
        }
    }
}

impl Producers {
    /// Judges an idempotent batch, and the transaction that it belongs to; `None`: to none. `now_ms` is the leader's time of the append,
    /// `expiration_ms` what the leader's settings say; both come with the command.
    pub fn judge(&self, header: &BatchHeader, transaction: Option<u64>, now_ms: i64, expiration_ms: i64) -> Verdict {
        let producer = self.by_id.get(&header.producer_id);
        let is_known = |p: &&Producer| p.open.is_some() || now_ms.saturating_sub(p.last_append_ms) <= expiration_ms;
        match judge_sequence(producer.filter(is_known), header) {
            Verdict::Append => match self.judge_transaction(producer, header, transaction) {
                Ok(()) => Verdict::Append,
                Err(refusal) => Verdict::Refused(refusal),
            },
            other => other,
        }
    }

    /// Remembers a batch that was appended.
    pub fn appended(&mut self, header: &BatchHeader, base_offset: Offset, last_offset: Offset, now_ms: i64) {
        let (id, epoch) = (header.producer_id, header.producer_epoch);
        match self.by_id.get(&id) {
            Some(known) if known.open.is_some() => {}
            Some(known) => {
                self.by_last_offset.remove(&(known.last_offset, id));
            }
            None => self.make_room(),
        }
        let fresh = || Producer {
            batches: VecDeque::with_capacity(PRODUCER_BATCHES_IN_FLIGHT_MAX),
            ..Producer::new(epoch, now_ms)
        };
        let producer = self.by_id.entry(id).or_insert_with(fresh);
        // Sequence 0 that does not follow by wrapping begins anew: a producer that was forgotten.
        let follows = producer
            .batches
            .back()
            .is_none_or(|last| last.last_sequence.advance(1) == header.base_sequence);
        if producer.epoch != epoch || !follows {
            assert!(
                producer.open.is_none(),
                "a batch that begins anew is in no open transaction"
            );
            *producer = Producer {
                ended_seq: producer.ended_seq,
                ..fresh()
            };
        }
        let last = producer.batches.back();
        assert!(
            last.is_none_or(|last| last.last_offset < base_offset),
            "producer {id} has a batch at {last:?}, and one at {base_offset}"
        );
        producer.last_append_ms = producer.last_append_ms.max(now_ms);
        producer.last_offset = last_offset;
        if producer.batches.len() == PRODUCER_BATCHES_IN_FLIGHT_MAX {
            producer.batches.pop_front();
        }
        producer.batches.push_back(Appended {
            base_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset,
            last_offset,
        });
        if producer.open.is_none() {
            self.by_last_offset.insert((last_offset, id));
        }
    }

    /// Forgets the most silent producers until there is room for one more. A table that an earlier build wrote may hold more.
    fn make_room(&mut self) {
        if planted::is(Bug::OpenProducerEvicted)
            && let Some((_, id)) = self.open_from.pop_first()
        {
            self.by_id.remove(&id);
        }
        while self.by_id.len() >= PRODUCERS_PER_PARTITION_MAX {
            let silent = self.by_last_offset.pop_first();
            let (_, id) = silent.expect("a producer that is not known is refused while all have open transactions");
            self.by_id.remove(&id);
        }
    }

    /// Forgets the producers that have been silent for longer than `expiration_ms`.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        let by_last_offset = &mut self.by_last_offset;
        self.by_id.retain(|id, producer| {
            let is_young = now_ms.saturating_sub(producer.last_append_ms) <= expiration_ms;
            let stays = producer.open.is_some() || is_young;
            if !stays {
                by_last_offset.remove(&(producer.last_offset, *id));
            }
            stays
        });
    }

    /// `count u32`, then per producer `id i64 | epoch i16 | last append i64 | batches u8 | per batch: first, last
    /// sequence i32, first, last offset i64`.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32(u32::try_from(self.by_id.len()).expect("producers of a partition fit in 32 bits"));
        for (id, producer) in &self.by_id {
            out.put_i64(id.get());
            out.put_i16(producer.epoch.get());
            out.put_i64(producer.last_append_ms);
            out.put_u8(u8::try_from(producer.batches.len()).expect("at most five"));
            for batch in &producer.batches {
                out.put_i32(batch.base_sequence.get());
                out.put_i32(batch.last_sequence.get());
                out.put_i64(batch.base_offset.get());
                out.put_i64(batch.last_offset.get());
            }
        }
    }

    /// The reverse of [`Producers::encode`], and of [`Producers::encode_transactions`] if its bytes follow.
    pub fn decode(input: &mut &[u8], has_transactions: bool) -> Result<Self, RestoreError> {
        let damaged = |_| RestoreError("the producer table is damaged".into());
        let mut producers = Self::default();
        for _ in 0..input.try_get_u32().map_err(damaged)? {
            let id = ProducerId(input.try_get_i64().map_err(damaged)?);
            let epoch = ProducerEpoch(input.try_get_i16().map_err(damaged)?);
            let mut producer = Producer::new(epoch, input.try_get_i64().map_err(damaged)?);
            for _ in 0..input.try_get_u8().map_err(damaged)? {
                producer.batches.push_back(Appended {
                    base_sequence: Sequence(input.try_get_i32().map_err(damaged)?),
                    last_sequence: Sequence(input.try_get_i32().map_err(damaged)?),
                    base_offset: Offset(input.try_get_i64().map_err(damaged)?),
                    last_offset: Offset(input.try_get_i64().map_err(damaged)?),
                });
            }
            if let Some(last) = producer.batches.back() {
                producer.last_offset = last.last_offset;
            }
            producers.by_id.insert(id, producer);
        }
        if has_transactions {
            producers.decode_transactions(input)?;
        }
        producers.index()?;
        Ok(producers)
    }

    /// Whether all batches of each producer lie below an offset, in their order, and so do the beginnings of open transactions.
    pub fn are_below(&self, end: Offset) -> bool {
        let is_sound = |producer: &Producer| {
            let batches = producer.batches.iter();
            batches.is_sorted_by(|a, b| a.last_offset < b.base_offset)
                && producer.batches.back().is_none_or(|last| last.last_offset < end)
                && producer.open.is_none_or(|open| open.first < end)
        };
        self.by_id.values().all(is_sound)
    }

    /// Orders the producers of a table that was read.
    fn index(&mut self) -> Result<(), RestoreError> {
        let mut last_offsets = BTreeSet::new();
        for (id, producer) in &self.by_id {
            let is_double = match (&producer.open, producer.batches.is_empty()) {
                _ if producer.last_offset == NOWHERE => {
                    return Err(RestoreError("the producer table is damaged".into()));
                }
                (Some(open), _) if self.open_from.insert(open.first, *id).is_some() => true,
                (_, true) => false,
                (_, false) => !last_offsets.insert(producer.last_offset),
            };
            if is_double {
                return Err(RestoreError("two producers of a table have the same offset".into()));
            }
            if producer.open.is_none() {
                self.by_last_offset.insert((producer.last_offset, *id));
            }
        }
        Ok(())
    }
}

/// Judges a batch by the sequence of its producer, if that is known.
fn judge_sequence(producer: Option<&Producer>, header: &BatchHeader) -> Verdict {
    let first = Sequence(0);
    let Some(producer) = producer else {
        return if header.base_sequence == first {
            Verdict::Append
        } else {
            UNKNOWN
        };
    };
    if header.producer_epoch < producer.epoch {
        if planted::is(Bug::ZombieProducer) && producer.open.is_none() {
            return Verdict::Append;
        }
        return fenced(producer.epoch);
    }
    let last = match producer.batches.back() {
        Some(last) if header.producer_epoch == producer.epoch => last,
        _ if header.base_sequence == first => return Verdict::Append,
        _ => return out_of_order(first),
    };
    let same = |b: &&Appended| b.base_sequence == header.base_sequence && b.last_sequence == header.last_sequence();
    if let Some(batch) = producer.batches.iter().find(same) {
        if planted::is(Bug::RetryAppendedAgain) && producer.open.is_none() {
            return Verdict::Append;
        }
        return Verdict::Duplicate {
            base_offset: batch.base_offset,
            last_offset: batch.last_offset,
        };
    }
    let expected = last.last_sequence.advance(1);
    if header.base_sequence == expected {
        return Verdict::Append;
    }
    if is_before(header.base_sequence, expected) {
        TOO_OLD
    } else if planted::is(Bug::SequenceGapTaken) && producer.open.is_none() {
        Verdict::Append
    } else {
        out_of_order(expected)
    }
}

/// Whether `a` comes before `b` among sequences that wrap from `i32::MAX` to 0: the shorter way round says.
fn is_before(a: Sequence, b: Sequence) -> bool {
    const MODULUS: i64 = 1 << 31;
    let distance = (i64::from(b.get()) - i64::from(a.get())).rem_euclid(MODULUS);
    distance != 0 && distance < MODULUS / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use jangada_types::{BatchBuilder, Codec};

    const EXPIRATION_MS: i64 = 1_000;

    fn header(id: i64, epoch: i16, sequence: i32, records: usize) -> BatchHeader {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..records {
            builder.append(0, None, Some(b"v"), []).unwrap();
        }
        builder.producer(ProducerId(id), ProducerEpoch(epoch), Sequence(sequence));
        BatchHeader::parse(&builder.build()).unwrap()
    }

    struct Log {
        producers: Producers,
        next: i64,
    }

    impl Log {
        fn new() -> Self {
            Self {
                producers: Producers::default(),
                next: 0,
            }
        }

        fn append(&mut self, header: &BatchHeader, now_ms: i64) -> Verdict {
            let verdict = self.producers.judge(header, None, now_ms, EXPIRATION_MS);
            if verdict == Verdict::Append {
                let last = self.next + i64::from(header.last_offset_delta);
                self.producers.appended(header, Offset(self.next), Offset(last), now_ms);
                self.next = last + 1;
            }
            verdict
        }
    }

    #[test]
    fn a_retry_is_told_the_offsets_of_the_first_time() {
        let mut log = Log::new();
        for i in 0..5 {
            assert_eq!(log.append(&header(7, 0, i * 2, 2), 0), Verdict::Append);
        }
        for i in 0..5i64 {
            let verdict = log.append(&header(7, 0, i as i32 * 2, 2), 0);
            assert_eq!(
                verdict,
                Verdict::Duplicate {
                    base_offset: Offset(i * 2),
                    last_offset: Offset(i * 2 + 1)
                }
            );
        }
        assert_eq!(log.append(&header(7, 0, 10, 1), 0), Verdict::Append);
        assert_eq!(log.append(&header(7, 0, 0, 2), 0), TOO_OLD);
    }

    #[test]
    fn a_gap_is_refused_and_takes_nothing() {
        let mut log = Log::new();
        assert_eq!(log.append(&header(7, 0, 0, 3), 0), Verdict::Append);
        assert_eq!(log.append(&header(7, 0, 4, 1), 0), out_of_order(Sequence(3)));
        assert_eq!(log.append(&header(7, 0, 3, 1), 0), Verdict::Append);
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_old_one() {
        let mut log = Log::new();
        assert_eq!(log.append(&header(7, 0, 0, 3), 0), Verdict::Append);
        assert_eq!(log.append(&header(7, 1, 3, 1), 0), out_of_order(Sequence(0)));
        assert_eq!(log.append(&header(7, 1, 0, 1), 0), Verdict::Append);
        assert_eq!(log.append(&header(7, 0, 3, 1), 0), fenced(ProducerEpoch(1)));
        assert!(matches!(log.append(&header(7, 1, 0, 1), 0), Verdict::Duplicate { .. }));
    }

    #[test]
    fn who_was_silent_for_too_long_is_unknown() {
        let mut log = Log::new();
        assert_eq!(log.append(&header(7, 0, 0, 1), 0), Verdict::Append);
        assert_eq!(log.append(&header(7, 0, 1, 1), EXPIRATION_MS), Verdict::Append);
        assert_eq!(log.append(&header(7, 0, 2, 1), 2 * EXPIRATION_MS + 1), UNKNOWN);
        log.producers.expire(2 * EXPIRATION_MS + 1, EXPIRATION_MS);
        assert_eq!(log.producers, Producers::default());
        assert_eq!(log.append(&header(9, 0, 4, 1), 0), UNKNOWN);
    }

    #[test]
    fn sequences_wrap() {
        let mut log = Log::new();
        let start = i32::MAX - 1;
        log.producers
            .appended(&header(7, 0, start - 1, 1), Offset(0), Offset(0), 0);
        log.next = 1;
        assert_eq!(log.append(&header(7, 0, start, 3), 0), Verdict::Append);
        assert_eq!(log.append(&header(7, 0, 1, 1), 0), Verdict::Append);
        assert_eq!(log.append(&header(7, 0, i32::MAX - 100, 1), 0), TOO_OLD);
    }

    #[test]
    fn the_table_comes_back() {
        let mut log = Log::new();
        for id in 1..4 {
            log.append(&header(id, 0, 0, 2), id);
            log.append(&header(id, 0, 2, 1), id);
        }
        let mut out = BytesMut::new();
        log.producers.encode(&mut out);
        let mut input = &out[..];
        assert_eq!(Producers::decode(&mut input, false).unwrap(), log.producers);
        assert!(input.is_empty());
        assert!(Producers::decode(&mut &out[..out.len() - 1], false).is_err());
    }

    const MOST: i64 = PRODUCERS_PER_PARTITION_MAX as i64;

    #[test]
    fn one_producer_too_many_makes_the_most_silent_one_unknown() {
        let mut log = Log::new();
        for id in 0..MOST {
            assert_eq!(log.append(&header(id, 0, 0, 1), 0), Verdict::Append);
        }
        // The order of the last appends decides, not the lowest id and not the oldest time.
        assert_eq!(log.append(&header(0, 0, 1, 1), -5), Verdict::Append);
        assert_eq!(log.append(&header(MOST, 0, 0, 1), 0), Verdict::Append);
        assert_eq!(log.producers.by_id.len(), PRODUCERS_PER_PARTITION_MAX);
        assert_eq!(log.append(&header(1, 0, 1, 1), 0), UNKNOWN);
        assert_eq!(log.append(&header(0, 0, 2, 1), 0), Verdict::Append);
        assert_eq!(log.append(&header(2, 0, 1, 1), 0), Verdict::Append);
        // It begins again at 0, which puts out the next one.
        assert_eq!(log.append(&header(1, 1, 0, 1), 0), Verdict::Append);
        assert_eq!(log.append(&header(3, 0, 1, 1), 0), UNKNOWN);
        // A refused batch makes the table forget no producer.
        assert_eq!(log.append(&header(4, 0, 1, 1), 0), Verdict::Append);
    }

    #[test]
    fn the_number_of_producers_is_part_of_the_format() {
        assert_eq!(
            PRODUCERS_PER_PARTITION_MAX, 10_000,
            "replicas would forget differently: a change needs another kind of command"
        );
    }

    #[test]
    fn a_larger_table_of_an_earlier_build_shrinks_with_the_next_producer() {
        let mut log = Log::new();
        for id in 0..MOST {
            log.append(&header(id, 0, 0, 1), 0);
        }
        let mut out = BytesMut::new();
        log.producers.encode(&mut out);
        // Three more, as they stood there.
        for id in MOST..MOST + 3 {
            out.put_i64(id);
            out.put_i16(0);
            out.put_i64(0);
            out.put_u8(1);
            out.put_i32(0);
            out.put_i32(0);
            out.put_i64(id);
            out.put_i64(id);
        }
        out[..4].copy_from_slice(&u32::try_from(MOST + 3).unwrap().to_be_bytes());
        log.producers = Producers::decode(&mut &out[..], false).unwrap();
        log.next = MOST + 3;
        assert_eq!(log.append(&header(MOST + 3, 0, 0, 1), 0), Verdict::Append);
        assert_eq!(log.producers.by_id.len(), PRODUCERS_PER_PARTITION_MAX);
        assert_eq!(log.append(&header(3, 0, 1, 1), 0), UNKNOWN);
        assert_eq!(log.append(&header(4, 0, 1, 1), 0), Verdict::Append);
    }

    #[test]
    fn a_table_that_was_saved_and_loaded_forgets_like_one_that_was_not() {
        // Any run of appends, with a replica that restarts after each stretch of them.
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let (mut log, mut restarted) = (Log::new(), Log::new());
        let mut next = BTreeMap::<i64, i32>::new();
        for step in 0..60_000_u32 {
            let id = i64::try_from(random(12_000)).unwrap();
            let sequence = *next.get(&id).unwrap_or(&0);
            let now_ms = i64::from(step / 100);
            let verdict = log.append(&header(id, 0, sequence, 1), now_ms);
            assert_eq!(restarted.append(&header(id, 0, sequence, 1), now_ms), verdict);
            next.insert(id, if verdict == Verdict::Append { sequence + 1 } else { 0 });
            if step.is_multiple_of(7_000) {
                let mut out = BytesMut::new();
                restarted.producers.encode(&mut out);
                restarted.producers = Producers::decode(&mut &out[..], false).unwrap();
            }
        }
        assert_eq!(log.producers, restarted.producers);
        assert_eq!(log.producers.by_id.len(), log.producers.by_last_offset.len());
    }
}
