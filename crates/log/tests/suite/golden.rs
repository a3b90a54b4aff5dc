//! The bytes of commands and states, and what histories of commands come to. They are in logs and on disks: whatever else
//! changes, a later build must read these, write the same, and give the same replies and rows.
//!
//! The files were recorded from a build before this crate was. `JANGADA_BLESS=1` adds lines to them and changes none.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_log::compaction::{Form, Original, Remains};
use jangada_log::{
    ConditionFailed, Conditions, IdFinding, IndexEntry, KeyFinding, PartitionCommand, PartitionCommandKind,
    PartitionReply, PartitionState, Refusal,
};
use jangada_machine::{Effects, EncodedCommand, Machine};
use jangada_queue::IdWindow;
use jangada_types::batch::{Attributes, EndMarker};
pub use jangada_types::replicated::hex;
use jangada_types::replicated::{Seeds, compare_golden};
use jangada_types::{
    BatchBuilder, BatchHeader, Codec, CodecError, LogPosition, Offset, ProducerEpoch, ProducerId, Sequence,
};

use crate::world::rows_of;
use crate::{queues, schedules, transactions};

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex is ASCII"), 16).expect("hex");
    digits.map(byte).collect()
}

pub fn compare(file: &str, lines: impl IntoIterator<Item = (String, String)>) {
    compare_golden(env!("CARGO_MANIFEST_DIR"), file, lines);
}

pub fn append(now_ms: i64, expiration_ms: i64, conditions: Conditions, batch: Bytes) -> PartitionCommand {
    PartitionCommand::Append {
        now_ms,
        expiration_ms,
        conditions,
        batch,
    }
}

pub fn advance(from: i64, to: i64, dropped_bytes: u64) -> PartitionCommand {
    PartitionCommand::AdvanceLogStart {
        from: Offset(from),
        to: Offset(to),
        dropped_bytes,
    }
}

fn conditions(end_offset: Option<i64>, key: Option<(i64, i64, u64)>) -> Conditions {
    Conditions {
        end_offset: end_offset.map(Offset),
        key: key.map(|(expected, found, term)| KeyFinding {
            expected: Offset(expected),
            found: Offset(found),
            term,
        }),
    }
}

fn shapes() -> Vec<(&'static str, PartitionCommand)> {
    let shaped = |conditions| append(1, 2, conditions, Bytes::new());
    vec![
        ("plain", shaped(Conditions::default())),
        (
            "extreme",
            append(i64::MIN, i64::MAX, Conditions::default(), Bytes::new()),
        ),
        ("end", shaped(conditions(Some(7), None))),
        ("key", shaped(conditions(None, Some((-1, 5, 9))))),
        ("both", shaped(conditions(Some(0), Some((3, -1, u64::MAX))))),
        ("nowhere", shaped(conditions(Some(-1), None))),
        ("advance", advance(1, 9, 77)),
        ("advance-extreme", advance(0, i64::MAX, u64::MAX)),
    ]
}

