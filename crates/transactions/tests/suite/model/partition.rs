//! A partition: replicas of the real state machine, of which one leads, what is proposed to them, and the joins that its leader asks for.

use std::collections::{BTreeMap, VecDeque};

use jangada_log::{Marker, PartitionCommand, PartitionReply, PartitionState, Refusal};
use jangada_machine::Machine;
use jangada_transactions::Producer;
use jangada_types::batch::EndMarker;
use jangada_types::replicated::Seeds;
use jangada_types::{BatchBuilder, Codec, LogPosition, Offset, ProducerEpoch, ProducerId, Record, Sequence};

use super::Bug;
use super::replica::Replica;

const REPLICAS: usize = 2;
/// After this time a producer that is silent is forgotten, milliseconds: longer than any message is under way.
const SILENT_MS: i64 = 60_000;
/// With the bug, a producer is forgotten this soon, milliseconds.
const SILENT_MS_WITH_BUG: i64 = 500;
/// How long a deletion, or a marker with nothing before it, is kept where it is clean, milliseconds.
const KEPT_CLEAN_MS: u64 = 500;
/// Memory of a pass for all keys, and for too few of them.
const ROOMY: usize = 1 << 16;
const TIGHT: usize = 0;
/// Keys that several values of a partition share, where it is compacted.
const SHARED_KEYS: u64 = 5;

/// The reply of applying something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Ok,
    Fenced,
    /// The transaction has ended, or another one is open.
    InvalidState,
    Refused(Refusal),
}

#[derive(Clone, Copy, Debug)]
pub enum Proposal {
    Append {
        producer: Producer,
        seq: u64,
        sequence: i32,
        value: u64,
    },
    Marker {
        producer: Producer,
        seq: u64,
        commit: bool,
    },
    /// The log is to begin here.
    Trim(Offset),
    /// What is clean below may go.
    Horizon(Offset),
}

/// What is known of a join, in the term in which it was asked for. `W` waits for its answer.
#[derive(Debug)]
pub enum Join<W> {
    /// Asked for by this token, until that time; who waits for the answer.
    Asked(u64, u64, Vec<W>),
    Known(u64),
}

/// `C` waits for what is proposed, and `W` for a join.
pub struct Partition<C, W> {
    replicas: [Replica; REPLICAS],
    /// One that never cleans, where others do.
    original: Option<Replica>,
    leads: usize,
    term: u64,
    index: u64,
    pub inflight: VecDeque<(Proposal, C)>,
    pub joins: BTreeMap<(ProducerId, ProducerEpoch), Join<W>>,
    /// No leader before this time.
    pub led_from_ms: u64,
    /// The version of the metadata that created it, and the one that deleted it.
    pub created: u64,
    pub deleted: Option<u64>,
    /// Where the first open transaction began before the last command, for the bug that shows the two ends at different times.
    first_open_before: Option<Offset>,
    bug: Option<Bug>,
}

impl<C, W> Partition<C, W> {
    pub fn new(created: u64, compacts: bool, bug: Option<Bug>) -> Self {
        Self {
            replicas: Default::default(),
            original: compacts.then(Replica::default),
            leads: 0,
            term: 1,
            index: 0,
            inflight: VecDeque::new(),
            joins: BTreeMap::new(),
            led_from_ms: 0,
            created,
            deleted: None,
            first_open_before: None,
            bug,
        }
    }

    fn leader(&self) -> &Replica {
        &self.replicas[self.leads]
    }

    /// The state as its leader has it.
    pub fn state(&self) -> &PartitionState {
        &self.leader().state
    }

    /// The seq of the open transaction of exactly this producer, as the leader has it.
    pub fn open_of(&self, producer: Producer) -> Option<u64> {
        let (epoch, open) = self.state().open_transaction_of(producer.id)?;
        (epoch == producer.epoch).then_some(open.seq)
    }

    /// Up to where readers of committed records are let.
    pub fn stable_offset(&self) -> Offset {
        let end = self.state().next_offset();
        match self.bug {
            Some(Bug::LsoFromHighWatermark) => end,
            Some(Bug::LsoApartFromHighWatermark) => self.first_open_before.unwrap_or(end),
            _ => self.state().last_stable_offset(),
        }
    }

