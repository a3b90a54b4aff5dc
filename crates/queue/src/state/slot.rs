//! A slot: how far a queue is with one partition's log.
//!
//! ```text
//!   floor                                       the partition's next offset
//!     |                                             |
//! ----+---x--L---x-x-x---D---W----------------------+
//! done    done above the floor (x), leased (L), dead (D), waiting (W); all else is free, and costs nothing
//! ```
//!
//! Every offset from floor to end is exactly one of: done, held, free. The floor is not done.

use jangada_types::planted::{self, Bug};

use super::aliases::Aliases;
use super::blocks::{Blocks, Timed};
use super::done::DoneSet;
use super::held::{DoneCause, Held, HeldState, KeepsOrder, Lease, Origin, SlotKind};
use crate::command::Mark;
use crate::ids::{LeaseId, QueueId};

/// What one held message, one origin, one lease, one alias and the slot itself are counted with, bytes.
const HELD_BYTES: usize = 36;
const ORIGIN_BYTES: usize = 36;
const LEASE_BYTES: usize = 40;
const ALIAS_BYTES: usize = 48;
const SLOT_BYTES: usize = 256;

impl Timed for Held {}
impl Timed for Origin {}
impl Timed for Lease {}

/// How many messages became done, by cause. Its order is that of [`DoneCause::ALL`].
pub type Settled = [u64; DoneCause::ALL.len()];

/// The messages of a slot, by state, now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that a session has.
    pub leased: u64,
    /// Messages that go out again at their time.
    pub waiting: u64,
    /// Messages that do not go out any more; those on their way to another topic included.
    pub dead: u64,
    /// Messages that are acknowledged in transactions that are not over.
    pub staged: u64,
}

/// A batch of dead messages on its way to another topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forwarding {
    /// The producer id that it is sent with.
    pub producer: i64,
    /// Its first sequence.
    pub sequence: u32,
}

/// The state of a queue in one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub(crate) queue: QueueId,
    pub(crate) kind: SlotKind,
    pub(crate) order: KeepsOrder,
    /// Where the slot began: what is below was never its own.
    pub(crate) start: u64,
    pub(crate) floor: u64,
    pub(crate) done: DoneSet,
    pub(crate) held: Blocks<Held>,
    pub(crate) leases: Blocks<Lease>,
    /// Of messages that were appended again, if the slot keeps an order: where they were.
    pub(crate) origins: Blocks<Origin>,
    /// Of leased messages that were appended again: the offsets by which their holders know them.
    pub(crate) aliases: Aliases,
    pub(crate) counts: Counts,
    pub(crate) settled: Settled,
    pub(crate) forwarding: Option<Forwarding>,
}

/// What may become of a message, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState<'a> {
    /// The partition has no such message yet.
    Beyond,
    /// It is neither done nor held.
    Free,
    /// The slot's table has it.
    Held(&'a Held),
    /// Nothing becomes of it any more.
    Done,
}

impl Slot {
    /// A slot that begins at `start`.
    pub(crate) fn new(queue: QueueId, kind: SlotKind, order: KeepsOrder, start: u64) -> Self {
        Self {
            queue,
            kind,
            order,
            start,
            floor: start,
            done: DoneSet::default(),
            held: Blocks::default(),
            leases: Blocks::default(),
            origins: Blocks::default(),
            aliases: Aliases::default(),
            counts: Counts::default(),
            settled: Settled::default(),
            forwarding: None,
        }
    }

    /// The queue that the slot is a part of.
    pub fn queue(&self) -> QueueId {
        self.queue
    }

    /// What the slot is for its log.
    pub fn kind(&self) -> SlotKind {
        self.kind
    }

    /// Whether messages keep their place when they are appended again.
    pub fn keeps_order(&self) -> bool {
        self.order == KeepsOrder::Yes
    }

    /// All below it is done.
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The messages that are held, by state.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How many messages became done since the slot began, by cause.
    pub fn settled(&self, cause: DoneCause) -> u64 {
        self.settled[index_of(cause)]
    }

    /// How many messages are neither done nor held, `next` being the partition's next offset.
    pub fn free(&self, next: u64) -> u64 {
        (next - self.floor) - self.done.len() - self.held.len() as u64
    }

    /// How many messages of a range are neither done nor held.
    pub(crate) fn free_within(&self, from: u64, until: u64) -> u64 {
        let from = from.max(self.floor);
        match until > from {
            true => until - from - self.done.count(from, until - 1) - self.held.count(from, until),
            false => 0,
        }
    }

