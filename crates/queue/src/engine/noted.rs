//! What the engine is told where it is applied, before its next step.

use jangada_machine::Now;

use crate::engine::acts::Change;
use crate::engine::io::{Answer, Delivered, Input, Output};
use crate::engine::step::Engine;
use crate::ids::SlotId;
use crate::state::Slots;

impl Output {
    /// The messages that it hands out.
    fn messages_mut(&mut self) -> &mut [Delivered] {
        match self {
            Self::Attached { messages, .. }
            | Self::Deliver { messages, .. }
            | Self::Answer {
                answer: Answer::Received(messages),
                ..
            } => messages,
            _ => &mut [],
        }
    }

    /// Messages have new offsets. By those they are handed out, for their records may be gone at the old ones.
    pub(super) fn carried(&mut self, moves: &[(u64, u64)]) {
        for message in self.messages_mut() {
            if let Ok(at) = moves.binary_search_by_key(&message.offset, |(old, _)| *old) {
                message.offset = moves[at].1;
            }
        }
    }
}

impl Engine {
    /// Takes an input, and leaves to the next step what it makes possible. The host notes [`Input::Applied`], [`Input::Appended`] and
    /// [`Input::Carried`] where it applies a command, before anything else can see the slots: so no step sees slots with changes that the
    /// engine was not told of. Answers and deliveries that it gives come out of the next step.
    pub fn note(&mut self, slots: &Slots, end: u64, input: Input, now: Now) {
        let mut out = self.take_noted(now);
        let wall_ms = self.wall_ms(now);
        for desk in self.desks.values_mut() {
            (desk.marks_end, desk.wall_ms) = (slots.marks_end(), wall_ms);
        }
        self.take(slots, end, input, now, wall_ms, &mut out);
        self.marks_end = slots.marks_end();
        (self.noted, self.noted_ms) = (out, now.monotonic_ms);
    }

    /// What came out of inputs that were noted. The leases in it have grown older meanwhile.
    pub(super) fn take_noted(&mut self, now: Now) -> Vec<Output> {
        let mut noted = std::mem::take(&mut self.noted);
        let age_ms = now.monotonic_ms.saturating_sub(self.noted_ms);
        for message in noted.iter_mut().flat_map(Output::messages_mut) {
            message.lease_left_ms = message.lease_left_ms.saturating_sub(age_ms);
        }
        noted
    }

    /// Whoever messages are for is gone before it was given them: nobody saw them.
    pub(super) fn give_up_noted(
        &mut self,
        slots: &Slots,
        end: u64,
        id: SlotId,
        out: &mut Vec<Output>,
        is_gone: impl Fn(&Output) -> bool,
    ) {
        let (gone, rest) = std::mem::take(out).into_iter().partition(is_gone);
        *out = rest;
        for output in gone {
            let (Output::Deliver { messages, .. }
            | Output::Answer {
                answer: Answer::Received(messages),
                ..
            }) = output
            else {
                continue;
            };
            for message in messages {
                self.give_up(slots, end, id, message.offset, Change::Release { unseen: true });
            }
        }
    }
}
