//! What the desks of one partition share, each with the next: one term may have several, one after the other.

use std::sync::{Arc, Weak};

use jangada_log::{PartitionCommand, PartitionReply, PartitionState};
use jangada_queue::Engine;
use jangada_queue::engine::Input;
use jangada_replication::{Proposal, ProposeError};
use parking_lot::Mutex;
use tokio::sync::{RwLock, RwLockReadGuard, watch};

use super::desk::Desk;
use crate::replica::UNTIL_ANSWERED;

/// Requests to give messages back that wait for the next desk, at most.
const LEFT_MAX: usize = 10_000;

/// What the desks of a partition share.
#[derive(Default)]
pub(super) struct Succession {
    /// Read while a command of a desk is handed to Raft, whose channel may be full.
    submitting: RwLock<()>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// The desk that has the partition now.
    desk: Weak<Desk>,
    /// The term of the last desk.
    term: u64,
    /// Messages that nobody saw, which a desk could not take back any more.
    left: Vec<Input>,
}

impl Succession {
    /// A desk has the partition from now on. To be called under the lock of the partition's state.
    pub fn take_over(&self, desk: &Arc<Desk>) {
        let mut known = self.known.lock();
        let is_first = std::mem::replace(&mut known.term, desk.term) != desk.term;
        known.desk = Arc::downgrade(desk);
        desk.inputs.lock().append(&mut known.left);
        desk.begun.send_replace(is_first);
    }

    /// Nobody has it: what was left is of no use.
    pub fn forget(&self) {
        self.known.lock().left = Vec::new();
    }

    /// Messages that nobody saw go back to the desk that has the partition now, or to the next one.
    pub fn leave(&self, undelivered: Input) {
        let mut known = self.known.lock();
        let left = match known.desk.upgrade() {
            Some(desk) => desk.try_put(undelivered),
            None => Some(undelivered),
        };
        if known.left.len() < LEFT_MAX {
            known.left.extend(left);
        }
    }
}

impl Desk {
    /// Hands a command to Raft, in which it has its place then. Once the desk has ended nothing is handed over any more.
    pub async fn submit(&self, command: PartitionCommand) -> Result<Proposal<PartitionReply>, ProposeError> {
        let _submitting = self.submitting().await;
        if self.has_ended() {
            return Err(ProposeError::NotLeader(None));
        }
        self.hosted.group.submit::<PartitionState>(command).await
    }

    /// What is handed to Raft while this is held is there before the next desk of the term begins.
    pub(super) async fn submitting(&self) -> RwLockReadGuard<'_, ()> {
        self.succession.submitting.read().await
    }

    /// Returns when all that an earlier desk of the term has submitted is applied, and the engine knows it. Otherwise a grant of that
    /// one could come into the log behind one of this, and take the message away from its consumer.
    ///
    /// # Errors
    /// The command that is waited for was not applied.
    pub(super) async fn follow(&self) -> Result<(), ProposeError> {
        if *self.begun.borrow() {
            return Ok(());
        }
        drop(self.succession.submitting.write().await);
        let barrier = PartitionCommand::barrier(self.with_state(PartitionState::log_start));
        self.submit(barrier).await?.applied(UNTIL_ANSWERED).await?;
        self.with_state(|state| {
            let mut engine = Engine::begin(self.term, state.slots());
            engine.count_from(self.timers.now().wall_ms << 16);
            *self.engine.lock() = engine;
            self.begun.send_replace(true);
        });
        Ok(())
    }

    /// Whether the engine knows all that was submitted before.
    pub(super) fn watch_begun(&self) -> watch::Receiver<bool> {
        self.begun.subscribe()
    }
}
