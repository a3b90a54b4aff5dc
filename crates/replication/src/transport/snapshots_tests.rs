//! Snapshots from one store into another, larger than any buffer, cut, damaged, and of earlier builds. The messages go through no
//! network.

#[path = "snapshots_machine.rs"]
mod machine;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use futures::stream;
use jangada_machine::EncodedCommand;
use jangada_proto::internal::message::Body;
use jangada_proto::internal::{AppendEntries, Message};
use jangada_storage::{Durability, KeyRange, MemoryDisk, MemoryStore, Op, Starts, StateKind, Store};
use jangada_types::limits::STATE_ROW_BYTES_MAX;
use jangada_types::table::KeyForm;
use jangada_types::{LogPosition, RowChange, Table, TableId};
use openraft::EntryPayload;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};

use self::machine::{Large, piece_of};
use super::*;
use crate::host::Host;
use crate::host_tests::{GROUP, TIMEOUT};
use crate::log_store::LogStore;
use crate::raft_types::{Entry, Membership, log_id};
use crate::snapshot::record::{self, StateBody};
use crate::transport::CONNECTION_WINDOW_BYTES;
use crate::transport::inbound::serve_call;
use crate::{Identity, Registry, Timing};

const MIB: u64 = 1 << 20;

/// A table whose rows go with a snapshot.
static NOTES: Table = Table {
    in_snapshot: true,
    ..Table::new(TableId(3), "notes", KeyForm::Bytes)
};
/// A table whose rows stay where they are.
static OWN: Table = Table::new(TableId(4), "own", KeyForm::Bytes);

fn open(disk: &MemoryDisk) -> Arc<dyn Store> {
    let store = MemoryStore::open(disk, &[&NOTES, &OWN], Box::new(|cause| panic!("fenced: {cause}")));
    Arc::new(store.expect("the one before is gone"))
}

fn host(store: &Arc<dyn Store>, machine: Large) -> Host {
    let log = LogStore::open(GROUP, store.clone(), jangada_env::Blocking::Threads).unwrap();
    Host::open(log, Box::new(machine)).unwrap()
}

/// A snapshot of a replica whose machine has applied so many commands. Its number is theirs and 100.
async fn snapshot(commands: u64, bytes: u64) -> Snapshot {
    let store = open(&MemoryDisk::new());
    let mut host = host(&store, Large::new(100, bytes));
    let voters: BTreeSet<_> = [1, 2]
        .map(|broker| ReplicaId::new(BrokerId(broker), Incarnation(1)))
        .into();
    let members = Membership::new(vec![voters.clone()], voters);
    for index in 0..=commands {
        let payload = match index {
            0 => EntryPayload::Membership(members.clone().unwrap()),
            _ => EntryPayload::Normal(EncodedCommand::new(&[], Bytes::new())),
        };
        let log_id = log_id(1, index);
        let entry = Entry { log_id, payload };
        let ops = vec![Op::Append(vec![codec::encode_entry(entry.clone())])];
        store.write(GROUP, ops, Durability::Lazy, None);
        host.apply(stream::iter([Ok((entry, None))])).await.unwrap();
    }
    let mut builder = host.try_create_snapshot_builder(true).await.unwrap();
    let snapshot = builder.build_snapshot().await.unwrap();
    // The snapshot is read while it is sent, and the replica goes on until then.
    std::mem::forget(host);
    snapshot
}

fn vote() -> Vote {
    wire::vote_from(Some(proto_vote())).unwrap()
}

fn proto_vote() -> jangada_proto::internal::Vote {
    jangada_proto::internal::Vote {
        term: 1,
        broker_id: 2,
        incarnation: 1,
        committed: true,
    }
}

const PEER: BrokerId = BrokerId(2);

/// All messages of a snapshot.
async fn messages_of(commands: u64, bytes: u64) -> Vec<SnapshotChunk> {
    let snapshot = snapshot(commands, bytes).await;
    let target = ReplicaId::new(BrokerId(1), Incarnation(1));
    let header = header(GROUP, target, &vote(), &snapshot);
    let progress = Arc::<Progress>::default();
    let sent: Vec<_> = messages(Hello::default(), header, snapshot.snapshot, progress.clone())
        .collect()
        .await;
    assert_eq!((progress.get().1, progress.take_failure()), (true, None));
    sent
}

