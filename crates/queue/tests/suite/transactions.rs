//! Transactions in a [`World`]: a coordinator that decides each once and whose markers come again and late, and what a partition knows of
//! its producers. The oracle knows what was sent and acknowledged in each.

use std::collections::{BTreeMap, BTreeSet};

use jangada_machine::Effects;
use jangada_queue::engine::{Input, Settlement};
use jangada_queue::{EndTransaction, Mark, OpenTransaction, TransactionId, Transactions};
use jangada_types::{ProducerEpoch, ProducerId};

use crate::world::{Entry, World};

/// What the partition knows of a producer, replicated.
#[derive(Default)]
struct Known {
    open: Option<OpenTransaction>,
    /// The last one that has ended.
    ended: u64,
}

#[derive(Default)]
pub struct Txns {
    known: BTreeMap<ProducerId, Known>,
    /// What the coordinator has decided.
    decided: BTreeMap<TransactionId, bool>,
    /// Those whose marker was applied.
    over: BTreeMap<TransactionId, bool>,
    /// The transaction of each message that was sent in one.
    sent: BTreeMap<u64, TransactionId>,
    /// Messages of which somebody was told that they are acknowledged in a transaction that is not over.
    staged: BTreeMap<u64, TransactionId>,
    /// Control records, and messages of transactions that were aborted.
    pub voids: BTreeSet<u64>,
    /// Messages that a transaction gave back, and how often they had been handed out then.
    back: BTreeMap<u64, u32>,
    seq: BTreeMap<ProducerId, u64>,
    /// Batches and acknowledgements that came too late.
    pub late: usize,
}

impl Transactions for Txns {
    fn takes(&self, txn: TransactionId) -> bool {
        let Some(known) = self.known.get(&txn.producer) else {
            return true;
        };
        known.ended < txn.seq && known.open.is_none_or(|open| open.id.seq == txn.seq)
    }

    fn open(&self) -> Vec<OpenTransaction> {
        self.known.values().filter_map(|known| known.open).collect()
    }
}

impl Txns {
    /// A message is handed out.
    pub fn may_go_out(&self, id: u64) {
        assert!(!self.voids.contains(&id), "{id} never was a message, and is handed out");
        if let Some(txn) = self.sent.get(&id) {
            assert_eq!(self.over.get(txn), Some(&true), "{id} is handed out, and not committed");
        }
        let staged = self.staged.get(&id);
        assert_eq!(
            staged, None,
            "{id} is handed out while it is acknowledged in a transaction"
        );
    }

    /// Somebody is told that a message is acknowledged in a transaction.
    pub fn told(&mut self, txn: TransactionId, id: u64, acked: &BTreeSet<u64>) {
        match self.over.get(&txn) {
            None => drop(self.staged.insert(id, txn)),
            Some(true) => assert!(acked.contains(&id), "{id} was acknowledged in what was committed"),
            Some(false) => {}
        }
    }

    /// What was given back was handed out again before it was acknowledged.
    pub fn came_again(&self, acked: &BTreeSet<u64>, delivered: &BTreeMap<u64, u32>) {
        for (id, before) in self.back.iter().filter(|(id, _)| acked.contains(id)) {
            let times = delivered.get(id).copied().unwrap_or(0);
            assert!(
                times > *before,
                "{id} was given back, and acknowledged without coming again"
            );
        }
        assert!(self.staged.is_empty(), "{:?} are staged for ever", self.staged);
    }
}

impl World {
    /// A client begins a transaction, if the one before is over.
    pub fn begin(&mut self, client: usize) -> Option<TransactionId> {
        let producer = ProducerId(100 + client as i64);
        let seq = self.txns.seq.entry(producer).or_default();
        let last = TransactionId {
            producer,
            epoch: ProducerEpoch(*seq as i16),
            seq: *seq,
        };
        if *seq > 0 && !self.txns.over.contains_key(&last) {
            return None;
        }
        *seq += 1;
        let txn = TransactionId {
            producer,
            epoch: ProducerEpoch(*seq as i16),
            seq: *seq,
        };
        self.clients[client].txn = Some(txn);
        Some(txn)
    }

    pub fn send_in(&mut self, txn: TransactionId, marks: Vec<Mark>) {
        self.pending.push_back(Entry::Sent(txn, marks));
    }

    /// The coordinator decides, and its marker comes once or twice.
    pub fn decide(&mut self, txn: TransactionId, commit: bool) {
        self.txns.decided.insert(txn, commit);
        for _ in 0..=self.seeds.below(2) {
            self.pending.push_back(Entry::Marker(txn, commit));
        }
    }

