//! How much a slot has: its limits, and what is shown of it.

use std::cmp::Reverse;

use crate::engine::breaker::Tripped;
use crate::engine::desk::Desk;
use crate::engine::io::LogPart;
use crate::engine::policy::{Overflow, Policy};
use crate::engine::step::Engine;
use crate::ids::SlotId;
use crate::state::{Slot, Slots};

/// How large messages are, on the average of those that are not done.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scale {
    messages: u64,
    bytes: u64,
}

/// Messages, and the bytes of their records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub messages: u64,
    pub bytes: u64,
}

/// What a queue has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Messages that are not dead.
    Messages,
    /// The bytes of their records.
    Bytes,
}

/// A queue takes no more messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// What there is too much of.
    pub limit: Limit,
    /// So much it may have.
    pub most: u64,
    /// So much it has, what is being appended included.
    pub actual: u64,
}

/// The oldest message of a lane that may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oldest {
    /// The level of priority; 0 where the queue has none.
    pub lane: u8,
    /// The offset of the message, now. Its record says since when it is there.
    pub offset: u64,
}

/// What a slot has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotCounts {
    /// Messages that may go out.
    pub ready: u64,
    /// Messages that are not due, about: those that the leader has passed. A new leader counts them anew, and one that was cancelled
    /// counts until its time.
    pub delayed: u64,
    /// Messages that a session has.
    pub leased: u64,
    /// Messages that failed, and go out again later.
    pub waiting: u64,
    /// Messages that do not go out any more, and are kept.
    pub dead: u64,
    /// Bytes of the records that are neither done nor dead, by the mean size of a record.
    pub bytes: u64,
    /// Consumers that have a stream, or wait with a receive.
    pub consumers: u64,
    /// The first message that is not done, whatever its state.
    pub first: Option<u64>,
    /// The oldest message that may go out, of each lane that has one.
    pub oldest: Vec<Oldest>,
    /// The breaker, if it has tripped.
    pub tripped: Option<Tripped>,
    /// Since when dead letters cannot be forwarded, milliseconds since the Unix epoch.
    pub stuck_since_ms: Option<u64>,
}

impl Scale {
    /// From the parts of a log; `undone` says how many messages of a range are not done.
    pub(super) fn of(start: u64, parts: &[LogPart], undone: impl Fn(u64, u64) -> u64) -> Self {
        let mut scale = Self::default();
        let mut from = start;
        for part in parts {
            let records = part.end.saturating_sub(from).max(1);
            let live = undone(from, part.end).min(records);
            scale.messages += live;
            scale.bytes += mul_div(part.record_bytes, live, records);
            from = part.end;
        }
        if scale.messages == 0
            && let Some(last) = parts.last()
        {
            // None is left: the next ones are like the latest.
            let before = parts.len().checked_sub(2).map_or(start, |at| parts[at].end);
            scale.messages = last.end.saturating_sub(before).max(1);
            scale.bytes = last.record_bytes;
        }
        scale
    }

    /// The bytes of so many messages.
    pub(super) fn bytes_of(&self, messages: u64) -> u64 {
        mul_div(self.bytes, messages, self.messages.max(1))
    }

    /// How many messages have so many bytes, at least.
    fn messages_of(&self, bytes: u64) -> u64 {
        match self.bytes {
            0 => 0,
            all => mul_div(bytes, self.messages, all).saturating_add(u64::from(bytes > 0)),
        }
    }

    pub(super) fn add(&mut self, amount: Amount) {
        self.messages += amount.messages;
        self.bytes += amount.bytes;
    }

    /// By how many messages a slot is over its limits.
    pub(super) fn over(&self, policy: &Policy, messages: u64) -> u64 {
        if policy.overflow != Overflow::DropOldest {
            return 0;
        }
        let by_messages = policy.messages_max.map_or(0, |most| messages.saturating_sub(most));
        let by_bytes = policy.bytes_max.map_or(0, |most| {
            let bytes = self.bytes_of(messages).saturating_sub(most);
            self.messages_of(bytes).min(messages)
        });
        by_messages.max(by_bytes)
    }
}

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
            is_over(Limit::Messages, desk.policy.messages_max, has.messages, messages)?;
            is_over(Limit::Bytes, desk.policy.bytes_max, has.bytes, bytes)?;
        }
        desk.sending.messages += messages;
        desk.sending.bytes += bytes;
        Ok(())
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

    /// What a slot has, as its leader knows it; none: its settings were not told. Cheap: no look-up, and no walk.
    pub fn counts(&self, slots: &Slots, end: u64, id: SlotId) -> Option<SlotCounts> {
        let (desk, slot) = (self.desks.get(&id)?, slots.slot(id)?);
        let counts = slot.counts();
        let free = slot.free(end);
        let delayed = desk.delayed(slot, end).min(free);
        Some(SlotCounts {
            ready: free - delayed,
            delayed,
            leased: counts.leased,
            waiting: counts.waiting,
            dead: counts.dead,
            bytes: self.scale.bytes_of(depth(slot, end)),
            consumers: desk.consumers.iter().count() as u64,
            first: Some(slot.floor()).filter(|floor| *floor < end),
            oldest: desk.oldest(slot, end),
            tripped: desk.breaker.tripped(),
            stuck_since_ms: None,
        })
    }
}

impl Desk {
    /// Messages that are not due.
    fn delayed(&self, slot: &Slot, end: u64) -> u64 {
        // With an order by key the delay is the queue's: behind the first that is not due none is.
        if self.policy.is_keyed() && self.head_at_ms.is_some() && self.policy.expired.is_none() {
            return slot.undone_within(self.cursor, end);
        }
        self.timers.len()
    }

    /// The first message of each lane that may go out.
    fn oldest(&self, slot: &Slot, end: u64) -> Vec<Oldest> {
        let lanes = self.lanes.keys().copied().chain([0]);
        let of_lane = |lane: u8| {
            let mut returned = self.returned.range((Reverse(lane), 0)..=(Reverse(lane), u64::MAX));
            let returned = returned.next().map(|(_, ready)| (ready.origin, ready.offset));
            let ahead = match self.lanes.get(&lane) {
                Some(known) => known.front().map(|(offset, _)| *offset),
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

/// The messages that count against the limits of a queue.
pub(super) fn depth(slot: &Slot, end: u64) -> u64 {
    slot.undone(end) - slot.counts().dead
}

/// `value * by / over`.
pub(super) fn mul_div(value: u64, by: u64, over: u64) -> u64 {
    (u128::from(value) * u128::from(by) / u128::from(over)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_what_is_left() {
        let part = |end, record_bytes| LogPart {
            end,
            record_bytes,
            bytes: record_bytes,
        };
        let parts = [part(10, 1_000), part(20, 40)];
        // One large message is left, and all small ones.
        let scale = Scale::of(0, &parts, |from, _| if from == 0 { 1 } else { 10 });
        assert_eq!((scale.bytes_of(11), scale.messages_of(140)), (140, 12));
        let scale = Scale::of(0, &parts, |_, _| 0);
        assert_eq!(scale.bytes_of(5), 20, "as the latest were");
        assert_eq!(Scale::default().bytes_of(5), 0);
    }
}
