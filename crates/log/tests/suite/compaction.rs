//! Any history of a compacted partition: whatever its replicas have cleaned, and when, and whoever leads.
//!
//! The numbers are those of the properties that `docs/architecture/compaction.md` lists.

mod cases;

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_log::{Conditions, Marker, PartitionCommand, PartitionReply};
use jangada_machine::Machine;
use jangada_types::batch::EndMarker;
use jangada_types::{BatchBuilder, Codec, LogPosition, Offset, ProducerEpoch, ProducerId, Record, Sequence};
use proptest::prelude::*;

use crate::golden::{advance, append};
use crate::replicas::{Log, PassOf, Replica};

const REPLICAS: usize = 3;
const KEYS: u8 = 7;
const PRODUCERS: usize = 2;
/// The key of the record of every control batch that aborts or commits in the same way.
const MARKER_KEY: &[u8] = &[0, 0, 0, 1];
/// How long tombstones are kept once they are clean.
const RETENTION_MS: i64 = 1_000;
/// Room for all keys, and for too few of them.
const ROOMY: usize = 1 << 16;
const TIGHT: usize = 0;

#[derive(Clone, Debug)]
enum Op {
    /// A batch of puts and deletions: of each the key, and whether it is deleted; by a producer, or by nobody.
    Put(Vec<(u8, bool)>, Option<usize>, u8),
    /// A producer sends its last batch again, or one that is not its turn.
    Resend(usize),
    Skip(usize),
    /// A batch that expects another end than there is.
    Refused(Vec<(u8, bool)>),
    /// A batch of a transaction of a producer, which it opens if none is, and the end of one.
    Transact(Vec<(u8, bool)>, usize, u8),
    End(usize, bool),
    Trim(f64),
    Elect(usize),
    /// A replica is away, or is back, and gets what it lacks from the leader.
    Away(usize),
    Back(usize),
    /// A replica begins anew, with the leader's log.
    Replace(usize),
    Clean(usize, bool, usize, Option<usize>),
    EmptyRefused(usize),
    Save(usize),
    Restart(usize),
    /// The leader lets tombstones go that all members have had clean for long enough.
    Horizon,
    Advance(i64),
    Read(usize),
}

fn records() -> impl Strategy<Value = Vec<(u8, bool)>> {
    prop::collection::vec((0..KEYS, prop::bool::weighted(0.3)), 1..6)
}

fn op() -> impl Strategy<Value = Op> {
    let replica = 0..REPLICAS;
    let producer = 0..PRODUCERS;
    prop_oneof![
        12 => (records(), proptest::option::of(producer.clone()), 0..5_u8).prop_map(|(of, by, codec)| Op::Put(of, by, codec)),
        1 => producer.clone().prop_map(Op::Resend),
        1 => producer.prop_map(Op::Skip),
        1 => records().prop_map(Op::Refused),
        5 => (records(), 0..PRODUCERS, 0..5_u8).prop_map(|(of, by, codec)| Op::Transact(of, by, codec)),
        4 => (0..PRODUCERS, any::<bool>()).prop_map(|(by, commit)| Op::End(by, commit)),
        1 => (0.0..0.3_f64).prop_map(Op::Trim),
        1 => replica.clone().prop_map(Op::Elect),
        1 => replica.clone().prop_map(Op::Away),
        2 => replica.clone().prop_map(Op::Back),
        1 => replica.clone().prop_map(Op::Replace),
        8 => (replica.clone(), any::<bool>(), 1..4_usize, proptest::option::weighted(0.2, 0..3_usize))
            .prop_map(|(of, is_tight, rows, crash)| Op::Clean(of, is_tight, rows, crash)),
        1 => replica.clone().prop_map(Op::EmptyRefused),
        4 => replica.clone().prop_map(Op::Save),
        1 => replica.prop_map(Op::Restart),
        4 => Just(Op::Horizon),
        3 => (0..900_i64).prop_map(Op::Advance),
        3 => (1..20_usize).prop_map(Op::Read),
    ]
}

/// A reader that keeps the last value of each key, as it reads on from the beginning.
#[derive(Default)]
struct Reader {
    next: Offset,
    began_ms: i64,
    values: BTreeMap<Bytes, Bytes>,
}

struct World {
    /// The log as it was written.
    written: Log,
    /// A replica that never cleans.
    original: Replica,
    replicas: Vec<Replica>,
    away: [bool; REPLICAS],
    leader: usize,
    term: u64,
    now_ms: i64,
    /// Of each producer: its last batch, and the sequence of its next one.
    producers: Vec<(Option<Bytes>, i32)>,
    /// Of each producer of transactions: its epoch, the sequence of its next record, the transaction, and whether it is open.
    transactions: Vec<(i16, i32, u64, bool)>,
    next_value: u32,
    reader: Reader,
}

