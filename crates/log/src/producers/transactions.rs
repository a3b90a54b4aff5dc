//! The transactions of a partition's producers: which is open, and which have ended.
//!
//! A producer with an open transaction is never forgotten, or nobody would know what the marker ends. So it stands in no order of those
//! that may go, and when as many transactions are open as there may be producers, no other producer is taken.

use bytes::{Buf, BufMut, BytesMut};
use jangada_machine::RestoreError;
use jangada_queue::{TransactionId, Transactions};
use jangada_types::batch::EndMarker;
use jangada_types::limits::PRODUCERS_PER_PARTITION_MAX;
use jangada_types::planted::{self, Bug};
use jangada_types::{BatchHeader, Offset, ProducerEpoch, ProducerId};

use super::{Producer, Producers};
use crate::reply::Refusal;
use crate::transactions::{Marker, OpenTransaction, ProducerState};

/// What becomes of a marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It ends the transaction that began here.
    Of(Offset),
    /// There is no such transaction, and there will be none.
    OfNone,
    /// It is not to be written.
    Refused(Refusal),
}

impl Producers {
    /// The last stable offset, unless it is the log's end: the first one of the earliest transaction that is open.
    pub fn first_open(&self) -> Option<Offset> {
        self.open_from.first_key_value().map(|(first, _)| *first)
    }

    /// Number of open transactions.
    pub fn open_count(&self) -> usize {
        self.open_from.len()
    }

    /// The open transactions by their first offset, each with its producer and its epoch.
    pub fn open(&self) -> impl Iterator<Item = (ProducerId, ProducerEpoch, OpenTransaction)> {
        self.open_from.values().map(|id| {
            let producer = &self.by_id[id];
            let open = producer
                .open
                .expect("its producer stands there for its open transaction");
            (*id, producer.epoch, open)
        })
    }

    /// The open transaction of a producer, with its epoch.
    pub fn open_of(&self, id: ProducerId) -> Option<(ProducerEpoch, OpenTransaction)> {
        let producer = self.by_id.get(&id)?;
        Some((producer.epoch, producer.open?))
    }

    /// Whether a marker would change nothing, now and later.
    pub fn has_ended(&self, end: &EndMarker, seq: u64) -> bool {
        let ended = |producer: &Producer| producer.ended_seq >= seq && producer.epoch >= end.producer_epoch;
        self.by_id.get(&end.producer_id).is_some_and(ended)
    }

    /// What is known of each producer, by id.
    pub fn states(&self) -> impl Iterator<Item = ProducerState> {
        self.by_id.iter().map(|(id, producer)| ProducerState {
            id: *id,
            epoch: producer.epoch,
            last_sequence: producer.batches.back().map(|batch| batch.last_sequence.get()),
            last_ms: producer.last_append_ms,
            open: producer.open,
        })
    }

    /// Judges a batch that is next in its sequence by the transaction that it belongs to; `None`: to none. `producer` is what is
    /// known of its producer, however long ago that wrote.
    pub(super) fn judge_transaction(
        &self,
        producer: Option<&Producer>,
        header: &BatchHeader,
        seq: Option<u64>,
    ) -> Result<(), Refusal> {
        let Some(producer) = producer else {
            return match self.open_from.len() < PRODUCERS_PER_PARTITION_MAX {
                true => Ok(()),
                false => Err(Refusal::TooManyTransactions),
            };
        };
        match (&producer.open, seq) {
            (None, None) => Ok(()),
            (None, Some(seq)) if seq > producer.ended_seq => Ok(()),
            (None, Some(_)) => Err(Refusal::TransactionEnded),
            (Some(open), Some(seq)) if open.seq == seq && header.producer_epoch == producer.epoch => Ok(()),
            (Some(open), _) => Err(Refusal::TransactionOpen { seq: open.seq }),
        }
    }

    /// Opens the transaction of a batch that was appended, unless it is open.
    pub fn open_at(&mut self, id: ProducerId, first: Offset, seq: u64, since_ms: i64) {
        let producer = self.by_id.get_mut(&id).expect("its batch was just appended");
        if producer.open.is_none() {
            producer.open = Some(OpenTransaction { first, seq, since_ms });
            self.by_last_offset.remove(&(producer.last_offset, id));
            let before = self.open_from.insert(first, id);
            assert!(before.is_none(), "transactions of {before:?} and {id} begin at {first}");
        }
    }

    /// Judges a marker.
    pub fn judge_end(&self, marker: &Marker) -> Ending {
        let Some(producer) = self.by_id.get(&marker.end.producer_id) else {
            return Ending::OfNone;
        };
        match producer.open {
            None => Ending::OfNone,
            Some(open) if planted::is(Bug::MarkerWithoutSequence) => Ending::Of(open.first),
            Some(open) if open.seq > marker.seq => Ending::OfNone,
            // The coordinator ends one after the other, so that one was forgotten here, and is to be aborted first.
            Some(open) if open.seq < marker.seq => Ending::Refused(Refusal::TransactionOpen { seq: open.seq }),
            Some(_) if marker.end.producer_epoch < producer.epoch => Ending::Refused(Refusal::Fenced {
                current: producer.epoch,
            }),
            Some(open) => Ending::Of(open.first),
        }
    }

    /// Closes the transaction that a marker ends, whose control batch has this offset.
    pub fn close(&mut self, marker: &Marker, at: Offset) {
        let id = marker.end.producer_id;
        let producer = self.by_id.get_mut(&id).expect("its transaction was judged open");
        let open = producer.open.take().expect("it was judged open");
        let known = self.open_from.remove(&open.first);
        assert!(
            known == Some(id),
            "the transaction of {id} at {} is that of {known:?}",
            open.first
        );
        producer.end(marker, at);
        self.by_last_offset.insert((producer.last_offset, id));
    }

