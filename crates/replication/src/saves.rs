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

use bytes::Bytes;
use jangada_storage::{Op, StateKind};
use parking_lot::Mutex;

use crate::codec;
use crate::log_store::LogStore;
use crate::raft_types::{SnapshotMeta, next_index};
use crate::state_machine::StateImage;

/// States below this size are encoded where they are applied: that takes less than a millisecond, and a clone that lives on has
/// commands copy what they touch.
const ASIDE_BYTES_MIN: u64 = 1 << 20;

/// See the module text.
pub(crate) struct Saves {
    state: Mutex<State>,
}

struct State {
    /// Behind which entry the newest state stands that was queued, as an index plus one.
    newest_next: u64,
    /// Size of the state when it was encoded last.
    bytes: u64,
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

/// The operation that saves a state.
fn save_op(value: Bytes) -> Op {
    Op::PutState {
        kind: StateKind::APPLIED,
        suffix: None,
        value,
    }
}

impl Saves {
    /// Of a replica whose saved state has this size.
    pub fn new(bytes: u64) -> Arc<Self> {
        let state = State {
            newest_next: 0,
            bytes,
            is_under_way: false,
        };
        Arc::new(Self {
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

    /// Encodes a state here. The operation is to be queued at once.
    pub fn encode(&self, meta: &SnapshotMeta, image: StateImage) -> Op {
        self.supersede(meta);
        let value = codec::encode_state(meta, &image.encode());
        self.set_bytes(value.len() as u64);
        save_op(value)
    }

    /// Whether a state is large enough to be encoded aside.
    pub fn goes_aside(&self, image: &StateImage) -> bool {
        matches!(image, StateImage::Shared(_)) && self.bytes() >= ASIDE_BYTES_MIN
    }

    /// Encodes a state on another thread, and queues it then. Whatever it covers is queued already.
    pub fn encode_aside(self: &Arc<Self>, log: &LogStore, meta: SnapshotMeta, image: StateImage) {
        self.state.lock().is_under_way = true;
        let under_way = UnderWay(self.clone());
        let log = log.clone();
        tokio::task::spawn_blocking(move || {
            let saves = &under_way.0;
            let value = codec::encode_state(&meta, &image.encode());
            let next = next_index(meta.last_log_id);
            // Queued under the lock, so that none that is newer is queued before.
            let mut state = saves.state.lock();
            if state.newest_next >= next {
                return;
            }
            (state.newest_next, state.bytes) = (next, value.len() as u64);
            log.write_lazy(vec![save_op(value)]);
        });
    }
}
