//! What transactions did to a partition's queues and what is not decided yet: messages that were sent, and acknowledgements that are
//! staged.
//!
//! ```text
//!   first of an open transaction     its runs          others'      marker
//!        |                          |    |               |            |
//!  ------+--------------------------+----+---------------+------------+---->
//!        stable: at or above it nothing goes out
//! ```
//!
//! An abort makes the runs of its transaction done, which never were messages, and gives back what was staged; a commit makes that done.
//! So a transaction costs 24 bytes for each batch that others' batches lie before, and for each message that it acknowledges. Held: what is
//! staged is in the slot's table with that state, and the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::{Buf, BufMut};
use jangada_types::{ProducerEpoch, ProducerId};

use crate::ids::{SlotId, TransactionId};
use crate::runs::Run;
use crate::varint::{get_varint, put_varint};

/// What a transaction, a run of its records, and a message that is staged are counted with, bytes.
const TRANSACTION_BYTES: usize = 160;
const RUN_BYTES: usize = 24;
const STAGED_BYTES: usize = 24;
/// Offsets lie below it.
const OFFSET_END: u64 = 1 << 60;

/// What the partition knows of the transactions of its producers, beyond what its queues do.
pub trait Transactions {
    /// Whether messages may be acknowledged in a transaction: none that has ended, and none beside another one of its producer.
    fn takes(&self, transaction: TransactionId) -> bool;

    /// The transactions that have records in the log and are not over.
    fn open(&self) -> Vec<OpenTransaction>;
}

/// A partition that has no transactions.
impl Transactions for () {
    fn takes(&self, _: TransactionId) -> bool {
        false
    }

    fn open(&self) -> Vec<OpenTransaction> {
        Vec::new()
    }
}

/// A transaction that has records in the log and is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Which one it is.
    pub id: TransactionId,
    /// The offset of its first record.
    pub first: u64,
    /// When that was appended, milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// What is not decided of a transaction, for whoever looks for those that never end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UndecidedTransaction {
    /// Which one it is.
    pub id: TransactionId,
    /// Since when it is known here, milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// The offset of its first record, if it has sent any here.
    pub first: Option<u64>,
    /// So many messages are acknowledged in it.
    pub staged: u64,
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTransaction {
    /// Whose it is.
    pub producer: ProducerId,
    /// Which transaction of its transactional id it is.
    pub seq: u64,
    /// Its messages are there, and what it acknowledged is done. Else neither.
    pub commit: bool,
    /// The leader's clock, milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// The offset of the control record, if one was appended.
    pub marker: Option<u64>,
}

/// What the end of a transaction came to: what a leader is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndedTransaction {
    /// It was committed.
    pub commit: bool,
    /// The messages that were acknowledged in it.
    pub messages: Vec<EndedMessage>,
}

/// A message that was acknowledged in a transaction which is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedMessage {
    /// The slot of its queue.
    pub slot: SlotId,
    /// The offset of the message.
    pub offset: u64,
    /// Its place in the order.
    pub origin: u64,
    /// The hash of its key, where the queue keeps an order by key; else 0.
    pub key: u64,
    /// Its level of priority.
    pub lane: u8,
}

/// A transaction that is not decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Undecided {
    pub epoch: ProducerEpoch,
    pub seq: u64,
    pub since_ms: u64,
    /// The offset of its first record here; none: it has sent nothing here.
    pub first: Option<u64>,
    /// Its records, those from before the first slot was opened left out.
    pub runs: Vec<Run>,
    /// The messages that are acknowledged in it.
    pub staged: BTreeMap<SlotId, BTreeSet<u64>>,
}

impl Undecided {
    pub(crate) fn new(id: TransactionId, since_ms: u64) -> Self {
        Self {
            epoch: id.epoch,
            seq: id.seq,
            since_ms,
            first: None,
            runs: Vec::new(),
            staged: BTreeMap::new(),
        }
    }

    fn staged_len(&self) -> usize {
        self.staged.values().map(BTreeSet::len).sum()
    }

    fn bytes(&self) -> usize {
        TRANSACTION_BYTES + RUN_BYTES * self.runs.len() + STAGED_BYTES * self.staged_len()
    }

