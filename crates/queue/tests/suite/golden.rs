//! The bytes of commands and states. They are in logs and on disks: whatever else changes, a later build must read these and write
//! the same. `JANGADA_BLESS=1` adds lines to the files and changes none.

use bytes::Bytes;
use jangada_machine::Effects;
use jangada_queue::{
    AttemptId, Carry, Context, EndTransaction, KeepsOrder, Marks, OpenTransaction, QueueId, QueueOps, Runs, Section,
    SectionKind, SessionId, SlotId, SlotKind, Slots, TransactionId, Transactions,
};
use jangada_types::replicated::{Seeds, compare_golden, hex};
use jangada_types::{CodecError, LogPosition, Offset, ProducerEpoch, ProducerId};

use crate::samples;

fn compare(file: &str, lines: impl IntoIterator<Item = (String, String)>) {
    compare_golden(env!("CARGO_MANIFEST_DIR"), file, lines);
}

const STEPS: u64 = 120;
const MESSAGES: i64 = 900;

/// The states that a history of sampled commands goes through.
fn states(seed: u64) -> Vec<(String, Slots)> {
    let mut seeds = Seeds::new(seed);
    let mut slots = Slots::default();
    let mut states = Vec::new();
    for index in 0..STEPS {
        let context = Context {
            at: LogPosition { term: 2, index },
            log_start: Offset(0),
            next_offset: Offset(MESSAGES),
        };
        let mut sections: Vec<Section> = Vec::new();
        if index % 40 == 0 {
            sections.push(Section::Open {
                queue: QueueId(u128::from(index) + 1),
                slot_kind: SlotKind::ALL[(index / 40) as usize % 3],
                order: KeepsOrder::No,
                start: seeds.below(9),
            });
        }
        for kind in [
            SectionKind::Grant,
            SectionKind::Done,
            SectionKind::Retry,
            SectionKind::Dead,
            SectionKind::Moving,
        ] {
            let mut section = samples::section(kind, &mut seeds);
            let slot = SlotId(1 + seeds.below(slots.iter().len() as u64 + 1) as u32);
            match &mut section {
                Section::Grant { slot: at, .. }
                | Section::Done { slot: at, .. }
                | Section::Retry { slot: at, .. }
                | Section::Dead { slot: at, .. }
                | Section::Moving { slot: at, .. } => *at = slot,
                other => panic!("{other:?}"),
            }
            sections.push(section);
        }
        let ops = QueueOps {
            term: 2,
            now_ms: 1_700_000_000_000 + index,
            ticket: 0,
            sections,
        };
        slots.apply(&context, &ops, &());
        slots.check(0, MESSAGES as u64).expect("the state is sound");
        if (index + 1) % 40 == 0 {
            states.push((format!("{seed}-{}", index + 1), slots.clone()));
        }
    }
    states
}

/// A state in which two of three leased messages were appended again, one of them twice.
fn carried_with_leases() -> Slots {
    let mut slots = Slots::default();
    let context = |index, next| Context {
        at: LogPosition { term: 2, index },
        log_start: Offset(0),
        next_offset: Offset(next),
    };
    let mut sections = vec![Section::Open {
        queue: QueueId(1),
        slot_kind: SlotKind::Owned,
        order: KeepsOrder::No,
        start: 0,
    }];
    sections.push(Section::Grant {
        slot: SlotId(1),
        session: SessionId(7),
        attempt: AttemptId(0),
        duration_ms: 30_000,
        messages: Runs::from_iter([1, 2, 4]),
        keys: vec![],
        lanes: vec![],
    });
    let ops = QueueOps {
        term: 2,
        now_ms: 1_700_000_000_000,
        ticket: 0,
        sections,
    };
    slots.apply(&context(1, 10), &ops, &());
    for (index, base, messages) in [(2, 10, vec![0, 1, 2]), (3, 13, vec![11])] {
        let carry = Carry {
            term: 2,
            messages: messages.into_iter().collect(),
            marks: Marks::default(),
        };
        slots
            .judge_carry(&context(index, base), &carry)
            .expect("leased messages may be carried");
        slots.carry(&carry, base as u64, &mut Effects::default());
    }
    slots
}