    /// How many messages are not done: free, leased, waiting or dead.
    pub fn undone(&self, next: u64) -> u64 {
        (next - self.floor) - self.done.len()
    }

    /// The state of one message.
    pub fn state(&self, offset: u64, next: u64) -> MessageState<'_> {
        if offset >= next {
            MessageState::Beyond
        } else if offset < self.floor || self.done.contains(offset) {
            MessageState::Done
        } else {
            self.held.get(offset).map_or(MessageState::Free, MessageState::Held)
        }
    }

    /// The state of one message, where nothing from `stable` on is decided: what is free there is not there yet. What was carried there was
    /// decided before; where the slot keeps no order that is not known of it, and it waits, too.
    pub(crate) fn decided_state(&self, offset: u64, (stable, next): (u64, u64)) -> MessageState<'_> {
        let stable = if planted::is(Bug::UndecidedHandedOut) {
            next
        } else {
            stable
        };
        match self.state(offset, next) {
            MessageState::Free if offset >= stable && self.carried(offset).is_none() => MessageState::Beyond,
            state => state,
        }
    }

    /// What the slot's table has of one message.
    pub fn held(&self, offset: u64) -> Option<&Held> {
        self.held.get(offset)
    }

    /// The held messages from an offset on.
    pub fn held_from(&self, offset: u64) -> impl Iterator<Item = (u64, &Held)> {
        self.held.from(offset)
    }

    /// A lease that is still out.
    pub fn lease(&self, lease: LeaseId) -> Option<&Lease> {
        self.leases.get(lease.get())
    }

    /// The leases that are still out.
    pub fn leases(&self) -> impl Iterator<Item = (LeaseId, &Lease)> {
        self.leases.iter().map(|(id, lease)| (LeaseId(id), lease))
    }

    /// The place of a message in the order.
    pub fn origin(&self, offset: u64) -> u64 {
        self.origins.get(offset).map_or(offset, |origin| origin.origin)
    }

    /// Where the leased message is now that was handed out with an offset.
    pub fn place(&self, offset: u64) -> u64 {
        self.aliases.place(offset).unwrap_or(offset)
    }

    /// What is known of a message that was appended again, in a slot that keeps an order.
    pub fn carried(&self, offset: u64) -> Option<&Origin> {
        self.origins.get(offset)
    }

    /// The messages that were appended again, of a slot that keeps an order.
    pub fn origins(&self) -> impl Iterator<Item = (u64, &Origin)> {
        self.origins.iter()
    }

    /// The first offset at or after `from` that is not done.
    pub fn next_undone(&self, from: u64) -> u64 {
        self.done.next_gap(from.max(self.floor))
    }

    /// The first offset at or after `from` that is neither done nor held, and how many held ones lie before it. It looks at `most` of
    /// those: then the offset may be held.
    pub(crate) fn next_free(&self, from: u64, most: u32) -> (u64, u32) {
        let mut at = self.next_undone(from);
        let mut held = self.held.from(at).map(|(offset, _)| offset).peekable();
        let mut looked = 0;
        while looked < most && held.next_if_eq(&at).is_some() {
            looked += 1;
            at += 1;
            // What is held is not done.
            if held.peek() != Some(&at) {
                at = self.next_undone(at);
            }
        }
        (at, looked)
    }

    /// The batch of dead messages that is on its way to another topic.
    pub fn forwarding(&self) -> Option<Forwarding> {
        self.forwarding
    }

    /// What the state is counted with, bytes. Follows from the state alone.
    pub fn state_bytes(&self) -> usize {
        SLOT_BYTES
            + self.done.bytes()
            + HELD_BYTES * self.held.len()
            + ORIGIN_BYTES * self.origins.len()
            + LEASE_BYTES * self.leases.len()
            + ALIAS_BYTES * self.aliases.len()
    }

    /// Makes a message done. It was not.
    pub(crate) fn finish(&mut self, offset: u64, cause: DoneCause) {
        self.unhold(offset);
        self.origins.remove(offset);
        let new = self.done.insert(offset, offset);
        assert!(new == 1, "offset {offset} is done, and done again as {cause:?}");
        self.settled[index_of(cause)] += 1;
    }

    /// What is dead at the floor counts as done.
    fn finish_dead_at_floor(&mut self) {
        let mut at = self.done.next_gap(self.floor);
        while self.held.get(at).is_some_and(|held| held.state == HeldState::Dead) {
            self.finish(at, DoneCause::Purged);
            at = self.done.next_gap(at);
        }
    }

    /// Moves the floor over what is done. To be called after [`Slot::finish`].
    pub(crate) fn raise_floor(&mut self) {
        if planted::is(Bug::FloorPassesDead) {
            self.finish_dead_at_floor();
        }
        let floor = self.done.next_gap(self.floor);
        if floor > self.floor {
            self.floor = floor;
            self.done.remove_below(floor);
        }
        assert!(!self.done.contains(self.floor), "the floor {floor} is done");
    }

    /// Puts a message into the table, in place of what the table had of it.
    pub(crate) fn hold(&mut self, offset: u64, held: Held) {
        self.count(held.state, true);
        if let Some(before) = self.held.insert(offset, held) {
            self.count(before.state, false);
            self.let_go(offset, &before);
        }
    }

    /// Takes a message out of the table, and gives what the table had of it.
    pub(crate) fn unhold(&mut self, offset: u64) -> Option<Held> {
        let before = self.held.remove(offset)?;
        self.count(before.state, false);
        self.let_go(offset, &before);
        Some(before)
    }

    /// A lease has a message less.
    fn let_go(&mut self, offset: u64, before: &Held) {
        if before.state != HeldState::Leased {
            return;
        }
        self.aliases.end(offset);
        let lease = self
            .leases
            .get_mut(before.lease.get())
            .expect("a leased message has a lease");
        assert!(
            lease.left > 0,
            "lease {:?} has no message, and loses {offset}",
            before.lease
        );
        lease.left -= 1;
        if lease.left == 0 {
            self.leases.remove(before.lease.get());
        }
    }

    fn count(&mut self, state: HeldState, comes: bool) {
        let count = match state {
            HeldState::Leased => &mut self.counts.leased,
            HeldState::Waiting => &mut self.counts.waiting,
            HeldState::Dead | HeldState::Moving => &mut self.counts.dead,
            HeldState::Staged => &mut self.counts.staged,
        };
        *count = if comes { *count + 1 } else { *count - 1 };
    }

    /// What lies from an offset to another, both included, never was a message.
    pub(crate) fn void(&mut self, first: u64, last: u64) {
        let first = first.max(self.floor);
        if first > last {
            return;
        }
        debug_assert_eq!(self.held.count(first, last + 1), 0, "nobody was handed it");
        let new = self.done.insert(first, last);
        self.settled[index_of(DoneCause::Void)] += new;
        self.raise_floor();
    }

    /// What is below the offset is done, whatever it was.
    pub(crate) fn finish_below(&mut self, end: u64, cause: DoneCause) {
        if end <= self.floor {
            return;
        }
        let done = self.done.count(self.floor, end - 1);
        let held: Vec<u64> = self
            .held
            .iter()
            .map(|(offset, _)| offset)
            .take_while(|offset| *offset < end)
            .collect();
        for offset in held {
            self.unhold(offset);
        }
        let moved: Vec<u64> = self
            .origins
            .iter()
            .map(|(offset, _)| offset)
            .take_while(|offset| *offset < end)
            .collect();
        for offset in moved {
            self.origins.remove(offset);
        }
        self.settled[index_of(cause)] += end - self.floor - done;
        self.floor = end;
        self.done.remove_below(end);
        self.raise_floor();
    }

    /// The message goes on under another offset, with all that is known of it. If it is leased its lease goes with it.
    pub(crate) fn carry(&mut self, old: u64, new: u64, mark: &Mark) {
        let origin = self.origins.get(old).copied();
        // Neither the counts nor its lease change.
        if planted::is(Bug::CarryFreesLeased) {
            self.unhold(old);
        }
        let held = self.held.remove(old);
        self.finish(old, DoneCause::Carried);
        if let Some(held) = held {
            self.held.insert(new, held);
            if held.state == HeldState::Leased {
                self.aliases.carry(old, new);
            }
        }
        if self.keeps_order() {
            let origin = origin.unwrap_or(Origin {
                origin: old,
                key: mark.key,
                deliver_at_ms: mark.deliver_at_ms,
                lane: mark.lane,
            });
            self.origins.insert(new, origin);
        }
    }

    /// A message that is done already was appended again, and is done there, too.
    pub(crate) fn repeat(&mut self, new: u64) {
        self.done.insert(new, new);
        self.settled[index_of(DoneCause::Carried)] += 1;
    }
}

pub(crate) const fn index_of(cause: DoneCause) -> usize {
    cause as usize - 1
}
