//! The leader's side of a partition on a clock: the host is a loop that reads rows, applies commands, and lets time pass.

mod queues;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use jangada_log::leader::{Event, Leader, Pending, Surroundings};
use jangada_log::tables::OFFSET_INDEX;
use jangada_log::{Conditions, IndexEntry, PartitionCommand, PartitionReply, PartitionState};
use jangada_machine::{Due, Effects, Leader as _, Machine, Now, Row, RowRange, Step};
use jangada_types::{BatchBuilder, Codec, LogPosition, Offset, Reason, Rejection, RowChange};
use proptest::prelude::*;

const INTERVAL_MS: u64 = 5_000;
const STEADY_MS: u64 = 3_600_000;
const SEGMENT_BYTES: u64 = 16 << 20;
const DAY_MS: u64 = 24 * 3_600_000;
const START_MS: u64 = 1_764_000_000_000;

type LeaderStep = Step<PartitionCommand, Pending, Offset>;

/// A partition that this replica leads.
struct World {
    state: PartitionState,
    leader: Leader,
    rows: BTreeMap<Bytes, Bytes>,
    index: u64,
    monotonic_ms: u64,
    /// How far the wall clock is off, and since when it stands there.
    off_ms: i64,
    stepped_ms: u64,
    /// How often rows were read.
    reads: usize,
    events: Vec<Event>,
}

