//! Snapshots: a state as of one log id, and rows of tables, which need not fit into one buffer.
//!
//! ```text
//!  StateImage --encoded aside--> chunks, record SNAPSHOT --chunk by chunk--> another broker
//!                                                                               |
//!  Machine <--read aside-- record SNAPSHOT <--one write-- chunks of a new generation
//! ```
//!
//! - [`record`]: the records on disk. [`chunks`]: a state that one row does not hold.
//! - [`builder`]: making one, apart from the task that applies.
//! - [`rows`]: the tables that go with a snapshot.
//! - `transport::snapshots` sends and receives them.

pub(crate) mod builder;
pub(crate) mod chunks;
pub(crate) mod record;
pub(crate) mod rows;

use std::fmt;
use std::sync::Arc;

use jangada_machine::Machine;
use jangada_storage::{StateKind, Store, StoreError};
use jangada_types::{GroupId, ReplicaId};

use self::chunks::{ChunkStore, ReadStateError, Stored};
use self::record::StateBody;
use crate::damage::unreadable;
use crate::raft_types::CommittedLeaderId;
use crate::state_machine::Restored;

/// A snapshot as openraft passes it on.
pub(crate) type Snapshot = openraft::Snapshot<CommittedLeaderId, ReplicaId, (), SnapshotData>;

/// What a snapshot has beside what openraft knows of it.
pub(crate) struct SnapshotData {
    /// The replica in whose store it lies.
    pub store: Arc<ChunkStore>,
    pub state: Stored,
    /// The state machine that was made of it, if it came from another broker.
    pub restored: Option<Restored>,
}

impl fmt::Debug for SnapshotData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a state of {} bytes", self.state.bytes())
    }
}

/// The state machine as it was at the group's snapshot; `None`: there is none. Of a group whose log is its data the tables that are
/// cut off with it begin at its position: rows below go in the write that brings the snapshot, and only then. Blocks.
///
/// # Errors
/// [`StoreError::Damaged`] when it cannot be read, and what reading runs into.
pub fn snapshot_machine<M: Machine>(store: &dyn Store, group: GroupId) -> Result<Option<M>, StoreError> {
    let read = || store.get_state(group, StateKind::SNAPSHOT, None);
    let mut row = read()?;
    loop {
        let Some(bytes) = &row else { return Ok(None) };
        let record = record::decode_state(bytes).map_err(|cause| unreadable(store, group, "the snapshot", &cause))?;
        let machine = match &record.body {
            StateBody::Row(state) => M::restore(state).map_err(ReadStateError::from),
            StateBody::Chunks(manifest) => {
                chunks::read_chunks(store, group, manifest, |pieces| M::restore_from(pieces))
            }
        };
        let error = match machine {
            Ok(machine) => return Ok(Some(machine)),
            Err(ReadStateError::Store(error)) => return Err(error),
            Err(error) => error,
        };
        // The chunks go when another snapshot takes the place of this one.
        let now = read()?;
        if now == row {
            return Err(store.damage().report(group, format!("the snapshot: {error}")));
        }
        row = now;
    }
}
