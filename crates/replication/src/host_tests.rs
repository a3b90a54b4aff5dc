//! Checkpoints, snapshots and what is applied, on a store in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, stream};
use jangada_env::Blocking;
use jangada_machine::{Effects, EncodedCommand, RestoreError, Retention};
use jangada_storage::{Durability, MemoryStore, Op, StateKind, Store};
use jangada_types::table::{CutOff, EntryOfRow, KeyForm, number_key};
use jangada_types::{CodecError, GroupId, LogPosition, Offset, RowChange, RowError, Table, TableId};
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::Mutex;

use crate::codec;
use crate::host::Host;
use crate::log_store::LogStore;
use crate::raft_types::{Entry, SnapshotMeta, StoredMembership, log_id};
use crate::snapshot::SnapshotData;
use crate::snapshot::chunks::Stored;
use crate::state_machine::{Check, MachineType, Reply, Restored, StateImage, StateMachine};

pub(crate) const GROUP: GroupId = GroupId(7);
const KIB: usize = 1 << 10;
/// No test waits longer for what must happen.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// A table whose rows are about entries of the log: their value is the index, and the term is 1.
static ROWS: Table = Table {
    cut_off: CutOff::ByKey,
    entry: Some(entry_of),
    ..Table::new(TableId(1), "rows", KeyForm::Number)
};

fn entry_of(_key: &[u8], value: &[u8]) -> Result<EntryOfRow, RowError> {
    let index = u64::from(value[0]);
    Ok(EntryOfRow { index, term: 1 })
}

/// A machine whose log is its data: each command is a record.
pub(crate) struct Journal {
    position: i64,
    start: i64,
    checkpoint_bytes: u64,
    /// The state is as large as this.
    state_bytes: usize,
    /// `restore` waits for it.
    gate: Arc<Mutex<()>>,
}

impl Journal {
    pub fn new(checkpoint_bytes: usize, state_bytes: usize) -> Self {
        Self {
            position: 0,
            start: 0,
            checkpoint_bytes: checkpoint_bytes as u64,
            state_bytes,
            gate: Arc::default(),
        }
    }

    fn state(&self) -> Bytes {
        let mut state = vec![0; self.state_bytes.max(16)];
        state[..8].copy_from_slice(&self.position.to_be_bytes());
        state[8..16].copy_from_slice(&self.start.to_be_bytes());
        state.into()
    }
}

/// Says that what was written before is of no use any more, but for the last record.
const TRIM: &[u8] = b"trim";

impl StateMachine for Journal {
    fn apply(
        &mut self,
        _at: LogPosition,
        command: EncodedCommand,
        _awaits: bool,
        _effects: &mut Effects,
    ) -> Result<Reply, CodecError> {
        match command.head() {
            TRIM => self.start = self.position - 1,
            b"" => self.position += 1,
            other => panic!("a command of a later version: {other:?}"),
        }
        Ok(Reply::none())
    }

    fn publish(&mut self) {}

    fn image(&self) -> StateImage {
        StateImage::Encoded(self.state())
    }

    fn replace(&mut self, restored: Restored) {
        let _open = self.gate.lock();
        (self.position, self.start) = restored.into_inner();
    }

    fn check(&self) -> Arc<dyn Check> {
        Arc::new(JournalCheck)
    }

    fn retention(&self) -> Retention {
        Retention::LogIsData {
            position: Offset::from(self.position),
            start: Offset::from(self.start),
        }
    }

    fn checkpoint_bytes(&self) -> u64 {
        self.checkpoint_bytes
    }
}

struct JournalCheck;

impl Check for JournalCheck {
    fn machine(&self) -> MachineType {
        MachineType::of::<Journal>()
    }

    fn command(&self, command: &EncodedCommand) -> Result<(), String> {
        match command.head() {
            TRIM | b"" => Ok(()),
            other => Err(format!("a command of a later version: {other:?}")),
        }
    }

    fn restore(&self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<Restored, RestoreError> {
        let first = pieces.next().unwrap_or_default();
        let number = |at: usize| {
            let bytes = first.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            bytes
                .map(i64::from_be_bytes)
                .ok_or_else(|| RestoreError("too short".into()))
        };
        Ok(Restored::new((number(0)?, number(8)?)))
    }
}

/// Like [`Journal`], but the state is what matters, and the log is compacted.
struct Compacted(Journal);

impl StateMachine for Compacted {
    fn apply(
        &mut self,
        at: LogPosition,
        command: EncodedCommand,
        awaits: bool,
        effects: &mut Effects,
    ) -> Result<Reply, CodecError> {
        self.0.apply(at, command, awaits, effects)
    }

