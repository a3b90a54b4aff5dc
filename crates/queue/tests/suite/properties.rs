//! Any history of commands: the slots are what a naive model says, sound after each step, and the same for a replica that began with
//! a snapshot in the middle.

use jangada_machine::Effects;
use jangada_queue::{
    AttemptId, Carry, Context, DeadReason, DoneCause, EndTransaction, HeldState, KeepsOrder, Marks, MessageState,
    OpenTransaction, OpsReply, QueueId, QueueOps, Runs, Section, SectionReply, SessionId, SlotKind, Slots,
    TransactionId, Transactions,
};
use jangada_types::{LogPosition, Offset, ProducerEpoch, ProducerId};
use proptest::prelude::*;

use crate::model::{Model, SLOT, refused_by};

/// A step of a history. Messages are named by their distance below the end, so that most are there.
#[derive(Clone, Debug)]
enum Op {
    Append(u64),
    Ops(Vec<Planned>),
    /// A command of a leader that is none any more.
    Stale(Vec<Planned>),
    Carry(Vec<u64>),
    /// A producer appends so many records in its transaction.
    Sent(i64, u64),
    /// A marker of a producer's transaction; of the one before if it is late.
    End {
        producer: i64,
        commit: bool,
        is_late: bool,
    },
    Term,
    Snapshot,
}

#[derive(Clone, Debug)]
enum Planned {
    Grant(Vec<u64>),
    Done(usize, Vec<u64>),
    Retry(Vec<u64>, bool),
    Release(Vec<u64>, bool),
    Extend(Vec<u64>),
    Dead(usize, Vec<u64>, bool),
    Redrive(Vec<u64>),
    Moving(Vec<u64>),
    Moved(bool),
    Purge(u64),
    Floor(u64),
    Seek(u64),
    /// In the transaction of a producer, or in its last one that is over.
    Stage(i64, bool, Vec<u64>),
}

fn planned() -> impl Strategy<Value = Planned> {
    let some = || prop::collection::vec(0..60_u64, 1..12);
    prop_oneof![
        6 => some().prop_map(Planned::Grant),
        4 => some().prop_map(|messages| Planned::Done(0, messages)),
        2 => (0..9_usize, some()).prop_map(|(cause, messages)| Planned::Done(cause, messages)),
        2 => (some(), any::<bool>()).prop_map(|(messages, failed)| Planned::Retry(messages, failed)),
        2 => (some(), any::<bool>()).prop_map(|(messages, unseen)| Planned::Release(messages, unseen)),
        1 => some().prop_map(Planned::Extend),
        2 => (0..4_usize, some(), any::<bool>()).prop_map(|(reason, messages, failed)| Planned::Dead(reason, messages, failed)),
        1 => some().prop_map(Planned::Redrive),
        1 => some().prop_map(Planned::Moving),
        1 => any::<bool>().prop_map(Planned::Moved),
        1 => (30..80_u64).prop_map(Planned::Purge),
        1 => (0..80_u64).prop_map(Planned::Floor),
        1 => (0..80_u64).prop_map(Planned::Seek),
        3 => (0..3_i64, 0..6_u32, some())
            .prop_map(|(producer, late, messages)| Planned::Stage(producer, late == 0, messages)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..30_u64).prop_map(Op::Append),
        10 => prop::collection::vec(planned(), 1..5).prop_map(Op::Ops),
        1 => prop::collection::vec(planned(), 1..3).prop_map(Op::Stale),
        3 => (0..3_i64, 1..9_u64).prop_map(|(producer, count)| Op::Sent(producer, count)),
        3 => (0..3_i64, any::<bool>(), 0..4_u32)
            .prop_map(|(producer, commit, late)| Op::End { producer, commit, is_late: late == 0 }),
        1 => Just(Op::Term),
        2 => Just(Op::Snapshot),
    ]
}

fn with_carries() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => op(),
        3 => prop::collection::vec(0..60_u64, 1..12).prop_map(Op::Carry),
    ]
}

