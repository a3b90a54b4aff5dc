//! What brokers know of each other's commits, so that a data directory that was put back is noticed before it votes.
//!
//! ```text
//!  peer, 5 days ago:  broker 2 is in start b, commit 97           (told by broker 2, kept in the peer's own store)
//!  broker 2, today:   starts (a, 0) (c, 40), commit 42            an older copy of its directory
//!                     b is not among them                         -> refused, in both directions
//! ```
//!
//! - A broker tells only what no power failure takes back: commits that are durable and marked
//!   ([`Store::durable_commit`](jangada_storage::Store::durable_commit)). So an honest crash is never taken for a loss.
//! - It is believed only on a connection that this broker opened, to the address that the metadata names, or whoever
//!   reaches the internal listener could make a broker be refused.
//! - It is checked in both directions before any message counts: the caller's `Hello` before its first message is
//!   read, and the header with the answerer's before the link counts as connected.
//! - A broker that is refused this way by a peer that it called stops itself, and its store keeps the doubt.
//!
//! The memory is a row for each peer, of some 60 bytes, written at most every two seconds and only when it changed. The
//! write is synced, so that it survives a crash after the last record; under load it shares the sync of others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_proto::internal::{Commits, Hello, Past, PutBack, Start};
use jangada_storage::{self as storage, Durability, Op, Starts, StateKind, Store, StoreError};
use jangada_types::planted::{self, Bug};
use jangada_types::{BrokerId, GroupId, Incarnation};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::codec::CodecError;

const ROW_VERSION: u8 = 1;
const ROW_HEAD_LEN: usize = 1 + 4 + 8 + 8;
/// More commits than a directory that is put back can lack: years of them.
const COMMITS_LOST_MAX: u64 = 1 << 40;
/// A refusal of one broker is logged at most this often.
const TOLD_EVERY: Duration = Duration::from_secs(30);
/// Brokers of which that is remembered.
const TOLD_MAX: usize = 1024;

/// How far this broker has seen the commits of another one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    incarnation: Incarnation,
    start: u64,
    commit: u64,
    /// Where it was reached.
    address: String,
}

impl Seen {
    /// `1 | incarnation u32 | start u64 | commit u64 | address`, big-endian.
    fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(ROW_HEAD_LEN + self.address.len());
        out.put_u8(ROW_VERSION);
        out.put_u32(self.incarnation.get());
        out.put_u64(self.start);
        out.put_u64(self.commit);
        out.put_slice(self.address.as_bytes());
        out.freeze()
    }

    fn decode(row: &[u8]) -> Result<Self, CodecError> {
        const RECORD: &str = "row of a peer's commits";
        let Some((&version, mut rest)) = row.split_first() else {
            return Err(CodecError::Damaged(RECORD));
        };
        if version != ROW_VERSION {
            return Err(CodecError::Version {
                record: RECORD,
                version,
                expected: ROW_VERSION,
            });
        }
        if rest.len() < ROW_HEAD_LEN - 1 {
            return Err(CodecError::Damaged(RECORD));
        }
        Ok(Self {
            incarnation: Incarnation::from(rest.get_u32()),
            start: rest.get_u64(),
            commit: rest.get_u64(),
            address: String::from_utf8(rest.to_vec()).map_err(|_| CodecError::Damaged(RECORD))?,
        })
    }
}

/// What a broker said of its commits on one connection, where it cannot go back.
#[derive(Default)]
pub(crate) struct SaidCommits(Option<Commits>);

impl SaidCommits {
    /// Takes what it says now. False: it has less than it said before, as a machine that was set back while it ran.
    pub fn goes_on(&mut self, now: Commits) -> bool {
        let before = self.0.replace(now);
        before.is_none_or(|before| before.start != now.start || before.commit <= now.commit)
    }
}

#[derive(Default)]
struct Memory {
    seen: BTreeMap<BrokerId, Seen>,
    /// Of which the row in the store is older.
    unsaved: Vec<BrokerId>,
    /// The brokers that this one connects to; empty before it knows any.
    current: BTreeSet<BrokerId>,
    /// Brokers that said of this one that it was taken out.
    removed_by: BTreeSet<BrokerId>,
    /// When a refusal was logged last.
    told: BTreeMap<BrokerId, Instant>,
}

