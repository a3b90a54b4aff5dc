//! What is written and read: the topics, the values, and what those who take part tell each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jangada_client::{Client, ClientConfig, ConsumedRecord};

use crate::anomalies::{Fate, Read, Transaction};

/// The topics, and their partitions. Only the second one is compacted, and only the first one is trimmed.
pub const TOPICS: [(&str, u32); 2] = [("ledger", 5), ("accounts", 3)];
pub const READERS: usize = 2;
/// A transaction that is open for longer is aborted by its coordinator.
pub const TIMEOUT: Duration = Duration::from_secs(2);

/// A partition of one of the topics, by its number among those of both.
pub type Place = u32;

pub fn places() -> std::ops::Range<Place> {
    0..TOPICS.iter().map(|(_, partitions)| partitions).sum()
}

pub fn partition_of(place: Place) -> (&'static str, u32) {
    let [(plain, count), (compacted, _)] = TOPICS;
    match place < count {
        true => (plain, place),
        false => (compacted, place - count),
    }
}

pub fn place_of(topic: &str, partition: u32) -> Place {
    let [(plain, count), _] = TOPICS;
    if topic == plain { partition } else { count + partition }
}

pub fn is_compacted(place: Place) -> bool {
    partition_of(place).0 == TOPICS[1].0
}

/// One value: which transaction of which writer it is of, and its place among that one's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Value {
    pub writer: u32,
    pub transaction: u32,
    pub at: u32,
}

/// A transaction: its writer, and its number among that one's.
pub type Name = (u32, u32);

impl Value {
    pub fn encode(self) -> String {
        format!("{}/{}/{}", self.writer, self.transaction, self.at)
    }

    fn decode(text: &[u8]) -> Value {
        let text = std::str::from_utf8(text).expect("a value is text");
        let mut numbers = text
            .split('/')
            .map(|number| number.parse().expect("a value is three numbers"));
        let mut next = || numbers.next().expect("a value is three numbers");
        Value {
            writer: next(),
            transaction: next(),
            at: next(),
        }
    }

    pub fn of(self) -> Name {
        (self.writer, self.transaction)
    }

    /// The value of a record, and whether it is the one under a key of its own.
    pub fn of_record(record: &ConsumedRecord) -> (Value, bool) {
        let key = record.key.as_deref().expect("each has a key");
        let value = record.value.as_deref().expect("each has a value");
        let text = value.split(|byte| *byte == b' ').next().expect("there is a first word");
        (Value::decode(text), key == value)
    }
}

/// What those who take part know, and tell each other.
#[derive(Default)]
pub struct World {
    pub written: Mutex<BTreeMap<Name, Transaction<Value>>>,
    /// Where each reader goes on.
    pub read_to: Mutex<BTreeMap<(usize, Place), i64>>,
    pub stop: Arc<AtomicBool>,
    pub timed_out: AtomicBool,
    pub fenced: AtomicBool,
    /// Leaderships that were moved, and purges, as far as they succeeded.
    pub transfers: AtomicU32,
    pub purges: AtomicU32,
}

impl World {
    pub fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Whether enough has happened that anything could be seen. A slow machine takes longer for it.
    pub fn has_enough(&self) -> bool {
        let written = self.written.lock().expect("nothing panicked");
        let count = |fate| written.values().filter(|it| it.fate == fate).count();
        let has_read = written.values().any(|it| !it.reads.is_empty());
        let has_moved = [&self.transfers, &self.purges]
            .iter()
            .all(|of| of.load(Ordering::Relaxed) > 0);
        count(Fate::Committed) > 20 && count(Fate::Aborted) > 5 && has_read && has_moved
    }

    /// Up to where every reader has read a partition.
    pub fn read_by_all(&self, place: Place) -> i64 {
        let read_to = self.read_to.lock().expect("nothing panicked");
        let of = |reader| read_to.get(&(reader, place)).copied().unwrap_or(0);
        (0..READERS).map(of).min().expect("there are readers")
    }
}

/// What one reader got.
#[derive(Default)]
pub struct Seen {
    pub read: Read<Value>,
    /// Transactions of which it saw something under a key that is shared, which compaction may take.
    pub covers: BTreeSet<Name>,
}

pub async fn connect(config: ClientConfig) -> Client {
    Client::connect(config).await.expect("a broker answers")
}
