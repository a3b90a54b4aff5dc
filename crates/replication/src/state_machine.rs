//! What a group's log is folded into. The trait is implemented above this crate; `host` runs it.

use std::sync::Arc;

use bytes::Bytes;
use jangada_storage::{IndexEntry, LogPosition};
use jangada_types::Offset;

use crate::raft_types::Command;

/// A state that this build cannot read, or that is damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("state machine: {0}")]
pub struct RestoreError(pub String);

/// How a group's log is kept small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// The snapshot is the current state; the log before it goes. For groups whose state is what matters: metadata,
    /// coordinators.
    Compacted,
    /// The log is the data: it goes only below `start`, at the checkpoints along it.
    LogIsData {
        /// The offset that the next record gets: where the state is now.
        position: Offset,
        /// The log start offset: what lies below may go.
        start: Offset,
        /// Bytes of log between two checkpoints.
        checkpoint_bytes: u64,
    },
}

/// What applying commands adds to the store besides the state.
#[derive(Debug, Default)]
pub struct Effects {
    /// Rows for the offset index, in the order of their offsets.
    pub index: Vec<IndexEntry>,
}

/// Says whether what a peer sends could be applied: a replica that cannot apply what is committed stops, so it must not
/// get into the log. Looks at no state, and is called from any task.
pub trait Check: Send + Sync + 'static {
    /// A command; an error says what is wrong with it.
    fn command(&self, command: &Command) -> Result<(), String>;

    /// A state, as [`StateMachine::restore`] takes it.
    fn snapshot(&self, snapshot: &Bytes) -> Result<(), RestoreError>;
}

/// A deterministic fold of a group's committed commands. Every replica applies the same commands in the same order,
/// so nothing but the state and the command may go into the new state and the reply: no clock, no randomness, no I/O.
/// What an implementation keeps beside the state for its own replica, sessions of a leader say, may use a clock.
///
/// It runs on one task; readers see what `publish` put where they look.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one command and gives the reply for its proposer. After a restart, commands may be applied again to
    /// the state that was saved before them.
    fn apply(&mut self, at: LogPosition, command: &Command, effects: &mut Effects) -> Bytes;

    /// Called after a run of `apply` and before any of their replies is sent.
    fn publish(&mut self);

    /// The whole state, version byte first.
    fn snapshot(&self) -> Bytes;

    /// Replaces the state. An error leaves it as it was.
    fn restore(&mut self, snapshot: &Bytes) -> Result<(), RestoreError>;

    /// Judges what peers send.
    fn check(&self) -> Arc<dyn Check>;

    /// How the log is kept small, as of now.
    fn retention(&self) -> Retention;
}
