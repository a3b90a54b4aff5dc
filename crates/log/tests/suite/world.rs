//! A partition with several replicas on a clock: one log, leaders that change, replicas that lag, crash, restart from what
//! they saved, or begin with another's snapshot. And producers that send again what they were not answered.

use std::collections::BTreeMap;

use bytes::Bytes;
use jangada_log::{Conditions, IdFinding, IndexEntry, PartitionCommand, PartitionReply, PartitionState, Refusal};
use jangada_machine::{Effects, EncodedCommand, Machine, Retention};
use jangada_queue::{
    AttemptId, Carry, DeadReason, DoneCause, IdWindow, KeepsOrder, Mark, Marks, QueueId, QueueOps, Runs, Section,
    SessionId, SlotId, SlotKind,
};
use jangada_types::replicated::Seeds;
use jangada_types::{
    BatchBuilder, BatchHeader, Codec, LogPosition, Offset, ProducerEpoch, ProducerId, RowChange, Sequence,
};

use crate::schedules;

pub const REPLICAS: usize = 3;

/// One replica, with its own disk.
#[derive(Default)]
pub struct Replica {
    pub state: PartitionState,
    /// How many entries of the log are applied.
    pub applied: usize,
    /// The saved state, and how many entries it covers.
    saved: Option<(usize, Bytes)>,
    /// The offset index: it is written with what is applied, and only a snapshot of another replaces it.
    pub rows: BTreeMap<Offset, IndexEntry>,
    /// The rows of the queues' tables.
    pub queue_rows: BTreeMap<Bytes, Bytes>,
    /// The log below this offset is not here: the replica began with a snapshot.
    pub began_at: Offset,
}

/// The rows of the offset index among the effects.
pub fn rows_of(effects: &Effects) -> Vec<IndexEntry> {
    let rows = effects.rows().iter().filter_map(IndexEntry::of_change);
    rows.map(|row| row.expect("what was encoded can be decoded")).collect()
}

/// The rows of other tables among the effects: the keys with the table's name in front, and the values.
pub fn queue_rows_of(effects: &mut Effects) -> Vec<(Bytes, Bytes)> {
    let rows = effects.take().into_iter().filter_map(|change| match &change {
        RowChange::Put { table, key, value } if IndexEntry::of_change(&change).is_none() => {
            let key = [table.name.as_bytes(), b" ", key].concat();
            Some((key.into(), value.clone()))
        }
        _ => None,
    });
    rows.collect()
}

impl Replica {
    /// Applies the next entry of the log.
    fn apply(&mut self, log: &[(LogPosition, EncodedCommand)]) -> PartitionReply {
        let (at, command) = &log[self.applied];
        PartitionState::check_command(command).expect("a leader proposed it");
        let command = PartitionState::decode(command.clone()).expect("what was encoded can be decoded");
        let before = self.state.clone();
        let mut effects = Effects::default();
        let reply = self.state.apply(*at, &command, &mut effects);
        self.applied += 1;
        let rows = rows_of(&effects);
        self.check(&before, &reply, &rows);
        self.queue_rows.extend(queue_rows_of(&mut effects));
        for row in rows {
            let known = self.rows.insert(row.last_offset, row);
            assert!(
                known.is_none_or(|known| known == row),
                "what is applied again after a restart gives the same rows"
            );
        }
        reply
    }

