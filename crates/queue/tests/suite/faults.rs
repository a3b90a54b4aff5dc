//! What happens to a partition in a [`World`]: carries, changes of the leader, time; and its end without faults.

use std::collections::BTreeSet;

use jangada_queue::engine::{Input, Settlement};
use jangada_queue::tables::MarkRow;
use jangada_queue::{Carry, HeldState, Mark, Marks, MessageState, Runs, Slots};
use jangada_types::Offset;

use crate::world::{Entry, LEASE_MS, SLOT, World};

impl World {
    /// The leader carries what it may of the first so many offsets above the floor: of a key a message only with everything earlier.
    pub fn carry(&mut self, count: u64) {
        let end = self.end();
        let slot = self.slots.slot(SLOT).expect("it is open");
        let mut stay = BTreeSet::new();
        let mut offsets = Vec::new();
        let stable = self.slots.stable(end);
        for offset in slot.floor()..stable.min(slot.floor() + count) {
            let mark = &self.records[offset as usize].1;
            let may_go = match slot.state(offset, end) {
                MessageState::Done | MessageState::Beyond => continue,
                MessageState::Free => true,
                MessageState::Held(held) => match held.state {
                    HeldState::Waiting | HeldState::Dead => true,
                    HeldState::Leased => self.carries_leased,
                    HeldState::Moving => false,
                    // The log refuses it.
                    HeldState::Staged => self.seeds.below(4) == 0,
                },
            };
            if may_go && !stay.contains(&mark.key) {
                offsets.push(offset);
            } else if mark.key != 0 {
                stay.insert(mark.key);
            }
        }
        if offsets.is_empty() {
            return;
        }
        let marks: Vec<Mark> = offsets
            .iter()
            .map(|offset| self.records[*offset as usize].1.clone())
            .collect();
        let plain = marks.iter().all(|mark| *mark == Mark::default());
        let carry = Carry {
            term: self.term,
            messages: Runs::from_iter(offsets),
            marks: if plain { Marks::default() } else { Marks(marks) },
        };
        self.pending.push_back(Entry::Carry(carry));
    }

    /// The leader asks for a carry: its records are read, or cannot be; and there may be more of them than it thought.
    pub fn make_carry(&mut self, mut carry: Carry, bytes_max: u64) {
        let fails = self.seeds.below(16) == 0;
        let (mut messages, mut bytes) = (Vec::new(), 0);
        for offset in carry.messages.offsets() {
            bytes += self.log.records[offset as usize];
            if bytes > bytes_max && !messages.is_empty() {
                break;
            }
            messages.push(offset);
        }
        carry.marks.0.truncate(messages.len());
        for (offset, mark) in messages.iter().zip(&carry.marks.0) {
            let sent = Mark {
                id: 0,
                ..self.records[*offset as usize].1.clone()
            };
            assert_eq!(*mark, sent, "{offset} keeps its marks");
        }
        if carry.marks.is_empty() {
            let is_plain = |offset: &u64| self.records[*offset as usize].1 == Mark::default();
            assert!(messages.iter().all(is_plain), "{messages:?} keep their marks");
        }
        carry.messages = Runs::from_iter(messages);
        self.planned += 1;
        if fails {
            return self.pending.push_back(Entry::NoCarry);
        }
        self.step(Input::CarryBuilt { bytes });
        self.pending.push_back(Entry::Carry(carry));
    }

    /// Retention takes about so many offsets.
    pub fn cut(&mut self, count: u64) {
        let to = (self.log_start + count).min(self.end());
        let pending = self.pending.iter().filter_map(|entry| match entry {
            Entry::Cut(to) => Some(*to),
            _ => None,
        });
        let to = pending.max().unwrap_or(0).max(to);
        self.pending.push_back(Entry::Cut(to));
    }

    /// Retention took what is below: nobody has it any more.
    pub fn cut_off(&mut self, to: u64) {
        let end = self.end();
        let slot = self.slots.slot(SLOT).expect("it is open");
        let is_undone = |offset: &u64| slot.state(*offset, end) != MessageState::Done;
        let undone = (self.log_start..to).filter(is_undone);
        self.cut.extend(undone.map(|offset| self.records[offset as usize].0));
        self.log_start = to;
        self.slots.cut_off(Offset(to as i64));
        self.follower.cut_off(Offset(to as i64));
        self.rows
            .retain(|key, value| match MarkRow::decode(key, value).expect("a row") {
                MarkRow::Batch { base, marks } => base + marks.count() > to,
                MarkRow::Timer { offset, .. } | MarkRow::Key { offset, .. } => offset >= to,
                _ => true,
            });
    }

    /// What is shown of the queue adds up.
    pub fn check_counts(&self) {
        let counts = self.engine.counts(&self.slots, self.end(), SLOT);
        let (Some(counts), Some(slot)) = (counts, self.slots.slot(SLOT)) else {
            return;
        };
        let all = counts.ready + counts.delayed + counts.leased + counts.waiting + counts.dead;
        let all = all + counts.staged + counts.undecided + counts.elsewhere;
        assert_eq!(all, slot.undone(self.end()), "{counts:?}");
    }

    /// The leader is told how large its log is.
    pub fn measure(&mut self) {
        let Some(floor) = self.slots.floor() else { return };
        let (start, parts) = self.log.parts(floor);
        let written_bytes = self.log.written;
        self.step(Input::LogSizes {
            start,
            parts,
            written_bytes,
        });
    }

