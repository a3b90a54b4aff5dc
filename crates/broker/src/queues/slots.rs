//! Which queues have a slot in a partition: those that the metadata has get one, and those that are gone lose it.

use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_controller::QueueStart;
use jangada_queue::engine::{Answer, Input, Policy, RequestId};
use jangada_queue::{QueueId, Section, SectionReply, SlotId, SlotKind};

use super::desk::Desk;
use super::spec::QueueSpec;

/// A slot of a view over a topic or an exchange's log is closed when the metadata has not had its queue for so long, milliseconds: the
/// metadata as this broker has it may be older than the slot. One with a log of its own goes with its partition.
const CLOSE_AFTER_MS: u64 = 5 * 60_000;
/// A slot that could not be opened is asked for again after so long, milliseconds.
const OPEN_AGAIN_MS: u64 = 1_000;

/// What the task of a desk knows of the slots.
#[derive(Default)]
pub(super) struct OpenSlots {
    specs: Arc<[QueueSpec]>,
    /// So many slots there were at the last look, and the last that was opened before it had this number.
    known: Option<(usize, u32)>,
    /// Slots that are being opened.
    opening: BTreeMap<QueueId, Opening>,
    /// Slots whose engine knows the settings.
    configured: BTreeMap<SlotId, Policy>,
    /// Slots without a queue, and since when, on the monotonic clock.
    orphans: BTreeMap<SlotId, u64>,
}

/// How far a slot that has to be opened is.
enum Opening {
    /// It is looked up where the slot begins.
    Placed,
    /// The command was proposed.
    Asked(RequestId),
    /// That did not come about: it is tried again then, on the monotonic clock.
    Again { at_ms: u64 },
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
        let closing = self.orphans.values().map(|since| since + CLOSE_AFTER_MS);
        let opening = self.opening.values().filter_map(|opening| match opening {
            Opening::Again { at_ms } => Some(*at_ms),
            Opening::Placed | Opening::Asked(_) => None,
        });
        closing.chain(opening).min()
    }

    /// Brings the slots in line with the queues, as far as the engine can: what is to be done goes to it as inputs. Gives the queues
    /// whose beginning has to be looked up first.
    pub fn align(&mut self, desk: &Desk) -> Vec<Unplaced> {
        let now_ms = desk.timers.now().monotonic_ms;
        let is_due = self.deadline_ms().is_some_and(|at| at <= now_ms);
        let (slots, end) = desk.with_state(|state| {
            let known = (state.slots().iter().len(), state.slots().last_slot());
            let is_known = self.known.replace(known) == Some(known) && !is_due;
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
        let (mut open, mut unplaced) = (BTreeMap::new(), Vec::new());
        for spec in self.specs.iter() {
            if let Some((id, _)) = slots.get(&spec.id) {
                self.opening.remove(&spec.id);
                open.insert(spec.id, (*id, spec.clone()));
                if self.configured.insert(*id, spec.policy) != Some(spec.policy) {
                    let (slot, policy) = (*id, spec.policy);
                    // What came back for the slot before the engine knows it would be lost.
                    desk.put_first(Input::Configure { slot, policy });
                }
            } else if self.may_open(spec.id, now_ms) {
                let opening = match spec.start {
                    QueueStart::Earliest => Opening::Asked(open_at(desk, spec, 0)),
                    QueueStart::Latest => Opening::Asked(open_at(desk, spec, end)),
                    QueueStart::Timestamp(timestamp_ms) => {
                        unplaced.push(Unplaced {
                            queue: spec.clone(),
                            timestamp_ms,
                        });
                        Opening::Placed
                    }
                };
                self.opening.insert(spec.id, opening);
            }
        }
        let specs = &self.specs;
        self.opening
            .retain(|queue, _| specs.iter().any(|spec| spec.id == *queue));
        desk.set_slots(open.clone());
        let is_orphan = |(queue, (_, kind)): &(&QueueId, &(SlotId, SlotKind))| {
            !open.contains_key(*queue) && *kind != SlotKind::Owned
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

    fn may_open(&self, queue: QueueId, now_ms: u64) -> bool {
        match self.opening.get(&queue) {
            None => true,
            Some(Opening::Again { at_ms }) => *at_ms <= now_ms,
            Some(Opening::Placed | Opening::Asked(_)) => false,
        }
    }

    /// The beginning of a queue was looked up: its slot is proposed by this request; none: it could not be.
    pub fn placed(&mut self, queue: QueueId, request: Option<RequestId>, now_ms: u64) {
        let again = Opening::Again {
            at_ms: now_ms + OPEN_AGAIN_MS,
        };
        self.opening.insert(queue, request.map_or(again, Opening::Asked));
    }

    /// A request was answered. If it was for a slot that is refused, that is tried again.
    pub fn answered(&mut self, request: RequestId, answer: &Answer, now_ms: u64) {
        let Answer::Administered(SectionReply::Refused(refused)) = answer else {
            return;
        };
        let asked = |opening: &&mut Opening| matches!(opening, Opening::Asked(by) if *by == request);
        if let Some(opening) = self.opening.values_mut().find(asked) {
            tracing::debug!(?refused, "a queue got no slot, and will ask again");
            *opening = Opening::Again {
                at_ms: now_ms + OPEN_AGAIN_MS,
            };
        }
    }
}

/// Proposes the slot of a queue.
pub(super) fn open_at(desk: &Desk, spec: &QueueSpec, start: u64) -> RequestId {
    let request = RequestId(desk.next_id());
    let section = Section::Open {
        queue: spec.id,
        slot_kind: spec.kind,
        order: spec.order,
        start,
    };
    desk.put(Input::Administer { request, section });
    request
}