    fn publish(&mut self) {}

    fn image(&self) -> StateImage {
        self.0.image()
    }

    fn replace(&mut self, restored: Restored) {
        self.0.replace(restored);
    }

    fn check(&self) -> Arc<dyn Check> {
        self.0.check()
    }

    fn retention(&self) -> Retention {
        Retention::Compacted
    }

    fn checkpoint_bytes(&self) -> u64 {
        self.0.checkpoint_bytes
    }
}

pub(crate) fn open_store() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(&[&ROWS]))
}

fn command(index: u64, head: &[u8], bytes: usize) -> Entry {
    Entry {
        log_id: log_id(1, index),
        payload: EntryPayload::Normal(EncodedCommand::new(head, vec![0; bytes].into())),
    }
}

/// One run of a replica: opened on what the last one left.
pub(crate) struct Replica {
    log: LogStore,
    pub host: Host,
    pub next: u64,
}

impl Replica {
    pub fn open(store: &Arc<dyn Store>, machine: impl StateMachine) -> Self {
        let log = LogStore::open(GROUP, store.clone(), Blocking::Threads).unwrap();
        let host = Host::open(log.clone(), Box::new(machine)).unwrap();
        let next = store.bounds(GROUP).next_index().unwrap_or(0);
        Self { log, host, next }
    }

    fn write(&mut self, head: &[u8], bytes: usize) -> Entry {
        let entry = command(self.next, head, bytes);
        self.next += 1;
        let ops = vec![Op::Append(vec![codec::encode_entry(entry.clone())])];
        self.log.store().write(GROUP, ops, Durability::Lazy, None);
        entry
    }

    pub async fn apply(&mut self, head: &[u8], bytes: usize) {
        let entry = self.write(head, bytes);
        self.host.apply(stream::iter([Ok((entry, None))])).await.unwrap();
    }

    pub fn is_saving(&self) -> bool {
        self.host.is_saving()
    }

    fn checkpoints(&self) -> usize {
        let rows = self.log.store().scan_state(GROUP, StateKind::CHECKPOINT).unwrap();
        rows.len()
    }

    fn asks_for_a_snapshot(&self) -> bool {
        self.host.signals().snapshot_due.notified().now_or_never().is_some()
    }
}

#[tokio::test]
async fn an_entry_that_does_not_follow_is_damage_and_not_applied() {
    let store = open_store();
    let mut replica = Replica::open(&store, Journal::new(64 * KIB, 16));
    replica.apply(b"", 10).await;
    let error = replica
        .host
        .apply(stream::iter([Ok((command(2, b"", 10), None))]))
        .await;
    let text = error.unwrap_err().to_string();
    assert!(
        text.contains("entry 2 is to be applied where entry 1 belongs"),
        "{text}"
    );
    assert!(store.damage().of(GROUP).is_some());
    replica.next = 1;
    replica.apply(b"", 10).await;
}

#[tokio::test]
async fn rows_that_do_not_fit_the_log_are_damage_at_the_start() {
    for (raft_index, is_sound) in [(0, true), (5, false)] {
        let store = open_store();
        let mut replica = Replica::open(&store, Journal::new(64 * KIB, 16));
        replica.apply(b"", 10).await;
        let row = RowChange::Put {
            table: &ROWS,
            key: number_key(0),
            value: vec![raft_index].into(),
        };
        let ops = vec![Op::Row(row)];
        store.write(GROUP, ops, Durability::Lazy, None);
        drop(replica);
        let log = LogStore::open(GROUP, store.clone(), Blocking::Threads).unwrap();
        let opened = Host::open(log, Box::new(Journal::new(64 * KIB, 16)));
        assert_eq!(opened.is_ok(), is_sound, "a row of entry {raft_index}");
        assert_eq!(store.damage().of(GROUP).is_none(), is_sound);
    }
}

/// A partition with little traffic on a broker that is restarted often.
#[tokio::test]
async fn the_log_shrinks_although_no_run_reaches_the_distance_between_checkpoints() {
    let store = open_store();
    for _ in 0..5 {
        let mut replica = Replica::open(&store, Journal::new(64 * KIB, 16));
        replica.apply(b"", 40 * KIB).await;
    }
    let mut replica = Replica::open(&store, Journal::new(64 * KIB, 16));
    replica.apply(TRIM, 0).await;
    assert!(replica.asks_for_a_snapshot());
    let mut builder = replica.host.try_create_snapshot_builder(false).await.unwrap();
    let snapshot = builder.build_snapshot().await.unwrap();
    assert!(snapshot.meta.last_log_id.unwrap().index >= 2, "{:?}", snapshot.meta);
}

