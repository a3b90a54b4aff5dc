//! What transactions do to the slots: their messages are not decided before their end, and neither is what they acknowledge.
//!
//! - What is sent is a record like others, with marks like others, and goes out when nothing before it is open any more.
//! - What is acknowledged is staged: from then on its lease neither runs out nor is it granted, settled or carried. A commit makes it done.
//!   An abort gives it back: it goes out again at once, and no failure is counted, for an abort says nothing of the message. Its delivery
//!   counts, as it was seen.
//! - A purge, a seek, a cut by retention and the end of a queue take what is staged as they take what is leased, and the transaction's end
//!   finds nothing of it.
//!
//! What grows is refused where it begins, and an end only makes the state smaller: so it is never refused.

use std::collections::BTreeMap;

use jangada_types::ProducerId;
use jangada_types::planted::{self, Bug};

use crate::command::Section;
use crate::ids::{SlotId, TransactionId};
use crate::limits::TRANSACTION_RUNS_MAX;
use crate::reply::{SectionRefused, SectionReply};
use crate::runs::Run;
use crate::state::{
    Context, DoneCause, EndTransaction, EndedMessage, EndedTransaction, Held, HeldState, OpenTransaction, Slot, Slots,
    Transactions, UndecidedTransaction,
};

impl Slots {
    /// The first offset that may belong to a transaction that is not over, at most `end`: nothing at or above it goes out. It never goes
    /// back while there is a slot.
    pub fn stable(&self, end: u64) -> u64 {
        self.undecided.first().map_or(end, |first| first.min(end))
    }

    /// The transaction of a producer that is not decided.
    pub fn undecided_of(&self, producer: ProducerId) -> Option<TransactionId> {
        self.undecided.get(producer).map(|known| TransactionId {
            producer,
            epoch: known.epoch,
            seq: known.seq,
        })
    }

    /// The transactions that are not decided.
    pub fn undecided(&self) -> impl Iterator<Item = UndecidedTransaction> {
        self.undecided.iter().map(|(producer, known)| UndecidedTransaction {
            id: TransactionId {
                producer,
                epoch: known.epoch,
                seq: known.seq,
            },
            since_ms: known.since_ms,
            first: known.first,
            staged: known.staged.values().map(|staged| staged.len() as u64).sum(),
        })
    }

    /// Whether a message of a slot is acknowledged in a transaction.
    pub fn is_staged(&self, transaction: TransactionId, slot: SlotId, offset: u64) -> bool {
        let known = self.undecided.get(transaction.producer);
        let known = known.filter(|known| known.seq == transaction.seq);
        let staged = known.and_then(|known| known.staged.get(&slot));
        staged.is_some_and(|staged| staged.contains(&offset))
    }

    /// Whether a batch of a transaction may be appended where the next offset is `base`. To be asked before it is.
    pub fn takes_batch(&self, transaction: TransactionId, base: u64) -> bool {
        if self.slots.is_empty() {
            return true;
        }
        match self.undecided.get(transaction.producer) {
            None => !self.is_full(),
            Some(known) => {
                let is_next = known.runs.last().is_some_and(|run| run.last + 1 == base);
                let has_room = known.runs.len() < TRANSACTION_RUNS_MAX && !self.is_full();
                known.seq == transaction.seq && (is_next || has_room)
            }
        }
    }

    /// A batch of a transaction was appended, with the offsets from `first` to `last`.
    pub fn sent_in(&mut self, transaction: TransactionId, first: u64, last: u64, now_ms: u64) {
        if self.slots.is_empty() {
            return;
        }
        self.change_undecided(transaction, now_ms, |known| known.send(first, last));
    }

    /// The first slot is there: transactions that are open are known from now on.
    pub(super) fn open_before(&mut self, open: Vec<OpenTransaction>) {
        for OpenTransaction { id, first, since_ms } in open {
            self.change_undecided(id, since_ms, |known| known.first = Some(first));
        }
    }

    fn change_undecided<T>(
        &mut self,
        transaction: TransactionId,
        since_ms: u64,
        change: impl FnOnce(&mut crate::state::Undecided) -> T,
    ) -> T {
        let before = self.undecided.bytes();
        let changed = self.undecided.change(transaction, since_ms, change);
        self.bytes = self.bytes + self.undecided.bytes() - before;
        changed
    }

    /// What was staged of a slot below an offset was decided otherwise.
    pub(crate) fn forget_staged(&mut self, slot: SlotId, below: u64) {
        if self.undecided.is_empty() {
            return;
        }
        let before = self.undecided.bytes();
        self.undecided.forget(slot, below);
        self.bytes = self.bytes + self.undecided.bytes() - before;
    }

    /// There is no slot any more.
    pub(super) fn forget_undecided(&mut self) {
        self.bytes -= self.undecided.bytes();
        self.undecided = crate::state::UndecidedSet::default();
    }