    /// What holds of every step.
    fn check(&self, before: &PartitionState, reply: &PartitionReply, rows: &[IndexEntry]) {
        let (old, new) = (before.next_offset(), self.state.next_offset());
        match (reply, rows) {
            (
                PartitionReply::Appended {
                    base_offset,
                    last_offset,
                    duplicate: false,
                },
                [row],
            ) => {
                assert_eq!(*base_offset, old, "offsets are contiguous");
                assert_eq!(new, Offset(last_offset.get() + 1));
                assert_eq!((row.base_offset, row.last_offset), (*base_offset, *last_offset));
            }
            (
                PartitionReply::Appended {
                    last_offset,
                    duplicate: true,
                    ..
                },
                [],
            ) => {
                assert!(*last_offset < old, "what was appended before is there");
                assert_eq!(new, old);
            }
            (PartitionReply::LogStart(start), []) => {
                assert_eq!((self.state.log_start(), new), (*start, old));
                assert!(before.log_start() <= *start && *start <= new);
            }
            (PartitionReply::Queue(_) | PartitionReply::Scheduled | PartitionReply::Horizon(_), []) => {
                assert_eq!((self.state.log_start(), new), (before.log_start(), old));
            }
            (
                PartitionReply::Refused(_)
                | PartitionReply::LogStartMoved(_)
                | PartitionReply::LogStartHeld(_)
                | PartitionReply::CarryRefused(_)
                | PartitionReply::ScheduleRefused(_),
                [],
            ) => {
                assert_eq!((self.state.log_start(), new), (before.log_start(), old));
                assert!(self.state.slots() == before.slots(), "what is refused changes nothing");
            }
            other => panic!("a reply and rows that do not belong together: {other:?}"),
        }
        let [start, next] = [self.state.log_start(), new].map(|offset| offset.get().unsigned_abs());
        self.state.slots().check(start, next).expect("the slots are sound");
        let floor = self.state.queue_floor();
        assert!(
            floor.is_none_or(|floor| self.state.log_start() <= floor),
            "no log is cut above what its queues need"
        );
        let Retention::LogIsData { position, start } = self.state.retention() else {
            panic!("the log is the partition's data");
        };
        assert_eq!((position, start), (new, self.state.log_start()));
        let bytes = self.state.snapshot();
        let restored = PartitionState::restore(&bytes).expect("a snapshot can be restored");
        assert!(restored == self.state, "a snapshot gives back what it was taken of");
        assert_eq!(restored.snapshot(), bytes);
    }
}

/// A producer as a client runs it: one batch on its way, sent again as it was until it is answered.
pub struct Producer {
    id: i64,
    epoch: i16,
    sequence: i32,
    /// The batch on its way, and its records.
    pending: Option<(Bytes, i32)>,
    /// What it was told, by epoch and sequence.
    acknowledged: BTreeMap<(i16, i32), (Offset, Offset)>,
}

/// A proposal whose proposer still waits for its reply.
struct Waiting {
    entry: usize,
    producer: usize,
    batch: Bytes,
}

pub struct World {
    pub log: Vec<(LogPosition, EncodedCommand)>,
    pub replicas: [Replica; REPLICAS],
    pub producers: Vec<Producer>,
    pub now_ms: i64,
    pub expiration_ms: i64,
    term: u64,
    leader: usize,
    waiting: Vec<Waiting>,
    /// So many entries of the log were applied somewhere: they stay.
    committed: usize,
}

impl World {
    pub fn new(producers: usize, expiration_ms: i64) -> Self {
        let producer = |id| Producer {
            id: 1 + id as i64,
            epoch: 0,
            sequence: 0,
            pending: None,
            acknowledged: BTreeMap::new(),
        };
        Self {
            log: Vec::new(),
            replicas: Default::default(),
            producers: (0..producers).map(producer).collect(),
            now_ms: 1_000_000,
            expiration_ms,
            term: 1,
            leader: 0,
            waiting: Vec::new(),
            committed: 0,
        }
    }

    fn propose(&mut self, command: PartitionCommand) -> usize {
        let at = LogPosition {
            term: self.term,
            index: self.log.len() as u64,
        };
        self.log.push((at, PartitionState::encode(command)));
        self.log.len() - 1
    }

    /// Sends the producer's next batch, or the one again that it was not answered.
    pub fn send(&mut self, producer: usize, records: i32) {
        let sender = &mut self.producers[producer];
        let (batch, _) = sender.pending.get_or_insert_with(|| {
            let mut builder = BatchBuilder::new(Codec::None);
            for at in 0..records {
                let value = [at as u8; 4];
                builder.append(7, None, Some(&value), []).expect("it is small");
            }
            builder.producer(
                ProducerId(sender.id),
                ProducerEpoch(sender.epoch),
                Sequence(sender.sequence),
            );
            (builder.build(), records)
        });
        let batch = batch.clone();
        let command = PartitionCommand::Append {
            now_ms: self.now_ms,
            expiration_ms: self.expiration_ms,
            conditions: Conditions::default(),
            batch: batch.clone(),
        };
        let entry = self.propose(command);
        self.waiting.push(Waiting { entry, producer, batch });
    }