/// What compaction leaves, and what lets it go on.
fn compacted_shapes() -> Vec<(&'static str, PartitionCommand)> {
    let original = |form| Original {
        form,
        size_bytes: 0x0102_0304,
        now_ms: 1,
        expiration_ms: 2,
    };
    let compacted = |form| PartitionCommand::CompactedAppend {
        original: Box::new(original(form)),
        batch: Bytes::new(),
    };
    let emptied = |form| PartitionCommand::EmptiedAppend {
        original: Box::new(original(form)),
        remains: Box::new(Remains {
            last_offset_delta: 3,
            max_timestamp: 4,
            attributes: Attributes(0x18),
            producer_id: ProducerId(5),
            producer_epoch: ProducerEpoch(6),
            base_sequence: Sequence(7),
        }),
    };
    let both = conditions(Some(0), Some((3, -1, u64::MAX)));
    let ids = IdFinding {
        window: IdWindow {
            window_ms: 60_000,
            forgets: true,
        },
        term: 9,
    };
    let end = EndMarker {
        producer_id: ProducerId(5),
        producer_epoch: ProducerEpoch(6),
        coordinator_epoch: 11,
        commit: true,
    };
    let marked = |ids| Form::Marked { conditions: both, ids };
    vec![
        ("compacted", compacted(Form::Plain(Conditions::default()))),
        ("compacted-conditional", compacted(Form::Plain(both))),
        ("emptied", emptied(Form::Plain(Conditions::default()))),
        ("emptied-conditional", emptied(Form::Plain(both))),
        ("emptied-marked", emptied(marked(None))),
        ("emptied-marked-ids", emptied(marked(Some(ids)))),
        ("compacted-transactional", compacted(Form::Transactional { seq: 8 })),
        ("emptied-transactional", emptied(Form::Transactional { seq: u64::MAX })),
        ("emptied-marker", emptied(Form::Marker { end, seq: 8 })),
        (
            "horizon",
            PartitionCommand::AdvanceHorizon {
                upto: Offset(258),
                now_ms: 77,
            },
        ),
    ]
}

pub fn describe(reply: &PartitionReply, row: Option<&IndexEntry>) -> String {
    let reply = match reply {
        PartitionReply::Appended {
            base_offset,
            last_offset,
            duplicate,
        } => {
            let what = if *duplicate { "duplicate" } else { "appended" };
            format!("{what} {base_offset} {last_offset}")
        }
        PartitionReply::Refused(refusal) => match refusal {
            Refusal::TooOld => "too-old".to_owned(),
            Refusal::OutOfOrder { expected } => format!("out-of-order {expected}"),
            Refusal::Fenced { current } => format!("fenced {current}"),
            Refusal::UnknownProducer => "unknown-producer".to_owned(),
            Refusal::Condition(ConditionFailed::EndOffsetDiffers { expected, actual }) => {
                format!("end-differs {expected} {actual}")
            }
            Refusal::Condition(ConditionFailed::KeyOffsetDiffers { expected, actual }) => {
                format!("key-differs {expected} {actual}")
            }
            Refusal::Condition(ConditionFailed::LeaderChanged) => "leader-changed".to_owned(),
            Refusal::TransactionOpen { seq } => format!("transaction-open {seq}"),
            Refusal::TransactionEnded => "transaction-ended".to_owned(),
            Refusal::TooManyTransactions => "too-many-transactions".to_owned(),
        },
        PartitionReply::LogStart(offset) => format!("log-start {offset}"),
        PartitionReply::LogStartMoved(offset) => format!("log-start-moved {offset}"),
        PartitionReply::LogStartHeld(offset) => format!("log-start-held {offset}"),
        PartitionReply::Queue(reply) => format!("queue {reply:?}"),
        PartitionReply::CarryRefused(refused) => format!("carry-refused {refused:?}"),
        PartitionReply::Scheduled => "scheduled".to_owned(),
        PartitionReply::ScheduleRefused(refused) => format!("schedule-refused {refused:?}"),
        PartitionReply::Horizon(offset) => format!("horizon {offset}"),
        PartitionReply::Ended { marker, aborted, .. } => {
            let marker = marker.map_or("nothing".to_owned(), |marker| marker.to_string());
            let aborted = aborted.map(|aborted| format!(" aborted {} {}", aborted.first, aborted.stable_after));
            format!("ended {marker}{}", aborted.unwrap_or_default())
        }
    };
    let Some(row) = row else { return reply };
    format!(
        "{reply} row {} {} {} {} {} {} {}",
        row.last_offset,
        row.base_offset,
        row.raft_index,
        row.epoch,
        row.max_timestamp_ms,
        row.running_max_timestamp_ms,
        row.size_bytes
    )
}

