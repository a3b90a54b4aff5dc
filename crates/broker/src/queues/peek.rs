//! What can be seen of a queue's messages without having them.

use jangada_queue::{Held, HeldState, MessageState as SlotState, Slot};

use super::dead_letters::word;

/// Messages that one look under the lock goes over, at most.
const LOOKS: usize = 10_000;

/// What a message is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageState {
    /// It may go out, or is delayed, or waits for an earlier one of its key.
    Ready,
    /// A consumer has it.
    Leased,
    /// It has failed, and goes out again later.
    Waiting,
    /// It does not go out any more, and is kept.
    Dead,
    /// It is a dead letter on its way to another topic.
    Moving,
}

/// A message that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peeked {
    pub offset: u64,
    pub state: MessageState,
    pub failures: u16,
    pub deliveries: u16,
    /// When its state ends, milliseconds since the Unix epoch; 0: it has no end.
    pub until_ms: u64,
    /// Why it is dead; empty: it is not.
    pub reason: String,
    /// When it died, milliseconds since the Unix epoch; 0: it is not dead.
    pub died_at_ms: u64,
    /// The hash of its key, where the queue keeps order by key; 0: none.
    pub key: u64,
}

/// Messages that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    pub messages: Vec<Peeked>,
    /// Where to look on; none: there are no more.
    pub next: Option<u64>,
}

fn peeked(offset: u64, held: Option<&Held>) -> Peeked {
    let Some(held) = held else {
        return Peeked {
            offset,
            state: MessageState::Ready,
            failures: 0,
            deliveries: 0,
            until_ms: 0,
            reason: String::new(),
            died_at_ms: 0,
            key: 0,
        };
    };
    let (state, until_ms, died_at_ms) = match held.state {
        HeldState::Leased => (MessageState::Leased, held.at_ms, 0),
        HeldState::Waiting => (MessageState::Waiting, held.at_ms, 0),
        HeldState::Dead => (MessageState::Dead, 0, held.at_ms),
        HeldState::Moving => (MessageState::Moving, 0, held.at_ms),
        // As long as its transaction is not over.
        HeldState::Staged => (MessageState::Leased, 0, 0),
    };
    let reason = held.reason.map_or("", word);
    Peeked {
        offset,
        state,
        failures: held.failures,
        deliveries: held.deliveries,
        until_ms,
        reason: reason.to_owned(),
        died_at_ms,
        key: held.key,
    }
}

/// Looks at messages from an offset on, until there are `limit` in one of the states (none given: in any), or enough were looked at.
pub(super) fn look(slot: &Slot, end: u64, from: u64, states: &[MessageState], limit: usize) -> Found {
    let fits = |message: &Peeked| states.is_empty() || states.contains(&message.state);
    let mut messages = Vec::new();
    let from = from.max(slot.floor());
    if !states.is_empty() && !states.contains(&MessageState::Ready) {
        for (looks, (offset, held)) in slot.held_from(from).enumerate() {
            if looks == LOOKS || messages.len() == limit {
                let next = Some(offset);
                return Found { messages, next };
            }
            messages.extend(Some(peeked(offset, Some(held))).filter(fits));
        }
        return Found { messages, next: None };
    }
    let mut at = from;
    for _ in 0..LOOKS {
        at = slot.next_undone(at);
        if at >= end {
            return Found { messages, next: None };
        }
        if messages.len() == limit {
            break;
        }
        let message = match slot.state(at, end) {
            SlotState::Held(held) => peeked(at, Some(held)),
            SlotState::Free => peeked(at, None),
            SlotState::Done | SlotState::Beyond => break,
        };
        messages.extend(Some(message).filter(fits));
        at += 1;
    }
    let next = Some(at);
    Found { messages, next }
}