impl World {
    fn new() -> Self {
        Self {
            written: Vec::new(),
            original: Replica::default(),
            replicas: vec![Replica::default(); REPLICAS],
            away: [false; REPLICAS],
            leader: 0,
            term: 1,
            now_ms: 1_700_000_000_000,
            producers: vec![(None, 0); PRODUCERS],
            transactions: vec![(0, 0, 1, false); PRODUCERS],
            next_value: 0,
            reader: Reader::default(),
        }
    }

    /// All replicas that are there take the command. Each comes to the state of the one that never cleans.
    fn commit(&mut self, command: PartitionCommand) -> PartitionReply {
        let at = LogPosition {
            term: self.term,
            index: self.written.len() as u64 + 1,
        };
        let command = jangada_log::PartitionState::encode(command);
        self.written.push((at, command.clone()));
        let reply = self.original.take(at, command.clone());
        for nth in 0..REPLICAS {
            if !self.away[nth] {
                assert_eq!(
                    self.replicas[nth].take(at, command.clone()),
                    reply,
                    "replicas answer alike"
                );
                self.check_state(nth);
            }
        }
        reply
    }

    fn check_state(&self, nth: usize) {
        let replica = &self.replicas[nth];
        if replica.log.len() == self.written.len() {
            assert_eq!(
                replica.state.snapshot(),
                self.original.state.snapshot(),
                "what is left of a log leads to the state of the log"
            );
        }
    }

    fn batch(&mut self, of: &[(u8, bool)], by: Option<usize>, codec: u8) -> Bytes {
        let mut builder = self.records_of(of, codec);
        if let Some(by) = by {
            let sequence = Sequence(self.producers[by].1);
            builder.producer(ProducerId(by as i64 + 1), ProducerEpoch(0), sequence);
        }
        builder.build()
    }

    fn records_of(&mut self, of: &[(u8, bool)], codec: u8) -> BatchBuilder {
        let mut builder = BatchBuilder::new(Codec::ALL[usize::from(codec)]);
        for (key, is_deleted) in of {
            self.next_value += 1;
            let value = format!("value {} {}", self.next_value, "x".repeat(40));
            let value = (!is_deleted).then_some(value.as_bytes());
            // One of the keys is that of markers.
            let key: &[u8] = if *key == 0 { MARKER_KEY } else { &[b'k', *key] };
            builder
                .append(self.now_ms, Some(key), value, [("h", None)])
                .expect("it is small");
        }
        builder
    }

    fn put(&mut self, of: &[(u8, bool)], by: Option<usize>, codec: u8) {
        let batch = self.batch(of, by, codec);
        let reply = self.commit(append(self.now_ms, i64::MAX, Conditions::default(), batch.clone()));
        assert!(
            matches!(reply, PartitionReply::Appended { duplicate: false, .. }),
            "{reply:?}"
        );
        if let Some(by) = by {
            self.producers[by] = (Some(batch), self.producers[by].1 + of.len() as i32);
        }
    }

    /// (6) What was appended is a duplicate, whatever is left of it.
    fn resend(&mut self, by: usize) {
        if let Some(batch) = self.producers[by].0.clone() {
            let reply = self.commit(append(self.now_ms, i64::MAX, Conditions::default(), batch));
            assert!(
                matches!(reply, PartitionReply::Appended { duplicate: true, .. }),
                "{reply:?}"
            );
        }
    }

    fn skip(&mut self, by: usize) {
        let (last, next) = self.producers[by].clone();
        self.producers[by].1 = next + 1_000;
        let batch = self.batch(&[(0, false)], Some(by), 0);
        self.producers[by] = (last.clone(), next);
        let reply = self.commit(append(self.now_ms, i64::MAX, Conditions::default(), batch));
        assert!(matches!(reply, PartitionReply::Refused(_)), "{reply:?}");
    }

    fn refused(&mut self, of: &[(u8, bool)]) {
        let batch = self.batch(of, None, 0);
        let nowhere = Conditions {
            end_offset: Some(Offset(-1)),
            key: None,
        };
        let reply = self.commit(append(self.now_ms, i64::MAX, nowhere, batch));
        assert!(matches!(reply, PartitionReply::Refused(_)), "{reply:?}");
    }

