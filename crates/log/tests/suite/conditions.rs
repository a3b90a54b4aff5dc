//! Conditional appends against a model that knows every record: what is appended, what is refused and with which offset;
//! and that a replica gives the same answers whether it applied everything or began with a snapshot.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_log::{
    ConditionFailed, Conditions, KeyFinding, NO_OFFSET, PartitionCommand, PartitionReply, PartitionState, Refusal,
};
use jangada_machine::{Effects, Machine};
use jangada_types::{BatchBuilder, Codec, LogPosition, Offset, ProducerEpoch, ProducerId, Sequence};
use proptest::prelude::*;

const TERM: u64 = 3;

#[derive(Clone, Debug)]
enum Guess {
    /// The batch has no condition.
    None,
    /// The end, this far off.
    End(i64),
    /// The last offset of the key, this far off; `moved`: the leader changed after it was looked up.
    Key { off: i64, moved: bool },
}

#[derive(Clone, Debug)]
struct Step {
    key: u8,
    records: usize,
    guess: Guess,
    producer: Option<i64>,
    /// The producer's last batch again.
    retry: bool,
    /// The log start moves to this share of the log, after the leader looked the key up.
    trim: Option<f64>,
}

fn guess() -> impl Strategy<Value = Guess> {
    let off = prop_oneof![4 => Just(0_i64), 1 => -2..3_i64];
    prop_oneof![
        2 => Just(Guess::None),
        3 => off.clone().prop_map(Guess::End),
        5 => (off, proptest::bool::weighted(0.1)).prop_map(|(off, moved)| Guess::Key { off, moved }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let trim = proptest::option::weighted(0.15, 0.0..1.0_f64);
    let producer = proptest::option::of(1..3_i64);
    let retry = proptest::bool::weighted(0.25);
    (0..3_u8, 1..4_usize, guess(), producer, retry, trim).prop_map(|(key, records, guess, producer, retry, trim)| {
        Step {
            key,
            records,
            guess,
            producer,
            retry,
            trim,
        }
    })
}

/// What is known of everything that was appended.
#[derive(Default)]
struct Model {
    next: i64,
    log_start: i64,
    keys: BTreeMap<u8, i64>,
    /// Of each producer: the sequence, size and first offset of its last batch.
    producers: BTreeMap<i64, (i32, usize, i64)>,
}

impl Model {
    fn last_of(&self, key: u8) -> i64 {
        let last = self.keys.get(&key).copied();
        last.filter(|offset| *offset >= self.log_start).unwrap_or(-1)
    }

    fn append(&mut self, step: &Step, conditions: Conditions, sequence: i32) -> PartitionReply {
        if let Some((last, records, base)) = step.producer.and_then(|id| self.producers.get(&id).copied())
            && last == sequence
        {
            return appended(base, records, true);
        }
        if let Some(expected) = conditions.end_offset
            && expected.get() != self.next
        {
            let actual = Offset(self.next);
            return refused(ConditionFailed::EndOffsetDiffers { expected, actual });
        }
        if let Some(KeyFinding { expected, term, .. }) = conditions.key {
            if term != TERM {
                return refused(ConditionFailed::LeaderChanged);
            }
            let actual = Offset(self.last_of(step.key));
            if actual != expected {
                return refused(ConditionFailed::KeyOffsetDiffers { expected, actual });
            }
        }
        let base = self.next;
        self.next += step.records as i64;
        self.keys.insert(step.key, self.next - 1);
        if let Some(id) = step.producer {
            self.producers.insert(id, (sequence, step.records, base));
        }
        appended(base, step.records, false)
    }
}

fn refused(failed: ConditionFailed) -> PartitionReply {
    Refusal::from(failed).into()
}

fn appended(base: i64, records: usize, duplicate: bool) -> PartitionReply {
    PartitionReply::Appended {
        base_offset: Offset(base),
        last_offset: Offset(base + records as i64 - 1),
        duplicate,
    }
}

fn batch(key: u8, records: usize, producer: Option<(i64, i32)>) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..records {
        builder.append(0, Some(&[key]), None, []).expect("small");
    }
    if let Some((id, sequence)) = producer {
        builder.producer(ProducerId(id), ProducerEpoch(0), Sequence(sequence));
    }
    builder.build()
}

#[derive(Default)]
struct Replica {
    state: PartitionState,
    index: u64,
}

impl Replica {
    fn apply(&mut self, command: &PartitionCommand) -> PartitionReply {
        self.index += 1;
        let at = LogPosition {
            term: TERM,
            index: self.index,
        };
        let mut effects = Effects::default();
        let reply = self.state.apply(at, command, &mut effects);
        let taken = matches!(reply, PartitionReply::Appended { duplicate: false, .. });
        assert_eq!(
            effects.rows().len(),
            usize::from(taken),
            "only what takes offsets is indexed"
        );
        reply
    }
}

fn append(batch: Bytes, conditions: Conditions) -> PartitionCommand {
    PartitionCommand::Append {
        now_ms: 0,
        expiration_ms: 1_000,
        conditions,
        batch,
    }
}

/// Runs the steps on a replica and in the model; what was applied, and the answers.
fn run(steps: &[Step]) -> (Vec<(PartitionCommand, PartitionReply)>, Replica) {
    let (mut replica, mut model) = (Replica::default(), Model::default());
    let mut history = Vec::new();
    for step in steps {
        let mut step = step.clone();
        let last = step.producer.and_then(|id| model.producers.get(&id).copied());
        let sequence = match last {
            Some((sequence, records, _)) if step.retry => {
                step.records = records;
                sequence
            }
            Some((sequence, records, _)) => sequence + records as i32,
            None => 0,
        };
        let mut conditions = Conditions::default();
        match step.guess {
            Guess::None => {}
            Guess::End(off) => conditions.end_offset = Some(Offset((model.next + off).max(0))),
            Guess::Key { off, moved } => {
                let found = model.last_of(step.key);
                conditions.key = Some(KeyFinding {
                    expected: Offset((found + off).max(NO_OFFSET.get())),
                    found: Offset(found),
                    term: if moved { TERM - 1 } else { TERM },
                });
            }
        }
        if let Some(share) = step.trim {
            let to = model.log_start.max((model.next as f64 * share) as i64);
            let command = PartitionCommand::AdvanceLogStart {
                from: Offset(model.log_start),
                to: Offset(to),
                dropped_bytes: 0,
            };
            model.log_start = to;
            assert_eq!(replica.apply(&command), PartitionReply::LogStart(Offset(to)));
            history.push((command, PartitionReply::LogStart(Offset(to))));
        }
        let batch = batch(step.key, step.records, step.producer.map(|id| (id, sequence)));
        let command = append(batch, conditions);
        let expected = model.append(&step, conditions, sequence);
        assert_eq!(replica.apply(&command), expected, "{step:?} {conditions:?}");
        history.push((command, expected));
    }
    (history, replica)
}

proptest! {
    #[test]
    fn appends_are_judged_as_by_one_who_knows_every_record(steps in proptest::collection::vec(step(), 1..60)) {
        run(&steps);
    }

    #[test]
    fn a_replica_that_begins_with_a_snapshot_judges_alike(
        steps in proptest::collection::vec(step(), 1..60),
        share in 0.0..1.0_f64,
    ) {
        let (history, replica) = run(&steps);
        let at = (history.len() as f64 * share) as usize;
        let mut first = Replica::default();
        for (command, _) in &history[..at] {
            first.apply(command);
        }
        let state = PartitionState::restore(&first.state.snapshot()).expect("its own snapshot");
        let mut second = Replica { state, index: 0 };
        for (command, expected) in &history[at..] {
            prop_assert_eq!(&second.apply(command), expected);
        }
        prop_assert_eq!(second.state, replica.state);
    }
}

#[test]
fn a_refused_batch_leaves_its_producer_the_sequence() {
    let mut replica = Replica::default();
    let ends_at = |offset| Conditions {
        end_offset: Some(Offset(offset)),
        key: None,
    };
    let first = append(batch(1, 2, Some((7, 0))), ends_at(5));
    let differs = refused(ConditionFailed::EndOffsetDiffers {
        expected: Offset(5),
        actual: Offset(0),
    });
    assert_eq!(replica.apply(&first), differs, "also for a producer that is not known");
    let first = append(batch(1, 2, Some((7, 0))), ends_at(0));
    assert_eq!(replica.apply(&first), appended(0, 2, false));
    let second = append(batch(1, 1, Some((7, 2))), ends_at(1));
    assert!(matches!(
        replica.apply(&second),
        PartitionReply::Refused(Refusal::Condition(ConditionFailed::EndOffsetDiffers { .. }))
    ));
    assert_eq!(
        replica.apply(&first),
        appended(0, 2, true),
        "a retry finds itself, not its condition"
    );
    let other = append(batch(2, 3, Some((7, 2))), Conditions::default());
    assert_eq!(
        replica.apply(&other),
        appended(2, 3, false),
        "another batch has the sequence"
    );
}