#[test]
fn a_state_with_leased_messages_elsewhere_is_that_of_earlier_builds() {
    let slots = carried_with_leases();
    slots.check(0, 14).expect("the state is sound");
    let slot = slots.slot(SlotId(1)).expect("it is open");
    assert_eq!([1, 11, 2, 4].map(|offset| slot.place(offset)), [13, 13, 12, 4]);
    let bytes = slots.snapshot();
    let restored = Slots::restore(&bytes, 0, 14).expect("what was written is read");
    assert!(restored == slots && restored.state_bytes() == slots.state_bytes());
    for length in 1..bytes.len() {
        assert!(
            Slots::restore(&bytes[..length], 0, 14).is_err(),
            "{length} bytes of it are no state"
        );
    }
    compare("aliases.txt", [("carried-1".to_owned(), hex(&bytes))]);
}

const fn transaction(producer: i64, seq: u64) -> TransactionId {
    TransactionId {
        producer: ProducerId(producer),
        epoch: ProducerEpoch(3),
        seq,
    }
}

/// Each transaction goes on, and one was open before there was a slot.
struct AllGoOn;

impl Transactions for AllGoOn {
    fn takes(&self, _: TransactionId) -> bool {
        true
    }

    fn open(&self) -> Vec<OpenTransaction> {
        vec![OpenTransaction {
            id: transaction(9, 90),
            first: 17,
            since_ms: 1_700_000_000_000,
        }]
    }
}

/// States with transactions: three of them have sent, two have acknowledged; then one was aborted.
fn with_transactions() -> [Slots; 2] {
    let mut slots = Slots::default();
    let context = |index, next| Context {
        at: LogPosition { term: 2, index },
        log_start: Offset(0),
        next_offset: Offset(next),
    };
    let mut sections: Vec<Section> = Vec::new();
    for queue in [1, 2] {
        sections.push(Section::Open {
            queue: QueueId(queue),
            slot_kind: SlotKind::Owned,
            order: KeepsOrder::No,
            start: 0,
        });
    }
    for slot in [SlotId(1), SlotId(2)] {
        sections.push(Section::Grant {
            slot,
            session: SessionId(7),
            attempt: AttemptId(0),
            duration_ms: 30_000,
            messages: Runs::from_iter([1, 2, 4, 5, 6]),
            keys: vec![],
            lanes: vec![],
        });
    }
    for (slot, of, messages) in [
        (1, transaction(4, 70), vec![1, 4]),
        (2, transaction(4, 70), vec![6]),
        (1, transaction(5, 2), vec![2, 5]),
    ] {
        sections.push(Section::Stage {
            slot: SlotId(slot),
            producer: of.producer,
            epoch: of.epoch,
            seq: of.seq,
            messages: messages.into_iter().collect(),
        });
    }
    let now_ms = 1_700_000_000_000;
    let ops = QueueOps {
        term: 2,
        now_ms,
        ticket: 0,
        sections,
    };
    slots.apply(&context(1, 20), &ops, &AllGoOn);
    slots.sent_in(transaction(4, 70), 20, 24, now_ms + 1);
    slots.sent_in(transaction(6, 1), 25, 25, now_ms + 2);
    slots.sent_in(transaction(4, 70), 26, 29, now_ms + 3);
    let before = slots.clone();
    let ended = slots.end_transaction(&EndTransaction {
        producer: ProducerId(4),
        seq: 70,
        commit: false,
        now_ms: now_ms + 4,
        marker: Some(30),
    });
    assert_eq!(ended.messages.len(), 3);
    [before, slots]
}

#[test]
fn a_state_with_transactions_is_that_of_earlier_builds() {
    let mut lines = Vec::new();
    for (at, slots) in with_transactions().into_iter().enumerate() {
        slots.check(0, 31).expect("the state is sound");
        let bytes = slots.snapshot();
        let restored = Slots::restore(&bytes, 0, 31).expect("what was written is read");
        assert!(restored == slots && restored.state_bytes() == slots.state_bytes());
        assert_eq!(restored.stable(31), 17);
        for length in 1..bytes.len() {
            assert!(
                Slots::restore(&bytes[..length], 0, 31).is_err(),
                "{length} bytes of it are no state"
            );
        }
        for at in 0..bytes.len() {
            for damage in [0x01, 0x40, 0x80, 0xff] {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= damage;
                if let Ok(restored) = Slots::restore(&damaged, 0, 31) {
                    restored.check(0, 31).expect("what is taken is sound");
                }
            }
        }
        lines.push((format!("transactions-{}", at + 1), hex(&bytes)));
    }
    compare("transactions.txt", lines);
}