    fn transact(&mut self, of: &[(u8, bool)], by: usize, codec: u8) {
        let (epoch, sequence, seq, _) = self.transactions[by];
        let mut builder = self.records_of(of, codec);
        builder
            .producer(ProducerId(by as i64 + 100), ProducerEpoch(epoch), Sequence(sequence))
            .transactional();
        let reply = self.commit(PartitionCommand::TxnAppend {
            now_ms: self.now_ms,
            expiration_ms: i64::MAX,
            seq,
            batch: builder.build(),
        });
        assert!(
            matches!(reply, PartitionReply::Appended { duplicate: false, .. }),
            "{reply:?}"
        );
        self.transactions[by] = (epoch, sequence + of.len() as i32, seq, true);
    }

    /// The control batches of all that are committed have one key, and those of all that are aborted another.
    fn end(&mut self, by: usize, commit: bool) {
        let (epoch, sequence, seq, is_open) = self.transactions[by];
        if !is_open {
            return;
        }
        let end = EndMarker {
            producer_id: ProducerId(by as i64 + 100),
            producer_epoch: ProducerEpoch(epoch),
            coordinator_epoch: 1,
            commit,
        };
        let marker = Marker {
            now_ms: self.now_ms,
            expiration_ms: i64::MAX,
            end,
            seq,
        };
        let reply = self.commit(PartitionCommand::Marker {
            marker,
            batch: end.build(self.now_ms),
        });
        assert!(
            matches!(reply, PartitionReply::Ended { marker: Some(_), .. }),
            "{reply:?}"
        );
        self.transactions[by] = (epoch, sequence, seq + 1, false);
    }

    fn trim(&mut self, share: f64) {
        let leader = &self.replicas[self.leader];
        let from = self.original.state.log_start().get();
        let to = from + ((self.original.state.next_offset().get() - from) as f64 * share) as i64;
        let gone = leader.rows.values().filter(|row| row.last_offset < Offset(to));
        let dropped = gone.map(|row| u64::from(row.original_bytes)).sum();
        self.commit(advance(from, to, dropped));
        self.reader.next = self.reader.next.max(Offset(to));
    }

    fn elect(&mut self, to: usize) {
        if !self.away[to] {
            self.leader = to;
            self.term += 1;
        }
    }

    /// A replica gets what it lacks as the leader has it.
    fn back(&mut self, nth: usize) {
        self.away[nth] = false;
        let known = self.replicas[nth].log.len();
        for (at, command) in self.replicas[self.leader].log.clone().into_iter().skip(known) {
            self.replicas[nth].take(at, command);
        }
        self.check_state(nth);
    }

    fn replace(&mut self, nth: usize) {
        if nth != self.leader {
            self.replicas[nth] = Replica::default();
            self.back(nth);
        }
    }

    /// The leader asks all members, also those that are away, since when they are clean.
    fn horizon(&mut self) {
        let old_before_ms = self.now_ms - RETENTION_MS;
        let since = self.replicas.iter().map(|replica| replica.clean_since(old_before_ms));
        let upto = since.min().expect("there are members");
        if upto > self.original.state.clean_horizon() {
            self.commit(PartitionCommand::AdvanceHorizon {
                upto,
                now_ms: self.now_ms,
            });
        }
    }

    /// (3) A reader that is not slower than tombstones are kept knows of each deletion.
    fn read(&mut self, most: usize) {
        let leader = &self.replicas[self.leader];
        let records = leader.records(self.reader.next);
        let is_at_end = records.len() <= most;
        for record in records.into_iter().take(most) {
            self.reader.next = Offset(record.offset.get() + 1);
            let key = record.key.expect("all have one");
            match record.value {
                Some(value) => self.reader.values.insert(key, value),
                None => self.reader.values.remove(&key),
            };
        }
        if !is_at_end {
            return;
        }
        if self.now_ms - self.reader.began_ms < RETENTION_MS && self.original.state.log_start() == Offset(0) {
            let live = last_of_each(&self.original.records(Offset(0)));
            let live = live.into_iter().filter_map(|(key, record)| Some((key, record.value?)));
            assert_eq!(
                self.reader.values,
                live.collect(),
                "a reader that began in time is right at the end"
            );
        }
        self.reader = Reader {
            began_ms: self.now_ms,
            next: self.original.state.log_start(),
            ..Reader::default()
        };
    }

