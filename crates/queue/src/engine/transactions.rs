//! Messages that are acknowledged in transactions: from the acknowledgement on they are with nobody, and the end of the transaction says
//! what becomes of them. Where it is applied the engine is told of it.

use jangada_machine::Now;

use crate::engine::acts::Change;
use crate::engine::desk::{Desk, Ready};
use crate::engine::io::{SettleItem, Settled, Settlement};
use crate::engine::outs::PASSED;
use crate::engine::step::Engine;
use crate::engine::walk::View;
use crate::ids::SlotId;
use crate::reply::{SectionRefused, SectionReply};
use crate::state::{DoneCause, EndedMessage, EndedTransaction, Held, HeldState, Slot, Slots};

impl Engine {
    /// A transaction is over. The slots have it already.
    pub(super) fn transaction_ended(&mut self, slots: &Slots, end: u64, ended: &EndedTransaction, now: Now) {
        for message in &ended.messages {
            let slot = slots.slot(message.slot);
            if let (Some(desk), Some(slot)) = (self.desks.get_mut(&message.slot), slot) {
                let view = View::new(message.slot, slot, slots, end, now, None);
                desk.transaction_ended(&view, message, ended.commit);
            }
        }
    }
}

impl Desk {
    fn transaction_ended(&mut self, view: &View<'_>, message: &EndedMessage, commit: bool) {
        if commit {
            self.counts_change(Change::Done(DoneCause::Acked));
            self.outcome(view, false);
            return self.free_key(view.slot, message.key, message.origin);
        }
        // It keeps its key busy until it is acknowledged after all.
        self.give_back(Ready {
            offset: message.offset,
            origin: message.origin,
            key: message.key,
            lane: message.lane,
            expires_at_ms: 0,
        });
    }

    /// A message could not be acknowledged in a transaction: it is with its consumer still. If its lease ran out meanwhile, it goes out
    /// again.
    pub(super) fn not_staged(&mut self, slot: &Slot, ready: &Ready) {
        let has_passed = self.out.get(ready.offset).is_some_and(|out| out.deadline == PASSED);
        if has_passed
            && slot
                .held(ready.offset)
                .is_some_and(|held| held.state == HeldState::Leased)
        {
            self.give_back(*ready);
        }
    }
}

/// What a consumer is told that says something of a message which is acknowledged in a transaction.
pub(super) fn of_staged(slots: &Slots, id: SlotId, offset: u64, held: &Held, item: &SettleItem) -> Settled {
    match item.settlement {
        _ if held.lease != item.lease => Settled::LeaseLost,
        // It says again what it said.
        Settlement::AckIn { transaction } if slots.is_staged(transaction, id, offset) => Settled::Done,
        _ => Settled::InTransaction,
    }
}

/// What a consumer is told whose settlement was refused.
pub(super) fn refusal(change: Change, reply: &SectionReply) -> Settled {
    match (change, reply) {
        (Change::Stage(_), SectionReply::Refused(SectionRefused::TransactionOver)) => Settled::TransactionOver,
        (Change::Stage(_), SectionReply::Refused(SectionRefused::StateFull)) => Settled::Full,
        _ => Settled::LeaseLost,
    }
}
