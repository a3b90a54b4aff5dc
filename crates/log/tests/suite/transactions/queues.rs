//! A partition with queues and transactions: what an open transaction keeps back, what its end does to the slots, and what is refused.

use std::collections::{BTreeMap, BTreeSet};

use jangada_log::{PartitionCommand, PartitionReply, PartitionState, Refusal};
use jangada_machine::Machine;
use jangada_queue::{
    AttemptId, DoneCause, EndedTransaction, HeldState, KeepsOrder, Mark, Marks, MessageState, OpsReply, QueueId,
    QueueOps, Runs, Section, SectionRefused, SectionReply, SessionId, Slot, SlotId, SlotKind,
};
use jangada_types::replicated::Seeds;
use jangada_types::{Offset, ProducerEpoch, ProducerId};

use super::{FOREVER_MS, Log, START_MS, batch, marker, plain, txn_append};

const SLOT: SlotId = SlotId(1);

fn ops(sections: Vec<Section>) -> PartitionCommand {
    PartitionCommand::QueueOps(QueueOps {
        term: 1,
        now_ms: START_MS.unsigned_abs(),
        ticket: 0,
        sections,
    })
}

fn open() -> Section {
    Section::Open {
        queue: QueueId(5),
        slot_kind: SlotKind::Group,
        order: KeepsOrder::No,
        start: 0,
    }
}

fn grant(messages: Runs) -> Section {
    Section::Grant {
        slot: SLOT,
        session: SessionId(8),
        attempt: AttemptId(0),
        duration_ms: 30_000,
        messages,
        keys: Vec::new(),
        lanes: Vec::new(),
    }
}

fn stage((id, epoch): (i64, i16), seq: u64, messages: Runs) -> Section {
    Section::Stage {
        slot: SLOT,
        producer: ProducerId(id),
        epoch: ProducerEpoch(epoch),
        seq,
        messages,
    }
}

/// A batch whose records have marks.
pub fn marked((id, epoch): (i64, i16), seq: u64, sequence: i32, marks: Vec<Mark>) -> PartitionCommand {
    PartitionCommand::TxnAppendMarked {
        now_ms: START_MS,
        expiration_ms: FOREVER_MS,
        seq,
        batch: batch((id, epoch), sequence, marks.len(), true),
        marks: Marks(marks),
    }
}

/// Marks of every kind that a message of a transaction may have.
pub fn marks() -> Vec<Mark> {
    let all = Mark {
        deliver_at_ms: 1_700_000_000_000,
        expires_at_ms: 1_700_000_600_000,
        key: 0x0102_0304_0506_0708,
        lane: 9,
        ..Mark::default()
    };
    vec![all, Mark::default()]
}

impl Log {
    /// What becomes of one section.
    fn section(&mut self, section: Section) -> SectionReply {
        match self.apply(&ops(vec![section])) {
            PartitionReply::Queue(OpsReply::Applied(mut replies)) => replies.remove(0),
            other => panic!("{other:?}"),
        }
    }

    fn slot(&self) -> &Slot {
        self.state.slots().slot(SLOT).expect("it is open")
    }

    fn message(&self, offset: u64) -> MessageState<'_> {
        self.slot().state(offset, self.state.next_offset().get().unsigned_abs())
    }

    fn ended_in_queues(&mut self, command: &PartitionCommand) -> EndedTransaction {
        match self.apply(command) {
            PartitionReply::Ended { queues, .. } => queues,
            other => panic!("no end: {other:?}"),
        }
    }
}

fn taken() -> SectionReply {
    SectionReply::Taken {
        refused: Runs::default(),
    }
}

const OVER: SectionReply = SectionReply::Refused(SectionRefused::TransactionOver);