    /// Remembers a marker that had nothing to end, so that what comes late of its transaction is refused. `end` is the log's end.
    pub fn fence(&mut self, marker: &Marker, end: Offset) {
        let id = marker.end.producer_id;
        if let Some(producer) = self.by_id.get_mut(&id) {
            if producer.open.is_none() {
                self.by_last_offset.remove(&(producer.last_offset, id));
                producer.end(marker, end);
                self.by_last_offset.insert((producer.last_offset, id));
            }
            return;
        }
        if self.open_from.len() >= PRODUCERS_PER_PARTITION_MAX {
            // No producer that is not known can write here.
            return;
        }
        self.make_room();
        let mut producer = Producer::new(marker.end.producer_epoch, marker.now_ms);
        producer.last_offset = end;
        producer.end(marker, end);
        self.by_last_offset.insert((end, id));
        self.by_id.insert(id, producer);
    }

    /// Three times a count u32 and so many rows, by producer: the open ones (`producer id i64 | first offset i64 | seq u64 | since i64`),
    /// the last ones that have ended (`producer id i64 | seq u64`), and the places of producers without batches
    /// (`producer id i64 | offset i64`).
    pub fn encode_transactions(&self, out: &mut BytesMut) {
        let count = |out: &mut BytesMut, of: &dyn Fn(&Producer) -> bool| {
            let count = self.by_id.values().filter(|producer| of(producer)).count();
            out.put_u32(u32::try_from(count).expect("producers of a partition fit in 32 bits"));
        };
        count(out, &|producer| producer.open.is_some());
        for (id, producer) in &self.by_id {
            if let Some(open) = producer.open {
                out.put_i64(id.get());
                out.put_i64(open.first.get());
                out.put_u64(open.seq);
                out.put_i64(open.since_ms);
            }
        }
        let has_ended = |producer: &Producer| producer.ended_seq > 0 && !planted::is(Bug::EndedSequenceLost);
        count(out, &has_ended);
        for (id, producer) in self.by_id.iter().filter(|(_, producer)| has_ended(producer)) {
            out.put_i64(id.get());
            out.put_u64(producer.ended_seq);
        }
        count(out, &|producer| producer.batches.is_empty());
        for (id, producer) in self.by_id.iter().filter(|(_, producer)| producer.batches.is_empty()) {
            out.put_i64(id.get());
            out.put_i64(producer.last_offset.get());
        }
    }

    /// The reverse of [`Producers::encode_transactions`], for a table that [`Producers::decode`] has read.
    pub fn decode_transactions(&mut self, input: &mut &[u8]) -> Result<(), RestoreError> {
        let short = |_| damaged();
        for _ in 0..input.try_get_u32().map_err(short)? {
            let producer = self.known(input)?;
            let open = OpenTransaction {
                first: Offset(input.try_get_i64().map_err(short)?),
                seq: input.try_get_u64().map_err(short)?,
                since_ms: input.try_get_i64().map_err(short)?,
            };
            if open.first < Offset(0) || open.seq == 0 || producer.open.replace(open).is_some() {
                return Err(damaged());
            }
        }
        for _ in 0..input.try_get_u32().map_err(short)? {
            let producer = self.known(input)?;
            let seq = input.try_get_u64().map_err(short)?;
            if seq == 0 || std::mem::replace(&mut producer.ended_seq, seq) != 0 {
                return Err(damaged());
            }
        }
        for _ in 0..input.try_get_u32().map_err(short)? {
            let producer = self.known(input)?;
            let offset = Offset(input.try_get_i64().map_err(short)?);
            if offset < Offset(0) || !producer.batches.is_empty() || producer.last_offset >= Offset(0) {
                return Err(damaged());
            }
            producer.last_offset = offset;
        }
        Ok(())
    }

    fn known(&mut self, input: &mut &[u8]) -> Result<&mut Producer, RestoreError> {
        let id = ProducerId(input.try_get_i64().map_err(|_| damaged())?);
        self.by_id.get_mut(&id).ok_or_else(damaged)
    }
}

/// What the partition's queues ask.
impl Transactions for Producers {
    fn takes(&self, transaction: TransactionId) -> bool {
        let Some(producer) = self.by_id.get(&transaction.producer) else {
            return true;
        };
        let is_it = match producer.open {
            Some(open) => open.seq == transaction.seq,
            None => transaction.seq > producer.ended_seq,
        };
        is_it && transaction.epoch >= producer.epoch
    }

    fn open(&self) -> Vec<jangada_queue::OpenTransaction> {
        let open = self
            .open()
            .map(|(producer, epoch, open)| jangada_queue::OpenTransaction {
                id: TransactionId {
                    producer,
                    epoch,
                    seq: open.seq,
                },
                first: open.first.get().unsigned_abs(),
                since_ms: open.since_ms.max(0).unsigned_abs(),
            });
        open.collect()
    }
}

impl Producer {
    /// Takes the epoch and the transaction of a marker. No transaction of it is open.
    fn end(&mut self, marker: &Marker, at: Offset) {
        if marker.end.producer_epoch > self.epoch {
            self.epoch = marker.end.producer_epoch;
            self.batches.clear();
            self.last_offset = at;
        }
        self.ended_seq = self.ended_seq.max(marker.seq);
        self.last_append_ms = self.last_append_ms.max(marker.now_ms);
    }
}

fn damaged() -> RestoreError {
    RestoreError("the transactions of the producer table are damaged".into())
}
