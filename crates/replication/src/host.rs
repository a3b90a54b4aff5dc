//! Runs a [`StateMachine`] for openraft: applies, saves the state now and then, keeps checkpoints along the log,
//! builds and installs snapshots.
//!
//! ```text
//!  SNAPSHOT row        CHECKPOINT rows             APPLIED row        applied    committed     last
//!      |                |      |      |                 |                |           |          |
//! -----x================+======+======+=================+================+===========+==========+
//!   purged                                              re-applied after a restart
//! ```
//!
//! Saving the state costs no sync: the row goes into the WAL after the entries and rows of tables that it covers, so
//! whatever prefix of the WAL a crash leaves, a saved state never covers entries that are not there. A checkpoint is
//! the exact state, with the membership, at one log index; only there may the log's head be cut off, because a new
//! replica starts from it and receives every entry after it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use jangada_machine::{Effects, Retention};
use jangada_storage::{Latency, Op, StateKind};
use jangada_types::LogPosition;
use jangada_types::planted::{self, Bug};
use openraft::EntryPayload;
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use crate::codec::CodecError;
use crate::damage::{self, unreadable};
use crate::log_store::{LogStore, off_worker};
use crate::purge_points::{Checkpoint, Progress, PurgePoints, SNAPSHOT_EVERY_ENTRIES};
use crate::raft_types::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, next_index};
use crate::saves::Saves;
use crate::snapshot::builder::{SnapshotBuilder, Source, read_snapshot};
use crate::snapshot::chunks::{ChunkStore, StateWriter, Stored};
use crate::snapshot::record::{self, StateRecord};
use crate::snapshot::rows::finish_installation;
use crate::snapshot::{Snapshot, SnapshotData};
use crate::state_machine::{Reply, StateImage, StateMachine};

/// The state is saved after this many bytes of applied log: what a restart has to read and apply again at most, per
/// group.
const SAVE_EVERY_BYTES: u64 = 1 << 20;
/// And after this many entries, so that small commands are not many.
const SAVE_EVERY_ENTRIES: u64 = 1024;
/// And not before this many times the size of the state itself.
const SAVE_EVERY_STATES: u64 = 8;
/// A compacted group asks for a snapshot after this many bytes of applied log, or [`SNAPSHOT_EVERY_ENTRIES`].
const SNAPSHOT_EVERY_BYTES: u64 = 4 << 20;
/// A checkpoint is made not before this many times the size of the state itself.
const CHECKPOINT_EVERY_STATES: u64 = 4;
/// Replies are sent, and state is published, at least this often within one long run of entries.
const FLUSH_EVERY_ENTRIES: usize = 64;

/// What the host tells the group's other tasks.
pub(crate) struct HostSignals {
    /// Term of the last applied entry: a leader is ready when it is its own.
    pub applied_term: watch::Sender<u64>,
    /// Index of the last applied entry plus one.
    pub applied_next: AtomicU64,
    /// A snapshot would let the log shrink.
    pub snapshot_due: Notify,
}

/// How long things take, over all groups of a broker.
#[derive(Default)]
pub(crate) struct Timings {
    /// From a proposal until it is committed and applied here.
    pub commits: Latency,
    /// A run of committed entries.
    pub applies: Latency,
}

/// A group's state machine, as openraft calls it.
pub(crate) struct Host {
    log: LogStore,
    machine: Box<dyn StateMachine>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    points: Arc<Mutex<PurgePoints>>,
    /// Rows of entries that were applied and not flushed.
    effects: Effects,
    unsaved: Progress,
    /// Since the newest point that the log can be cut at.
    since_checkpoint: Progress,
    saves: Arc<Saves>,
    chunks: Arc<ChunkStore>,
    signals: Arc<HostSignals>,
    timings: Arc<Timings>,
    /// Entries may be left out: openraft's own suite applies such.
    #[cfg(test)]
    may_skip: bool,
}

