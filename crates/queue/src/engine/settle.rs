//! Settling: what a consumer says of the messages that it has.

use jangada_types::planted::{self, Bug};

use crate::engine::acts::{Act, Change};
use crate::engine::desk::Desk;
use crate::engine::io::{Answer, Output, ReadId, RequestId, RowsWanted, SettleItem, Settled, Settlement};
use crate::engine::policy::Policy;
use crate::engine::step::{Engine, Read, Settling, Waiting};
use crate::engine::transactions::of_staged;
use crate::ids::SlotId;
use crate::state::{DeadReason, DoneCause, Held, HeldState, MessageState, Slots};

/// What a message that failed once more becomes.
pub(super) fn failure(policy: &Policy, held: &Held, offset: u64, delay_ms: Option<u64>) -> (Change, u64) {
    let failures = held.failures.saturating_add(1);
    if policy.is_spent(failures, held.deliveries) {
        let change = Change::Dead {
            reason: DeadReason::Attempts,
            failed: true,
        };
        return (change, 0);
    }
    let delay = delay_ms.unwrap_or_else(|| policy.backoff_ms(failures, offset));
    (Change::Retry { failed: true }, delay)
}

fn change_of(policy: &Policy, settlement: Settlement, held: &Held, offset: u64) -> (Change, u64) {
    match settlement {
        Settlement::Ack => (Change::Done(DoneCause::Acked), 0),
        Settlement::Nack { delay_ms, failed: true } => failure(policy, held, offset, delay_ms),
        Settlement::Nack {
            delay_ms,
            failed: false,
        } => (Change::Retry { failed: false }, delay_ms.unwrap_or(0)),
        Settlement::Release => (Change::Release { unseen: false }, 0),
        Settlement::Reject => {
            let change = Change::Dead {
                reason: DeadReason::Rejected,
                failed: false,
            };
            (change, 0)
        }
        Settlement::Extend { lease_ms } => (Change::Extend { duration_ms: lease_ms }, 0),
        Settlement::AckIn { transaction } => (Change::Stage(transaction), 0),
    }
}

/// Whether what is to be settled is what its message is out with.
fn names_lease(held: &Held, item: &SettleItem) -> bool {
    let settles_any = planted::is(Bug::SettleWithoutLease) || planted::is(Bug::LeaseBeforeApplied);
    held.lease == item.lease || settles_any
}

impl Engine {
    pub(super) fn settle(
        &mut self,
        slots: &Slots,
        end: u64,
        request: RequestId,
        slot: SlotId,
        items: &[SettleItem],
        out: &mut Vec<Output>,
    ) {
        if slots.slot(slot).is_none() || !self.desks.contains_key(&slot) {
            let answer = Answer::UnknownSlot;
            return out.push(Output::Answer { request, answer });
        }
        if items.is_empty() {
            let answer = Answer::Settled(Vec::new());
            return out.push(Output::Answer { request, answer });
        }
        let settling = Settling {
            results: vec![Settled::LeaseLost; items.len()],
            left: items.len(),
        };
        self.settling.insert(request, settling);
        for (place, item) in items.iter().enumerate() {
            let waiting = Waiting {
                item: *item,
                request,
                place,
            };
            self.judge(slots, end, slot, waiting, out);
        }
    }

    /// Whether the token is that of the message's lease, and what becomes of it then.
    pub(super) fn judge(&mut self, slots: &Slots, end: u64, id: SlotId, waiting: Waiting, out: &mut Vec<Output>) {
        let Waiting { item, request, place } = waiting;
        let (Some(slot), Some(desk)) = (slots.slot(id), self.desks.get_mut(&id)) else {
            return self.settled(request, place, Settled::LeaseLost, out);
        };
        // Its lease went with it, if it was appended again.
        let offset = slot.place(item.offset);
        // What a command under way makes of the message decides.
        if desk.busy.contains(&offset) {
            return self.deferred.push((id, waiting));
        }
        match slot.state(offset, end) {
            MessageState::Done if offset < slots.carried_end() => {
                let read = ReadId(self.next_id());
                self.reads.insert(read, (id, Read::Origin(waiting)));
                let wanted = RowsWanted::Origin { old: offset };
                out.push(Output::Read { read, wanted });
            }
            MessageState::Done => self.settled(request, place, Settled::AlreadySettled, out),
            MessageState::Held(held) if held.state == HeldState::Leased && names_lease(held, &item) => {
                let (change, delay_ms) = change_of(&desk.policy, item.settlement, held, offset);
                let ready = Desk::ready_of(slot, offset, Some(held));
                desk.busy.insert(offset);
                desk.withhold(&ready);
                let is_answered = planted::is(Bug::SettleBeforeApplied);
                self.acts.push(Act {
                    slot: id,
                    ready,
                    change,
                    delay_ms,
                    waits: Some((request, place)).filter(|_| !is_answered),
                });
                if is_answered {
                    self.settled(request, place, Settled::Done, out);
                }
            }
            MessageState::Held(held) if held.state == HeldState::Staged => {
                let settled = of_staged(slots, id, offset, held, &item);
                self.settled(request, place, settled, out);
            }
            MessageState::Held(_) | MessageState::Free | MessageState::Beyond => {
                self.settled(request, place, Settled::LeaseLost, out);
            }
        }
    }

    /// What became of one message of a request. Answers the request when that is known of all.
    pub(super) fn settled(&mut self, request: RequestId, place: usize, settled: Settled, out: &mut Vec<Output>) {
        let Some(settling) = self.settling.get_mut(&request) else {
            return;
        };
        settling.results[place] = settled;
        settling.left -= 1;
        if settling.left == 0 {
            let settling = self.settling.remove(&request).expect("it is there");
            let answer = Answer::Settled(settling.results);
            out.push(Output::Answer { request, answer });
        }
    }
}
