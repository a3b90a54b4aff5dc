//! Dead letters on their way to another topic.
//!
//! ```text
//!   Producer   a producer id for the target, once a term
//!   Moving     committed: these dead messages go, with this producer id and from this sequence on
//!   Forward    the host appends them to the target with an idempotent producer
//!   Moved      committed: they arrived, and are done; or they were refused, and stay dead here
//! ```
//!
//! One batch of a slot is under way. What it contains and its sequence are committed before it is sent, so a new leader sends the same
//! again, and the target finds a duplicate. A producer id is never used for two terms, so it needs no epoch: with no batch under way
//! there is nothing that a later one could be a duplicate of. If the target has forgotten the producer, the batch goes again under
//! another id, and may be there twice.

use jangada_types::planted::{self, Bug};

use crate::command::Section;
use crate::engine::desk::{Desk, Ready};
use crate::engine::forwarder::{Batch, Forwarder, SEQUENCE_MAX, Stage};
use crate::engine::io::{DeadLetter, Input, Output};
use crate::engine::policy::{OnDead, Order};
use crate::engine::step::Engine;
use crate::engine::walk::View;
use crate::ids::SlotId;
use crate::reply::SectionReply;
use crate::runs::Runs;
use crate::state::{Forwarding, Held, HeldState, Slot};

impl Engine {
    /// The host has a producer id for the target of a slot, or knows what became of a batch.
    pub(super) fn forward_input(&mut self, input: &Input, monotonic_ms: u64, wall_ms: u64) {
        match input {
            Input::Producer { slot, producer } => {
                if let Some(desk) = self.desks.get_mut(slot).filter(|desk| desk.forwarder.asks) {
                    let forwarder = &mut desk.forwarder;
                    (forwarder.producer, forwarder.sequence, forwarder.asks) = (Some(*producer), 0, false);
                }
            }
            Input::Forwarded {
                slot,
                producer,
                sequence,
                outcome,
            } => {
                let is_sent = |desk: &&mut Desk| {
                    let Forwarder { stage, sent, .. } = &desk.forwarder;
                    *stage == Stage::Sent && (sent.producer, sent.sequence) == (*producer, *sequence)
                };
                if let Some(desk) = self.desks.get_mut(slot).filter(is_sent) {
                    let may_give_up = !desk.policy.forwards_dead;
                    desk.forwarder.forwarded(*outcome, may_give_up, monotonic_ms, wall_ms);
                }
            }
            _ => {}
        }
    }
}

impl Desk {
    /// What the host has to do for the forwarder now.
    pub(super) fn forward(&mut self, view: &View<'_>, out: &mut Vec<Output>) {
        let slot = view.slot;
        let forwarding = slot.forwarding();
        match (self.forwarder.stage, forwarding) {
            // Of the leader before, or of a slot that began anew.
            (Stage::Idle, Some(_)) if planted::is(Bug::LettersSentAnew) => self.forwarder.stage = Stage::Forgotten,
            (Stage::Idle, Some(_)) => {
                self.forwarder.stage = Stage::Ready;
                self.forwarder.sent.is_unsure = true;
            }
            (Stage::Ready | Stage::Sent | Stage::Known { .. } | Stage::Forgotten, None) => {
                self.forwarder.stage = Stage::Idle
            }
            _ => {}
        }
        let is_to_go = matches!(self.forwarder.stage, Stage::Ready | Stage::Forgotten);
        if is_to_go && self.moving_of(slot).next().is_none() {
            // They were purged, or cut off, meanwhile.
            self.forwarder.stage = Stage::Known { has_arrived: true };
            return;
        }
        if !self.forwarder.too_large.is_empty() && slot.counts().dead <= self.forwarder.too_large.len() as u64 {
            // Those that were purged, redriven or carried do not stand for others.
            let is_dead = |offset: &u64| slot.held(*offset).is_some_and(|held| held.state == HeldState::Dead);
            self.forwarder.too_large.retain(is_dead);
        }
        let waits = self.forwarder.retry_at_ms > view.now.monotonic_ms;
        let wants = match self.forwarder.stage {
            Stage::Idle => self.policy.forwards_dead && slot.counts().dead > self.forwarder.too_large.len() as u64,
            Stage::Forgotten => true,
            _ => false,
        };
        if wants && !waits && self.forwarder.producer.is_none() && !self.forwarder.asks {
            self.forwarder.asks = true;
            out.push(Output::Producer { slot: view.id });
        }
        if let (Stage::Ready, false, Some(forwarding)) = (self.forwarder.stage, waits, forwarding) {
            let letters = self.letters(slot);
            self.forwarder.stage = Stage::Sent;
            let Forwarding { producer, sequence } = forwarding;
            self.forwarder.sent = Batch {
                producer,
                sequence,
                messages: letters.len(),
                first: letters[0].offset,
                is_unsure: self.forwarder.sent.is_unsure,
            };
            out.push(Output::Forward {
                slot: view.id,
                producer,
                sequence,
                letters,
                may_be_there: self.forwarder.sent.is_unsure,
            });
        }
    }