    /// A batch without an idempotent producer.
    pub fn send_plain(&mut self, records: usize, expected_end: Option<i64>) {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..records {
            builder.append(9, Some(b"k"), None, []).expect("it is small");
        }
        let command = PartitionCommand::Append {
            now_ms: self.now_ms,
            expiration_ms: self.expiration_ms,
            conditions: Conditions {
                end_offset: expected_end.map(Offset),
                key: None,
            },
            batch: builder.build(),
        };
        self.propose(command);
    }

    /// The leader drops what lies below a share of what it sees.
    pub fn trim(&mut self, share: f64) {
        let seen = &self.replicas[self.leader].state;
        let (from, end) = (seen.log_start(), seen.next_offset());
        let to = from.max(Offset((end.get() as f64 * share) as i64));
        self.propose(PartitionCommand::AdvanceLogStart {
            from,
            to,
            dropped_bytes: 10,
        });
    }

    /// The leader changes slots in some way, now and then by what it decided in an earlier term.
    pub fn queue_ops(&mut self, seed: u64) {
        let mut seeds = Seeds::new(seed);
        let end = self.replicas[self.leader].state.next_offset().get().unsigned_abs();
        let sections = (0..1 + seeds.below(4)).map(|_| section(&mut seeds, end)).collect();
        let ops = QueueOps {
            term: self.term - u64::from(self.term > 1 && seeds.below(20) == 0),
            now_ms: self.now_ms.unsigned_abs(),
            ticket: 0,
            sections,
        };
        self.propose(PartitionCommand::QueueOps(ops));
    }

    /// Records with marks, as a queue's producer sends them.
    pub fn send_marked(&mut self, seed: u64) {
        let mut seeds = Seeds::new(seed);
        let marks: Vec<Mark> = (0..1 + seeds.below(4)).map(|_| mark(&mut seeds)).collect();
        let ids = (seeds.below(2) == 0).then_some(IdFinding {
            window: IdWindow {
                window_ms: 60_000,
                forgets: seeds.below(2) == 0,
            },
            term: self.term - u64::from(self.term > 1 && seeds.below(10) == 0),
        });
        let command = PartitionCommand::AppendMarked {
            now_ms: self.now_ms,
            expiration_ms: self.expiration_ms,
            conditions: Conditions::default(),
            ids,
            batch: plain_batch(marks.len()),
            marks: Marks(marks),
        };
        self.propose(command);
    }

    /// The leader carries some of what it sees.
    pub fn carry(&mut self, seed: u64) {
        let mut seeds = Seeds::new(seed);
        let end = self.replicas[self.leader].state.next_offset().get().unsigned_abs();
        let messages = runs(&mut seeds, end + 1);
        let count = messages.len() as usize;
        let marks = match seeds.below(2) {
            0 => Marks::default(),
            _ => Marks((0..count).map(|_| mark(&mut seeds)).collect()),
        };
        let term = self.term;
        let carry = Carry { term, messages, marks };
        let batch = plain_batch(count);
        self.propose(PartitionCommand::Carry { carry, batch });
    }

    /// The leader changes a schedule that it sees, or sends the message of one.
    pub fn schedule(&mut self, seed: u64) {
        let seen = self.replicas[self.leader].state.slots();
        let command = schedules::any_change(&mut Seeds::new(seed), seen, self.term);
        self.propose(command);
    }

    /// A replica applies so many entries. The leader answers its producers.
    pub fn apply(&mut self, replica: usize, most: usize) {
        for _ in 0..most {
            let next = self.replicas[replica].applied;
            if next == self.log.len() {
                return;
            }
            let reply = self.replicas[replica].apply(&self.log);
            self.committed = self.committed.max(next + 1);
            if replica == self.leader {
                self.answer(next, reply);
            }
        }
    }