/// What this broker knows of other brokers' commits, and tells of its own. There is one per broker.
pub(crate) struct Peers {
    /// None in tests of the transport alone, which remember nothing.
    store: Option<Arc<dyn Store>>,
    /// This broker's own starts; empty if it tells nothing.
    starts: Starts,
    memory: Mutex<Memory>,
    /// The highest commit that a peer has seen of this broker and that it lacks.
    put_back: watch::Sender<Option<PutBack>>,
    /// A peer said that this broker was taken out of the cluster.
    removed: watch::Sender<Option<String>>,
}

impl Peers {
    /// Loads what is remembered. Blocks for a moment. `starts` are those of this broker.
    pub fn load(store: Arc<dyn Store>, starts: Starts) -> Result<Self, StoreError> {
        store.open_group(GroupId::NODE)?;
        let mut memory = Memory::default();
        for (suffix, row) in store.scan_state(GroupId::NODE, StateKind::PEER)? {
            let Ok(broker) = u32::try_from(suffix).map(BrokerId::from) else {
                continue;
            };
            match Seen::decode(&row) {
                Ok(seen) => drop(memory.seen.insert(broker, seen)),
                // Without it the peer is believed once more, as one that was never met.
                Err(error) => tracing::error!(%broker, %error, "what was known of a broker's commits is forgotten"),
            }
        }
        Ok(Self {
            store: Some(store),
            starts,
            memory: Mutex::new(memory),
            put_back: watch::Sender::new(None),
            removed: watch::Sender::new(None),
        })
    }

    #[cfg(test)]
    pub fn none() -> Self {
        Self {
            store: None,
            starts: Starts::default(),
            memory: Mutex::default(),
            put_back: watch::Sender::new(None),
            removed: watch::Sender::new(None),
        }
    }

    /// What this broker tells of its own past.
    pub fn own_past(&self) -> Option<Past> {
        let store = self.store.as_ref()?;
        if self.starts.list.is_empty() {
            return None;
        }
        let start = |start: &storage::Start| Start {
            id: start.id,
            after: start.after,
        };
        Some(Past {
            commit: store.durable_commit(),
            accepted_loss: self.starts.accepted_loss,
            starts: self.starts.list.iter().map(start).collect(),
        })
    }

    /// Whether a loss of commits was accepted since the start before this one.
    pub fn has_just_lost(&self) -> bool {
        self.starts.have_just_lost()
    }

    /// How far this broker's commits reach now.
    pub fn own_commits(&self) -> Option<Commits> {
        let store = self.store.as_ref()?;
        let start = self.starts.list.last()?;
        Some(Commits {
            start: start.id,
            commit: store.durable_commit(),
        })
    }

    /// Judges what a broker says of its past by what was seen of it. Learns nothing. An error has the details of a refusal.
    pub fn judge(&self, hello: &Hello) -> Result<(), PutBack> {
        let broker = BrokerId::from(hello.broker_id);
        let memory = self.memory.lock();
        let Some((past, seen)) = hello.past.as_ref().zip(memory.seen.get(&broker)) else {
            return Ok(());
        };
        if seen.incarnation.get() != hello.incarnation || planted::is(Bug::DirectoryPutBack) {
            return Ok(());
        }
        let list = past.starts.iter().map(|start| storage::Start {
            id: start.id,
            after: start.after,
        });
        let starts = Starts {
            list: list.collect(),
            accepted_loss: past.accepted_loss,
        };
        let last = match starts.past(seen.start, seen.commit, past.commit) {
            storage::Past::There => return Ok(()),
            storage::Past::Short(end) => end,
            // What it still has is what its newest start began with, unless it started more than once since.
            storage::Past::Unknown => past.starts.last().map_or(0, |newest| newest.after),
        };
        Err(PutBack {
            seen: seen.commit,
            last,
            start: seen.start,
        })
    }

    /// Keeps what a broker says of itself where it was called, after [`Peers::judge`].
    pub fn learn(&self, hello: &Hello, address: &str) {
        let Some((commit, start)) = hello
            .past
            .as_ref()
            .and_then(|past| Some((past.commit, past.starts.last()?.id)))
        else {
            return;
        };
        let seen = Seen {
            incarnation: Incarnation::from(hello.incarnation),
            start,
            commit,
            address: address.to_owned(),
        };
        self.memory.lock().keep(BrokerId::from(hello.broker_id), seen);
    }

    /// A broker that was called, and has said who it is, says how far it is now. What it said on another connection meanwhile
    /// may be further.
    pub fn progressed(&self, broker: BrokerId, commits: Commits) {
        let mut memory = self.memory.lock();
        let known = memory.seen.get(&broker);
        let Some(seen) = known.filter(|seen| seen.start == commits.start && seen.commit < commits.commit) else {
            return;
        };
        let seen = Seen {
            commit: commits.commit,
            ..seen.clone()
        };
        memory.keep(broker, seen);
    }