impl Host {
    /// Loads the last saved state. Blocks.
    pub fn open(log: LogStore, mut machine: Box<dyn StateMachine>) -> io::Result<Self> {
        let (store, group) = (log.store().clone(), log.group());
        let damaged = |what: &str, cause: &CodecError| io::Error::other(unreadable(&*store, group, what, cause));
        let decode = |row: &Bytes, what| record::decode_state(row).map_err(|cause| damaged(what, &cause));
        let read = |kind, what| -> io::Result<Option<StateRecord>> {
            let row: Option<Bytes> = store.get_state(group, kind, None).map_err(io::Error::other)?;
            row.map(|row| decode(&row, what)).transpose()
        };
        let snapshot = read(StateKind::SNAPSHOT, "the snapshot")?;
        let applied = read(StateKind::APPLIED, "the saved state")?;
        let mut checkpoints = Vec::new();
        for (index, row) in store
            .scan_state(group, StateKind::CHECKPOINT)
            .map_err(io::Error::other)?
        {
            let decoded = record::decode_checkpoint(&row);
            let (position, row) = decoded.map_err(|cause| damaged("a checkpoint", &cause))?;
            checkpoints.push((index, position, decode(&row, "a checkpoint")?));
        }
        let records = snapshot.iter().chain(&applied);
        let records = records.chain(checkpoints.iter().map(|(_, _, record)| record));
        let live: Vec<u32> = records.filter_map(|record| record.body.generation()).collect();
        let chunks = ChunkStore::open(log.clone(), &live).map_err(io::Error::other)?;
        let stored = |record: StateRecord| (record.meta, Stored::of_record(record.body, &chunks));
        let (snapshot, applied) = (snapshot.map(stored), applied.map(stored));
        let mut points = PurgePoints::default();
        if let Some((meta, state)) = &snapshot {
            drop(points.set_snapshot(meta, state));
            finish_installation(&chunks, meta, state)?;
        }
        let saved_chunks = applied.as_ref().and_then(|(_, state)| state.chunks().cloned());
        let newest = match (snapshot, applied) {
            (Some((at, state)), Some((saved_at, _))) if at.last_log_id > saved_at.last_log_id => Some((at, state)),
            (Some((_, state)), Some((saved_at, _))) if planted::is(Bug::SnapshotOverNewerLog) => {
                Some((saved_at, state))
            }
            (snapshot, applied) => applied.or(snapshot),
        };
        let (mut last_applied, mut membership) = (None, StoredMembership::default());
        let mut saved_bytes = 0;
        if let Some((meta, state)) = newest {
            saved_bytes = state.bytes();
            let check = machine.check();
            machine.replace(state.read(|pieces| check.restore(pieces))?);
            last_applied = meta.last_log_id;
            membership = meta.last_membership;
        }
        if planted::is(Bug::AppliedTwiceAfterRestart) {
            last_applied = log.id_before(last_applied).or(last_applied);
        }
        for (index, position, record) in checkpoints {
            let state = Stored::of_record(record.body, &chunks).chunks().cloned();
            // Those beyond the saved state come back when their entries are applied again.
            if last_applied.is_some_and(|id| index <= id.index) {
                points.checkpoints.push_back(Checkpoint {
                    index,
                    position,
                    chunks: state,
                });
            } else {
                log.write_lazy(vec![Op::DeleteState {
                    kind: StateKind::CHECKPOINT,
                    suffix: Some(index),
                }]);
                state.iter().for_each(|chunks| chunks.let_go());
            }
        }
        let bounds = store.bounds(group);
        let last = bounds.last.map(|last| last.index);
        if last_applied.map(|id: LogId| id.index) > last {
            let what =
                format!("the log ends at {last:?}, before the saved state at {last_applied:?}: its tail was lost");
            return Err(io::Error::other(store.damage().report(group, what)));
        }
        if let Retention::LogIsData { position, .. } = machine.retention() {
            damage::check_tables(&*store, group, position)?;
        }
        machine.publish();
        let since_checkpoint = Progress::recovered(&points, last_applied, machine.retention());
        let signals = HostSignals {
            applied_term: watch::Sender::new(0),
            applied_next: AtomicU64::new(next_index(last_applied)),
            snapshot_due: Notify::new(),
        };
        Ok(Self {
            log,
            machine,
            last_applied,
            membership,
            points: Arc::new(Mutex::new(points)),
            effects: Effects::default(),
            unsaved: Progress::default(),
            since_checkpoint,
            saves: Saves::new(chunks.clone(), saved_bytes, saved_chunks),
            chunks,
            signals: Arc::new(signals),
            timings: Arc::default(),
            #[cfg(test)]
            may_skip: false,
        })
    }