    /// Another replica leads: a part of what was under way is committed, and nobody is told; the rest is lost. One of the lost commands
    /// may come into the log after all, in the new term.
    pub fn fail_over(&mut self) {
        let committed = self.seeds.below(self.pending.len() as u64 + 1);
        for _ in 0..committed {
            let entry = self.pending.pop_front().expect("it was counted");
            self.commit(&entry, self.term);
        }
        let lost = std::mem::take(&mut self.pending);
        self.term += 1;
        if self.seeds.below(2) == 0 {
            for entry in lost.iter().filter(|entry| matches!(entry, Entry::Ops(..))) {
                self.commit(entry, self.term);
            }
        }
        // Records whose append was lost are sent again by their producer, and markers by the coordinator.
        let again = lost
            .into_iter()
            .filter(|entry| matches!(entry, Entry::Append(_) | Entry::Sent(..) | Entry::Marker(..)));
        self.pending = again.collect();
        self.reads.clear();
        self.requests.clear();
        for client in &mut self.clients {
            client.stream = None;
        }
        if self.wall_max_ms > 0 {
            // Leaders know from each other only by the wall clock how long a lease is, and it was stepped. That long it is at least.
            let least = self.now_ms + LEASE_MS;
            self.holders
                .values_mut()
                .for_each(|holder| holder.until_ms = holder.until_ms.min(least));
        }
        self.target.asks = false;
        self.target.sends.iter_mut().for_each(|send| send.is_ghost = true);
        self.begin_engine();
        self.configure();
        if self.seeds.below(3) == 0 {
            let bytes = self.slots.snapshot();
            self.follower = Slots::restore(&bytes, self.log_start, self.end()).expect("what was written is read");
        }
        assert!(self.follower == self.slots, "replicas of one log have one state");
    }

    /// Time passes; the leader is woken when it asks for it.
    pub fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        let (mut last, mut same) = (0, 0);
        while let Some(next) = self.engine.next_deadline().filter(|next| *next <= until) {
            self.now_ms = self.now_ms.max(next);
            same = if self.now_ms == last { same + 1 } else { 0 };
            assert!(same < 1_000, "the leader asks to be woken again and again at {last}");
            last = self.now_ms;
            self.step(Input::Tick);
        }
        self.now_ms = until;
    }

    /// Everything that is under way comes to its end, but for what waits for time.
    pub fn settle_down(&mut self) {
        for _ in 0..100_000 {
            let goes_on = self.apply() || (self.target.is_kind && self.target_step());
            if !goes_on {
                if self.reads.is_empty() {
                    return;
                }
                self.read(0);
            }
        }
        panic!("the engine does not come to rest");
    }

    /// Without faults from now on: every message is done, or dead, in the end.
    pub fn drain(&mut self) {
        self.target.is_kind = true;
        for client in 0..self.clients.len() {
            self.crash(client);
        }
        self.settle_down();
        assert_eq!(self.slots.undecided().count(), 0, "each transaction ends");
        for round in 0..4_000 {
            self.connect(0, 64);
            let (held, credit) = (self.clients[0].holds.clone(), self.clients[0].credit);
            for offset in held.keys() {
                self.say(0, *offset, Settlement::Ack);
            }
            if credit < 32 {
                self.give_credit(0, 32);
            }
            self.settle_down();
            let slot = self.slots.slot(SLOT).expect("it is open");
            let is_large = |(offset, _): (u64, &_)| self.target.is_too_large(self.records[offset as usize].0);
            let is_forwarded = !self.policy.forwards_dead || slot.held_from(0).all(is_large);
            if slot.undone(self.end()) == slot.counts().dead && is_forwarded && slot.forwarding().is_none() {
                return self.check_drained();
            }
            self.pass(if round % 4 == 0 { 30_000 } else { 500 });
            self.settle_down();
        }
        let slot = self.slots.slot(SLOT).expect("it is open");
        let end = self.end();
        let left: Vec<(u64, MessageState<'_>)> = (slot.floor()..end)
            .map(|offset| (offset, slot.state(offset, end)))
            .filter(|(_, state)| match state {
                MessageState::Held(held) => held.state != HeldState::Dead,
                MessageState::Free => true,
                MessageState::Done | MessageState::Beyond => false,
            })
            .take(5)
            .collect();
        panic!("messages are stuck: {left:?} {:?}", self.engine);
    }

    fn check_drained(&self) {
        if self.policy.forwards_dead {
            self.check_forwarded();
        }
        let slot = self.slots.slot(SLOT).expect("it is open");
        let end = self.end();
        for (id, place) in &self.places {
            if !self.records[*id as usize].1.slots.has(SLOT) {
                assert!(!self.delivered.contains_key(id), "{id} is for another queue");
                continue;
            }
            let is_over_unseen = self.policy.expired.is_some() || self.policy.messages_max.is_some();
            match slot.state(*place, end) {
                MessageState::Done if !is_over_unseen && !self.cut.contains(id) && !self.txns.voids.contains(id) => {
                    // One whose answer was lost is dead by its lease, and may have gone on.
                    let was_seen = self.delivered.contains_key(id) || self.target.log.contains(id);
                    assert!(was_seen, "{id} is done, and nobody saw it");
                }
                MessageState::Held(held) => {
                    let most = self.policy.attempts_max.unwrap_or(u16::MAX);
                    let by_attempts = held.reason == Some(jangada_queue::DeadReason::Attempts);
                    let count = match self.policy.attempts {
                        jangada_queue::engine::Attempts::Failures => held.failures,
                        jangada_queue::engine::Attempts::Deliveries => held.deliveries,
                    };
                    assert!(
                        !by_attempts || count == most,
                        "{id} is dead after {count} attempts of {most}"
                    );
                }
                _ => {}
            }
        }
        self.txns.came_again(&self.acked, &self.delivered);
        assert!(self.follower == self.slots, "replicas of one log have one state");
    }
}