/// A history that follows from one seed. What is drawn from it, and in which order, is in the golden files.
struct History {
    seeds: Seeds,
    now_ms: i64,
    term: u64,
    next: i64,
    start: i64,
    /// Of each producer: its epoch, and the sequence and size of its last batch.
    producers: BTreeMap<i64, (i16, i32, usize)>,
}

const HISTORIES: u64 = 6;
const STEPS: u64 = 60;
const EXPIRATION_MS: i64 = 3_000;

impl History {
    fn new(seed: u64) -> Self {
        Self {
            seeds: Seeds::new(seed),
            now_ms: 1_700_000_000_000,
            term: 1,
            next: 0,
            start: 0,
            producers: BTreeMap::new(),
        }
    }

    fn below(&mut self, end: i64) -> i64 {
        self.seeds.below(end as u64) as i64
    }

    /// The next command.
    fn step(&mut self) -> PartitionCommand {
        self.now_ms += self.below(400);
        if self.below(40) == 0 {
            self.now_ms += 5_000;
        }
        if self.below(20) == 0 {
            self.term += 1;
        }
        if self.below(12) == 0 {
            let from = self.start + i64::from(self.below(4) == 0);
            let to = self.start + self.below(self.next - self.start + 2);
            let dropped = self.below(500) as u64;
            return advance(from, to, dropped);
        }
        let mut records = 1 + self.below(3) as usize;
        let producer = self.producer(&mut records);
        let conditions = self.conditions();
        let mut builder = BatchBuilder::new(Codec::None);
        let size = self.below(50) as usize;
        for _ in 0..records {
            let time = self.now_ms - self.below(1_000);
            let value = vec![7; size];
            builder
                .append(time, Some(b"key"), Some(&value), [])
                .expect("it is small");
        }
        if let Some((id, epoch, sequence)) = producer {
            builder.producer(ProducerId(id), ProducerEpoch(epoch), Sequence(sequence));
        }
        append(self.now_ms, EXPIRATION_MS, conditions, builder.build())
    }

    /// Mostly what a producer does that works as it should; sometimes a retry, a gap, or another epoch.
    fn producer(&mut self, records: &mut usize) -> Option<(i64, i16, i32)> {
        if self.below(3) == 0 {
            return None;
        }
        let id = 1 + self.below(6);
        let (mut epoch, last, size) = self.producers.get(&id).copied().unwrap_or((0, 0, 0));
        let mut sequence = last + size as i32;
        match self.below(16) {
            0 => (epoch, sequence) = (epoch + 1, 0),
            1 => epoch = (epoch - 1).max(0),
            2 => sequence += 1,
            3 | 4 if size > 0 => (sequence, *records) = (last, size),
            5 => sequence = 0,
            _ => {}
        }
        Some((id, epoch, sequence))
    }

    fn conditions(&mut self) -> Conditions {
        let mut conditions = Conditions::default();
        let choice = self.below(8);
        if choice == 0 || choice == 2 {
            conditions.end_offset = Some(Offset(self.next + i64::from(self.below(4) == 0)));
        }
        if choice == 1 || choice == 2 {
            let found = self.below(self.next + 1) - 1;
            conditions.key = Some(KeyFinding {
                expected: Offset(found + i64::from(self.below(4) == 0)),
                found: Offset(found),
                term: self.term - u64::from(self.below(4) == 0),
            });
        }
        conditions
    }

    /// What came of it.
    fn learn(&mut self, command: &PartitionCommand, reply: &PartitionReply) {
        let header = match command {
            PartitionCommand::Append { batch, .. } => Some(BatchHeader::parse(batch).expect("it is a batch")),
            _ => None,
        };
        match (reply, header) {
            (
                PartitionReply::Appended {
                    base_offset,
                    last_offset,
                    duplicate: false,
                },
                Some(header),
            ) => {
                self.next = last_offset.get() + 1;
                if header.producer_id.is_some() {
                    let size = (self.next - base_offset.get()) as usize;
                    let last = (header.producer_epoch.get(), header.base_sequence.get(), size);
                    self.producers.insert(header.producer_id.get(), last);
                }
            }
            (PartitionReply::LogStart(offset), _) => self.start = offset.get(),
            (PartitionReply::Refused(Refusal::UnknownProducer), Some(header)) => {
                self.producers.remove(&header.producer_id.get());
            }
            _ => {}
        }
    }
}

