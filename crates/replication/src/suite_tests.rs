//! openraft's own suite for log stores and state machines, on a store in memory.

use std::sync::Arc;

use bytes::Bytes;
use jangada_env::Blocking;
use jangada_machine::{Effects, EncodedCommand, RestoreError, Retention};
use jangada_storage::{MemoryStore, Store};
use jangada_types::{CodecError, GroupId, LogPosition};
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::host::Host;
use crate::log_store::LogStore;
use crate::raft_types::TypeConfig;
use crate::state_machine::{Check, MachineType, Reply, Restored, StateImage, StateMachine};

/// Counts commands: the least that has a state.
#[derive(Default)]
struct Counter(u64);

impl StateMachine for Counter {
    fn apply(
        &mut self,
        _at: LogPosition,
        _command: EncodedCommand,
        _awaits: bool,
        _effects: &mut Effects,
    ) -> Result<Reply, CodecError> {
        self.0 += 1;
        Ok(Reply::none())
    }

    fn publish(&mut self) {}

    fn image(&self) -> StateImage {
        StateImage::Encoded(Bytes::copy_from_slice(&self.0.to_be_bytes()))
    }

    fn replace(&mut self, restored: Restored) {
        self.0 = restored.into_inner();
    }

    fn check(&self) -> Arc<dyn Check> {
        Arc::new(Any)
    }

    fn retention(&self) -> Retention {
        Retention::Compacted
    }

    fn checkpoint_bytes(&self) -> u64 {
        u64::MAX
    }
}

struct Any;

impl Check for Any {
    fn machine(&self) -> MachineType {
        MachineType::of::<Counter>()
    }

    fn command(&self, _command: &EncodedCommand) -> Result<(), String> {
        Ok(())
    }

    fn restore(&self, pieces: &mut dyn Iterator<Item = Bytes>) -> Result<Restored, RestoreError> {
        let state = pieces.next().unwrap_or_default();
        let bytes = state[..].try_into().map_err(|_| RestoreError("not a counter".into()))?;
        Ok(Restored::new(u64::from_be_bytes(bytes)))
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Host, Arc<dyn Store>> for Builder {
    async fn build(&self) -> Result<(Arc<dyn Store>, LogStore, Host), StorageError<TypeConfig>> {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(&[]));
        let log = LogStore::open(GroupId(7), store.clone(), Blocking::Threads).unwrap();
        let host = Host::open(log.clone(), Box::new(Counter::default()))
            .unwrap()
            .skipping();
        Ok((store, log, host))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_store_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}