    fn answer(&mut self, entry: usize, reply: PartitionReply) {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.entry == entry) else {
            return;
        };
        let Waiting { producer, batch, .. } = self.waiting.swap_remove(at);
        let producer = &mut self.producers[producer];
        // An earlier try may have been answered already.
        let Some((_, records)) = producer.pending.take_if(|(pending, _)| *pending == batch) else {
            return;
        };
        let key = (producer.epoch, producer.sequence);
        match reply {
            PartitionReply::Appended {
                base_offset,
                last_offset,
                ..
            } => {
                let twice = producer.acknowledged.insert(key, (base_offset, last_offset));
                assert_eq!(twice, None, "a batch is acknowledged once");
                producer.sequence += records;
            }
            // It was silent for too long: it begins again, as the protocol says.
            PartitionReply::Refused(Refusal::UnknownProducer) => {
                producer.epoch += 1;
                producer.sequence = 0;
            }
            other => panic!("a producer that works as it should is told {other:?}"),
        }
    }

    /// Proposals that the leader had not answered stay without an answer, and `loses` drops those that no replica applied.
    /// Another replica leads, once it has applied everything.
    pub fn fail_over(&mut self, to: usize, loses: bool) {
        self.waiting.clear();
        if loses {
            self.log.truncate(self.committed);
        }
        self.term += 1;
        self.leader = to;
        self.apply(to, usize::MAX);
    }

    pub fn save(&mut self, replica: usize) {
        let replica = &mut self.replicas[replica];
        replica.saved = Some((replica.applied, replica.state.snapshot()));
    }

    /// The process ends and starts again with what was saved; a leader is no leader any more.
    pub fn restart(&mut self, replica: usize) {
        if replica == self.leader {
            self.fail_over((replica + 1) % REPLICAS, true);
        }
        let replica = &mut self.replicas[replica];
        let (applied, state) = match &replica.saved {
            Some((applied, bytes)) => (
                *applied,
                PartitionState::restore(bytes).expect("what was saved is read"),
            ),
            None => (0, PartitionState::default()),
        };
        (replica.applied, replica.state) = (applied, state);
    }

    /// A replica that has nothing, or is behind, begins with another's state.
    pub fn install(&mut self, from: usize, to: usize) {
        if self.replicas[to].applied > self.replicas[from].applied || to == self.leader || from == to {
            return;
        }
        let (applied, bytes) = (self.replicas[from].applied, self.replicas[from].state.snapshot());
        let state = PartitionState::restore(&bytes).expect("a replica sent it");
        self.replicas[to] = Replica {
            applied,
            began_at: state.next_offset(),
            state,
            saved: Some((applied, bytes)),
            rows: BTreeMap::new(),
            queue_rows: BTreeMap::new(),
        };
    }

    /// Everything is applied everywhere: the replicas are equal, and the log is as was promised.
    pub fn settle(&mut self) {
        for replica in 0..REPLICAS {
            self.apply(replica, usize::MAX);
        }
        let mut replayed = Replica::default();
        while replayed.applied < self.log.len() {
            replayed.apply(&self.log);
        }
        for replica in &self.replicas {
            assert!(replica.state == replayed.state, "replicas of one log have one state");
            let kept = replayed.rows.range(replica.began_at..);
            assert!(kept.eq(replica.rows.iter()), "and one index, from where each began");
            for (key, value) in &replica.queue_rows {
                assert_eq!(replayed.queue_rows.get(key), Some(value), "and the same rows of queues");
            }
            if replica.began_at == Offset(0) {
                assert_eq!(replica.queue_rows.len(), replayed.queue_rows.len());
            }
        }
        let mut next = Offset(0);
        for row in replayed.rows.values() {
            assert_eq!(row.base_offset, next, "offsets are contiguous");
            next = Offset(row.last_offset.get() + 1);
        }
        assert_eq!(next, replayed.state.next_offset());
        schedules::check_once(|index| &self.log[index as usize].1, replayed.rows.values());
        // A producer that was forgotten sends the first batch of its epoch again, and nothing tells that it is there.
        if self.expiration_ms == i64::MAX {
            self.check_acknowledged(&replayed.rows);
        }
    }

    /// What was acknowledged is where it was said to be, and nothing of one epoch and sequence is in the log twice.
    fn check_acknowledged(&self, rows: &BTreeMap<Offset, IndexEntry>) {
        let mut appended: BTreeMap<(i64, i16, i32), (Offset, Offset)> = BTreeMap::new();
        for row in rows.values() {
            let (_, command) = &self.log[row.raft_index as usize];
            let header = BatchHeader::parse(command.body()).expect("it is a batch");
            if header.producer_id.is_some() {
                let key = (
                    header.producer_id.get(),
                    header.producer_epoch.get(),
                    header.base_sequence.get(),
                );
                let twice = appended.insert(key, (row.base_offset, row.last_offset));
                assert_eq!(twice, None, "{key:?} is in the log twice");
            }
        }
        for producer in &self.producers {
            for ((epoch, sequence), offsets) in &producer.acknowledged {
                let found = appended.get(&(producer.id, *epoch, *sequence));
                assert_eq!(found, Some(offsets), "sequence {sequence} of producer {}", producer.id);
            }
        }
    }
}

