//! What goes on between a partition's log and the slots of its queues: commands about them, marks of records, and transactions.

use bytes::Bytes;
use jangada_machine::Effects;
use jangada_queue::{
    Carry, Context, EndTransaction, EndedTransaction, Marks, OpsReply, QueueOps, ScheduleCommand, TransactionId,
};
use jangada_types::{BatchHeader, LogPosition, Offset};

use super::{Incoming, PartitionState, appended};
use crate::command::IdFinding;
use crate::reply::{PartitionReply, Refusal};
use crate::tables::IndexEntry;
use crate::transactions::Marker;

/// An offset of a record as the queues have it.
pub(super) fn number(offset: Offset) -> u64 {
    offset.get().unsigned_abs()
}

impl PartitionState {
    /// The transaction of a batch.
    pub(super) fn transaction_of(header: &BatchHeader, seq: u64) -> TransactionId {
        TransactionId {
            producer: header.producer_id,
            epoch: header.producer_epoch,
            seq,
        }
    }

    /// A batch of a transaction got its offsets.
    pub(super) fn sent_in_queues(&mut self, transaction: TransactionId, row: &IndexEntry, now_ms: i64) {
        let [first, last] = [row.base_offset, row.last_offset].map(number);
        self.slots
            .sent_in(transaction, first, last, now_ms.max(0).unsigned_abs());
    }

    /// Why the queues do not let a batch of a transaction in.
    pub(super) fn refused_by_queues(&self, transaction: TransactionId) -> Option<Refusal> {
        let open = self.slots.undecided_of(transaction.producer);
        if let Some(open) = open.filter(|open| open.seq != transaction.seq) {
            // Messages are acknowledged in another one.
            return Some(Refusal::TransactionOpen { seq: open.seq });
        }
        let takes = self.slots.takes_batch(transaction, number(self.next_offset));
        (!takes).then_some(Refusal::TooManyTransactions)
    }

    /// The queues learn that a transaction has ended, and where its control record is, if there is one.
    pub(super) fn end_in_queues(&mut self, marker: &Marker, at: Option<Offset>) -> EndedTransaction {
        self.slots.end_transaction(&EndTransaction {
            producer: marker.end.producer_id,
            seq: marker.seq,
            commit: marker.end.commit,
            now_ms: marker.now_ms.max(0).unsigned_abs(),
            marker: at.map(number),
        })
    }

    fn context(&self, at: LogPosition) -> Context {
        Context {
            at,
            log_start: self.log_start,
            next_offset: self.next_offset,
        }
    }

    pub(super) fn change_slots(&mut self, at: LogPosition, ops: &QueueOps) -> OpsReply {
        let context = self.context(at);
        self.slots.apply(&context, ops, &self.producers)
    }

    /// The queues learn what is said of the records of a batch that was appended.
    pub(super) fn mark(
        &mut self,
        base: Offset,
        marks: &Marks,
        ids: Option<&IdFinding>,
        now_ms: i64,
        effects: &mut Effects,
    ) {
        let ids = ids.map(|found| (found.window, u64::try_from(now_ms).unwrap_or(0)));
        self.slots.appended(base.get().unsigned_abs(), marks, ids, effects);
    }

    pub(super) fn carry(
        &mut self,
        at: LogPosition,
        carry: &Carry,
        batch: &Bytes,
        effects: &mut Effects,
    ) -> (PartitionReply, Option<IndexEntry>) {
        if let Err(refused) = self.slots.judge_carry(&self.context(at), carry) {
            return (PartitionReply::CarryRefused(refused), None);
        }
        let row = self.place(at, &Incoming::of(batch));
        self.slots.carry(carry, row.base_offset.get().unsigned_abs(), effects);
        (appended(&row), Some(row))
    }

    pub(super) fn schedule(
        &mut self,
        at: LogPosition,
        change: &ScheduleCommand,
        marks: &Marks,
        batch: &Bytes,
        effects: &mut Effects,
    ) -> (PartitionReply, Option<IndexEntry>) {
        let context = self.context(at);
        let changed = match change {
            ScheduleCommand::Put(put) => self.slots.put_schedule(&context, put),
            ScheduleCommand::Delete { key } => self.slots.delete_schedule(key),
            ScheduleCommand::Fire(fire) => self.slots.judge_fire(&context, fire),
        };
        if let Err(refused) = changed {
            return (PartitionReply::ScheduleRefused(refused), None);
        }
        let ScheduleCommand::Fire(fire) = change else {
            return (PartitionReply::Scheduled, None);
        };
        self.slots.fired(fire);
        if !fire.appends {
            return (PartitionReply::Scheduled, None);
        }
        let row = self.place(at, &Incoming::of(batch));
        self.slots
            .appended(row.base_offset.get().unsigned_abs(), marks, None, effects);
        (appended(&row), Some(row))
    }
}