#[test]
fn a_queue_acknowledges_and_sends_in_one_transaction() {
    for commit in [true, false] {
        let mut log = Log::default();
        log.section(open());
        log.appended(&plain((1, 0), 0));
        log.appended(&plain((1, 0), 1));
        assert_eq!(log.section(grant(Runs::of(0, 1))), taken());
        assert_eq!(log.section(stage((7, 0), 1, Runs::of(0, 0))), taken());
        log.appended(&txn_append((7, 0), 1, 0, 2));
        assert_eq!(log.section(stage((7, 0), 1, Runs::of(1, 1))), taken());
        assert_eq!(log.ends(), (2, 4));
        let refused = SectionReply::Taken {
            refused: Runs::of(2, 2),
        };
        assert_eq!(log.section(grant(Runs::of(2, 2))), refused, "it is not decided");
        let mut log = log.restarted();
        let ended = log.ended_in_queues(&marker((7, 1), 1, commit));
        let offsets: Vec<u64> = ended.messages.iter().map(|message| message.offset).collect();
        assert_eq!((ended.commit, offsets), (commit, vec![0, 1]));
        let (acknowledged, sent) = match commit {
            true => (MessageState::Done, MessageState::Free),
            false => (log.message(0), MessageState::Done),
        };
        assert_eq!(
            [log.message(0), log.message(2), log.message(4)],
            [acknowledged, sent, MessageState::Done]
        );
        let is_back = matches!(log.message(0), MessageState::Held(held) if held.state == HeldState::Waiting);
        assert_eq!(is_back, !commit);
        let voids = log.slot().settled(DoneCause::Void);
        assert_eq!(voids, if commit { 1 } else { 3 });
        log.restarted();
    }
}

#[test]
fn acknowledgements_alone_need_no_record_and_hold_nothing_back() {
    let mut log = Log::default();
    log.section(open());
    log.appended(&plain((1, 0), 0));
    log.section(grant(Runs::of(0, 0)));
    assert_eq!(log.section(stage((7, 3), 4, Runs::of(0, 0))), taken());
    assert_eq!(log.ends(), (1, 1));
    // A marker of an earlier one does nothing, and one of a later one waits for the abort of this.
    assert_eq!(log.ended_in_queues(&marker((7, 3), 3, true)).messages, []);
    let open = Refusal::TransactionOpen { seq: 4 };
    assert_eq!(log.refused(&marker((7, 5), 5, true)), open);
    assert_eq!(log.refused(&txn_append((7, 5), 5, 0, 1)), open);
    assert_eq!(log.section(stage((7, 5), 5, Runs::of(0, 0))), OVER);
    assert_eq!(log.ended(&marker((7, 4), 4, true)), None, "no control record");
    assert_eq!((log.message(0), log.ends()), (MessageState::Done, (1, 1)));
    log.appended(&txn_append((7, 5), 5, 0, 1));
}

#[test]
fn what_comes_after_the_end_is_refused() {
    let mut log = Log::default();
    log.section(open());
    log.appended(&plain((1, 0), 0));
    log.section(grant(Runs::of(0, 0)));
    // A marker that overtook what it ends, with and without the next epoch.
    log.ended_in_queues(&marker((7, 1), 1, false));
    log.ended_in_queues(&marker((8, 0), 1, true));
    let mut log = log.restarted();
    for producer in [7, 8] {
        assert_eq!(log.section(stage((producer, 0), 1, Runs::of(0, 0))), OVER);
    }
    assert_eq!(
        log.section(stage((7, 0), 2, Runs::of(0, 0))),
        OVER,
        "its epoch is fenced"
    );
    assert_eq!(log.section(stage((7, 1), 2, Runs::of(0, 0))), taken());
    assert_eq!(
        log.section(stage((8, 0), 2, Runs::of(0, 0))),
        SectionReply::Taken {
            refused: Runs::of(0, 0)
        }
    );
    // One that writes in another transaction.
    log.appended(&txn_append((9, 0), 6, 0, 1));
    assert_eq!(log.section(stage((9, 0), 7, Runs::of(0, 0))), OVER);
}

#[test]
fn marks_of_a_transaction_are_rows_as_others() {
    let mark = Mark {
        deliver_at_ms: 5,
        lane: 2,
        ..Mark::default()
    };
    let mut log = Log::default();
    log.section(open());
    log.appended(&marked((7, 0), 1, 0, vec![mark.clone(), Mark::default()]));
    assert_eq!((log.state.slots().marks_end(), log.ends()), (2, (0, 2)));
    assert!(log.ended(&marker((7, 1), 1, false)).is_some());
    assert_eq!((log.slot().floor(), log.ends()), (3, (3, 3)));
    let check = |command: PartitionCommand| PartitionState::check_command(&PartitionState::encode(command));
    let with_id = Mark { id: 9, ..mark.clone() };
    check(marked((7, 1), 2, 0, vec![with_id])).expect_err("an abort would not forget the id");
    check(marked((7, 1), 0, 0, vec![mark.clone()])).expect_err("it is of no transaction");
    let PartitionCommand::TxnAppendMarked { batch: one, .. } = marked((7, 1), 2, 0, vec![mark.clone()]) else {
        panic!("it is marked")
    };
    let two = PartitionCommand::TxnAppendMarked {
        now_ms: 1,
        expiration_ms: 2,
        seq: 1,
        marks: Marks(vec![mark.clone(), mark]),
        batch: one,
    };
    check(two).expect_err("it has a mark too many");
}