impl World {
    fn new(retention_ms: Option<u64>, retention_bytes: Option<u64>) -> Self {
        let state = PartitionState::default();
        let now = Now {
            monotonic_ms: 0,
            wall_ms: START_MS,
            steady_since_ms: 0,
        };
        let surroundings = surroundings(retention_ms, retention_bytes);
        Self {
            leader: Leader::begin(&state, &Arc::new(surroundings), now),
            state,
            rows: BTreeMap::new(),
            index: 0,
            monotonic_ms: 0,
            off_ms: 0,
            stepped_ms: 0,
            reads: 0,
            events: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        Now {
            monotonic_ms: self.monotonic_ms,
            wall_ms: (START_MS + self.monotonic_ms).saturating_add_signed(self.off_ms),
            steady_since_ms: self.stepped_ms,
        }
    }

    fn apply(&mut self, command: &PartitionCommand) -> PartitionReply {
        self.index += 1;
        let at = LogPosition {
            term: 1,
            index: self.index,
        };
        let events = Leader::events_of(&self.state, command);
        let mut effects = Effects::default();
        let reply = self.state.apply(at, command, &mut effects);
        for change in effects.take() {
            let RowChange::Put { table, key, value } = change else {
                panic!("a partition puts rows only: {change:?}");
            };
            if *table == OFFSET_INDEX {
                self.rows.insert(key, value);
            }
        }
        if Leader::had_effect(&reply) {
            self.events.extend(events);
        }
        let now = self.now();
        self.leader.applied(&self.state, command, &reply, &|| now);
        reply
    }

    /// One batch of as many records, with values of 100 bytes and this time.
    fn append(&mut self, records: usize, timestamp_ms: u64) {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..records {
            let timestamp_ms = i64::try_from(timestamp_ms).expect("it is near");
            builder
                .append(timestamp_ms, None, Some(&[7; 100]), [])
                .expect("it is small");
        }
        let command = PartitionCommand::Append {
            now_ms: 0,
            expiration_ms: i64::MAX,
            conditions: Conditions::default(),
            batch: builder.build(),
        };
        let reply = self.apply(&command);
        assert!(matches!(reply, PartitionReply::Appended { .. }), "{reply:?}");
    }

    fn read(&mut self, range: &RowRange) -> Vec<Row> {
        assert_eq!(*range.table, OFFSET_INDEX);
        self.reads += 1;
        let within = self.rows.range(range.from.clone()..);
        let within = within.take_while(|(key, _)| range.to.as_ref().is_none_or(|to| *key < to));
        within
            .take(range.limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    }

    /// One action of the host for a request.
    fn act(&mut self, step: LeaderStep) -> Acted {
        let now = self.now();
        match step {
            Step::Done(answer) => Acted::Answered(answer),
            Step::Read { rows, pending } => {
                let rows = self.read(&rows);
                Acted::Went(self.leader.resume_with_rows(&self.state, pending, rows, now))
            }
            Step::Propose { command, pending } => {
                let reply = self.apply(&command);
                Acted::Went(self.leader.resume(&self.state, pending, reply, now))
            }
            Step::Damaged(what) => Acted::Damaged(what),
        }
    }

    fn finish(&mut self, mut step: LeaderStep) -> Result<Offset, Rejection> {
        loop {
            match self.act(step) {
                Acted::Answered(answer) => return answer,
                Acted::Went(next) => step = next,
                Acted::Damaged(what) => panic!("{what}"),
            }
        }
    }

    fn trim(&mut self, before: Option<i64>) -> Result<Offset, Rejection> {
        let step = self.leader.trim(&self.state, before.map(Offset), self.now());
        self.finish(step)
    }

    /// Lets time pass, and the timer fire whenever it is due.
    fn wait(&mut self, ms: u64) {
        let until_ms = self.monotonic_ms + ms;
        while let Some(due_ms) = self.leader.next_deadline().filter(|due_ms| *due_ms <= until_ms) {
            self.monotonic_ms = self.monotonic_ms.max(due_ms);
            for due in self.leader.tick(&self.state, self.now()) {
                match due {
                    Due::Begin(step) => drop(self.finish(step)),
                    Due::Propose(command) => panic!("it looks first: {command:?}"),
                }
            }
            let next_ms = self.leader.next_deadline();
            assert!(
                next_ms.is_none_or(|next| next > self.monotonic_ms),
                "it would never rest"
            );
        }
        self.monotonic_ms = until_ms;
    }

    fn log_start(&self) -> i64 {
        self.state.log_start().get()
    }
}

/// What came of a step.
#[allow(clippy::large_enum_variant, reason = "a test has one at a time")]
enum Acted {
    Answered(Result<Offset, Rejection>),
    Went(LeaderStep),
    Damaged(String),
}

fn surroundings(retention_ms: Option<u64>, retention_bytes: Option<u64>) -> Surroundings {
    Surroundings {
        retention_ms,
        retention_bytes,
        gone_bytes: None,
        segment_bytes: SEGMENT_BYTES,
        check_interval_ms: INTERVAL_MS,
        steady_clock_ms: STEADY_MS,
        holds: BTreeMap::new(),
    }
}

#[test]
fn records_go_when_they_are_old_and_not_before() {
    let mut world = World::new(Some(DAY_MS), None);
    world.append(2, START_MS);
    world.append(3, START_MS + DAY_MS / 2);
    world.wait(DAY_MS);
    assert_eq!(world.log_start(), 0);
    world.wait(INTERVAL_MS);
    assert_eq!(world.log_start(), 2);
    world.wait(DAY_MS / 2 + INTERVAL_MS);
    assert_eq!(world.log_start(), 5);
    let bytes = world.state.retained_bytes();
    assert_eq!(bytes, 0, "what went was counted");
    let gone: Vec<_> = world
        .events
        .iter()
        .map(|Event::LogStartAdvanced { from, to, .. }| (from.get(), to.get()))
        .collect();
    assert_eq!(gone, [(0, 2), (2, 5)]);
    assert!(
        world.reads <= 6,
        "{} reads: nothing is read before something can be old",
        world.reads
    );
}

#[test]
fn a_batch_stays_for_its_youngest_record_and_holds_up_those_behind_it() {
    let mut world = World::new(Some(DAY_MS), None);
    world.append(1, START_MS + 2 * DAY_MS);
    world.append(1, START_MS - DAY_MS);
    world.wait(2 * DAY_MS);
    assert_eq!(world.log_start(), 0, "as in Kafka, the log goes from its start");
    world.wait(DAY_MS + INTERVAL_MS);
    assert_eq!(world.log_start(), 2);
}

#[test]
fn bytes_beyond_those_to_keep_go_in_whole_batches() {
    let mut world = World::new(None, None);
    for _ in 0..10 {
        world.append(1, START_MS);
    }
    world.wait(DAY_MS);
    assert_eq!((world.log_start(), world.reads), (0, 0), "nothing limits it");
    let batch = world.state.retained_bytes() / 10;
    let limited = Arc::new(surroundings(None, Some(4 * batch - 1)));
    world.leader.surroundings_changed(&world.state, &limited, world.now());
    world.wait(0);
    assert_eq!(world.log_start(), 6, "at least so many bytes stay");
    world.append(1, START_MS);
    world.wait(INTERVAL_MS);
    assert_eq!(world.log_start(), 7);
}

#[test]
fn of_a_compacted_topic_the_bytes_that_are_left_count() {
    let mut world = World::new(None, None);
    for _ in 0..10 {
        world.append(1, START_MS);
    }
    let batch = world.state.retained_bytes() / 10;
    for (key, value) in world.rows.iter_mut().take(5) {
        let row = IndexEntry::decode(key, value).expect("it was written");
        let left = IndexEntry { size_bytes: 10, ..row };
        *value = Bytes::copy_from_slice(left.encode().1.as_ref());
    }
    let limited = Surroundings {
        gone_bytes: Some(5 * (batch - 10)),
        ..surroundings(None, Some(5 * batch + 25))
    };
    world
        .leader
        .surroundings_changed(&world.state, &Arc::new(limited), world.now());
    world.wait(0);
    assert_eq!(world.log_start(), 2, "at least so many bytes stay");
    assert_eq!(
        world.state.retained_bytes(),
        8 * batch,
        "what goes is counted as it was appended"
    );
}

#[test]
fn a_clock_that_stepped_deletes_nothing_before_it_is_steady_for_long_enough() {
    let mut world = World::new(Some(7 * DAY_MS), None);
    world.append(1, START_MS);
    world.wait(2 * STEADY_MS);
    (world.off_ms, world.stepped_ms) = (i64::try_from(8 * DAY_MS).unwrap(), world.monotonic_ms);
    world.wait(STEADY_MS - 1);
    assert_eq!(world.log_start(), 0);
    world.wait(INTERVAL_MS + 1);
    assert_eq!(world.log_start(), 1);
    // Kept for less than that, it waits for no longer than it is kept.
    let mut world = World::new(Some(60_000), None);
    world.append(1, START_MS);
    (world.off_ms, world.stepped_ms) = (i64::try_from(DAY_MS).unwrap(), world.monotonic_ms);
    world.wait(60_000 + INTERVAL_MS);
    assert_eq!(world.log_start(), 1);
    // One that differs from the others' deletes nothing at all.
    let mut world = World::new(Some(0), None);
    world.append(1, START_MS - DAY_MS);
    world.stepped_ms = u64::MAX;
    world.wait(DAY_MS);
    assert_eq!(world.log_start(), 0);
}

#[test]
fn a_trim_is_exact_also_in_the_middle_of_a_batch_and_beyond_one_read() {
    let mut world = World::new(None, None);
    for _ in 0..10_000 {
        world.append(2, START_MS);
    }
    let batch = world.state.retained_bytes() / 10_000;
    assert_eq!(world.trim(Some(18_001)), Ok(Offset(18_001)));
    assert_eq!(
        world.state.retained_bytes(),
        1_000 * batch,
        "the batch that is cut stays as a whole"
    );
    assert_eq!(world.reads, 3);
    assert_eq!(world.trim(Some(5)), Ok(Offset(18_001)), "it is there already");
    assert_eq!(world.reads, 3);
    assert_eq!(world.trim(None), Ok(Offset(20_000)));
    assert_eq!(world.state.retained_bytes(), 0);
    assert_eq!(world.trim(None), Ok(Offset(20_000)));
    for beyond in [20_001, -1] {
        let refused = world.trim(Some(beyond)).expect_err("it has no such offset");
        assert_eq!(refused.reason, Reason::OffsetOutOfRange);
        assert_eq!(refused.metadata["high_watermark"], "20000");
    }
}

#[test]
fn who_finds_the_log_start_moved_looks_again_and_in_the_end_gives_up() {
    let mut world = World::new(None, None);
    for _ in 0..20 {
        world.append(1, START_MS);
    }
    // Moved while rows are read, and while the command is on its way.
    let step = world.leader.trim(&world.state, Some(Offset(10)), world.now());
    assert_eq!(world.trim(Some(2)), Ok(Offset(2)));
    let Acted::Went(step) = world.act(step) else {
        panic!("it reads again");
    };
    let Acted::Went(step @ Step::Propose { .. }) = world.act(step) else {
        panic!("it has seen all that goes");
    };
    assert_eq!(world.trim(Some(4)), Ok(Offset(4)));
    assert_eq!(world.finish(step), Ok(Offset(10)));
    assert_eq!(world.log_start(), 10);
    let mut step = world.leader.trim(&world.state, Some(Offset(20)), world.now());
    let refused = loop {
        assert!(world.trim(Some(world.log_start() + 1)).is_ok());
        match world.act(step) {
            Acted::Answered(answer) => break answer.expect_err("it moved all the time"),
            Acted::Went(next) => step = next,
            Acted::Damaged(what) => panic!("{what}"),
        }
    };
    assert_eq!(refused.reason, Reason::PartitionBusy);
}

#[test]
fn rows_that_are_missing_are_damage_and_drop_nothing() {
    let mut world = World::new(None, None);
    for _ in 0..5 {
        world.append(1, START_MS);
    }
    for lost in [0, 2, 4] {
        let mut rows = world.rows.clone();
        let key = rows.keys().nth(lost).expect("there are five").clone();
        std::mem::swap(&mut rows, &mut world.rows);
        world.rows.remove(&key);
        let mut step = world.leader.trim(&world.state, None, world.now());
        let what = loop {
            match world.act(step) {
                Acted::Damaged(what) => break what,
                Acted::Went(next) => step = next,
                Acted::Answered(answer) => panic!("row {lost} is passed over: {answer:?}"),
            }
        };
        assert!(what.contains("missing") || what.contains("goes on with"), "{what}");
        world.rows = rows;
    }
    assert_eq!(world.log_start(), 0);
    assert_eq!(world.trim(None), Ok(Offset(5)));
}

#[test]
fn a_look_that_is_lost_is_due_again_later() {
    let mut world = World::new(Some(1), None);
    world.append(1, START_MS - DAY_MS);
    world.monotonic_ms += INTERVAL_MS;
    let due = world.leader.tick(&world.state, world.now());
    assert!(matches!(due[..], [Due::Begin(Step::Read { .. })]), "{due:?}");
    drop(due);
    assert!(world.leader.tick(&world.state, world.now()).is_empty(), "one at a time");
    let again_ms = world.leader.next_deadline().expect("it is due again");
    assert!(again_ms > world.monotonic_ms + INTERVAL_MS);
    world.wait(again_ms - world.monotonic_ms);
    assert_eq!(world.log_start(), 1);
}

#[derive(Clone, Debug)]
enum Act {
    Append { records: usize, age_ms: u64 },
    Wait(u64),
    Trim(i64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (1..4_usize, 0..200_000_u64).prop_map(|(records, age_ms)| Act::Append { records, age_ms }),
        2 => (0..60_000_u64).prop_map(Act::Wait),
        1 => (0..60_i64).prop_map(Act::Trim),
    ];
    prop::collection::vec(act, 1..60)
}

proptest! {
    /// Against one who looks at every batch at every moment.
    #[test]
    fn what_goes_is_what_retention_and_trims_say(
        acts in acts(),
        retention_ms in prop::option::of(1_000..100_000_u64),
        retention_batches in prop::option::of(0..10_u64),
    ) {
        let mut world = World::new(retention_ms, retention_batches.map(|batches| batches * 400));
        // Last offset, time and size of each batch.
        let mut batches: Vec<(i64, u64, u64)> = Vec::new();
        for act in acts {
            match act {
                Act::Append { records, age_ms } => {
                    let (at_ms, before) = (world.now().wall_ms - age_ms, world.state.retained_bytes());
                    world.append(records, at_ms);
                    batches.push((world.state.next_offset().get() - 1, at_ms, world.state.retained_bytes() - before));
                }
                Act::Wait(ms) => world.wait(ms),
                Act::Trim(before) => {
                    let (start, end) = (world.log_start(), world.state.next_offset().get());
                    match world.trim(Some(before)) {
                        Ok(trimmed) => prop_assert_eq!(trimmed.get(), before.max(start)),
                        Err(refused) => prop_assert!(before > end, "{}", refused),
                    }
                }
            }
            let start = world.log_start();
            let stay = batches.iter().filter(|(last, ..)| *last >= start);
            let bytes: u64 = stay.clone().map(|(_, _, bytes)| bytes).sum();
            prop_assert_eq!(bytes, world.state.retained_bytes());
            // What should have gone goes with the next look.
            world.wait(INTERVAL_MS);
            let start = world.log_start();
            let mut stay = batches.iter().filter(|(last, ..)| *last >= start);
            if let Some((_, at_ms, size)) = stay.next() {
                let looked_ms = world.now().wall_ms - INTERVAL_MS;
                if let Some(kept_ms) = retention_ms.filter(|kept_ms| world.monotonic_ms > *kept_ms + INTERVAL_MS) {
                    prop_assert!(at_ms + kept_ms >= looked_ms, "an old batch stays");
                }
                if let Some(keep) = retention_batches.map(|batches| batches * 400) {
                    prop_assert!(world.state.retained_bytes() - size < keep, "more than to be kept stays");
                }
            }
        }
    }
}
