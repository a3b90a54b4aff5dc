//! A partition as far as transactions go: its log, its table of producers, the index of aborted transactions.

use std::collections::{BTreeMap, VecDeque};

use jangada_transactions::Producer;
use jangada_types::ProducerId;

use super::Bug;

/// After this time a producer that is silent is forgotten, milliseconds: longer than any message is under way.
const SILENT_MS: u64 = 60_000;
/// With the bug, a producer is forgotten this soon, milliseconds.
const SILENT_MS_WITH_BUG: u64 = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    Value { producer: ProducerId, value: u64 },
    Marker,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    pub first: u64,
    pub seq: u64,
    pub producer: Producer,
}

#[derive(Clone, Copy, Debug)]
struct ProducerState {
    epoch: i16,
    open: Option<Open>,
    /// The last transaction that has ended here.
    ended: u64,
    last_sequence: i32,
    heard_ms: u64,
}

#[derive(Clone, Copy, Debug)]
struct AbortedRow {
    producer: ProducerId,
    first: u64,
    marker: u64,
}

/// The reply of applying something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    Ok,
    Fenced,
    InvalidState,
    OutOfOrder,
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
}

#[derive(Debug)]
pub struct Partition<C> {
    pub log: Vec<Entry>,
    producers: BTreeMap<ProducerId, ProducerState>,
    aborted: Vec<AbortedRow>,
    pub inflight: VecDeque<(Proposal, C)>,
    /// No leader before this time.
    pub led_from_ms: u64,
    /// The version of the metadata that created it, and the one that deleted it.
    pub created: u64,
    pub deleted: Option<u64>,
    bug: Option<Bug>,
}

impl<C> Partition<C> {
    pub fn new(created: u64, bug: Option<Bug>) -> Self {
        Self {
            log: Vec::new(),
            producers: BTreeMap::new(),
            aborted: Vec::new(),
            inflight: VecDeque::new(),
            led_from_ms: 0,
            created,
            deleted: None,
            bug,
        }
    }

    /// The open transaction of exactly this producer, as the leader's view shows it.
    pub fn open_of(&self, producer: Producer) -> Option<Open> {
        let state = self.producers.get(&producer.id)?;
        state.open.filter(|open| open.producer == producer)
    }

    pub fn stable_offset(&self) -> u64 {
        let opens = self.producers.values().filter_map(|state| state.open);
        opens.map(|open| open.first).min().unwrap_or(self.log.len() as u64)
    }

    pub fn apply(&mut self, proposal: Proposal, now_ms: u64) -> Applied {
        self.forget_silent(now_ms);
        match proposal {
            Proposal::Append {
                producer,
                seq,
                sequence,
                value,
            } => self.append(producer, seq, sequence, value, now_ms),
            Proposal::Marker { producer, seq, commit } => self.mark(producer, seq, commit, now_ms),
        }
    }

    fn append(&mut self, producer: Producer, seq: u64, sequence: i32, value: u64, now_ms: u64) -> Applied {
        let epoch = producer.epoch.get();
        let offset = self.log.len() as u64;
        let state = self.producers.entry(producer.id).or_insert(ProducerState {
            epoch,
            open: None,
            ended: 0,
            last_sequence: -1,
            heard_ms: now_ms,
        });
        if epoch < state.epoch {
            return Applied::Fenced;
        }
        if state.open.is_some_and(|open| open.seq != seq) || seq <= state.ended {
            return Applied::InvalidState;
        }
        if epoch > state.epoch {
            (state.epoch, state.last_sequence) = (epoch, -1);
        }
        if sequence <= state.last_sequence {
            return Applied::Ok;
        }
        if sequence != state.last_sequence + 1 {
            return Applied::OutOfOrder;
        }
        (state.last_sequence, state.heard_ms) = (sequence, now_ms);
        state.open.get_or_insert(Open {
            first: offset,
            seq,
            producer,
        });
        self.log.push(Entry::Value {
            producer: producer.id,
            value,
        });
        Applied::Ok
    }

    fn mark(&mut self, producer: Producer, seq: u64, commit: bool, now_ms: u64) -> Applied {
        let epoch = producer.epoch.get();
        let offset = self.log.len() as u64;
        let state = self.producers.entry(producer.id).or_insert(ProducerState {
            epoch,
            open: None,
            ended: 0,
            last_sequence: -1,
            heard_ms: now_ms,
        });
        if epoch < state.epoch {
            return Applied::Fenced;
        }
        let is_its = |open: &Open| open.seq == seq || self.bug == Some(Bug::MarkerWithoutSeq);
        if let Some(open) = state.open.filter(is_its) {
            state.open = None;
            self.log.push(Entry::Marker);
            if !commit {
                self.aborted.push(AbortedRow {
                    producer: producer.id,
                    first: open.first,
                    marker: offset,
                });
            }
        }
        if epoch > state.epoch {
            (state.epoch, state.last_sequence) = (epoch, -1);
        }
        state.ended = state.ended.max(seq);
        state.heard_ms = now_ms;
        Applied::Ok
    }

    fn forget_silent(&mut self, now_ms: u64) {
        let evicts_open = self.bug == Some(Bug::EvictOpenProducer);
        let kept_ms = if evicts_open { SILENT_MS_WITH_BUG } else { SILENT_MS };
        let is_kept =
            |state: &ProducerState| now_ms < state.heard_ms + kept_ms || (state.open.is_some() && !evicts_open);
        self.producers.retain(|_, state| is_kept(state));
    }

    /// Another replica leads: the first `kept` proposals are in its log, the others are lost.
    pub fn fail_over(&mut self, kept: usize, now_ms: u64) {
        for _ in 0..kept {
            if let Some((proposal, _)) = self.inflight.pop_front() {
                self.apply(proposal, now_ms);
            }
        }
        self.inflight.clear();
        if self.bug == Some(Bug::AbortedRowsInMemory) {
            self.aborted.clear();
        }
    }

    /// What a reader of committed records gets from `from` on, and where it goes on.
    pub fn read(&self, from: u64) -> (Vec<u64>, u64) {
        let end = match self.bug {
            Some(Bug::LsoFromHighWatermark) => self.log.len() as u64,
            _ => self.stable_offset(),
        };
        let is_aborted = |offset: u64, producer: ProducerId| {
            let mut rows = self.aborted.iter();
            rows.any(|row| row.producer == producer && (row.first..row.marker).contains(&offset))
        };
        let values = (from..end).filter_map(|offset| match self.log[offset as usize] {
            Entry::Value { producer, value } => (!is_aborted(offset, producer)).then_some(value),
            Entry::Marker => None,
        });
        (values.collect(), end.max(from))
    }
}