/// A broker with a replica that follows broker 2.
struct Follower {
    registry: Arc<Registry>,
    store: Arc<dyn Store>,
    published: Arc<Mutex<u64>>,
}

impl Follower {
    async fn start(store: Arc<dyn Store>) -> Self {
        let identity = Identity {
            cluster_id: "tests".into(),
            broker: BrokerId(1),
            incarnation: Incarnation(1),
        };
        let timing = Timing {
            heartbeat_ms: 60_000,
            election_timeout_min_ms: 200_000,
            election_timeout_max_ms: 400_000,
        };
        let dialer = crate::transport::dialer::Dialer::new(jangada_env::Network::System);
        let registry = Registry::start(
            identity,
            store.clone(),
            timing,
            Starts::default(),
            dialer,
            &jangada_env::Env::system(),
        )
        .unwrap();
        let machine = Large::new(0, 16);
        let published = machine.published.clone();
        registry.open(GROUP, Box::new(machine)).await.unwrap();
        let heartbeat = Message {
            group_id: GROUP.get(),
            to_incarnation: 1,
            call_id: 1,
            body: Some(Body::Append(AppendEntries {
                vote: Some(proto_vote()),
                ..AppendEntries::default()
            })),
        };
        let answer = serve_call(registry.clone(), PEER, heartbeat).await.unwrap();
        assert!(matches!(answer.body, Some(Body::AppendResult(_))), "{answer:?}");
        // What is seen of the vote from outside the group's task comes a moment later, and a snapshot before it is refused.
        let follows = async {
            let hosted = registry.hosted(GROUP, Incarnation(1)).unwrap();
            while hosted.raft.metrics().borrow_watched().vote != vote() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(TIMEOUT, follows).await;
        assert!(waited.is_ok(), "the replica follows broker 2");
        Self {
            registry,
            store,
            published,
        }
    }

    async fn take(&self, messages: &[SnapshotChunk]) -> Result<InstallSnapshotResponse, Refusal> {
        let rest: Vec<_> = messages[1..].iter().cloned().map(Ok).collect();
        let taken = take(&*self.registry, PEER, messages[0].clone(), stream::iter(rest));
        tokio::time::timeout(TIMEOUT, taken).await.expect("it ends")
    }

    /// The machine's number. It is published when the snapshot is in its place.
    async fn becomes(&self, number: u64) {
        let wait = async {
            while *self.published.lock() != number {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(TIMEOUT, wait).await;
        assert!(waited.is_ok(), "{} instead of {number}", self.published.lock());
    }

    async fn stop(self) -> Arc<dyn Store> {
        self.registry.shutdown().await;
        self.store
    }
}

/// The generations that have chunks, with their counts.
fn generations(store: &Arc<dyn Store>) -> Vec<(u64, usize)> {
    let mut found: Vec<(u64, usize)> = Vec::new();
    for (suffix, _) in store.scan_state(GROUP, StateKind::STATE_CHUNK).unwrap() {
        match found.last_mut() {
            Some((generation, count)) if *generation == suffix >> 32 => *count += 1,
            _ => found.push((suffix >> 32, 1)),
        }
    }
    found
}

/// Chunks that no record names go when the last one who has them lets them go, which may be a moment later.
async fn has_one_generation(store: &Arc<dyn Store>, chunks: usize) {
    let wait = async {
        while !matches!(generations(store)[..], [(_, count)] if count == chunks) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(TIMEOUT, wait).await;
    assert!(waited.is_ok(), "{chunks} chunks of one state: {:?}", generations(store));
}

fn keys_of(store: &Arc<dyn Store>, table: &'static Table) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    let mut visit = |key: &[u8], _: &[u8]| {
        keys.push(key.to_vec());
        Ok(ControlFlow::Continue(()))
    };
    let all = KeyRange::from(b"");
    store.scan_rows(GROUP, table, all, usize::MAX, &mut visit).unwrap();
    keys
}

/// Keys of the rows that this many commands put.
fn notes(commands: u64) -> Vec<Vec<u8>> {
    (1..=commands).map(|index| index.to_be_bytes().to_vec()).collect()
}

fn put(store: &Arc<dyn Store>, table: &'static Table, key: &'static [u8]) {
    let row = RowChange::Put {
        table,
        key: key.into(),
        value: Bytes::new(),
    };
    store.write(GROUP, vec![row.into()], Durability::Lazy, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_larger_than_every_buffer_takes_the_place_of_what_was_there() {
    let bytes = u64::from(CONNECTION_WINDOW_BYTES) + 8 * MIB + 5;
    let disk = MemoryDisk::new();
    let follower = Follower::start(open(&disk)).await;
    put(&follower.store, &NOTES, b"of another history");
    put(&follower.store, &OWN, b"stays");
    for (commands, bytes) in [(9, bytes), (12, 3 * MIB), (13, 16)] {
        let messages = messages_of(commands, bytes).await;
        let largest = messages
            .iter()
            .map(|message| message.data.len().max(message.rows.len()))
            .max();
        assert!(largest.unwrap() <= 2 * STATE_CHUNK_BYTES, "{largest:?}");
        follower.take(&messages).await.unwrap();
        follower.becomes(100 + commands).await;
        assert_eq!(keys_of(&follower.store, &NOTES), notes(commands));
        assert_eq!(keys_of(&follower.store, &OWN), [b"stays"]);
        // A small state lies in a chunk, too, since rows came with it.
        has_one_generation(&follower.store, bytes.div_ceil(MIB) as usize).await;
        let purged = follower.store.bounds(GROUP).purged.unwrap();
        assert_eq!(
            purged,
            LogPosition {
                term: 1,
                index: commands
            }
        );
    }
    let store = follower.stop().await;
    drop(store);
    let store = open(&disk);
    let again = Large::new(0, 0);
    let published = again.published.clone();
    drop(host(&store, again));
    assert_eq!(*published.lock(), 113, "it is there after a restart");
    assert_eq!(keys_of(&store, &NOTES), notes(13));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_cut_anywhere_changes_nothing_and_leaves_nothing() {
    let follower = Follower::start(open(&MemoryDisk::new())).await;
    follower.take(&messages_of(3, 3 * MIB).await).await.unwrap();
    follower.becomes(103).await;
    let messages = messages_of(8, 5 * MIB).await;
    assert!(messages.len() > 8);
    for end in 1..messages.len() {
        let error = follower.take(&messages[..end]).await.unwrap_err();
        assert!(error.to_string().contains("ended early"), "{error}");
        let broken = [Ok(messages[1].clone()), Err(Status::unavailable("connection lost"))];
        let error = take(&*follower.registry, PEER, messages[0].clone(), stream::iter(broken)).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("connection lost"), "{error}");
        has_one_generation(&follower.store, 3).await;
        assert_eq!(*follower.published.lock(), 103);
        assert_eq!(keys_of(&follower.store, &NOTES), notes(3));
    }
    follower.take(&messages).await.unwrap();
    follower.becomes(108).await;
    has_one_generation(&follower.store, 5).await;
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_failure_while_a_snapshot_comes_leaves_the_state_that_was_there() {
    let messages = messages_of(8, 5 * MIB).await;
    let first = messages_of(3, 3 * MIB).await;
    for arrived in 1..messages.len() {
        let disk = MemoryDisk::new();
        let follower = Follower::start(open(&disk)).await;
        follower.take(&first).await.unwrap();
        follower.becomes(103).await;
        let hosted = follower.registry.hosted(GROUP, Incarnation(1)).unwrap();
        let header = messages[0].header.clone().unwrap();
        // The rest is on its way for ever. What has come is on the disk.
        let came: Vec<_> = messages[1..=arrived].iter().cloned().map(Ok).collect();
        let (all, taken) = tokio::sync::oneshot::channel();
        let came = stream::iter(came).chain(stream::once(async move {
            let _ = all.send(());
            std::future::pending().await
        }));
        let receiving =
            tokio::spawn(async move { receive(&hosted, &header, Bytes::new(), came.boxed()).await.map(drop) });
        taken.await.unwrap();
        let (done, synced) = std::sync::mpsc::sync_channel(1);
        let done = Box::new(move |result| done.send(result).unwrap());
        follower.store.write(GROUP, Vec::new(), Durability::Synced, Some(done));
        synced.recv().unwrap().unwrap();
        disk.crash();
        receiving.abort();
        let store = open(&disk);
        store.open_group(GROUP).unwrap();
        let before: usize = generations(&store).iter().map(|(_, chunks)| chunks).sum();
        assert!(arrived < 4 || before > 3, "{arrived}: {before} chunks lie there");
        let machine = Large::new(0, 0);
        let published = machine.published.clone();
        let host = host(&store, machine);
        assert_eq!(*published.lock(), 103, "{arrived} messages had come");
        has_one_generation(&store, 3).await;
        assert_eq!(keys_of(&store, &NOTES), notes(3));
        drop(host);
        follower.stop().await;
    }
}

/// The switch is one write; the rows of tables follow it, and are brought to their end by the next opening.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_failure_behind_the_switch_loses_no_rows() {
    let messages = messages_of(8, 3 * MIB).await;
    let disk = MemoryDisk::new();
    let follower = Follower::start(open(&disk)).await;
    put(&follower.store, &NOTES, b"of another history");
    let hosted = follower.registry.hosted(GROUP, Incarnation(1)).unwrap();
    let header = messages[0].header.clone().unwrap();
    let came: Vec<_> = messages[1..].iter().cloned().map(Ok).collect();
    let state = receive(&hosted, &header, Bytes::new(), stream::iter(came))
        .await
        .unwrap();
    let (_, meta) = snapshot_meta(&header).unwrap();
    let switch = vec![
        Op::PutState {
            kind: StateKind::SNAPSHOT,
            suffix: None,
            value: state.record(&meta),
        },
        Op::Purge { upto: 8, upto_term: 1 },
    ];
    hosted.chunks.log().start_synced(switch).wait().await.unwrap();
    state.chunks().unwrap().keep();
    disk.crash();
    let store = open(&disk);
    let machine = Large::new(0, 0);
    let published = machine.published.clone();
    let opened = store.clone();
    let host = tokio::task::spawn_blocking(move || host(&opened, machine))
        .await
        .unwrap();
    assert_eq!(*published.lock(), 108);
    assert_eq!(keys_of(&store, &NOTES), notes(8));
    has_one_generation(&store, 3).await;
    drop(host);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_an_earlier_build_is_taken() {
    let follower = Follower::start(open(&MemoryDisk::new())).await;
    for (commands, bytes) in [(3, 5 * MIB), (4, 16)] {
        // It has the header and the bytes alone.
        let mut messages = messages_of(commands, bytes).await;
        messages.retain(|message| message.rows.is_empty() && message.end.is_none());
        for message in &mut messages {
            message.checksum = None;
            if let Some(header) = &mut message.header {
                (header.has_end, header.tables) = (false, Vec::new());
            }
        }
        let short = follower.take(&messages[..messages.len() - 1]).await.unwrap_err();
        assert!(short.to_string().contains("shorter than its header says"), "{short}");
        follower.take(&messages).await.unwrap();
        follower.becomes(100 + commands).await;
    }
    let wait = async {
        while !generations(&follower.store).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(TIMEOUT, wait).await.is_ok(),
        "the second is one row"
    );
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_earlier_build_takes_what_is_sent() {
    for bytes in [16, STATE_ROW_BYTES_MAX as u64, 5 * MIB + 1] {
        let messages = messages_of(1, bytes).await;
        // What it does: it puts the data together, and looks at nothing else.
        let mut state = BytesMut::new();
        messages.iter().for_each(|message| state.put_slice(&message.data));
        let header = messages[0].header.as_ref().unwrap();
        assert_eq!((header.size_bytes, state.len() as u64), (bytes, bytes));
        assert_eq!(state, piece_of(101, 0, bytes));
        assert!(messages.iter().all(|message| message.data.len() <= STATE_CHUNK_BYTES));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_have_its_checksum_is_refused() {
    let follower = Follower::start(open(&MemoryDisk::new())).await;
    let messages = messages_of(8, 3 * MIB).await;
    for at in 1..messages.len() {
        let mut damaged = messages.clone();
        let message = &mut damaged[at];
        for bytes in [&mut message.data, &mut message.rows] {
            if !bytes.is_empty() {
                let mut other = bytes.to_vec();
                *other.last_mut().unwrap() ^= 1;
                *bytes = other.into();
            }
        }
        if let Some(end) = &mut message.end {
            end.state_checksum ^= 1;
        }
        let error = follower.take(&damaged).await.unwrap_err();
        assert!(
            error.to_string().contains("does not have its checksum"),
            "{at}: {error}"
        );
    }
    let mut other_table = messages.clone();
    other_table[0].header.as_mut().unwrap().tables.push("leases".into());
    let error = follower.take(&other_table).await.unwrap_err();
    assert!(error.to_string().contains("the table leases"), "{error}");
    let mut less = messages.clone();
    less.remove(messages.len() - 2);
    let error = follower.take(&less).await.unwrap_err();
    assert!(error.to_string().contains("not all rows"), "{error}");
    let mut too_large = messages.clone();
    too_large[0].header.as_mut().unwrap().size_bytes = SNAPSHOT_BYTES_MAX + 1;
    let error = follower.take(&too_large).await.unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
    assert_eq!(*follower.published.lock(), 0);
    follower.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_whose_chunks_are_not_what_was_written_is_damage() {
    for harm in ["missing", "altered"] {
        let store = open(&MemoryDisk::new());
        let follower = Follower::start(store.clone()).await;
        follower.take(&messages_of(3, 3 * MIB).await).await.unwrap();
        follower.becomes(103).await;
        follower.stop().await;
        store.open_group(GROUP).unwrap();
        let row = store.get_state(GROUP, StateKind::SNAPSHOT, None).unwrap().unwrap();
        let StateBody::Chunks(manifest) = record::decode_state(&row).unwrap().body else {
            panic!("a state of 3 MiB lies in chunks");
        };
        let second = (u64::from(manifest.generation) << 32) + 1;
        let kind = StateKind::STATE_CHUNK;
        let op = match harm {
            "missing" => Op::DeleteState {
                kind,
                suffix: Some(second),
            },
            _ => {
                let chunk = store.get_state(GROUP, kind, Some(second)).unwrap().unwrap();
                let mut altered = chunk.to_vec();
                altered[500] ^= 1;
                Op::PutState {
                    kind,
                    suffix: Some(second),
                    value: altered.into(),
                }
            }
        };
        store.write(GROUP, vec![op], Durability::Lazy, None);
        let log = LogStore::open(GROUP, store.clone(), jangada_env::Blocking::Threads).unwrap();
        let opened = Host::open(log, Box::new(Large::new(0, 0)));
        let error = opened.err().expect("it cannot be read").to_string();
        assert!(error.contains("chunk"), "{harm}: {error}");
        assert!(store.damage().of(GROUP).is_some(), "{harm}");
    }
}

/// What the first build wrote: the whole state in one row, of any size.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_in_one_row_is_read_whatever_its_size() {
    let store = open(&MemoryDisk::new());
    store.open_group(GROUP).unwrap();
    let meta = SnapshotMeta::default();
    for kind in [StateKind::APPLIED, StateKind::SNAPSHOT] {
        let value = record::encode_state(&meta, &piece_of(5, 0, 5 * MIB));
        let op = Op::PutState {
            kind,
            suffix: None,
            value,
        };
        store.write(GROUP, vec![op], Durability::Lazy, None);
    }
    let machine = Large::new(0, 0);
    let published = machine.published.clone();
    let mut host = host(&store, machine);
    assert_eq!(*published.lock(), 5);
    let snapshot = host.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(snapshot.snapshot.state.bytes(), 5 * MIB);
}