/// Records without anything of their own.
fn plain_batch(records: usize) -> Bytes {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..records {
        builder.append(11, None, Some(b"m"), []).expect("it is small");
    }
    builder.build()
}

fn mark(seeds: &mut Seeds) -> Mark {
    let mut mark = Mark {
        lane: seeds.below(3) as u8,
        key: seeds.below(3),
        id: u128::from(seeds.below(2) * seeds.draw()),
        ..Mark::default()
    };
    if seeds.below(3) == 0 {
        mark.deliver_at_ms = 1_000_000 + seeds.below(50_000);
    }
    mark
}

fn runs(seeds: &mut Seeds, end: u64) -> Runs {
    (0..1 + seeds.below(5)).map(|_| seeds.below(end.max(1))).collect()
}

/// Any section over a handful of slots; many of them find nothing to do.
pub fn section(seeds: &mut Seeds, end: u64) -> Section {
    let slot = SlotId(1 + seeds.below(3) as u32);
    let messages = runs(seeds, end);
    match seeds.below(24) {
        0..=3 => Section::Open {
            queue: QueueId(u128::from(seeds.below(4))),
            slot_kind: SlotKind::ALL[seeds.below(2) as usize],
            order: KeepsOrder::ALL[seeds.below(2) as usize],
            start: seeds.below(end + 1),
        },
        4 => Section::Close { slot },
        5 => Section::Seek {
            slot,
            to: seeds.below(end + 1),
        },
        6 => Section::Purge {
            slot,
            to: seeds.below(end + 1),
        },
        7..=12 => Section::Grant {
            slot,
            session: SessionId(seeds.below(3)),
            attempt: AttemptId(0),
            duration_ms: 30_000,
            messages,
            keys: Vec::new(),
            lanes: Vec::new(),
        },
        13..=17 => Section::Done {
            slot,
            cause: [DoneCause::Acked, DoneCause::Acked, DoneCause::Cancelled][seeds.below(3) as usize],
            messages,
        },
        18 => Section::Retry {
            slot,
            delays_ms: vec![1_000; messages.len() as usize],
            messages,
            failed: 1,
        },
        19 => Section::Release {
            slot,
            messages,
            unseen: 0,
        },
        20 => Section::Dead {
            slot,
            reason: DeadReason::Rejected,
            messages,
            failed: 0,
            keys: Vec::new(),
            lanes: Vec::new(),
        },
        21 => Section::Redrive { slot, messages },
        22 => Section::Extend {
            slot,
            messages,
            duration_ms: 5_000,
        },
        _ => Section::Floor {
            slot,
            to: seeds.below(end + 1),
        },
    }
}