    /// What holds of each replica that has applied everything, as it may be the next leader.
    fn check_replica(&self, nth: usize) {
        let replica = &self.replicas[nth];
        if replica.log.len() < self.written.len() {
            return;
        }
        let start = replica.state.log_start();
        let truth = self.original.records(start);
        let by_offset: BTreeMap<Offset, &Record> = truth.iter().map(|record| (record.offset, record)).collect();
        // (4), and with it (5): to read is to reach the end.
        let found = replica.records(start);
        assert!(found.is_sorted_by(|a, b| a.offset < b.offset), "offsets rise");
        for record in &found {
            assert_eq!(Some(&record), by_offset.get(&record.offset), "a record keeps its place");
        }
        // (1) and (2)
        let (wanted, horizon) = (last_of_each(&truth), replica.state.clean_horizon());
        let last = last_of_each(&found);
        for (key, record) in wanted {
            match last.get(&key) {
                Some(found) => assert_eq!(*found, record, "an older value of a key is not its value"),
                None => assert!(
                    record.value.is_none() && record.offset < horizon,
                    "only what is deleted is gone: {record:?}"
                ),
            }
        }
        let upto = replica.cleaned_to();
        let clean: Vec<&Record> = found.iter().filter(|record| record.offset < upto).collect();
        let mut keys: Vec<_> = clean.iter().map(|record| &record.key).collect();
        keys.sort();
        assert!(
            keys.windows(2).all(|pair| pair[0] != pair[1]),
            "a clean log has one record of a key"
        );
        replica.check_markers(&self.original);
        if start == Offset(0) {
            assert_eq!(
                replica.original_bytes(),
                replica.state.retained_bytes(),
                "rows know what the batches were"
            );
        }
    }

    fn run(&mut self, ops: &[Op]) {
        for op in ops {
            match op {
                Op::Put(of, by, codec) => self.put(of, *by, *codec),
                Op::Resend(by) => self.resend(*by),
                Op::Skip(by) => self.skip(*by),
                Op::Refused(of) => self.refused(of),
                Op::Transact(of, by, codec) => self.transact(of, *by, *codec),
                Op::End(by, commit) => self.end(*by, *commit),
                Op::Trim(share) => self.trim(*share),
                Op::Elect(to) => self.elect(*to),
                Op::Away(nth) if *nth != self.leader => self.away[*nth] = true,
                Op::Away(_) => {}
                Op::Back(nth) => self.back(*nth),
                Op::Replace(nth) => self.replace(*nth),
                Op::Clean(nth, is_tight, rows_per_write, crash_after) => self.replicas[*nth].clean(PassOf {
                    map_bytes: if *is_tight { TIGHT } else { ROOMY },
                    rows_per_write: *rows_per_write,
                    crash_after: *crash_after,
                    now_ms: self.now_ms,
                }),
                Op::EmptyRefused(nth) => self.replicas[*nth].empty_refused(),
                Op::Save(nth) => self.replicas[*nth].save(),
                Op::Restart(nth) => self.replicas[*nth].restart(),
                Op::Horizon => self.horizon(),
                Op::Advance(ms) => self.now_ms += ms,
                Op::Read(most) => self.read(*most),
            }
            (0..REPLICAS).for_each(|nth| self.check_replica(nth));
        }
    }

    /// Everybody comes back, cleans, and lets tombstones go.
    fn settle(&mut self) {
        (0..PRODUCERS).for_each(|by| self.end(by, by == 0));
        for nth in 0..REPLICAS {
            self.back(nth);
        }
        for _ in 0..3 {
            for nth in 0..REPLICAS {
                self.replicas[nth].save();
                self.replicas[nth].clean(PassOf {
                    map_bytes: ROOMY,
                    rows_per_write: 2,
                    crash_after: None,
                    now_ms: self.now_ms,
                });
                self.check_replica(nth);
            }
            self.now_ms += RETENTION_MS + 1;
            self.horizon();
        }
        let clean = |replica: &Replica| {
            let upto = replica.cleaned_to();
            let records = replica.records(replica.state.log_start()).into_iter();
            records.filter(|record| record.offset < upto).collect::<Vec<_>>()
        };
        for nth in 1..REPLICAS {
            assert_eq!(
                clean(&self.replicas[nth]),
                clean(&self.replicas[0]),
                "clean replicas have the same records"
            );
        }
        let left = clean(&self.replicas[0]);
        let horizon = self.original.state.clean_horizon();
        assert!(
            left.iter()
                .all(|record| record.value.is_some() || record.offset >= horizon),
            "tombstones go in the end"
        );
        let markers: Vec<usize> = self.replicas.iter().map(Replica::markers).collect();
        assert!(markers.windows(2).all(|pair| pair[0] == pair[1]), "{markers:?}");
    }
}

/// The last record of each key.
fn last_of_each(records: &[Record]) -> BTreeMap<Bytes, Record> {
    let keyed = records
        .iter()
        .filter_map(|record| Some((record.key.clone()?, record.clone())));
    keyed.collect()
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
    fn a_compacted_log_is_a_log_and_its_replicas_are_replicas(ops in prop::collection::vec(op(), 0..120)) {
        let mut world = World::new();
        world.run(&ops);
        world.settle();
    }
}