    /// Writes what has changed.
    pub fn save(&self) {
        let Some(store) = &self.store else { return };
        let ops: Vec<Op> = {
            let mut memory = self.memory.lock();
            let unsaved = std::mem::take(&mut memory.unsaved);
            let row = |broker: BrokerId| {
                Some(Op::PutState {
                    kind: StateKind::PEER,
                    suffix: Some(u64::from(broker.get())),
                    value: memory.seen.get(&broker)?.encode(),
                })
            };
            unsaved.into_iter().filter_map(row).collect()
        };
        if !ops.is_empty() {
            store.write(GroupId::NODE, ops, Durability::Synced, None);
        }
    }

    /// Brokers that were met, with the addresses where they were.
    pub fn addresses(&self) -> BTreeMap<BrokerId, String> {
        let memory = self.memory.lock();
        memory
            .seen
            .iter()
            .map(|(broker, seen)| (*broker, seen.address.clone()))
            .collect()
    }

    /// Whether what is missing of a broker is of the process that it has now. Mostly it is on its way then, on a connection
    /// that is slower than the one that told of it.
    pub fn is_under_way(hello: &Hello, lost: &PutBack) -> bool {
        let newest = hello.past.as_ref().and_then(|past| past.starts.last());
        newest.is_some_and(|newest| newest.id == lost.start)
    }

    /// Whether it is time to log once more that a broker is refused.
    pub fn is_worth_telling(&self, broker: BrokerId) -> bool {
        let mut memory = self.memory.lock();
        let now = Instant::now();
        let last = memory.told.get(&broker);
        let is_due = last.is_none_or(|last| now - *last >= TOLD_EVERY);
        if is_due {
            // Whoever makes up ids gets no memory for them.
            if memory.told.len() >= TOLD_MAX {
                memory.told.clear();
            }
            memory.told.insert(broker, now);
        }
        is_due
    }

    /// A peer that this broker called refuses it: it has seen more of its commits than there are.
    ///
    /// What this process has by now is no loss: the peer was told of it on one connection before it read what had been said
    /// earlier on another. Nor is what this broker cannot have written.
    pub fn was_put_back(&self, refusal: PutBack) {
        if let Some(own) = self.own_commits() {
            if refusal.start == own.start && refusal.seen <= own.commit {
                tracing::debug!(seen = refusal.seen, "a peer has not read yet how far this broker is");
                return;
            }
            if refusal.seen > own.commit.saturating_add(COMMITS_LOST_MAX) {
                tracing::error!(
                    seen = refusal.seen,
                    own = own.commit,
                    "a refusal is not believed: the peer says that it has seen commits which this broker cannot have written"
                );
                return;
            }
        }
        self.put_back.send_if_modified(|known| {
            let is_more = known.as_ref().is_none_or(|known| known.seen < refusal.seen);
            if is_more {
                *known = Some(refusal);
            }
            is_more
        });
    }

    /// From now on this broker connects to these.
    pub fn set_current(&self, brokers: impl Iterator<Item = BrokerId>) {
        self.memory.lock().current = brokers.collect();
    }

    /// A peer that this broker called says that it does not belong to the cluster any more. Believed when half of those that
    /// it connects to and has met say so: one that joined by mistake could end all others, and those that left say nothing.
    pub fn was_removed(&self, by: BrokerId, why: &str) {
        let mut memory = self.memory.lock();
        memory.removed_by.insert(by);
        let counts = |broker: &&BrokerId| memory.current.is_empty() || memory.current.contains(broker);
        let met = memory.seen.keys().filter(counts).count();
        let is_believed = 2 * memory.removed_by.iter().filter(counts).count() >= met;
        drop(memory);
        if is_believed {
            self.removed.send_replace(Some(why.to_owned()));
        }
    }

    /// Whether peers say that this broker was taken out of the cluster.
    pub fn watch_removed(&self) -> watch::Receiver<Option<String>> {
        self.removed.subscribe()
    }

    /// What peers have seen of this broker that it lacks.
    pub fn watch_put_back(&self) -> watch::Receiver<Option<PutBack>> {
        self.put_back.subscribe()
    }
}

impl Memory {
    fn keep(&mut self, broker: BrokerId, seen: Seen) {
        if self.seen.get(&broker) == Some(&seen) {
            return;
        }
        self.seen.insert(broker, seen);
        if !self.unsaved.contains(&broker) {
            self.unsaved.push(broker);
        }
    }
}