    /// A client ends its transaction; a commit only when all that it said in it was answered.
    pub fn finish(&mut self, client: usize, commit: bool) -> bool {
        let Some(txn) = self.clients[client].txn else {
            return false;
        };
        let is_in = |settlement: &Settlement| *settlement == Settlement::AckIn { transaction: txn };
        let mut unanswered = self.clients[client].unanswered.values();
        if commit && unanswered.any(|(_, settlement)| is_in(settlement)) {
            return false;
        }
        self.clients[client].txn = None;
        self.decide(txn, commit);
        true
    }

    /// A marker of any transaction comes once more, or a batch of it comes after its end.
    pub fn comes_late(&mut self) {
        let count = self.txns.decided.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.seeds.below(count) as usize;
        let (txn, commit) = self.txns.decided.iter().nth(at).expect("it was counted");
        let (txn, commit) = (*txn, *commit);
        match self.seeds.below(2) {
            0 => self.pending.push_back(Entry::Marker(txn, commit)),
            _ => self.send_in(txn, vec![Mark::default()]),
        }
    }

    /// Applies a batch of a transaction, if it is to be appended.
    pub fn append_in(&mut self, txn: TransactionId, marks: &[Mark], effects: &mut Effects) -> Option<Input> {
        let (first, now_ms) = (self.end(), self.wall());
        let is_other = |known: TransactionId| known.seq != txn.seq;
        let takes = self.txns.takes(txn) && !self.slots.undecided_of(txn.producer).is_some_and(is_other);
        assert_eq!(
            self.slots.takes_batch(txn, first),
            self.follower.takes_batch(txn, first)
        );
        if !takes || !self.slots.takes_batch(txn, first) {
            assert!(self.txns.over.contains_key(&txn), "it is refused after its end alone");
            self.txns.late += 1;
            return None;
        }
        let input = self.append(marks, effects);
        let last = self.end() - 1;
        (first..=last).for_each(|at| _ = self.txns.sent.insert(at, txn));
        self.slots.sent_in(txn, first, last, now_ms);
        self.follower.sent_in(txn, first, last, now_ms);
        let open = OpenTransaction {
            id: txn,
            first,
            since_ms: now_ms,
        };
        self.txns
            .known
            .entry(txn.producer)
            .or_default()
            .open
            .get_or_insert(open);
        Some(input)
    }

    /// Applies a marker.
    pub fn end_transaction(&mut self, txn: TransactionId, commit: bool) -> Input {
        let at = self.end();
        let known = self.txns.known.entry(txn.producer).or_default();
        let is_first = known.ended < txn.seq;
        let is_open = known.open.is_some_and(|open| open.id.seq == txn.seq);
        known.ended = known.ended.max(txn.seq);
        if is_open {
            known.open = None;
            self.log.record(60);
            self.records.push((at, Mark::default()));
            self.txns.voids.insert(at);
        }
        let end = EndTransaction {
            producer: txn.producer,
            seq: txn.seq,
            commit,
            now_ms: self.wall(),
            marker: is_open.then_some(at),
        };
        let ended = self.slots.end_transaction(&end);
        assert_eq!(self.follower.end_transaction(&end), ended, "replicas reply alike");
        let messages = ended
            .messages
            .iter()
            .map(|message| self.records[message.offset as usize].0);
        let messages: BTreeSet<u64> = messages.collect();
        if is_first {
            self.txns.over.insert(txn, commit);
        } else {
            assert!(
                messages.is_empty() && !is_open,
                "a marker that comes again ends nothing"
            );
        }
        let told: Vec<u64> = self
            .txns
            .staged
            .iter()
            .filter(|(_, of)| **of == txn)
            .map(|(id, _)| *id)
            .collect();
        for id in told {
            self.txns.staged.remove(&id);
            assert!(
                messages.contains(&id) || self.cut.contains(&id),
                "{id} was acknowledged in {txn:?}, and is not"
            );
        }
        if commit {
            self.acked.extend(messages);
        } else {
            let back = messages
                .into_iter()
                .map(|id| (id, self.delivered.get(&id).copied().unwrap_or(0)));
            self.txns.back.extend(back);
            let aborted = self.txns.sent.iter().filter(|(_, of)| **of == txn).map(|(id, _)| *id);
            self.txns.voids.extend(aborted);
        }
        Input::Ended(ended)
    }
}