    /// Messages are acknowledged in a transaction.
    pub(super) fn stage(
        &mut self,
        context: &Context,
        now_ms: u64,
        section: &Section,
        known: &dyn Transactions,
    ) -> SectionReply {
        let Section::Stage {
            slot: id,
            producer,
            epoch,
            seq,
            messages,
        } = section
        else {
            unreachable!("the caller matched it");
        };
        let transaction = TransactionId {
            producer: *producer,
            epoch: *epoch,
            seq: *seq,
        };
        let is_other = |open: TransactionId| open.seq != transaction.seq;
        if !self.slots.contains_key(id) {
            return SectionReply::Refused(SectionRefused::UnknownSlot);
        }
        if !known.takes(transaction) || self.undecided_of(*producer).is_some_and(is_other) {
            return SectionReply::Refused(SectionRefused::TransactionOver);
        }
        if self.is_full() {
            return SectionReply::Refused(SectionRefused::StateFull);
        }
        let was_staged: Vec<bool> = messages
            .offsets()
            .map(|offset| self.is_staged(transaction, *id, offset))
            .collect();
        let mut staged = Vec::new();
        let refused = self.change(*id, |slot| {
            slot.each(messages, |slot, at, offset| {
                let is_leased = slot.stage(offset, now_ms);
                staged.extend(is_leased.then_some(offset));
                is_leased || was_staged[at]
            })
        });
        if !staged.is_empty() {
            self.change_undecided(transaction, now_ms, |known| {
                known.staged.entry(*id).or_default().extend(staged);
            });
        }
        debug_assert!(self.undecided.first().is_none_or(|first| first < context.next()));
        SectionReply::Taken {
            refused: refused.unwrap_or_default(),
        }
    }

    /// A transaction has ended, as its marker says: to be called where that is applied, when its control record, if there is one, has its
    /// offset. A marker that comes again, or late, ends nothing. Without slots it does nothing.
    pub fn end_transaction(&mut self, end: &EndTransaction) -> EndedTransaction {
        let mut ended = EndedTransaction {
            commit: end.commit,
            messages: Vec::new(),
        };
        if self.slots.is_empty() {
            return ended;
        }
        let is_it = self
            .undecided
            .get(end.producer)
            .is_some_and(|known| known.seq == end.seq);
        let before = self.undecided.bytes();
        let known = is_it.then(|| self.undecided.take(end.producer)).flatten();
        self.bytes = self.bytes + self.undecided.bytes() - before;
        let (runs, staged) = known.map_or((Vec::new(), BTreeMap::new()), |known| (known.runs, known.staged));
        for (id, offsets) in staged {
            let messages = &mut ended.messages;
            self.change(id, |slot| {
                messages.extend(
                    offsets
                        .into_iter()
                        .filter_map(|offset| slot.end_staged(id, offset, end)),
                );
                slot.raise_floor();
            });
        }
        let stays = end.commit || planted::is(Bug::AbortedMessagesStay);
        let void = if stays { Vec::new() } else { runs };
        let marker = end.marker.map(|offset| Run {
            first: offset,
            last: offset,
        });
        self.void(void.into_iter().chain(marker));
        ended
    }

    /// Records are no messages, for any slot.
    fn void(&mut self, runs: impl Iterator<Item = Run> + Clone) {
        let ids: Vec<SlotId> = self.slots.keys().copied().collect();
        for id in ids {
            self.change(id, |slot| runs.clone().for_each(|run| slot.void(run.first, run.last)));
        }
    }
}

impl Slot {
    /// A message is acknowledged in a transaction, if it is leased. Says whether it was.
    fn stage(&mut self, offset: u64, now_ms: u64) -> bool {
        let held = self.held(offset).copied();
        let Some(held) = held.filter(|held| held.state == HeldState::Leased) else {
            return false;
        };
        let staged = Held {
            at_ms: now_ms,
            state: HeldState::Staged,
            ..held
        };
        self.hold(offset, staged);
        true
    }

    /// What becomes of a message when its transaction is over.
    fn end_staged(&mut self, id: SlotId, offset: u64, end: &EndTransaction) -> Option<EndedMessage> {
        let held = self.held(offset).copied();
        let held = held.filter(|held| held.state == HeldState::Staged);
        debug_assert!(held.is_some(), "what a transaction has staged is so in the slot");
        let held = held?;
        let ended = EndedMessage {
            slot: id,
            offset,
            origin: self.origin(offset),
            key: held.key,
            lane: held.lane,
        };
        if end.commit || planted::is(Bug::AbortedAckCounts) {
            self.finish(offset, DoneCause::Acked);
        } else {
            self.give_back(offset, held, end.now_ms, false);
        }
        Some(ended)
    }
}