    /// Counts there how long its applies take.
    pub fn timed_by(mut self, timings: Arc<Timings>) -> Self {
        self.timings = timings;
        self
    }

    /// For openraft's own suite, which applies entries that do not follow one another.
    #[cfg(test)]
    pub fn skipping(mut self) -> Self {
        self.may_skip = true;
        self
    }

    /// Whether a state is being encoded aside.
    #[cfg(test)]
    pub fn is_saving(&self) -> bool {
        self.saves.is_under_way()
    }

    /// Refuses an entry that does not follow the last one that was applied.
    fn check_next(&self, id: LogId) -> io::Result<()> {
        #[cfg(test)]
        if self.may_skip {
            return Ok(());
        }
        damage::check_next(&**self.log.store(), self.log.group(), self.last_applied, id.index)?;
        // What peers send was held against it, and what lies on the disk has checksums.
        assert!(
            self.last_applied
                .is_none_or(|last| last.leader_id.term <= id.leader_id.term),
            "group {}: entry {id} is applied behind {:?}",
            self.log.group(),
            self.last_applied,
        );
        Ok(())
    }

    /// The chunks of this replica's states.
    pub fn chunks(&self) -> &Arc<ChunkStore> {
        &self.chunks
    }

    pub fn signals(&self) -> Arc<HostSignals> {
        self.signals.clone()
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
        }
    }

    fn apply_entry(&mut self, entry: Entry, awaits: bool) -> Reply {
        let id = entry.log_id;
        let (bytes, reply) = match entry.payload {
            EntryPayload::Blank => (0, Reply::none()),
            EntryPayload::Normal(command) => {
                let at = LogPosition {
                    term: id.leader_id.term,
                    index: id.index,
                };
                let bytes = command.size() as u64;
                let applied = self.machine.apply(at, command, awaits, &mut self.effects);
                // Going on would let this replica part from the others; it stops here instead.
                let reply = applied.unwrap_or_else(|error| {
                    panic!(
                        "group {}: the command at index {} cannot be applied: {error}",
                        self.log.group(),
                        at.index
                    )
                });
                (bytes, reply)
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(id), membership);
                (0, Reply::none())
            }
        };
        self.last_applied = Some(id);
        self.unsaved.add(bytes);
        self.since_checkpoint.add(bytes);
        reply
    }

    /// Everything that follows from the entries applied since the last flush: rows first, then publication, then the
    /// replies.
    fn flush(&mut self, replies: &mut Vec<(ApplyResponder<TypeConfig>, Reply)>) {
        let mut ops = self.row_ops();
        let rows = ops.len();
        let due = self.checkpoint_if_due(&mut ops);
        let aside = self.save_if_due(&mut ops);
        if planted::is(Bug::StateBeforeItsRows) {
            self.log.write_lazy(ops.split_off(rows));
        }
        if !ops.is_empty() {
            self.log.write_lazy(ops);
        }
        // Only now: its row must not be queued before the rows of what it covers.
        if let Some(image) = aside {
            self.saves.encode_aside(self.meta(), image);
        }
        self.machine.publish();
        if let Some(id) = self.last_applied {
            self.signals.applied_next.store(id.index + 1, Ordering::Release);
            self.signals
                .applied_term
                .send_if_modified(|term| std::mem::replace(term, id.leader_id.term) != id.leader_id.term);
        }
        for (responder, reply) in replies.drain(..) {
            responder.send(reply);
        }
        if due {
            self.signals.snapshot_due.notify_one();
        }
    }

    fn row_ops(&mut self) -> Vec<Op> {
        self.effects.take().into_iter().map(Op::Row).collect()
    }

    /// A large state is saved less often, so that saving it stays a small part of what is written.
    fn save_is_due(&self) -> bool {
        let large = self.saves.bytes() * SAVE_EVERY_STATES;
        let is_due = self.unsaved.bytes >= SAVE_EVERY_BYTES.max(large)
            || self.unsaved.entries >= SAVE_EVERY_ENTRIES && self.unsaved.bytes >= large;
        (is_due || planted::is(Bug::StateBeforeItsRows)) && !self.saves.is_under_way()
    }

    /// Adds the saved state when it is due. A large one is given back, to be encoded aside.
    fn save_if_due(&mut self, ops: &mut Vec<Op>) -> Option<StateImage> {
        if !self.save_is_due() {
            return None;
        }
        self.unsaved = Progress::default();
        let image = self.machine.image();
        if self.saves.goes_aside(&image) {
            return Some(image);
        }
        ops.extend(self.saves.encode(&self.meta(), image));
        None
    }

    /// Adds a checkpoint when one is due, and says whether the log could shrink now.
    fn checkpoint_if_due(&mut self, ops: &mut Vec<Op>) -> bool {
        let Some(id) = self.last_applied else { return false };
        let (position, start) = match self.machine.retention() {
            Retention::Compacted => {
                let progress = self.since_checkpoint;
                // A large state is written less often, so that snapshots are at most about as much as the log.
                let large = self.saves.bytes();
                let due = progress.bytes >= SNAPSHOT_EVERY_BYTES.max(large)
                    || progress.entries >= SNAPSHOT_EVERY_ENTRIES && progress.bytes >= large;
                if due {
                    self.since_checkpoint = Progress::default();
                }
                return due;
            }
            Retention::LogIsData { position, start } => (position, start),
        };
        let mut points = self.points.lock();
        let emptied = start == position && self.since_checkpoint.bytes > 0;
        // A large state is written less often, so that checkpoints stay a small part of the log.
        let distance = self
            .machine
            .checkpoint_bytes()
            .max(self.saves.bytes().saturating_mul(CHECKPOINT_EVERY_STATES));
        if self.since_checkpoint.bytes >= distance || emptied {
            self.since_checkpoint = Progress::default();
            let image = self.machine.image();
            let mut queue = |op| self.log.write_lazy(vec![op]);
            let state = StateWriter::collect(&self.chunks, |sink| image.encode_into(sink), &mut queue);
            self.saves.set_bytes(state.bytes());
            ops.push(Op::PutState {
                kind: StateKind::CHECKPOINT,
                suffix: Some(id.index),
                value: record::encode_checkpoint(position, &state.record(&self.meta())),
            });
            let chunks = state.chunks().cloned();
            chunks.iter().for_each(|chunks| chunks.keep());
            assert!(
                points
                    .checkpoints
                    .back()
                    .is_none_or(|last| last.index <= id.index && last.position <= position),
                "group {}: a checkpoint at {id}, position {position}, comes behind a later one",
                self.log.group(),
            );
            points.checkpoints.push_back(Checkpoint {
                index: id.index,
                position,
                chunks,
            });
        }
        points.reachable(start).is_some()
    }

    fn state_source(&self) -> Source {
        Source::State(Some((self.meta(), self.machine.image())))
    }

    async fn read_snapshot(&self) -> io::Result<Option<Snapshot>> {
        read_snapshot(&self.chunks, &self.points).await
    }
}