struct History {
    slots: Slots,
    /// A replica that began with a snapshot.
    follower: Slots,
    model: Model,
    next: u64,
    term: u64,
    index: u64,
    /// The transaction that each producer has begun, and the first record that it has in the log.
    open: [(u64, Option<u64>); 3],
}

/// Each producer has one transaction at a time, and what came before has ended.
impl Transactions for History {
    fn takes(&self, transaction: TransactionId) -> bool {
        self.open[transaction.producer.get() as usize].0 == transaction.seq
    }

    fn open(&self) -> Vec<OpenTransaction> {
        Vec::new()
    }
}

impl History {
    fn new(kind: SlotKind) -> Self {
        let mut history = Self {
            slots: Slots::default(),
            follower: Slots::default(),
            model: Model::default(),
            next: 0,
            term: 1,
            index: 0,
            open: [(1, None); 3],
        };
        history.model.open = (0..3).map(|producer| (producer, 1)).collect();
        let open = Section::Open {
            queue: QueueId(7),
            slot_kind: kind,
            order: KeepsOrder::Yes,
            start: 0,
        };
        let reply = history.apply(vec![open], 1);
        assert_eq!(reply, OpsReply::Applied(vec![SectionReply::Opened(SLOT)]));
        history
    }

    fn context(&self) -> Context {
        Context {
            at: LogPosition {
                term: self.term,
                index: self.index,
            },
            log_start: Offset(0),
            next_offset: Offset(self.next as i64),
        }
    }

    fn apply(&mut self, sections: Vec<Section>, term: u64) -> OpsReply {
        let ops = QueueOps {
            term,
            now_ms: 1_000 + self.index * 10,
            ticket: 0,
            sections,
        };
        assert_eq!(QueueOps::decode(&ops.encode()).as_ref(), Ok(&ops));
        let context = self.context();
        let [mut slots, mut follower] = [&mut self.slots, &mut self.follower].map(std::mem::take);
        let reply = slots.apply(&context, &ops, self);
        assert_eq!(follower.apply(&context, &ops, self), reply, "replicas reply alike");
        (self.slots, self.follower) = (slots, follower);
        self.index += 1;
        reply
    }

    fn section(&self, planned: &Planned) -> Section {
        let slot = SLOT;
        let named = |messages: &[u64]| -> Runs {
            messages
                .iter()
                .map(|below| (self.next + 2).saturating_sub(*below))
                .collect()
        };
        match planned {
            Planned::Grant(messages) => Section::Grant {
                slot,
                session: SessionId(3),
                attempt: AttemptId(4),
                duration_ms: 30_000,
                messages: named(messages),
                keys: vec![],
                lanes: vec![],
            },
            Planned::Done(cause, messages) => Section::Done {
                slot,
                cause: DoneCause::ALL[*cause],
                messages: named(messages),
            },
            Planned::Retry(messages, failed) => {
                let messages = named(messages);
                Section::Retry {
                    slot,
                    delays_ms: (0..messages.len()).map(|at| at * 7).collect(),
                    messages,
                    failed: u32::from(*failed),
                }
            }
            Planned::Release(messages, unseen) => Section::Release {
                slot,
                messages: named(messages),
                unseen: u32::from(*unseen),
            },
            Planned::Extend(messages) => Section::Extend {
                slot,
                messages: named(messages),
                duration_ms: 5,
            },
            Planned::Dead(reason, messages, failed) => Section::Dead {
                slot,
                reason: DeadReason::ALL[*reason],
                messages: named(messages),
                failed: u32::from(*failed),
                keys: Vec::new(),
                lanes: Vec::new(),
            },
            Planned::Redrive(messages) => Section::Redrive {
                slot,
                messages: named(messages),
            },
            Planned::Moving(messages) => Section::Moving {
                slot,
                messages: named(messages),
                producer: 5,
                sequence: 6,
            },
            Planned::Moved(arrived) => Section::Moved {
                slot,
                arrived: u32::from(*arrived),
            },
            Planned::Purge(below) => Section::Purge {
                slot,
                to: (self.next + 2).saturating_sub(*below),
            },
            Planned::Floor(below) => Section::Floor {
                slot,
                to: (self.next + 2).saturating_sub(*below),
            },
            Planned::Seek(below) => Section::Seek {
                slot,
                to: (self.next + 2).saturating_sub(*below),
            },
            Planned::Stage(producer, is_late, messages) => {
                let id = self.transaction(*producer);
                Section::Stage {
                    slot,
                    producer: id.producer,
                    epoch: id.epoch,
                    seq: id.seq - u64::from(*is_late),
                    messages: named(messages),
                }
            }
        }
    }