#[test]
fn commands_are_those_of_earlier_builds() {
    let mut lines = Vec::new();
    for kind in SectionKind::ALL {
        for seed in 1..=4 {
            let section = samples::section(*kind, &mut Seeds::new(seed));
            assert_eq!(Section::decode(&section.encode()).as_ref(), Ok(&section));
            lines.push((format!("{}-{seed}", kind.as_str()), hex(&section.encode())));
        }
    }
    for seed in 1..=4 {
        let mut section = samples::section(SectionKind::Dead, &mut Seeds::new(seed));
        if let Section::Dead {
            messages, keys, lanes, ..
        } = &mut section
        {
            *keys = (0..messages.len()).map(|at| 7 * seed + at).collect();
            *lanes = (0..messages.len() as u32).map(|at| at % 32).collect();
        }
        assert_eq!(Section::decode(&section.encode()).as_ref(), Ok(&section));
        lines.push((format!("Dead-with-keys-{seed}"), hex(&section.encode())));
    }
    for seed in 1..=3 {
        let ops = samples::ops(seed);
        assert_eq!(QueueOps::decode(&ops.encode()).as_ref(), Ok(&ops));
        lines.push((format!("Ops-{seed}"), hex(&ops.encode())));
    }
    compare("commands.txt", lines);
}

#[test]
fn states_are_those_of_earlier_builds() {
    let mut lines = Vec::new();
    for seed in 1..=3 {
        for (case, slots) in states(seed) {
            let bytes = slots.snapshot();
            let restored = Slots::restore(&bytes, 0, MESSAGES as u64).expect("what was written is read");
            assert!(restored == slots, "{case}");
            for length in 1..bytes.len() {
                let cut_off = Slots::restore(&bytes[..length], 0, MESSAGES as u64);
                assert!(cut_off.is_err(), "{case}: {length} bytes of it are no state");
            }
            lines.push((case, hex(&bytes)));
        }
    }
    compare("states.txt", lines);
}

#[test]
fn damaged_states_are_refused_or_other_states_and_stop_nothing() {
    for (_, slots) in states(1) {
        let bytes = slots.snapshot();
        for at in 0..bytes.len() {
            for damage in [0x01, 0x40, 0x80, 0xff] {
                let mut damaged = bytes.to_vec();
                damaged[at] ^= damage;
                if let Ok(restored) = Slots::restore(&damaged, 0, MESSAGES as u64) {
                    restored.check(0, MESSAGES as u64).expect("what is taken is sound");
                }
            }
        }
    }
}

#[test]
fn a_partition_without_queues_has_no_bytes_of_them() {
    assert_eq!(Slots::default().snapshot(), Bytes::new());
    assert_eq!(Slots::restore(&[], 0, 0).expect("it is the default"), Slots::default());
}

#[test]
fn what_a_newer_build_wrote_is_named() {
    let error = Slots::restore(&[5], 0, 0).expect_err("it is of version 5").to_string();
    assert!(error.contains("version 5"), "{error}");
    assert!(matches!(
        QueueOps::decode(&[2]),
        Err(CodecError::UnknownVersion { version: 2, .. })
    ));
    let unknown = Section::decode(&[1, 99]);
    assert!(
        matches!(unknown, Err(CodecError::UnknownKind { kind: 99, .. })),
        "{unknown:?}"
    );
}

#[test]
fn lists_that_do_not_belong_together_are_refused() {
    let ops = |section| QueueOps {
        term: 1,
        now_ms: 1,
        ticket: 0,
        sections: vec![section],
    };
    let mut grant = samples::section(SectionKind::Grant, &mut Seeds::new(3));
    if let Section::Grant { messages, lanes, .. } = &mut grant {
        *lanes = vec![0; messages.len() as usize + 1];
    }
    QueueOps::decode(&ops(grant.clone()).encode()).expect_err("it has a lane too many");
    if let Section::Grant { messages, lanes, .. } = &mut grant {
        *lanes = vec![32; messages.len() as usize];
    }
    QueueOps::decode(&ops(grant).encode()).expect_err("there is no such lane");
    let mut retry = samples::section(SectionKind::Retry, &mut Seeds::new(3));
    if let Section::Retry { delays_ms, .. } = &mut retry {
        delays_ms.push(1);
    }
    QueueOps::decode(&ops(retry).encode()).expect_err("it has a delay too many");
}