/// What a history comes to: `(case, value)` of its commands, its replies, and its state after some of them.
#[derive(Default)]
struct Lines {
    commands: Vec<(String, String)>,
    replies: Vec<(String, String)>,
    states: Vec<(String, String)>,
}

fn run(seed: u64, lines: &mut Lines) {
    let mut history = History::new(seed);
    let mut state = PartitionState::default();
    for step in 1..=STEPS {
        let case = format!("{seed}-{step}");
        let command = history.step();
        let at = LogPosition {
            term: history.term,
            index: step,
        };
        let mut effects = Effects::default();
        let reply = state.apply(at, &command, &mut effects);
        history.learn(&command, &reply);
        let encoded = PartitionState::encode(command.clone());
        assert_eq!(PartitionState::check_command(&encoded), Ok(()));
        lines.commands.push((case.clone(), hex(encoded.head())));
        assert_eq!(PartitionState::decode(encoded), Ok(command));
        lines
            .replies
            .push((case.clone(), describe(&reply, rows_of(&effects).first())));
        if step.is_multiple_of(20) {
            lines.states.push((case, hex(&state.snapshot())));
        }
    }
}

#[test]
fn commands_replies_and_states_are_those_of_earlier_builds() {
    let mut lines = Lines::default();
    for (name, command) in shapes() {
        let encoded = PartitionState::encode(command.clone());
        lines.commands.push((name.to_owned(), hex(encoded.head())));
        assert_eq!(PartitionState::decode(encoded), Ok(command), "{name}");
    }
    lines
        .states
        .push(("empty".to_owned(), hex(&PartitionState::default().snapshot())));
    for seed in 1..=HISTORIES {
        run(seed, &mut lines);
    }
    for (name, command) in compacted_shapes() {
        let encoded = PartitionState::encode(command.clone());
        lines.commands.push((name.to_owned(), hex(encoded.head())));
        assert_eq!(PartitionState::decode(encoded), Ok(command), "{name}");
    }
    let mut with_horizon = PartitionState::default();
    let mut batch = BatchBuilder::new(Codec::None);
    batch.append(5, Some(b"key"), None, []).expect("it is small");
    for (index, command) in [
        append(1, 2, Conditions::default(), batch.build()),
        PartitionCommand::AdvanceHorizon {
            upto: Offset(1),
            now_ms: 3,
        },
    ]
    .iter()
    .enumerate()
    {
        let at = LogPosition {
            term: 1,
            index: index as u64 + 1,
        };
        with_horizon.apply(at, command, &mut Effects::default());
    }
    lines.states.push(("horizon".to_owned(), hex(&with_horizon.snapshot())));
    compare("commands.txt", lines.commands);
    compare("replies.txt", lines.replies);
    compare("states.txt", lines.states);
}

/// A byte that stands in logs is never used for another kind, and older brokers rely on the levels.
#[test]
fn kinds_keep_their_bytes_and_levels() {
    let kinds = PartitionCommandKind::ALL.map(|kind| (kind, kind.byte(), kind.since()));
    assert_eq!(
        kinds,
        [
            (PartitionCommandKind::Append, 1, 1),
            (PartitionCommandKind::AdvanceLogStart, 2, 1),
            (PartitionCommandKind::ConditionalAppend, 3, 3),
            (PartitionCommandKind::QueueOps, 4, 7),
            (PartitionCommandKind::AppendMarked, 5, 7),
            (PartitionCommandKind::Carry, 6, 7),
            (PartitionCommandKind::Schedule, 7, 7),
            (PartitionCommandKind::TxnAppend, 8, 8),
            (PartitionCommandKind::Marker, 9, 8),
            (PartitionCommandKind::CompactedAppend, 10, 8),
            (PartitionCommandKind::EmptiedAppend, 11, 8),
            (PartitionCommandKind::AdvanceHorizon, 12, 8),
            (PartitionCommandKind::TxnAppendMarked, 13, 8),
        ]
    );
    for kind in PartitionCommandKind::ALL {
        let of_queues = queues::shapes().into_iter().chain(schedules::shapes());
        let of_transactions = transactions::shapes();
        let mut shapes = shapes()
            .into_iter()
            .chain(of_queues)
            .chain(of_transactions)
            .chain(compacted_shapes());
        assert!(
            shapes.any(|(_, command)| command.kind() == kind),
            "no golden bytes of {kind:?}"
        );
    }
}