/// What is decided of a record.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Record {
    Plain,
    /// Of this producer's transaction, which is open; and whether there was a slot when it came.
    Sent(i64, bool),
    Void,
}

/// Any history: of each record it is known from the log alone whether it goes out.
#[test]
fn slots_know_what_a_scan_of_the_log_says() {
    for seed in 1..=60 {
        let mut seeds = Seeds::new(seed);
        let mut log = Log::default();
        let mut records: Vec<Record> = Vec::new();
        // Of each producer its transaction, its next sequence, and whether it has sent in it.
        let mut producers: BTreeMap<i64, (u64, i32, bool)> = (1..=3).map(|id| (id, (1, 0, false))).collect();
        let mut staged: BTreeMap<i64, BTreeSet<u64>> = BTreeMap::new();
        let mut plains = 0;
        for _ in 0..200 {
            let id = 1 + seeds.below(3) as i64;
            let (seq, sequence, has_sent) = producers[&id];
            let has_slot = log.state.slots().slot(SLOT).is_some();
            match seeds.below(10) {
                0..=2 => {
                    let count = 1 + seeds.below(3);
                    let reply = log.apply(&txn_append((id, 0), seq, sequence, count as usize));
                    assert!(matches!(reply, PartitionReply::Appended { .. }), "{reply:?}");
                    records.extend((0..count).map(|_| Record::Sent(id, has_slot)));
                    producers.insert(id, (seq, sequence + count as i32, true));
                }
                3 => {
                    log.appended(&plain((9, 0), plains));
                    plains += 1;
                    records.push(Record::Plain);
                }
                4 if !has_slot => _ = log.section(open()),
                4..=5 if has_slot => {
                    let free: Vec<u64> = (0..log.ends().0 as u64)
                        .filter(|at| log.message(*at) == MessageState::Free)
                        .collect();
                    let some: Runs = free.into_iter().take(2).collect();
                    if !some.is_empty() {
                        assert_eq!(log.section(grant(some.clone())), taken());
                        assert_eq!(log.section(stage((id, 0), seq, some.clone())), taken());
                        staged.entry(id).or_default().extend(some.offsets());
                    }
                }
                6..=7 => {
                    let commit = seeds.below(2) == 0;
                    let ended = log.apply(&marker((id, 0), seq, commit));
                    let PartitionReply::Ended { marker: at, queues, .. } = ended else {
                        panic!("{ended:?}")
                    };
                    assert_eq!(at.is_some(), has_sent);
                    for record in records
                        .iter_mut()
                        .filter(|record| matches!(record, Record::Sent(of, _) if *of == id))
                    {
                        let is_known = *record == Record::Sent(id, true);
                        *record = if !commit && is_known {
                            Record::Void
                        } else {
                            Record::Plain
                        };
                    }
                    if let Some(at) = at {
                        assert_eq!(at, Offset(records.len() as i64));
                        records.push(if has_slot { Record::Void } else { Record::Plain });
                    }
                    let messages: BTreeSet<u64> = queues.messages.iter().map(|message| message.offset).collect();
                    assert_eq!(messages, staged.remove(&id).unwrap_or_default());
                    producers.insert(id, (seq + 1, sequence, false));
                }
                // A marker comes once more.
                8 if seq > 1 => _ = log.ended_in_queues(&marker((id, 0), seq - 1, seeds.below(2) == 0)),
                _ => log = log.restarted(),
            }
            if log.state.slots().slot(SLOT).is_none() {
                continue;
            }
            let (stable, next) = log.ends();
            assert_eq!(log.state.slots().stable(next as u64), stable as u64);
            let undecided = records.iter().position(|record| matches!(record, Record::Sent(..)));
            assert_eq!(stable, undecided.unwrap_or(records.len()) as i64);
            let is_void = |at: &usize| records[*at] == Record::Void;
            let voids = (0..records.len()).filter(is_void).count() as u64;
            assert_eq!(log.slot().settled(DoneCause::Void), voids, "history {seed}");
            for (at, record) in records.iter().enumerate() {
                let is_done = log.message(at as u64) == MessageState::Done;
                assert!(is_done || *record != Record::Void, "history {seed}: {at} is no message");
            }
        }
    }
}
