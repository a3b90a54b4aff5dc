//! Rounds of snapshots beside a log that goes on: whoever begins with them and reads on has what the whole log has.

use std::convert::Infallible;

use super::*;
use crate::eventsource::Commit;
use crate::eventsource::reader::Streams;
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

/// All that has happened, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Diary(Vec<usize>);

impl Aggregate for Diary {
    type Command = ();
    type Event = usize;
    type Refusal = Infallible;

    fn handle(&self, (): &()) -> Result<Vec<usize>, Infallible> {
        Ok(Vec::new())
    }

    fn apply(&mut self, event: &usize) {
        self.0.push(*event);
    }
}

const PARTITIONS: usize = 2;
const KEYS: [&str; 4] = ["a", "b", "p/0", "d"];
const REMEMBER: usize = 3;

/// One step of the world.
#[derive(Clone, Debug)]
enum Step {
    /// Somebody appends a commit to the stream of a key.
    Append(usize),
    /// The process appends one itself, and has it in its stream before it has read it.
    Own(usize),
    /// The process reads so many commits of a partition.
    Read(usize, usize),
    /// A round of snapshots, in which commits are read between its parts. It may fail before the positions are written.
    Round { fails: bool, read: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..KEYS.len()).prop_map(Step::Append),
        2 => (0..KEYS.len()).prop_map(Step::Own),
        4 => (0..PARTITIONS, 1_usize..4).prop_map(|(partition, most)| Step::Read(partition, most)),
        2 => (any::<bool>(), 0_usize..3).prop_map(|(fails, read)| Step::Round { fails, read }),
    ];
    prop::collection::vec(step, 1..80)
}

/// A process with its streams, the log, and the topic of snapshots.
struct World {
    log: [Vec<(&'static str, Commit<usize>)>; PARTITIONS],
    streams: Streams<Diary>,
    positions: BTreeMap<u32, i64>,
    topic: BTreeMap<String, Bytes>,
}

impl World {
    fn new() -> Self {
        let mut streams = Streams::new(BTreeMap::new(), REMEMBER);
        streams.changed = Some(BTreeSet::new());
        Self {
            log: Default::default(),
            streams,
            positions: (0..PARTITIONS as u32).map(|partition| (partition, 0)).collect(),
            topic: BTreeMap::new(),
        }
    }

    fn append(&mut self, key: usize) -> (i64, Commit<usize>) {
        let number: usize = self.log.iter().map(Vec::len).sum();
        let commit = Commit {
            id: format!("c{number}"),
            events: vec![number, number],
        };
        let log = &mut self.log[key % PARTITIONS];
        log.push((KEYS[key], commit.clone()));
        (log.len() as i64 - 1, commit)
    }

    fn read(&mut self, partition: usize, most: usize) {
        let position = self.positions.get_mut(&(partition as u32)).expect("it is read");
        for (key, commit) in self.log[partition].iter().skip(*position as usize).take(most) {
            self.streams.apply(key, *position, commit);
            *position += 1;
        }
    }

    fn takes(&mut self, step: Step) {
        match step {
            Step::Append(key) => drop(self.append(key)),
            Step::Own(key) => {
                // It was decided on all that the stream has, or it would not have been appended.
                self.read(key % PARTITIONS, usize::MAX);
                let (offset, commit) = self.append(key);
                self.streams.apply(KEYS[key], offset, &commit);
            }
            Step::Read(partition, most) => self.read(partition, most),
            Step::Round { fails, read } => {
                let positions = self.positions.clone();
                self.read(0, read);
                let changed = self.streams.changed.replace(BTreeSet::new()).expect("they are noted");
                for key in &changed {
                    let row = stream_row(key, &self.streams.by_key[key]);
                    let (key, value) = row.expect("it is JSON");
                    self.topic.insert(key, value.into());
                    self.read(1, read);
                }
                if fails {
                    self.streams.changed.get_or_insert_default().extend(changed);
                } else {
                    let rows = positions.iter().map(position_row);
                    self.topic.extend(rows.map(|(key, value)| (key, value.into())));
                }
            }
        }
    }

    /// The streams of one who reads the log from these positions and streams on.
    fn read_on(&self, (positions, streams): Begin<Diary>) -> BTreeMap<String, Stream<Diary>> {
        let mut streams = Streams::new(streams, REMEMBER);
        for (partition, log) in self.log.iter().enumerate() {
            let from = positions.get(&(partition as u32)).copied().unwrap_or(0);
            for (offset, (key, commit)) in log.iter().enumerate().skip(from as usize) {
                streams.apply(key, offset as i64, commit);
            }
        }
        streams.by_key
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn whoever_begins_with_snapshots_has_what_the_whole_log_has(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.takes(step);
            let rows = world.topic.iter().map(|(key, value)| (key.clone(), value.clone()));
            let begin = of_rows::<Diary>(rows).expect("they are read");
            // Of what is below a position the log is not read: it may be large.
            prop_assert!(begin.0.iter().all(|(partition, at)| *at <= world.positions[partition]));
            let whole = world.read_on(Begin::default());
            prop_assert_eq!(world.read_on(begin), whole);
        }
        for partition in 0..PARTITIONS {
            world.read(partition, usize::MAX);
        }
        prop_assert_eq!(&world.streams.by_key, &world.read_on(Begin::default()));
    }
}

#[test]
fn a_round_without_commits_in_between_leaves_nothing_to_read() {
    let mut world = World::new();
    world.takes(Step::Own(0));
    world.takes(Step::Read(0, 1));
    world.takes(Step::Round { fails: false, read: 0 });
    let rows = world.topic.iter().map(|(key, value)| (key.clone(), value.clone()));
    let (positions, streams) = of_rows::<Diary>(rows).expect("they are read");
    assert_eq!(positions, BTreeMap::from([(0, 1), (1, 0)]));
    assert_eq!(streams, world.streams.by_key);
}

#[test]
fn a_row_that_cannot_be_read_is_named() {
    let rows = [("s/a".to_owned(), Bytes::from_static(b"no stream"))];
    let (key, _) = of_rows::<Diary>(rows.into_iter()).expect_err("it is refused");
    assert_eq!(key, "s/a");
}