#[test]
fn states_of_earlier_builds_are_read_and_written_again_as_they_were() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let states: String = [
        "states.txt",
        "queue-states.txt",
        "schedule-states.txt",
        "transaction-states.txt",
    ]
    .map(|file| std::fs::read_to_string(folder.join(file)).expect("the golden file can be read"))
    .concat();
    assert!(states.lines().count() > 10, "{states}");
    for line in states.lines() {
        let (case, bytes) = line.split_once(' ').expect("a case and its bytes");
        let bytes = Bytes::from(unhex(bytes));
        let state = PartitionState::restore(&bytes).unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!(state.snapshot(), bytes, "{case}");
        for length in 0..bytes.len() {
            let cut_off = PartitionState::restore(&bytes.slice(..length));
            assert!(cut_off.is_err(), "{case}: {length} bytes of it are no state");
        }
    }
}

#[test]
fn what_a_newer_build_wrote_is_named() {
    let (what, known) = ("partition command", 1);
    let read = |head: &[u8]| PartitionState::decode(EncodedCommand::new(head, Bytes::new()));
    assert_eq!(
        read(&[2, 1]),
        Err(CodecError::UnknownVersion {
            what,
            version: 2,
            known
        })
    );
    assert_eq!(read(&[1, 99]), Err(CodecError::UnknownKind { what, kind: 99 }));
    let newer_conditions = [&[1, 3][..], &[0; 16], &[4]].concat();
    assert!(matches!(read(&newer_conditions), Err(CodecError::UnknownFields { .. })));
    let newer_state = PartitionState::restore(&Bytes::from_static(&[4]));
    let error = newer_state.expect_err("it is of version 4").to_string();
    assert!(error.contains("version 4"), "{error}");
}

#[test]
fn what_is_cut_off_is_refused() {
    for (name, command) in shapes().into_iter().chain(compacted_shapes()) {
        let encoded = PartitionState::encode(command);
        for length in 0..encoded.head().len() {
            let cut_off = PartitionState::decode(EncodedCommand::new(&encoded.head()[..length], Bytes::new()));
            let is_named = matches!(
                cut_off,
                Err(CodecError::Truncated { .. } | CodecError::Malformed { .. })
            );
            assert!(is_named, "{name}, {length} bytes: {cut_off:?}");
        }
    }
}

#[test]
fn a_batch_that_no_leader_takes_does_not_get_into_the_log() {
    let check = |batch: Bytes| {
        let command = PartitionState::encode(append(1, 2, Conditions::default(), batch));
        PartitionState::check_command(&command)
    };
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(0, None, Some(b"v"), []).expect("it is small");
    let good = builder.build();
    assert_eq!(check(good.clone()), Ok(()));
    check(good.slice(..good.len() - 1)).expect_err("it is cut off");
    check(Bytes::from_static(b"x")).expect_err("it is no batch");
    let mut builder = BatchBuilder::new(Codec::None);
    builder.append(0, None, Some(b"v"), []).expect("it is small");
    builder.producer(ProducerId(1), ProducerEpoch(-1), Sequence(0));
    check(builder.build()).expect_err("its producer has no epoch");
}
