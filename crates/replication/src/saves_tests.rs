//! Large states are encoded while commands are applied, and what is saved is never older than what was saved before.

use std::sync::Arc;

use bytes::Bytes;
use jangada_env::Blocking;
use jangada_machine::{Effects, EncodedCommand, RestoreError, Retention};
use jangada_storage::{StateKind, Store};
use jangada_types::{CodecError, LogPosition};
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::{Condvar, Mutex};

use crate::host_tests::{GROUP, Replica, TIMEOUT, open_store};
use crate::log_store::LogStore;
use crate::raft_types::{SnapshotMeta, StoredMembership, log_id, next_index};
use crate::saves::Saves;
use crate::snapshot::chunks::ChunkStore;
use crate::snapshot::record::{self, StateBody, StateRecord};
use crate::state_machine::{Check, MachineType, Reply, Restored, StateImage, StateMachine};

const MIB: usize = 1 << 20;

/// Whoever passes it waits while it is closed.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn close(&self) {
        *self.is_closed.lock() = true;
    }

    fn open(&self) {
        *self.is_closed.lock() = false;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let mut is_closed = self.is_closed.lock();
        while *is_closed {
            let waited = self.opened.wait_for(&mut is_closed, TIMEOUT);
            assert!(!waited.timed_out(), "nobody opens the gate");
        }
    }
}

/// Counts its commands, and has so large a state that it is encoded later. Encoding waits for the gate.
struct Heavy {
    count: u64,
    ballast: Bytes,
    gate: Arc<Gate>,
}

impl Heavy {
    fn new(bytes: usize) -> Self {
        Self {
            count: 0,
            ballast: vec![7; bytes].into(),
            gate: Arc::default(),
        }
    }
}

impl StateMachine for Heavy {
    fn apply(
        &mut self,
        _at: LogPosition,
        _command: EncodedCommand,
        _awaits: bool,
        _effects: &mut Effects,
    ) -> Result<Reply, CodecError> {
        self.count += 1;
        Ok(Reply::none())
    }

    fn publish(&mut self) {}

    fn image(&self) -> StateImage {
        let (count, ballast, gate) = (self.count, self.ballast.clone(), self.gate.clone());
        StateImage::Shared(Box::new(move |sink| {
            gate.pass();
            sink(Bytes::copy_from_slice(&count.to_be_bytes()));
            sink(ballast);
        }))
    }

    fn replace(&mut self, restored: Restored) {
        self.count = restored.into_inner();
    }

    fn check(&self) -> Arc<dyn Check> {
        Arc::new(HeavyCheck)
    }

    fn retention(&self) -> Retention {
        Retention::Compacted
    }

    fn checkpoint_bytes(&self) -> u64 {
        u64::MAX
    }
}

struct HeavyCheck;

impl Check for HeavyCheck {
    fn machine(&self) -> MachineType {
        MachineType::of::<Heavy>()
    }

    fn command(&self, _command: &EncodedCommand) -> Result<(), String> {
        Ok(())
    }