    /// Whether a marker has nothing to do here any more.
    pub fn has_ended(&self, producer: Producer, seq: u64) -> bool {
        self.bug != Some(Bug::MarkerWithoutSeq) && self.state().has_ended(&end_marker(producer, false), seq)
    }

    fn command(&self, proposal: &Proposal, now_ms: i64) -> PartitionCommand {
        let expiration_ms = SILENT_MS;
        match *proposal {
            Proposal::Append {
                producer,
                seq,
                sequence,
                value,
            } => PartitionCommand::TxnAppend {
                now_ms,
                expiration_ms,
                seq,
                batch: self.batch(producer, sequence, value),
            },
            Proposal::Marker { producer, seq, commit } => {
                let open = self.state().open_transaction_of(producer.id);
                let seq = match (self.bug, open) {
                    (Some(Bug::MarkerWithoutSeq), Some((_, open))) => open.seq,
                    _ => seq,
                };
                let end = end_marker(producer, commit);
                PartitionCommand::Marker {
                    marker: Marker {
                        now_ms,
                        expiration_ms,
                        end,
                        seq,
                    },
                    batch: end.build(now_ms),
                }
            }
            Proposal::Trim(to) => PartitionCommand::AdvanceLogStart {
                from: self.state().log_start(),
                to,
                dropped_bytes: self.leader().bytes_below(to),
            },
            Proposal::Horizon(upto) => PartitionCommand::AdvanceHorizon { upto, now_ms },
        }
    }

    /// One value, under a key of its own so that compaction keeps it. Where there is compaction, before it the same value under a key that
    /// others have as well.
    fn batch(&self, producer: Producer, sequence: i32, value: u64) -> bytes::Bytes {
        let (mut builder, number) = (BatchBuilder::new(Codec::None), value.to_be_bytes());
        let records = if self.original.is_some() { 2 } else { 1 };
        if records == 2 {
            let key = [b'k', (value % SHARED_KEYS) as u8];
            builder.append(0, Some(&key), Some(&number), []).expect("it is small");
        }
        builder
            .append(0, Some(&number), Some(&number), [])
            .expect("it is small");
        builder
            .producer(producer.id, producer.epoch, Sequence(sequence * records))
            .transactional();
        builder.build()
    }

    pub fn apply(&mut self, proposal: &Proposal, now_ms: u64) -> Applied {
        let now_ms = i64::try_from(now_ms).expect("a history is short");
        self.forget_silent(now_ms);
        self.first_open_before = self.first_open();
        self.index += 1;
        let at = LogPosition {
            term: self.term,
            index: self.index,
        };
        let command = PartitionState::encode(self.command(proposal, now_ms));
        let mut replies = self.replicas.iter_mut().chain(&mut self.original);
        let first = replies.next().expect("there are some").take(at, command.clone());
        for replica in replies {
            assert_eq!(replica.take(at, command.clone()), first, "replicas answer alike");
        }
        if let Proposal::Marker { producer, seq, .. } = proposal {
            let is_over = |join: &Join<W>| !matches!(join, Join::Known(known) if known > seq);
            self.joins.retain(|(id, _), join| *id != producer.id || !is_over(join));
        }
        match first {
            PartitionReply::Refused(Refusal::Fenced { .. }) => Applied::Fenced,
            PartitionReply::Refused(Refusal::TransactionEnded | Refusal::TransactionOpen { .. }) => {
                Applied::InvalidState
            }
            PartitionReply::Refused(refusal) => Applied::Refused(refusal),
            _ => Applied::Ok,
        }
    }

    fn first_open(&self) -> Option<Offset> {
        let (_, _, open) = self.state().open_transactions().next()?;
        Some(open.first)
    }

    fn forget_silent(&mut self, now_ms: i64) {
        if self.bug != Some(Bug::EvictOpenProducer) || self.original.is_some() {
            return;
        }
        let producers = self.state().producers();
        let silent = producers.filter(|producer| now_ms > producer.last_ms + SILENT_MS_WITH_BUG);
        for producer in silent.map(|producer| producer.id).collect::<Vec<_>>() {
            self.replicas.iter_mut().for_each(|replica| replica.forget(producer));
        }
    }