    /// Records were appended.
    pub(crate) fn send(&mut self, first: u64, last: u64) {
        self.first.get_or_insert(first);
        match self.runs.last_mut() {
            Some(run) if run.last + 1 == first => run.last = last,
            _ => self.runs.push(Run { first, last }),
        }
    }

    fn is_empty(&self) -> bool {
        self.first.is_none() && self.staged.is_empty()
    }
}

/// The transactions that are not decided. What is large is shared with clones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UndecidedSet {
    by_producer: BTreeMap<ProducerId, Arc<Undecided>>,
    /// The first records of those that have sent any.
    firsts: BTreeSet<u64>,
    bytes: usize,
}

impl UndecidedSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.by_producer.is_empty()
    }

    /// What it is counted with, bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first record of all that are not decided.
    pub(crate) fn first(&self) -> Option<u64> {
        self.firsts.first().copied()
    }

    pub(crate) fn get(&self, producer: ProducerId) -> Option<&Undecided> {
        self.by_producer.get(&producer).map(|known| &**known)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ProducerId, &Undecided)> {
        self.by_producer.iter().map(|(producer, known)| (*producer, &**known))
    }

    /// Takes a transaction out.
    pub(crate) fn take(&mut self, producer: ProducerId) -> Option<Undecided> {
        let known = self.by_producer.remove(&producer)?;
        self.bytes -= known.bytes();
        if let Some(first) = known.first {
            self.firsts.remove(&first);
        }
        Some(Arc::unwrap_or_clone(known))
    }

    /// Changes the transaction of a producer, which is the one named; one of which nothing is left is forgotten.
    pub(crate) fn change<T>(
        &mut self,
        id: TransactionId,
        since_ms: u64,
        change: impl FnOnce(&mut Undecided) -> T,
    ) -> T {
        let known = self.by_producer.entry(id.producer);
        let mut is_new = false;
        let known = known.or_insert_with(|| {
            is_new = true;
            Arc::new(Undecided::new(id, since_ms))
        });
        debug_assert_eq!(known.seq, id.seq, "a producer has one transaction at a time");
        let before = if is_new { 0 } else { known.bytes() };
        let known = Arc::make_mut(known);
        let had_first = known.first;
        let changed = change(known);
        self.bytes = self.bytes + known.bytes() - before;
        if let (None, Some(first)) = (had_first, known.first) {
            self.firsts.insert(first);
        }
        if known.is_empty() {
            self.take(id.producer);
        }
        changed
    }

    /// What a slot had staged below an offset is decided otherwise.
    pub(crate) fn forget(&mut self, slot: SlotId, below: u64) {
        let has = |(_, known): &(&ProducerId, &Arc<Undecided>)| {
            let first = known.staged.get(&slot).and_then(BTreeSet::first);
            first.is_some_and(|first| *first < below)
        };
        let concerned = self
            .by_producer
            .iter()
            .filter(has)
            .map(|(producer, known)| TransactionId {
                producer: *producer,
                epoch: known.epoch,
                seq: known.seq,
            });
        for id in concerned.collect::<Vec<_>>() {
            self.change(id, 0, |known| {
                if let Some(staged) = known.staged.remove(&slot) {
                    let rest: BTreeSet<u64> = staged.range(below..).copied().collect();
                    if !rest.is_empty() {
                        known.staged.insert(slot, rest);
                    }
                }
            });
        }
    }

    /// `n, each: producer i64 | epoch i16 | seq | since | runs and one, 0: it has sent nothing; else first offset, and of each run its
    /// distance from the one before and its length less one | slots n, each: number | n, and distances of its messages`.
    pub(crate) fn encode(&self, out: &mut impl BufMut) {
        put_varint(out, self.by_producer.len() as u64);
        for (producer, known) in &self.by_producer {
            out.put_i64(producer.get());
            out.put_i16(known.epoch.get());
            put_varint(out, known.seq);
            put_varint(out, known.since_ms);
            match known.first {
                None => put_varint(out, 0),
                Some(first) => {
                    put_varint(out, known.runs.len() as u64 + 1);
                    put_varint(out, first);
                    let mut end = first;
                    for run in &known.runs {
                        put_varint(out, run.first - end);
                        put_varint(out, run.last - run.first);
                        end = run.last + 1;
                    }
                }
            }
            put_varint(out, known.staged.len() as u64);
            for (slot, staged) in &known.staged {
                put_varint(out, u64::from(slot.get()));
                put_varint(out, staged.len() as u64);
                let mut end = 0;
                for offset in staged {
                    put_varint(out, offset - end);
                    end = offset + 1;
                }
            }
        }
    }

    /// The reverse of [`UndecidedSet::encode`].
    pub(crate) fn read(input: &mut &[u8]) -> Option<Self> {
        let mut set = Self::default();
        for _ in 0..get_varint(input)? {
            let producer = ProducerId(input.try_get_i64().ok()?);
            let id = TransactionId {
                producer,
                epoch: ProducerEpoch(input.try_get_i16().ok()?),
                seq: get_varint(input)?,
            };
            let mut known = Undecided::new(id, get_varint(input)?);
            let runs = get_varint(input)?;
            if runs > 0 {
                let first = get_varint(input).filter(|first| *first < OFFSET_END)?;
                known.first = Some(first);
                let mut end = first;
                for _ in 1..runs {
                    let distance = get_varint(input)?;
                    // Two runs that touch are one.
                    if distance == 0 && !known.runs.is_empty() {
                        return None;
                    }
                    let first = end.checked_add(distance)?;
                    let last = first
                        .checked_add(get_varint(input)?)
                        .filter(|last| *last < OFFSET_END)?;
                    known.runs.push(Run { first, last });
                    end = last + 1;
                }
            }
            for _ in 0..get_varint(input)? {
                let slot = SlotId(u32::try_from(get_varint(input)?).ok()?);
                if known.staged.last_key_value().is_some_and(|(last, _)| *last >= slot) {
                    return None;
                }
                let (mut staged, mut end) = (BTreeSet::new(), 0_u64);
                for _ in 0..get_varint(input).filter(|count| *count > 0)? {
                    let offset = end
                        .checked_add(get_varint(input)?)
                        .filter(|offset| *offset < OFFSET_END)?;
                    staged.insert(offset);
                    end = offset + 1;
                }
                known.staged.insert(slot, staged);
            }
            let is_last = set
                .by_producer
                .last_key_value()
                .is_none_or(|(last, _)| *last < producer);
            let is_first = known.first.is_none_or(|first| set.firsts.insert(first));
            if !is_last || !is_first || known.is_empty() {
                return None;
            }
            set.bytes += known.bytes();
            set.by_producer.insert(producer, Arc::new(known));
        }
        Some(set)
    }

    /// What holds of every state, beside what the slots say. `next` is the partition's next offset.
    pub(crate) fn check(&self, next: u64) -> Result<(), String> {
        let bytes: usize = self.by_producer.values().map(|known| known.bytes()).sum();
        let firsts: BTreeSet<u64> = self.by_producer.values().filter_map(|known| known.first).collect();
        if bytes != self.bytes || firsts != self.firsts {
            return Err(format!(
                "{} bytes of transactions are counted, there are {bytes}",
                self.bytes
            ));
        }
        for (producer, known) in self.iter() {
            let mut end = known.first.unwrap_or(u64::MAX);
            for run in &known.runs {
                if run.first < end || run.last < run.first || run.last >= next {
                    return Err(format!(
                        "producer {producer} has a run at {}, and ends at {next}",
                        run.first
                    ));
                }
                end = run.last + 1;
            }
            if known.is_empty() || known.first.is_some_and(|first| first >= next) {
                return Err(format!(
                    "producer {producer} has done nothing in its transaction {}",
                    known.seq
                ));
            }
        }
        Ok(())
    }

    /// A record belongs to one of them.
    pub(crate) fn has_sent(&self, offset: u64) -> bool {
        self.by_producer.values().any(|known| {
            let behind = known.runs.partition_point(|run| run.first <= offset);
            behind > 0 && known.runs[behind - 1].last >= offset
        })
    }

    /// The staged messages of a slot: each offset once.
    pub(crate) fn staged_of(&self, slot: SlotId) -> impl Iterator<Item = u64> {
        let of_slot = self
            .by_producer
            .values()
            .filter_map(move |known| known.staged.get(&slot));
        of_slot.flatten().copied()
    }

    /// The slots that have staged messages.
    pub(crate) fn slots(&self) -> impl Iterator<Item = SlotId> {
        self.by_producer.values().flat_map(|known| known.staged.keys().copied())
    }
}
