//! Which queues have a slot in a partition: those that the metadata has get one, and those that are gone lose it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_controller::QueueStart;
use jangada_queue::engine::{Input, Policy, RequestId};
use jangada_queue::{QueueId, Section, SlotId, SlotKind};

use super::desk::Desk;
use super::spec::QueueSpec;

/// A slot of a view over an ordinary topic is closed when the metadata has not had its queue for so long, milliseconds: the metadata as
/// this broker has it may be older than the slot. One with a log of its own goes with its partition.
const CLOSE_AFTER_MS: u64 = 5 * 60_000;

/// What the task of a desk knows of the slots.
#[derive(Default)]
pub(super) struct OpenSlots {
    specs: Arc<[QueueSpec]>,
    /// So many slots there were at the last look.
    known: Option<usize>,
    /// Slots that are being opened.
    opening: BTreeSet<QueueId>,
    /// Slots whose engine knows the settings.
    configured: BTreeMap<SlotId, Policy>,
    /// Slots without a queue, and since when, on the monotonic clock.
    orphans: BTreeMap<SlotId, u64>,
}

/// A slot that is to be opened where a record of some time is.
pub(super) struct Unplaced {
    pub queue: QueueSpec,
    pub timestamp_ms: i64,
}

impl OpenSlots {
    pub fn set_specs(&mut self, specs: Arc<[QueueSpec]>) {
        (self.specs, self.known) = (specs, None);
    }

    /// When slots are looked at again, on the monotonic clock.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.orphans.values().min().map(|since| since + CLOSE_AFTER_MS)
    }

    /// Brings the slots in line with the queues, as far as the engine can: what is to be done goes to it as inputs. Gives the queues
    /// whose beginning has to be looked up first.
    pub fn align(&mut self, desk: &Desk) -> Vec<Unplaced> {
        let now_ms = desk.timers.now().monotonic_ms;
        let is_due = self.deadline_ms().is_some_and(|at| at <= now_ms);
        let (slots, end) = desk.with_state(|state| {
            let is_known = self.known == Some(state.slots().iter().len()) && !is_due;
            let slots = (!is_known).then(|| {
                let slots = state.slots().iter();
                slots
                    .map(|(id, slot)| (slot.queue(), (id, slot.kind())))
                    .collect::<BTreeMap<_, _>>()
            });
            (slots, state.next_offset().get().unsigned_abs())
        });
        let Some(slots) = slots else {
            return Vec::new();
        };
        self.known = Some(slots.len());
        let (mut open, mut unplaced) = (BTreeMap::new(), Vec::new());
        for spec in self.specs.iter() {
            if let Some((id, _)) = slots.get(&spec.id) {
                self.opening.remove(&spec.id);
                open.insert(spec.id, (*id, spec.clone()));
                if self.configured.insert(*id, spec.policy) != Some(spec.policy) {
                    let (slot, policy) = (*id, spec.policy);
                    desk.put(Input::Configure { slot, policy });
                }
            } else if self.opening.insert(spec.id) {
                match spec.start {
                    QueueStart::Earliest => open_at(desk, spec, 0),
                    QueueStart::Latest => open_at(desk, spec, end),
                    QueueStart::Timestamp(timestamp_ms) => unplaced.push(Unplaced {
                        queue: spec.clone(),
                        timestamp_ms,
                    }),
                }
            }
        }
        desk.set_slots(open.clone());
        let is_orphan = |(queue, (_, kind)): &(&QueueId, &(SlotId, SlotKind))| {
            !open.contains_key(*queue) && *kind == SlotKind::Group
        };
        let orphans = slots.iter().filter(is_orphan).map(|(_, (id, _))| *id);
        let orphans: BTreeMap<SlotId, u64> = orphans
            .map(|id| (id, self.orphans.get(&id).copied().unwrap_or(now_ms)))
            .collect();
        self.orphans = orphans;
        self.orphans.retain(|slot, since| {
            let is_over = now_ms >= *since + CLOSE_AFTER_MS;
            if is_over {
                let (request, section) = (RequestId(desk.next_id()), Section::Close { slot: *slot });
                desk.put(Input::Administer { request, section });
            }
            !is_over
        });
        unplaced
    }

    /// The beginning of a queue could not be looked up: it is tried again at the next look.
    pub fn not_placed(&mut self, queue: QueueId) {
        self.opening.remove(&queue);
        self.known = None;
    }
}

/// Proposes the slot of a queue.
pub(super) fn open_at(desk: &Desk, spec: &QueueSpec, start: u64) {
    let request = RequestId(desk.next_id());
    let section = Section::Open {
        queue: spec.id,
        slot_kind: spec.kind,
        order: spec.order,
        start,
    };
    desk.put(Input::Administer { request, section });
}
