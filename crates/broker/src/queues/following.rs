//! How a desk's commands come into the log behind those of the desk before it.

use jangada_log::{PartitionCommand, PartitionReply, PartitionState};
use jangada_queue::Engine;
use jangada_replication::{Proposal, ProposeError};
use tokio::sync::{RwLockReadGuard, watch};

use super::desk::Desk;
use crate::replica::UNTIL_ANSWERED;

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