#[tokio::test]
async fn restarts_without_records_make_no_checkpoints() {
    let store = open_store();
    for _ in 0..5 {
        let mut replica = Replica::open(&store, Journal::new(64 * KIB, 16));
        if replica.next == 0 {
            replica.apply(b"", 100 * KIB).await;
            assert_eq!(replica.checkpoints(), 1);
        }
        // What a new leader writes.
        let mut entry = replica.write(b"", 0);
        entry.payload = EntryPayload::Blank;
        replica.host.apply(stream::iter([Ok((entry, None))])).await.unwrap();
        assert_eq!(replica.checkpoints(), 1);
    }
}

#[tokio::test]
async fn the_distance_to_the_last_snapshot_outlives_a_restart() {
    let store = open_store();
    for run in 0..5 {
        let mut replica = Replica::open(&store, Compacted(Journal::new(0, 16)));
        for _ in 0..1000 {
            replica.apply(b"", 1).await;
            assert_eq!(
                replica.asks_for_a_snapshot(),
                replica.next == 4096,
                "{run} {}",
                replica.next
            );
        }
    }
}

#[tokio::test]
async fn a_large_state_is_checkpointed_less_often() {
    let store = open_store();
    let mut replica = Replica::open(&store, Journal::new(64 * KIB, 1 << 20));
    for _ in 0..64 {
        replica.apply(b"", 64 * KIB).await;
    }
    let rows = replica.checkpoints();
    assert!((1..=2).contains(&rows), "{rows} checkpoints of 1 MiB for 4 MiB of log");
}

/// openraft accepts a snapshot, and what comes after it, before the state machine has it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_append_waits_for_the_snapshot_that_it_follows() {
    let store = open_store();
    let journal = Journal::new(64 * KIB, 16);
    let gate = journal.gate.clone();
    let mut replica = Replica::open(&store, journal);
    for _ in 0..10 {
        replica.apply(b"", 1).await;
    }
    let mut log = replica.log.clone();
    let closed = gate.lock();
    let installing = tokio::spawn(async move {
        let meta = SnapshotMeta {
            last_log_id: Some(log_id(1, 100)),
            last_membership: StoredMembership::default(),
        };
        let snapshot = SnapshotData {
            store: replica.host.chunks().clone(),
            state: Stored::Row(Journal::new(0, 16).state()),
            restored: None,
        };
        replica.host.install_snapshot(&meta, snapshot).await.unwrap();
        replica
    });
    let mut append = Box::pin(log.append([command(101, b"", 1)], IOFlushed::noop()));
    assert!((&mut append).now_or_never().is_none());
    assert_eq!(store.bounds(GROUP).next_index(), Some(10));
    drop(closed);
    tokio::time::timeout(TIMEOUT, append).await.unwrap().unwrap();
    assert_eq!(store.bounds(GROUP).next_index(), Some(102));
    installing.await.unwrap();
}

#[tokio::test]
async fn an_append_after_a_snapshot_that_cannot_be_installed_fails() {
    let store = open_store();
    let mut replica = Replica::open(&store, Journal::new(64 * KIB, 16));
    replica.apply(b"", 1).await;
    let Replica { log, host, .. } = replica;
    let mut writer = log.clone();
    let mut append = Box::pin(writer.append([command(101, b"", 1)], IOFlushed::noop()));
    assert!((&mut append).now_or_never().is_none());
    drop(host);
    assert!(tokio::time::timeout(TIMEOUT, append).await.unwrap().is_err());
}

#[tokio::test]
async fn entries_that_are_not_there_are_not_left_out_in_silence() {
    let store = open_store();
    let mut replica = Replica::open(&store, Journal::new(64 * KIB, 16));
    for _ in 0..10 {
        replica.write(b"", 1);
    }
    let upto_term = 1;
    store.write(GROUP, vec![Op::Purge { upto: 4, upto_term }], Durability::Lazy, None);
    assert_eq!(replica.log.limited_get_log_entries(5, 8).await.unwrap().len(), 3);
    assert!(replica.log.limited_get_log_entries(4, 8).await.is_err());
}