    /// The section that the next command has for the forwarder.
    pub(super) fn forward_section(&mut self, view: &View<'_>) -> Option<Section> {
        let slot = view.id;
        match self.forwarder.stage {
            Stage::Known { has_arrived } => {
                self.forwarder.stage = Stage::Proposed;
                let arrived = u32::from(has_arrived);
                Some(Section::Moved { slot, arrived })
            }
            Stage::Forgotten => {
                let producer = self.forwarder.producer?;
                let messages: Runs = self.letters(view.slot).iter().map(|letter| letter.offset).collect();
                self.begin_moving(slot, messages, producer)
            }
            Stage::Idle if self.policy.forwards_dead && self.forwarder.retry_at_ms <= view.now.monotonic_ms => {
                let producer = self.forwarder.producer?;
                let forwarder = &self.forwarder;
                if view.slot.counts().dead <= forwarder.too_large.len() as u64 {
                    return None;
                }
                let dead = view.slot.held_from(0).filter(|(offset, held)| {
                    held.state == HeldState::Dead
                        && !self.busy.contains(offset)
                        && !self.carrying.contains(offset)
                        && !forwarder.too_large.contains(offset)
                });
                let messages: Runs = dead.take(forwarder.most()).map(|(offset, _)| offset).collect();
                self.begin_moving(slot, messages, producer)
            }
            _ => None,
        }
    }

    fn begin_moving(&mut self, slot: SlotId, messages: Runs, producer: i64) -> Option<Section> {
        if messages.is_empty() {
            return None;
        }
        self.forwarder.stage = Stage::Proposed;
        self.forwarder.sent.is_unsure = false;
        self.busy.extend(messages.offsets());
        let sequence = self.forwarder.sequence;
        Some(Section::Moving {
            slot,
            messages,
            producer,
            sequence,
        })
    }

    /// What the command of the forwarder came to. `before`: the messages that were on their way before it.
    pub(super) fn forward_applied(
        &mut self,
        view: &View<'_>,
        section: &Section,
        before: &[Ready],
        reply: &SectionReply,
    ) {
        let is_taken = matches!(reply, SectionReply::Taken { .. });
        match section {
            Section::Moving { messages, .. } => {
                messages.offsets().for_each(|offset| _ = self.busy.remove(&offset));
                self.forwarder.moving = messages.offsets().collect();
                let moving = self.letters(view.slot).len() as u32;
                self.forwarder.sequence += moving;
                if self.forwarder.sequence > SEQUENCE_MAX {
                    self.forwarder.producer = None;
                }
                self.forwarder.stage = match view.slot.forwarding() {
                    Some(_) => Stage::Ready,
                    None => Stage::Idle,
                };
            }
            Section::Moved { arrived, .. } => {
                self.forwarder.stage = Stage::Idle;
                self.forwarder.moving.clear();
                if *arrived != 0 && is_taken && self.policy.order == Order::ByKey(OnDead::Block) {
                    for ready in before {
                        self.free_key(view.slot, ready.key, ready.origin);
                    }
                }
            }
            _ => {}
        }
    }

    /// The dead letters that are on their way, in the order in which they go.
    fn letters(&self, slot: &Slot) -> Vec<DeadLetter> {
        let moving = self.moving_of(slot);
        let of_message = moving.filter_map(|(offset, held)| {
            Some(DeadLetter {
                offset,
                origin: slot.origin(offset),
                reason: held.reason?,
                failures: held.failures,
                deliveries: held.deliveries,
                died_at_ms: held.at_ms,
            })
        });
        of_message.collect()
    }

    /// The messages that are on their way, as they would go out again.
    pub(super) fn moving(&self, slot: &Slot) -> Vec<Ready> {
        let moving = self.moving_of(slot);
        moving
            .map(|(offset, held)| Self::ready_of(slot, offset, Some(held)))
            .collect()
    }

    fn moving_of<'a>(&'a self, slot: &'a Slot) -> impl Iterator<Item = (u64, &'a Held)> {
        let held = self.forwarder.moving.iter().map(|offset| (*offset, slot.held(*offset)));
        held.filter_map(|(offset, held)| Some((offset, held.filter(|held| held.state == HeldState::Moving)?)))
    }
}
