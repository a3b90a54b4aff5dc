//! How far a slot is with sending its dead letters to another topic.

use jangada_types::planted::{self, Bug};
use std::collections::BTreeSet;

use crate::engine::io::ForwardOutcome;
use crate::limits::{FORWARD_MESSAGES_MAX, FORWARD_RETRY_MS, FORWARD_RETRY_MS_MAX};

/// Sequences of a producer end here, and another one begins.
pub(super) const SEQUENCE_MAX: u32 = i32::MAX as u32 - FORWARD_MESSAGES_MAX as u32;

/// After so many batches that arrived a larger one is tried.
const LARGER_AFTER: u32 = 16;

/// What the batch of a slot is at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// None is under way.
    #[default]
    Idle,
    /// Its command is under way.
    Proposed,
    /// It is to be sent, as the state has it.
    Ready,
    /// The host sends it.
    Sent,
    /// What became of it is to be said by the next command.
    Known { has_arrived: bool },
    /// It goes again under another producer id.
    Forgotten,
}

/// A batch that the host sends.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Batch {
    pub producer: i64,
    pub sequence: u32,
    pub messages: usize,
    pub first: u64,
    /// An earlier try of it may have arrived, or may still arrive.
    pub is_unsure: bool,
}

/// The forwarder of a slot.
#[derive(Debug, Default)]
pub(super) struct Forwarder {
    pub stage: Stage,
    pub producer: Option<i64>,
    /// A producer id was asked for.
    pub asks: bool,
    pub sequence: u32,
    /// Messages of a batch, at most; 0: as many as may be. Fewer after one that was too large, and more when some have arrived.
    most: usize,
    /// Batches that arrived since `most` changed.
    arrived: u32,
    /// The messages that are on their way, in ascending order.
    pub moving: Vec<u64>,
    /// Messages that are too large for the target.
    pub too_large: BTreeSet<u64>,
    /// Nothing is sent before this time, on the monotonic clock.
    pub retry_at_ms: u64,
    backoff_ms: u64,
    /// The batch that is sent.
    pub sent: Batch,
    /// Since when nothing arrives, milliseconds since the Unix epoch.
    pub stuck_since_ms: Option<u64>,
}

impl Forwarder {
    pub(super) fn most(&self) -> usize {
        match self.most {
            0 => FORWARD_MESSAGES_MAX,
            most => most.min(FORWARD_MESSAGES_MAX),
        }
    }

    /// The next try is later, and later each time.
    fn fails(&mut self, monotonic_ms: u64, wall_ms: u64) {
        self.backoff_ms = (self.backoff_ms * 2).clamp(FORWARD_RETRY_MS, FORWARD_RETRY_MS_MAX);
        self.retry_at_ms = monotonic_ms + self.backoff_ms;
        self.stuck_since_ms.get_or_insert(wall_ms);
    }

    /// When it goes on, if it waits.
    pub(super) fn next_ms(&self) -> Option<u64> {
        Some(self.retry_at_ms).filter(|at| *at > 0 && !matches!(self.stage, Stage::Sent | Stage::Proposed))
    }
}

impl Forwarder {
    /// What became of the batch. `may_give_up`: one that may have arrived may stay dead here all the same.
    pub(super) fn forwarded(&mut self, outcome: ForwardOutcome, may_give_up: bool, monotonic_ms: u64, wall_ms: u64) {
        // A batch that is too large was so at each try.
        let is_too_large = matches!(outcome, ForwardOutcome::TooLarge { .. });
        let is_unsure = self.sent.is_unsure && !may_give_up && !is_too_large;
        self.stage = match outcome {
            ForwardOutcome::Unknown if planted::is(Bug::LettersTakenForArrived) => Stage::Known { has_arrived: true },
            ForwardOutcome::Arrived => {
                (self.backoff_ms, self.retry_at_ms, self.stuck_since_ms) = (0, 0, None);
                self.arrived += 1;
                if self.most > 0 && self.arrived >= LARGER_AFTER {
                    (self.most, self.arrived) = (self.most * 2, 0);
                }
                Stage::Known { has_arrived: true }
            }
            ForwardOutcome::Refused | ForwardOutcome::Full | ForwardOutcome::TooLarge { .. } if !is_unsure => {
                if self.producer == Some(self.sent.producer) && !self.sent.is_unsure {
                    // The batch took none of its sequences.
                    self.sequence = self.sent.sequence;
                } else {
                    self.producer = None;
                }
                match outcome {
                    ForwardOutcome::TooLarge { fits } if fits == 0 || self.sent.messages == 1 => {
                        self.too_large.insert(self.sent.first);
                        // Whatever comes next is not asked for without end.
                        self.fails(monotonic_ms, wall_ms);
                    }
                    ForwardOutcome::TooLarge { fits } => {
                        (self.most, self.arrived) = (fits.min(self.sent.messages - 1), 0);
                    }
                    // It may have room for some, and never for all.
                    ForwardOutcome::Full if self.sent.messages > 1 => {
                        (self.most, self.arrived) = (self.sent.messages / 2, 0);
                    }
                    _ => self.fails(monotonic_ms, wall_ms),
                }
                Stage::Known { has_arrived: false }
            }
            ForwardOutcome::Forgotten => {
                self.producer = None;
                Stage::Forgotten
            }
            // Another try may still be on its way: it goes again until it is known to be there.
            ForwardOutcome::Refused
            | ForwardOutcome::Full
            | ForwardOutcome::TooLarge { .. }
            | ForwardOutcome::Unknown => {
                self.fails(monotonic_ms, wall_ms);
                self.sent.is_unsure = true;
                Stage::Ready
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_without_room_for_all_gets_fewer_at_once_and_one_alone_waits() {
        let mut forwarder = Forwarder::default();
        let mut tries = Vec::new();
        while forwarder.retry_at_ms == 0 {
            tries.push(forwarder.most());
            forwarder.sent.messages = forwarder.most();
            forwarder.forwarded(ForwardOutcome::Full, false, 1_000, 1);
            assert_eq!(forwarder.stage, Stage::Known { has_arrived: false });
        }
        assert_eq!(
            (tries[0], tries[1], tries.last()),
            (FORWARD_MESSAGES_MAX, FORWARD_MESSAGES_MAX / 2, Some(&1))
        );
        assert_eq!(forwarder.stuck_since_ms, Some(1));
        // It is known to be there, or not, by the answer to the same batch alone.
        forwarder.sent.is_unsure = true;
        forwarder.forwarded(ForwardOutcome::Full, false, 1_000, 1);
        assert_eq!(forwarder.stage, Stage::Ready);
    }
}
