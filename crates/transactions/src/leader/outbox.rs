//! The markers that are still to be written: to each partition of a decided transaction one, and to each group with staged offsets the end
//! of these. It is made anew by each leader from the rows, so all of them may be sent again; a second one has no effect.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_types::GroupId;
use jangada_types::planted::{self, Bug};

use crate::image::{TransactionState, TransactionalId};
use crate::producer::Producer;

/// Delay before a marker that was refused is sent again, milliseconds. It doubles with each time.
const RETRY_MS: u64 = 50;
/// The longest such delay, milliseconds.
const RETRY_MS_MAX: u64 = 500;
/// After this time a marker of which nothing was heard is sent again, milliseconds.
const UNHEARD_MS: u64 = 5_000;
/// After so many attempts it is told that a marker waits: 10 s about.
const ATTEMPTS_TOLD: u32 = 20;

/// The receiver of a marker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A partition, by its Raft group.
    Partition(GroupId),
    /// A consumer group, by its name.
    Group(Arc<str>),
}

/// A marker that is to be written now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The transactional id.
    pub id: Arc<str>,
    /// The number of the transaction.
    pub seq: u64,
    /// The receiver of the marker.
    pub target: Target,
    /// The producer that it carries.
    pub producer: Producer,
    /// Whether the transaction is committed.
    pub commit: bool,
}

/// The fate of a marker that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is written, or was before, or there was nothing to end.
    Done,
    /// It was refused, or nobody answered.
    Failed,
    /// The partition is not in the cluster's metadata of this version. It was deleted, if that version is not older than the one by which
    /// it was added; otherwise it may be new.
    NotFound {
        /// The version of the metadata.
        metadata_version: u64,
    },
}

/// The fate of one marker, as the host tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgment {
    /// The transactional id.
    pub id: Arc<str>,
    /// The number of the transaction.
    pub seq: u64,
    /// The receiver of the marker.
    pub target: Target,
    /// What became of the marker.
    pub delivery: Delivery,
}

/// A decided transaction.
#[derive(Debug)]
struct Ending {
    seq: u64,
    producer: Producer,
    commit: bool,
    metadata_version: u64,
    waiting: BTreeMap<Target, Attempt>,
}

#[derive(Clone, Copy, Debug)]
struct Attempt {
    due_ms: u64,
    count: u32,
}

/// The outcome of an acknowledgment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It says nothing new.
    Nothing,
    /// The marker is sent again.
    Again,
    /// The marker was tried so often that people should know.
    Told { attempts: u32 },
    /// That was the transaction's last one.
    All,
}

/// All markers of a shard that are still to be written.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    endings: BTreeMap<Arc<str>, Ending>,
    due: BTreeSet<(u64, Arc<str>, Target)>,
}

impl Outbox {
    /// Takes the markers of a row that is decided, unless it has them.
    pub fn put(&mut self, id: &Arc<str>, row: &TransactionalId, now_ms: u64) {
        if self.endings.get(id).is_some_and(|ending| ending.seq == row.seq) {
            return;
        }
        self.remove(id);
        let partitions = row.partitions.iter().copied().map(Target::Partition);
        let targets = partitions.chain(row.groups.iter().cloned().map(Target::Group));
        let attempt = Attempt {
            due_ms: now_ms,
            count: 0,
        };
        let waiting: BTreeMap<Target, Attempt> = targets.map(|target| (target, attempt)).collect();
        self.due
            .extend(waiting.keys().map(|target| (now_ms, Arc::clone(id), target.clone())));
        let ending = Ending {
            seq: row.seq,
            producer: row.marker(),
            commit: row.state == TransactionState::PrepareCommit,
            metadata_version: row.metadata_version,
            waiting,
        };
        self.endings.insert(Arc::clone(id), ending);
    }

    /// Drops what is left of an id.
    pub fn remove(&mut self, id: &Arc<str>) {
        for (target, attempt) in self.endings.remove(id).into_iter().flat_map(|ending| ending.waiting) {
            self.due.remove(&(attempt.due_ms, Arc::clone(id), target));
        }
    }

    /// At most `max` of the markers that are due.
    pub fn take(&mut self, now_ms: u64, max: usize) -> Vec<Outgoing> {
        let mut taken = Vec::new();
        while taken.len() < max
            && let Some((due_ms, id, target)) = self.due.pop_first()
        {
            if due_ms > now_ms {
                self.due.insert((due_ms, id, target));
                break;
            }
            let ending = self
                .endings
                .get_mut(&id)
                .expect("what is due belongs to a decided transaction");
            let attempt = ending.waiting.get_mut(&target).expect("what is due is waiting");
            attempt.due_ms = now_ms + UNHEARD_MS;
            attempt.count = attempt.count.saturating_add(1);
            self.due.insert((attempt.due_ms, Arc::clone(&id), target.clone()));
            taken.push(Outgoing {
                id,
                seq: ending.seq,
                target,
                producer: ending.producer,
                commit: ending.commit,
            });
        }
        taken
    }

    /// Takes what became of a marker.
    pub fn settle(&mut self, acknowledgment: &Acknowledgment, now_ms: u64) -> Settled {
        let Acknowledgment {
            id,
            seq,
            target,
            delivery,
        } = acknowledgment;
        let Some(ending) = self.endings.get_mut(id).filter(|ending| ending.seq == *seq) else {
            return Settled::Nothing;
        };
        let Some(attempt) = ending.waiting.get_mut(target) else {
            return Settled::Nothing;
        };
        let is_done = match delivery {
            Delivery::Done => true,
            Delivery::Failed => planted::is(Bug::MarkerGivenUp),
            Delivery::NotFound { metadata_version } => *metadata_version >= ending.metadata_version,
        };
        self.due.remove(&(attempt.due_ms, Arc::clone(id), target.clone()));
        if is_done {
            ending.waiting.remove(target);
            return if ending.waiting.is_empty() {
                Settled::All
            } else {
                Settled::Nothing
            };
        }
        let doubled = RETRY_MS << attempt.count.saturating_sub(1).min(8);
        attempt.due_ms = now_ms + doubled.min(RETRY_MS_MAX);
        self.due.insert((attempt.due_ms, Arc::clone(id), target.clone()));
        match attempt.count {
            ATTEMPTS_TOLD => Settled::Told {
                attempts: attempt.count,
            },
            _ => Settled::Again,
        }
    }

    /// Whether all markers of a decided transaction are written.
    pub fn is_written(&self, id: &str, seq: u64) -> bool {
        self.endings
            .get(id)
            .is_some_and(|ending| ending.seq == seq && ending.waiting.is_empty())
    }

    /// The time at which the next marker is due.
    pub fn next_due(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, ..)| *due_ms)
    }

    /// Number of the markers.
    pub fn len(&self) -> usize {
        self.due.len()
    }
}
