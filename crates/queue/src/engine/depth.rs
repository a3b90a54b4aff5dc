//! How much a slot has: what there may be of it, how large it is, and what is shown of it.

use crate::engine::breaker::Tripped;
use crate::engine::io::LogPart;
use crate::engine::policy::{Overflow, Policy};
use crate::engine::tally::Tally;
use crate::state::Slot;

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

/// What a queue takes still before it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Messages by their number.
    pub messages: u64,
    /// Bytes of records by their sum.
    pub bytes: u64,
    /// Bytes of records by both, with messages as large as those that are there.
    pub about_bytes: u64,
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
    /// Messages that may go out. Of an exchange's log those that the leader has not come to count, too, whoever they are for.
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
    /// Messages that are acknowledged in transactions that are not over.
    pub staged: u64,
    /// Messages that belong to a transaction that is not over, or lie behind one.
    pub undecided: u64,
    /// Messages that the leader found to be for other queues of the exchange's log, and that are not done for that yet.
    pub elsewhere: u64,
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
    /// What has come of the slot's messages since its leader began.
    pub tally: Tally,
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

/// The messages that count against the limits of a queue, those that are not decided included: what was admitted has its place.
pub(super) fn depth(slot: &Slot, end: u64) -> u64 {
    slot.undone(end) - slot.counts().dead
}

/// Messages that are not decided, or lie behind one that is not.
pub(super) fn undecided(slot: &Slot, (stable, end): (u64, u64)) -> u64 {
    if stable < end { slot.free_within(stable, end) } else { 0 }
}

/// Those of them that are decided: no message goes for one that may never have been.
pub(super) fn decided_depth(slot: &Slot, (stable, end): (u64, u64)) -> u64 {
    depth(slot, end) - undecided(slot, (stable, end))
}

impl Slot {
    /// How many messages of a range are not done.
    pub(super) fn undone_within(&self, from: u64, until: u64) -> u64 {
        let from = from.max(self.floor);
        match until > from {
            true => until - from - self.done.count(from, until - 1),
            false => 0,
        }
    }
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
