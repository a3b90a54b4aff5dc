//! Whether a queue takes more, and what is shown of it.

use std::cmp::Reverse;

use crate::engine::depth::{Amount, Full, Limit, Oldest, Room, SlotCounts, depth, undecided};
use crate::engine::desk::Desk;
use crate::engine::policy::Overflow;
use crate::engine::step::Engine;
use crate::engine::tally::Tally;
use crate::ids::SlotId;
use crate::state::{DoneCause, Slot, SlotKind, Slots};

impl Engine {
    /// Whether a queue takes so many messages more, in so many bytes of records; to be asked before they are appended. What was admitted
    /// counts as under way until [`Input::Sent`](crate::Input::Sent) says what became of it, which has to be told of each that was.
    ///
    /// # Errors
    /// The queue is full, and its setting is to refuse what is sent then. Nothing is to be appended.
    pub fn admits(&mut self, slots: &Slots, end: u64, id: SlotId, messages: u64, bytes: u64) -> Result<(), Full> {
        let (Some(desk), Some(slot)) = (self.desks.get_mut(&id), slots.slot(id)) else {
            return Ok(());
        };
        let depth = depth(slot, end);
        let has = Amount {
            messages: depth + desk.sending.messages,
            bytes: self.scale.bytes_of(depth) + desk.sending.bytes,
        };
        if desk.policy.overflow == Overflow::Reject {
            let is_over = |limit, most: Option<u64>, actual: u64, more: u64| match most {
                Some(most) if actual.saturating_add(more) > most => Err(Full { limit, most, actual }),
                _ => Ok(()),
            };
            let judged = is_over(Limit::Messages, desk.policy.messages_max, has.messages, messages)
                .and_then(|()| is_over(Limit::Bytes, desk.policy.bytes_max, has.bytes, bytes));
            if judged.is_err() {
                desk.tally.refused_full += messages;
                return judged;
            }
        }
        desk.sending.messages += messages;
        desk.sending.bytes += bytes;
        Ok(())
    }

    /// Whether the settings of a slot were told.
    pub fn is_configured(&self, id: SlotId) -> bool {
        self.desks.contains_key(&id)
    }

    /// What a slot takes still before it is full, about; none: it takes any number.
    pub fn room(&self, slots: &Slots, end: u64, id: SlotId) -> Option<Room> {
        let (desk, slot) = (self.desks.get(&id)?, slots.slot(id)?);
        if !desk.policy.refuses_when_full() {
            return None;
        }
        let depth = depth(slot, end);
        let messages = desk
            .policy
            .messages_max
            .map(|most| most.saturating_sub(depth + desk.sending.messages));
        let of_messages = messages.map(|left| self.scale.bytes_of(left).max(left));
        let bytes = desk.policy.bytes_max.map(|most| {
            let has = self.scale.bytes_of(depth) + desk.sending.bytes;
            most.saturating_sub(has)
        });
        Some(Room {
            messages: messages.unwrap_or(u64::MAX),
            bytes: bytes.unwrap_or(u64::MAX),
            about_bytes: of_messages.into_iter().chain(bytes).min().unwrap_or(u64::MAX),
        })
    }

    /// What was admitted is appended, or was definitely not.
    pub(super) fn sent(&mut self, id: SlotId, amount: Amount, is_appended: bool) {
        if let Some(desk) = self.desks.get_mut(&id) {
            desk.sending.messages = desk.sending.messages.saturating_sub(amount.messages);
            desk.sending.bytes = desk.sending.bytes.saturating_sub(amount.bytes);
        }
        if is_appended {
            self.scale.add(amount);
        }
    }

    /// Messages that were appended to the slot's own log since this engine began, those of a carry, and what never was a message, left
    /// out.
    fn sent_since(&self, slot: &Slot, end: u64) -> u64 {
        let (first_end, carried) = self.began_at.unwrap_or((end, 0));
        let carried = not_sent(slot).saturating_sub(carried);
        match slot.kind() {
            SlotKind::Owned => (end - first_end).saturating_sub(carried),
            SlotKind::Group | SlotKind::Bound => 0,
        }
    }

    /// Where this engine begins to count.
    pub(super) fn begins_to_count(&mut self, slots: &Slots, end: u64) {
        let carried = slots.iter().map(|(_, slot)| not_sent(slot)).max();
        self.began_at.get_or_insert((end, carried.unwrap_or(0)));
    }

    /// What a slot has, as its leader knows it; none: its settings were not told. Cheap: no look-up, and no walk.
    pub fn counts(&self, slots: &Slots, end: u64, id: SlotId) -> Option<SlotCounts> {
        let (desk, slot) = (self.desks.get(&id)?, slots.slot(id)?);
        let counts = slot.counts();
        let (free, stable) = (slot.free(end), slots.stable(end));
        let undecided = undecided(slot, (stable, end));
        let elsewhere = desk.elsewhere.len().min(free - undecided);
        let known = free - undecided - elsewhere;
        let delayed = desk.delayed(slot, stable).min(known);
        Some(SlotCounts {
            ready: known - delayed,
            delayed,
            leased: counts.leased,
            waiting: counts.waiting,
            dead: counts.dead,
            staged: counts.staged,
            undecided,
            elsewhere,
            bytes: self.scale.bytes_of(depth(slot, end)),
            consumers: desk.consumers.iter().count() as u64,
            first: Some(slot.floor()).filter(|floor| *floor < end),
            oldest: desk.oldest(slot, stable),
            tripped: desk.breaker.tripped(),
            stuck_since_ms: desk.forwarder.stuck_since_ms,
            tally: Tally {
                carried_bytes: if slot.kind() == SlotKind::Owned {
                    self.carrier.carried
                } else {
                    0
                },
                sent: self.sent_since(slot, end),
                ..desk.tally
            },
        })
    }
}

/// Offsets of a slot that nobody sent anything with.
fn not_sent(slot: &Slot) -> u64 {
    slot.settled(DoneCause::Carried) + slot.settled(DoneCause::Void)
}

impl Desk {
    /// Messages that are not due.
    fn delayed(&self, slot: &Slot, end: u64) -> u64 {
        // The walk waits for the next of too many keys: about all that lies behind is not due.
        let waits = self.policy.is_keyed() && self.head_at_ms.is_some() && self.policy.expired.is_none();
        let ahead = if waits { slot.undone_within(self.cursor, end) } else { 0 };
        self.timers.len().saturating_add(ahead)
    }

    /// The first message of each lane that may go out.
    fn oldest(&self, slot: &Slot, end: u64) -> Vec<Oldest> {
        let lanes = self.lanes.keys().copied().chain([0]);
        let of_lane = |lane: u8| {
            let mut returned = self.returned.range((Reverse(lane), 0)..=(Reverse(lane), u64::MAX));
            let returned = returned.next().map(|(_, ready)| (ready.origin, ready.offset));
            let ahead = match self.lanes.get(&lane) {
                Some(known) => known.front().map(|(offset, _)| *offset).filter(|offset| *offset < end),
                None => Some(slot.next_undone(self.cursor)).filter(|offset| *offset < end && self.head_at_ms.is_none()),
            };
            let first = returned.into_iter().chain(ahead.map(|offset| (offset, offset))).min();
            first.map(|(_, offset)| Oldest { lane, offset })
        };
        let mut oldest: Vec<Oldest> = lanes.filter_map(of_lane).collect();
        oldest.sort_unstable_by_key(|oldest| oldest.lane);
        oldest
    }
}