    /// Another replica leads, which mostly was started anew: the first `kept` proposals are in its log, the others are lost.
    pub fn fail_over(&mut self, kept: usize, now_ms: u64, seeds: &mut Seeds) {
        for _ in 0..kept {
            if let Some((proposal, _)) = self.inflight.pop_front() {
                self.apply(&proposal, now_ms);
            }
        }
        self.inflight.clear();
        self.joins.clear();
        (self.term, self.leads) = (self.term + 1, (self.leads + 1) % REPLICAS);
        let forgets = self.bug == Some(Bug::AbortedRowsInMemory);
        match seeds.below(4) {
            0 => {}
            1 if self.original.is_some() => {
                self.replicas[self.leads] = self.replicas[(self.leads + 1) % REPLICAS].copy();
            }
            _ => self.replicas[self.leads].restart(forgets),
        }
    }

    /// One of the replicas is compacted. Gives the horizon that its leader asks for then.
    pub fn clean(&mut self, now_ms: u64, seeds: &mut Seeds) -> Option<Offset> {
        self.original.as_ref()?;
        let replica = &mut self.replicas[seeds.below(REPLICAS as u64) as usize];
        if seeds.below(4) > 0 {
            replica.save();
        }
        let map_bytes = if seeds.below(4) == 0 { TIGHT } else { ROOMY };
        let rows_max = if seeds.below(6) == 0 {
            seeds.below(40) as usize
        } else {
            usize::MAX
        };
        replica.clean(map_bytes, rows_max, now_ms);
        let old_before_ms = now_ms.saturating_sub(KEPT_CLEAN_MS);
        let since = self
            .replicas
            .iter()
            .map(|replica| replica.clean_since(old_before_ms))
            .min();
        since.filter(|upto| *upto > self.state().clean_horizon())
    }

    /// Records that compaction has taken from its leader's log.
    pub fn taken(&self) -> u64 {
        self.leader().taken
    }

    /// A replica saves its state.
    pub fn save(&mut self, seeds: &mut Seeds) {
        self.replicas[seeds.below(REPLICAS as u64) as usize].save();
    }

    fn records(&self, replica: &Replica, from: Offset, rows_max: usize) -> (Vec<Record>, Offset) {
        let remembers = self.bug == Some(Bug::AbortedRowsOutliveMarkers);
        let fetched = replica.fetch(from, self.stable_offset(), rows_max, remembers);
        let next = fetched.next;
        (fetched.visible(), next)
    }

    /// What a reader of committed records gets of so many batches from `from` on, and where it goes on.
    pub fn read(&self, from: Offset, rows_max: usize) -> (Vec<(i64, u64)>, Offset) {
        let (records, next) = self.records(self.leader(), from, rows_max);
        let own = records.iter().filter(|record| record.key == record.value);
        (
            own.map(|record| (record.offset.get(), number_of(record))).collect(),
            next,
        )
    }

    /// Whatever was compacted, the last value of a key is the same.
    pub fn check_compacted(&self) -> Result<(), String> {
        let Some(original) = &self.original else { return Ok(()) };
        let start = self.state().log_start();
        let last = |replica| -> BTreeMap<_, _> {
            let (records, _) = self.records(replica, start, usize::MAX);
            records.into_iter().map(|record| (record.key.clone(), record)).collect()
        };
        let wanted = last(original);
        for replica in &self.replicas {
            let found = last(replica);
            if let Some((key, record)) = wanted.iter().find(|(key, record)| found.get(*key) != Some(record)) {
                return Err(format!(
                    "compaction: of key {key:?} {record:?} is the last, and {:?} is there",
                    found.get(key)
                ));
            }
        }
        Ok(())
    }
}

fn end_marker(producer: Producer, commit: bool) -> EndMarker {
    EndMarker {
        producer_id: producer.id,
        producer_epoch: producer.epoch,
        coordinator_epoch: 1,
        commit,
    }
}

fn number_of(record: &Record) -> u64 {
    let value = record.value.as_deref().expect("it has a value");
    u64::from_be_bytes(value.try_into().expect("it is a number"))
}