impl Drop for Host {
    /// A clean stop saves the state, so that the next start applies nothing again.
    fn drop(&mut self) {
        // After a panic the state may be half way into an entry.
        let has_unsaved = self.unsaved.entries > 0 || self.saves.is_under_way();
        if has_unsaved && !std::thread::panicking() {
            let rows = self.row_ops();
            self.log.write_lazy(rows);
            self.log
                .write_lazy(self.saves.encode(&self.meta(), self.machine.image()));
        }
        self.chunks.close();
        self.log.installs_no_more();
    }
}

impl RaftStateMachine<TypeConfig> for Host {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let began = Instant::now();
        let mut replies = Vec::new();
        let mut unflushed = 0;
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            self.check_next(entry.log_id)?;
            let reply = self.apply_entry(entry, responder.is_some());
            if let Some(responder) = responder {
                replies.push((responder, reply));
            }
            unflushed += 1;
            if unflushed >= FLUSH_EVERY_ENTRIES {
                self.flush(&mut replies);
                unflushed = 0;
            }
        }
        self.flush(&mut replies);
        self.timings.applies.record(began.elapsed());
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        let source = match self.machine.retention() {
            Retention::Compacted => Some(self.state_source()),
            Retention::LogIsData { start, .. } => {
                let points = self.points.lock();
                match points.reachable(start) {
                    Some(checkpoint) => Some(Source::Checkpoint(checkpoint)),
                    None if !force => None,
                    None if points.snapshot_index.is_some() => Some(Source::Current),
                    None => Some(self.state_source()),
                }
            }
        };
        Some(SnapshotBuilder {
            chunks: self.chunks.clone(),
            points: self.points.clone(),
            source: source?,
        })
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.try_create_snapshot_builder(true)
            .await
            .expect("a forced builder is always given")
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let SnapshotData { state, restored, .. } = snapshot;
        if state.chunks().is_some_and(|chunks| !chunks.are_of(&self.chunks)) {
            return Err(io::Error::other("a snapshot whose chunks are of another replica"));
        }
        let restored = match restored {
            Some(restored) => restored,
            None => {
                let (check, state) = (self.machine.check(), state.clone());
                off_worker(self.log.blocking(), move || {
                    Ok(state.read(|pieces| check.restore(pieces))?)
                })
                .await?
            }
        };
        let mut ops = vec![Op::PutState {
            kind: StateKind::SNAPSHOT,
            suffix: None,
            value: state.record(meta),
        }];
        ops.extend(self.saves.replaced_by(meta, state.bytes()));
        if matches!(self.machine.retention(), Retention::LogIsData { .. }) {
            // Rows of the log that the snapshot stands in for.
            ops.push(Op::CutOff(None));
        }
        let durable = {
            let mut points = self.points.lock();
            let checkpoints = std::mem::take(&mut points.checkpoints);
            ops.extend(checkpoints.iter().map(Checkpoint::deletion));
            if let Some(id) = meta.last_log_id {
                // In the same write, so that no crash leaves a state beyond the end of the log.
                ops.push(Op::Purge {
                    upto: id.index,
                    upto_term: id.leader_id.term,
                });
            }
            let before = points.set_snapshot(meta, &state);
            let durable = self.log.start_synced(ops);
            checkpoints.iter().for_each(Checkpoint::let_go);
            drop((before, checkpoints));
            durable
        };
        self.log.installed();
        durable.wait().await?;
        let (chunks, at) = (self.chunks.clone(), meta.clone());
        off_worker(self.log.blocking(), move || finish_installation(&chunks, &at, &state)).await?;
        if !planted::is(Bug::StateKeptAtInstallation) {
            self.machine.replace(restored);
        }
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.unsaved = Progress::default();
        self.since_checkpoint = Progress::default();
        self.machine.publish();
        self.signals
            .applied_next
            .store(next_index(self.last_applied), Ordering::Release);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        self.read_snapshot().await
    }
}