    fn transaction(&self, producer: i64) -> TransactionId {
        TransactionId {
            producer: ProducerId(producer),
            epoch: ProducerEpoch(1),
            seq: self.open[producer as usize].0,
        }
    }

    fn send_in(&mut self, producer: i64, count: u64) {
        let (id, first) = (self.transaction(producer), self.next);
        self.next += count;
        self.index += 1;
        self.model.appended(self.next);
        self.model.sent[first as usize..].fill(Some(producer));
        for slots in [&mut self.slots, &mut self.follower] {
            assert!(slots.takes_batch(id, first));
            slots.sent_in(id, first, self.next - 1, self.index);
        }
        self.open[producer as usize].1.get_or_insert(first);
    }

    fn end(&mut self, producer: i64, commit: bool, is_late: bool) {
        let now_ms = 1_000 + self.index * 10;
        self.index += 1;
        let (seq, first) = self.open[producer as usize];
        let has_marker = first.is_some() && !is_late;
        self.next += u64::from(has_marker);
        self.model.appended(self.next);
        let end = EndTransaction {
            producer: ProducerId(producer),
            seq: seq - u64::from(is_late),
            commit,
            now_ms,
            marker: has_marker.then(|| self.next - 1),
        };
        let before = self.slots.clone();
        let ended = self.slots.end_transaction(&end);
        assert_eq!(self.follower.end_transaction(&end), ended, "replicas reply alike");
        if is_late {
            assert!(self.slots == before, "a marker that comes late ends nothing");
            return;
        }
        assert!(
            self.slots.state_bytes() <= before.state_bytes() + 4_096,
            "an end makes the state smaller"
        );
        self.open[producer as usize] = (seq + 1, None);
        if self.next > 0 {
            self.model.end(producer, commit, has_marker, now_ms);
        }
        self.model.open.insert(producer, seq + 1);
    }

    fn step(&mut self, op: &Op, compares: bool) {
        match op {
            Op::Append(count) => {
                self.next += count;
                self.index += 1;
                self.model.appended(self.next);
            }
            Op::Ops(planned) => {
                let context = self.context();
                let sections: Vec<Section> = planned.iter().map(|planned| self.section(planned)).collect();
                let ops = QueueOps {
                    term: self.term,
                    now_ms: 1_000 + self.index * 10,
                    ticket: 0,
                    sections: sections.clone(),
                };
                let reply = self.apply(sections, self.term);
                for place in 0..ops.sections.len() {
                    if compares {
                        let expected = self.model.apply(&context, &ops, place);
                        assert_eq!(refused_by(&reply, place), expected, "{:?}", ops.sections[place]);
                    }
                }
            }
            Op::Stale(planned) => {
                let before = self.slots.clone();
                let sections = planned.iter().map(|planned| self.section(planned)).collect();
                assert_eq!(self.apply(sections, self.term - 1), OpsReply::LeaderChanged);
                assert!(self.slots == before, "a decision of another term has no effect");
            }
            Op::Carry(messages) => self.carry(messages),
            Op::Sent(producer, count) => self.send_in(*producer, *count),
            Op::End {
                producer,
                commit,
                is_late,
            } => self.end(*producer, *commit, *is_late),
            Op::Term => self.term += 1,
            Op::Snapshot => {
                let bytes = self.slots.snapshot();
                self.follower = Slots::restore(&bytes, 0, self.next).expect("what was written is read");
                assert!(
                    self.follower == self.slots,
                    "a snapshot gives back what it was taken of"
                );
                assert_eq!(self.follower.snapshot(), bytes);
            }
        }
        self.slots.check(0, self.next).expect("the state is sound");
        if compares {
            self.model.compare(&self.slots);
            let firsts = self.open.iter().filter_map(|(_, first)| *first);
            assert_eq!(self.slots.stable(self.next), firsts.min().unwrap_or(self.next));
        }
    }

