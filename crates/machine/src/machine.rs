//! The trait of a replicated state machine.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use jangada_types::table::row::RowBuffer;
use jangada_types::{CodecError, LogPosition, Offset, RowChange, Table};

use crate::EncodedCommand;

/// A state that this build cannot read, or that is damaged. The state that was there is unchanged.
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
    },
}

/// What applying commands changes in the store besides the state: rows of tables that the machine declares.
#[derive(Debug, Default)]
pub struct Effects {
    rows: Vec<RowChange>,
    buffer: RowBuffer,
}

impl Effects {
    /// Puts a row. Key and value are copied into a buffer that rows share.
    pub fn put(&mut self, table: &'static Table, key: &[u8], value: &[u8]) {
        let (key, value) = self.buffer.copy(key, value);
        self.rows.push(RowChange::Put { table, key, value });
    }

    /// Changes rows in any way.
    pub fn change(&mut self, change: RowChange) {
        self.rows.push(change);
    }

    /// The changes so far, in their order.
    pub fn rows(&self) -> &[RowChange] {
        &self.rows
    }

    /// Takes the changes away.
    pub fn take(&mut self) -> Vec<RowChange> {
        std::mem::take(&mut self.rows)
    }
}

/// A deterministic fold of a group's committed commands. Every replica applies the same commands in the same order,
/// so nothing but the state and the command may go into the new state and the reply: no clock, no randomness, no I/O.
pub trait Machine: Sized + Send + Sync + 'static {
    /// What is proposed.
    type Command: Send + 'static;
    /// What its proposer is told when it was applied. It stays in the process.
    type Reply: Debug + Send + Sync + 'static;

    /// The command as it goes into the log.
    fn encode(command: Self::Command) -> EncodedCommand;

    /// The reverse of [`Machine::encode`]. Shares the body and copies none of it.
    ///
    /// # Errors
    /// A later build wrote it, or it is damaged. A replica that skipped it would part from the others: it must stop.
    fn decode(command: EncodedCommand) -> Result<Self::Command, CodecError>;

    /// Applies the command at this position of the log. After a restart, commands may be applied again to the state that
    /// was saved before them.
    fn apply(&mut self, at: LogPosition, command: &Self::Command, effects: &mut Effects) -> Self::Reply;

    /// The whole state, version byte first. The same state gives the same bytes on every replica.
    fn snapshot(&self) -> Bytes;

    /// The state that [`Machine::snapshot`] was taken of.
    fn restore(snapshot: &Bytes) -> Result<Self, RestoreError>;

    /// Hands the bytes of [`Machine::snapshot`] to `sink` in pieces of any size, in their order. A machine whose state may be large
    /// encodes it piece by piece, so that it is never in memory twice.
    fn encode_into(&self, sink: &mut dyn FnMut(Bytes)) {
        sink(self.snapshot());
    }

    /// The state whose bytes these pieces are together, as [`Machine::restore`]. The pieces are read while this runs, and they end
    /// early when that fails.
    fn restore_from(pieces: &mut dyn Iterator<Item = Bytes>) -> Result<Self, RestoreError> {
        Self::restore(&joined(pieces))
    }

    /// How the log is kept small, as of now.
    fn retention(&self) -> Retention;

    /// Whether what a peer sends could be applied: a replica that cannot apply what is committed stops, so it must not
    /// get into the log. Looks at no state, and is called from any task. An error says what is wrong with it.
    fn check_command(command: &EncodedCommand) -> Result<(), String> {
        Self::decode(command.clone())
            .map(drop)
            .map_err(|error| error.to_string())
    }
}

/// Pieces as one. A single piece is not copied.
fn joined(pieces: &mut dyn Iterator<Item = Bytes>) -> Bytes {
    let first = pieces.next().unwrap_or_default();
    let Some(second) = pieces.next() else { return first };
    let mut all = BytesMut::from(&first[..]);
    all.extend_from_slice(&second);
    pieces.for_each(|piece| all.extend_from_slice(&piece));
    all.freeze()
}
