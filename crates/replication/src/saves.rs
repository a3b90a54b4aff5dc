//! Saving the state of a state machine, also aside: while another thread encodes a large state, the task that applies goes on.
//!
//! ```text
//!  applies   ... 41 42 43 44 45 46 47 ...        state as of 43: a clone that shares what does not change
//!                    |
//!                    +--> encoded aside -------> row APPLIED (43), queued then
//! ```
//!
//! A row that is queued later than entries behind its state harms nothing: the entries that it covers were queued before, and those
//! behind it are applied again after a restart. But it must not take the place of a newer one, so one state at most is encoded aside,
//! and it is let go when a newer one was queued meanwhile.

use std::sync::Arc;

use jangada_storage::{Op, StateKind};
use parking_lot::Mutex;

use crate::raft_types::{SnapshotMeta, next_index};
use crate::snapshot::chunks::{ChunkStore, Chunks, StateWriter, Stored};
use crate::state_machine::StateImage;

/// States below this size are encoded where they are applied: that takes less than a millisecond, and a clone that lives on has
/// commands copy what they touch.
const ASIDE_BYTES_MIN: u64 = 1 << 20;

/// The saved state of one replica, and the one that is being encoded aside.
pub(crate) struct Saves {
    store: Arc<ChunkStore>,
    state: Mutex<State>,
}

struct State {
    /// Behind which entry the newest state stands that was queued, as an index plus one.
    newest_next: u64,
    /// Size of the state when it was encoded last.
    bytes: u64,
    /// The chunks of the state that is saved, if it lies in chunks.
    chunks: Option<Arc<Chunks>>,
    /// One is encoded aside.
    is_under_way: bool,
}

/// Whatever becomes of a state that is encoded aside, the next one may come.
struct UnderWay(Arc<Saves>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.state.lock().is_under_way = false;
    }
}

impl State {
    /// The operations that put a state in the place of the one that is saved.
    fn replace(&mut self, meta: &SnapshotMeta, stored: &Stored) -> Vec<Op> {
        self.bytes = stored.bytes();
        let mut ops = vec![Op::PutState {
            kind: StateKind::APPLIED,
            suffix: None,
            value: stored.record(meta),
        }];
        let chunks = stored.chunks().cloned();
        if let Some(chunks) = &chunks {
            chunks.keep();
        }
        // They are read only when the replica is opened.
        ops.extend(std::mem::replace(&mut self.chunks, chunks).map(|before| before.deletion()));
        ops
    }
}

impl Saves {
    /// Of a replica whose saved state has this size, and these chunks.
    pub fn new(store: Arc<ChunkStore>, bytes: u64, chunks: Option<Arc<Chunks>>) -> Arc<Self> {
        let state = State {
            newest_next: 0,
            bytes,
            chunks,
            is_under_way: false,
        };
        Arc::new(Self {
            store,
            state: Mutex::new(state),
        })
    }

    /// Size of the state when it was encoded last.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }

    /// The state has this size.
    pub fn set_bytes(&self, bytes: u64) {
        self.state.lock().bytes = bytes;
    }

    /// Whether one is encoded aside.
    pub fn is_under_way(&self) -> bool {
        self.state.lock().is_under_way
    }

    /// A state of this log id is about to be queued: what is encoded aside is let go.
    pub fn supersede(&self, meta: &SnapshotMeta) {
        let mut state = self.state.lock();
        state.newest_next = state.newest_next.max(next_index(meta.last_log_id));
    }

    /// The operations that delete the state that is saved: a snapshot takes its place, whose state has this size.
    pub fn replaced_by(&self, meta: &SnapshotMeta, bytes: u64) -> Vec<Op> {
        self.supersede(meta);
        let mut state = self.state.lock();
        state.bytes = bytes;
        let mut ops = vec![Op::DeleteState {
            kind: StateKind::APPLIED,
            suffix: None,
        }];
        ops.extend(state.chunks.take().map(|before| before.deletion()));
        ops
    }

    /// Encodes a state here. The operations are to be queued at once; chunks, if it is large after all, are queued already.
    pub fn encode(&self, meta: &SnapshotMeta, image: StateImage) -> Vec<Op> {
        self.supersede(meta);
        let mut queue = |op| self.store.log().write_lazy(vec![op]);
        let stored = StateWriter::collect(&self.store, |sink| image.encode_into(sink), &mut queue);
        self.state.lock().replace(meta, &stored)
    }

    /// Whether a state is large enough to be encoded aside.
    pub fn goes_aside(&self, image: &StateImage) -> bool {
        matches!(image, StateImage::Shared(_)) && self.bytes() >= ASIDE_BYTES_MIN
    }

    /// Encodes a state on another thread, and queues it then. Whatever it covers is queued already.
    pub fn encode_aside(self: &Arc<Self>, meta: SnapshotMeta, image: StateImage) {
        self.state.lock().is_under_way = true;
        let under_way = UnderWay(self.clone());
        self.store.log().blocking().start(move || {
            let saves = &under_way.0;
            // An error says that the replica was closed, or the store fenced: nothing can be saved any more.
            let Ok(stored) = StateWriter::collect_waiting(&saves.store, |sink| image.encode_into(sink)) else {
                return;
            };
            let next = next_index(meta.last_log_id);
            // Queued under the lock, so that none that is newer is queued before.
            let mut state = saves.state.lock();
            if state.newest_next >= next {
                return;
            }
            let _ = saves.store.unless_closed(|log| {
                state.newest_next = next;
                log.write_lazy(state.replace(&meta, &stored));
            });
        });
    }
}