    fn carry(&mut self, messages: &[u64]) {
        let messages: Runs = messages.iter().map(|below| self.next.saturating_sub(*below)).collect();
        let carry = Carry {
            term: self.term,
            messages,
            marks: Marks::default(),
        };
        let context = self.context();
        let before = self.slots.clone();
        let next = self.next;
        if self.slots.judge_carry(&context, &carry).is_err() {
            return;
        }
        let base = self.next;
        self.next += carry.messages.len();
        self.index += 1;
        let mut effects = Effects::default();
        let slot = before.slot(SLOT).expect("it is open");
        let is_free = |offset: &u64| slot.state(*offset, next) == MessageState::Free;
        let last = carry.messages.offsets().filter(is_free).last();
        assert!(
            last.is_none_or(|last| last < before.stable(next)),
            "what is not decided stays"
        );
        self.slots.carry(&carry, base, &mut effects);
        self.follower.carry(&carry, base, &mut Effects::default());
        let (old, new) = (
            before.slot(SLOT).expect("it is open"),
            self.slots.slot(SLOT).expect("it is open"),
        );
        for (at, offset) in carry.messages.offsets().enumerate() {
            let now = base + at as u64;
            let (was, is) = (old.state(offset, next), new.state(now, self.next));
            assert_eq!(was, is, "what is known of a message goes with it");
            assert_eq!(
                new.state(offset, self.next),
                MessageState::Done,
                "its old place is done"
            );
            if matches!(was, MessageState::Held(held) if held.state == HeldState::Leased) {
                assert_eq!(new.place(offset), now, "its holder finds it");
            }
            if was != MessageState::Done {
                assert_eq!(new.origin(now), old.origin(offset), "it keeps its place in the order");
            }
        }
        assert_eq!(
            new.undone(self.next),
            old.undone(next),
            "nothing is lost, and nothing is there twice"
        );
    }
}

/// More by `PROPTEST_CASES`.
fn config() -> ProptestConfig {
    let asked = ProptestConfig::default();
    ProptestConfig {
        cases: asked.cases.max(512),
        ..asked
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn slots_are_what_a_naive_model_says(ops in prop::collection::vec(op(), 0..60)) {
        let mut history = History::new(SlotKind::Group);
        for op in &ops {
            history.step(op, true);
        }
        prop_assert!(history.slots == history.follower, "replicas of one log have one state");
        prop_assert_eq!(history.slots.snapshot(), history.follower.snapshot());
    }

    #[test]
    fn a_carry_keeps_what_is_known_of_each_message(ops in prop::collection::vec(with_carries(), 0..60)) {
        let mut history = History::new(SlotKind::Owned);
        for op in &ops {
            history.step(op, false);
        }
        prop_assert!(history.slots == history.follower, "replicas of one log have one state");
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), version in 0..5_u8) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        if let Ok(ops) = QueueOps::decode(&bytes) {
            prop_assert_eq!(&ops.encode()[..], &bytes[..], "one form only");
        }
        if let Ok(slots) = Slots::restore(&bytes, 0, 1_000) {
            prop_assert_eq!(&slots.snapshot()[..], &bytes[..], "one form only");
        }
        let _ = Carry::decode(&mut &bytes[..]);
    }
}