    fn restore(&self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<Restored, RestoreError> {
        let first = pieces.next().unwrap_or_default();
        let count = first.first_chunk().ok_or_else(|| RestoreError("too short".into()))?;
        pieces.for_each(drop);
        Ok(Restored::new(u64::from_be_bytes(*count)))
    }
}

/// Index plus one, and count, of the state that is saved; 0 if none is.
fn saved(store: &Arc<dyn Store>) -> (u64, u64) {
    let Some(row) = store.get_state(GROUP, StateKind::APPLIED, None).unwrap() else {
        return (0, 0);
    };
    let StateRecord { meta, body } = record::decode_state(&row).unwrap();
    let state = match body {
        StateBody::Row(state) => state,
        StateBody::Chunks(manifest) => {
            let first = u64::from(manifest.generation) << 32;
            let row = store.get_state(GROUP, StateKind::STATE_CHUNK, Some(first)).unwrap();
            record::decode_chunk(&row.unwrap()).unwrap()
        }
    };
    (
        next_index(meta.last_log_id),
        u64::from_be_bytes(state[..8].try_into().unwrap()),
    )
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(TIMEOUT, wait).await.is_ok(), "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_applied_while_a_large_state_is_encoded_to_be_saved() {
    let store = open_store();
    let heavy = Heavy::new(2 * MIB);
    let gate = heavy.gate.clone();
    let mut replica = Replica::open(&store, heavy);
    // Its size is not known before.
    replica.apply(b"", MIB).await;
    let first = saved(&store);
    assert_eq!(first.0, 1);
    gate.close();
    // Saved again after eight times its size.
    while !replica.is_saving() {
        assert!(replica.next < 40, "no save is begun");
        replica.apply(b"", MIB).await;
    }
    let begun = replica.next;
    for _ in 0..100 {
        replica.apply(b"", 10).await;
    }
    assert!(replica.is_saving() && replica.next == begun + 100, "applies went on");
    assert_eq!(saved(&store), first);
    gate.open();
    eventually("the state is saved", || saved(&store).0 == begun).await;
    assert_eq!(saved(&store).1, begun, "as it was when it was cloned");
    assert!(
        store.bounds(GROUP).next_index().unwrap() >= begun,
        "the log has what it covers"
    );
    eventually("another may come", || !replica.is_saving()).await;
    let next = replica.next;
    drop(replica);
    assert_eq!(saved(&store), (next, next), "a clean stop saves the last state");
    let again = Replica::open(&store, Heavy::new(2 * MIB));
    assert_eq!(again.next, next);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_is_encoded_too_late_takes_no_newer_ones_place() {
    let store = open_store();
    let log = LogStore::open(GROUP, store.clone(), Blocking::Threads).unwrap();
    let at = |index| SnapshotMeta {
        last_log_id: Some(log_id(1, index)),
        last_membership: StoredMembership::default(),
    };
    let chunks = ChunkStore::open(log, &[]).unwrap();
    for is_superseded in [false, true] {
        let heavy = Heavy::new(2 * MIB);
        let saves = Saves::new(chunks.clone(), 2 * MIB as u64, None);
        heavy.gate.close();
        let index = 5 + u64::from(is_superseded);
        let image = heavy.image();
        assert!(saves.goes_aside(&image) && !saves.goes_aside(&StateImage::Encoded(Bytes::new())));
        saves.encode_aside(at(index), image);
        assert!(saves.is_under_way());
        if is_superseded {
            // A snapshot is installed, or the replica stops.
            saves.supersede(&at(9));
        }
        heavy.gate.open();
        eventually("it is over", || !saves.is_under_way()).await;
        assert_eq!(saved(&store).0, 6, "superseded: {is_superseded}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_are_applied_while_a_snapshot_of_a_large_state_is_made() {
    const BYTES: usize = 64 * MIB;
    let store = open_store();
    let heavy = Heavy::new(BYTES);
    let gate = heavy.gate.clone();
    let mut replica = Replica::open(&store, heavy);
    for _ in 0..10 {
        replica.apply(b"", 10).await;
    }
    let mut builder = replica.host.try_create_snapshot_builder(true).await.unwrap();
    gate.close();
    let building = tokio::spawn(async move { builder.build_snapshot().await.unwrap() });
    for _ in 0..100 {
        replica.apply(b"", 10).await;
    }
    assert!(!building.is_finished(), "it waits for the gate");
    gate.open();
    let snapshot = building.await.unwrap();
    let meta = &snapshot.meta;
    assert_eq!((replica.next, meta.last_log_id), (110, Some(log_id(1, 9))));
    let state = snapshot.snapshot.state;
    assert_eq!(state.bytes(), 8 + BYTES as u64);
    let read = tokio::task::spawn_blocking(move || state.read(|pieces| HeavyCheck.restore(pieces)));
    assert_eq!(read.await.unwrap().unwrap().into_inner::<u64>(), 10);
}
