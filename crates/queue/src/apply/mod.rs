//! The fold: what a command does to the slots. Reads no clock and looks nothing up; each message is judged by the state alone.

mod append;
mod messages;
mod schedules;
mod transactions;

use jangada_types::CodecError;

use crate::command::{QueueOps, Section};
use crate::ids::{LeaseId, SlotId};
use crate::limits::SLOTS_MAX;
use crate::reply::{OpsReply, SectionRefused, SectionReply};
use crate::runs::Runs;
use crate::state::{Context, DoneCause, Slot, Slots, Transactions};
use messages::{Death, Grant};

impl Slots {
    /// Applies a [`QueueOps`] that was committed, in a partition that has these transactions; `&()`: it has none.
    pub fn apply(&mut self, context: &Context, ops: &QueueOps, transactions: &dyn Transactions) -> OpsReply {
        if ops.term != context.at.term {
            return OpsReply::LeaderChanged;
        }
        let sections = ops.sections.iter().enumerate();
        let replies = sections.map(|(place, section)| match section {
            Section::Open { .. } => self.open(context, section, transactions),
            Section::Close { slot } => self.close(*slot),
            Section::Stage { .. } => self.stage(context, ops.now_ms, section, transactions),
            _ => self.apply_section(context, ops.now_ms, place, section),
        });
        OpsReply::Applied(replies.collect())
    }

    /// Whether what a peer sends could be applied.
    ///
    /// # Errors
    /// A later build wrote it, or it is damaged.
    pub fn check_ops(bytes: &[u8]) -> Result<(), CodecError> {
        QueueOps::decode(bytes).map(drop)
    }

    fn apply_section(&mut self, context: &Context, now_ms: u64, place: usize, section: &Section) -> SectionReply {
        let (is_full, stable) = (self.is_full(), self.stable(context.next()));
        let id = section.slot().unwrap_or_default();
        let changed = self.change(id, |slot| {
            let refused = match section {
                Section::Grant { .. } if is_full => return Err(SectionRefused::StateFull),
                Section::Grant {
                    session,
                    attempt,
                    duration_ms,
                    messages,
                    keys,
                    lanes,
                    ..
                } => slot.grant(
                    (stable, context.next()),
                    &Grant {
                        id: LeaseId::of(context.at.index, place),
                        session: *session,
                        attempt: *attempt,
                        now_ms,
                        duration_ms: *duration_ms,
                        keys,
                        lanes,
                    },
                    messages,
                ),
                _ => slot.apply(context, stable, now_ms, section)?,
            };
            slot.raise_floor();
            Ok(refused)
        });
        match section {
            Section::Purge { .. } => self.forget_staged(id, self.slots.get(&id).map_or(0, Slot::floor)),
            Section::Seek { .. } => self.forget_staged(id, u64::MAX),
            _ => {}
        }
        match changed {
            None => SectionReply::Refused(SectionRefused::UnknownSlot),
            Some(Err(refused)) => SectionReply::Refused(refused),
            Some(Ok(refused)) => SectionReply::Taken { refused },
        }
    }

    fn open(&mut self, context: &Context, section: &Section, transactions: &dyn Transactions) -> SectionReply {
        let Section::Open {
            queue,
            slot_kind,
            order,
            start,
        } = section
        else {
            unreachable!("the caller matched it");
        };
        if let Some(slot) = self.slot_of(*queue) {
            return SectionReply::Refused(SectionRefused::SlotExists(slot));
        }
        if self.slots.len() >= SLOTS_MAX {
            return SectionReply::Refused(SectionRefused::TooManySlots);
        }
        self.last_slot += 1;
        let id = SlotId(self.last_slot);
        let start = (*start).clamp(context.start(), context.next());
        let slot = Slot::new(*queue, *slot_kind, *order, start);
        self.bytes += slot.state_bytes();
        let is_first = self.slots.is_empty();
        self.slots.insert(id, slot);
        if is_first {
            self.open_before(transactions.open());
        }
        SectionReply::Opened(id)
    }

    fn close(&mut self, id: SlotId) -> SectionReply {
        let Some(slot) = self.slots.remove(&id) else {
            return SectionReply::Refused(SectionRefused::UnknownSlot);
        };
        self.bytes -= slot.state_bytes();
        self.schedules.retain(|(of, _), _| *of != id);
        match self.slots.is_empty() {
            true => self.forget_undecided(),
            false => self.forget_staged(id, u64::MAX),
        }
        SectionReply::Taken {
            refused: Runs::default(),
        }
    }
}

impl Slot {
    /// Applies a section that is about this slot. Gives the messages that were not as the leader saw them. Nothing from `stable` on is
    /// decided.
    fn apply(
        &mut self,
        context: &Context,
        stable: u64,
        now_ms: u64,
        section: &Section,
    ) -> Result<Runs, SectionRefused> {
        let next = context.next();
        let refused = match section {
            Section::Seek { to, .. } => {
                let to = (*to).clamp(context.start(), next);
                *self = Self::new(self.queue, self.kind, self.order, to);
                Runs::default()
            }
            Section::Purge { to, .. } => {
                // What is not decided is not in the queue yet.
                self.finish_below((*to).min(stable), DoneCause::Purged);
                Runs::default()
            }
            Section::Done { cause, messages, .. } => self.settle((stable, next), *cause, messages),
            Section::Retry {
                messages,
                delays_ms,
                failed,
                ..
            } => self.retry(messages, delays_ms, now_ms, *failed != 0),
            Section::Release { messages, unseen, .. } => self.release(messages, now_ms, *unseen != 0),
            Section::Extend {
                messages, duration_ms, ..
            } => self.extend(messages, now_ms.saturating_add(*duration_ms)),
            Section::Dead {
                reason,
                messages,
                failed,
                keys,
                lanes,
                ..
            } => {
                let death = Death {
                    reason: *reason,
                    now_ms,
                    failed: *failed != 0,
                };
                self.kill((stable, next), messages, &death, (keys, lanes))
            }
            Section::Moving {
                messages,
                producer,
                sequence,
                ..
            } => self.forward(messages, *producer, *sequence),
            Section::Moved { arrived, .. } => self.forwarded(*arrived != 0)?,
            Section::Redrive { messages, .. } => self.redrive(messages, now_ms),
            Section::Floor { to, .. } => self.skip((*to).min(next)),
            Section::Open { .. } | Section::Close { .. } | Section::Grant { .. } | Section::Stage { .. } => {
                unreachable!("the caller applies it")
            }
        };
        Ok(refused)
    }
}
