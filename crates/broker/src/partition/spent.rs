//! Appends that got no offsets, since they were refused, or had been appended before. Their batches are in the log, where nobody reads
//! them; compaction empties their entries (`broker::compaction`). What is noted here is lost with the replica: then they stay until the
//! log is purged.

use std::sync::Arc;

use jangada_log::{PartitionReply, PartitionState};
use jangada_machine::{EncodedCommand, Machine as _};
use jangada_replication::command_of;
use jangada_storage::{Store, StoreError};
use jangada_types::{GroupId, LogPosition};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Positions that are kept of one replica, 64 KiB; what is beyond stays in the log.
const NOTED_MAX: usize = 4096;
/// Smaller batches stay: what is left of an entry is not much smaller.
const BATCH_BYTES_MIN: usize = 256;

/// The positions of such appends on one replica.
pub(crate) struct Spent {
    noted: Mutex<Vec<LogPosition>>,
    /// Who empties them.
    empties: Arc<Notify>,
}

impl Spent {
    pub fn new(empties: Arc<Notify>) -> Self {
        Self {
            noted: Mutex::default(),
            empties,
        }
    }

    /// An append was applied.
    pub fn applied(&self, at: LogPosition, reply: &PartitionReply) {
        let is_spent = matches!(
            reply,
            PartitionReply::Refused(_) | PartitionReply::Appended { duplicate: true, .. }
        );
        if is_spent {
            let mut noted = self.noted.lock();
            if noted.len() < NOTED_MAX {
                noted.push(at);
            }
            self.empties.notify_one();
        }
    }

    pub(super) fn take(&self) -> Vec<LogPosition> {
        std::mem::take(&mut *self.noted.lock())
    }
}

/// What is left of those of these appends that are worth it, and the bytes that were read. Blocks.
pub(crate) fn emptied(
    store: &dyn Store,
    group: GroupId,
    positions: &[LogPosition],
) -> Result<(Vec<(LogPosition, EncodedCommand)>, u64), StoreError> {
    let (mut commands, mut bytes) = (Vec::new(), 0);
    for at in positions {
        let Some(entry) = store.read_log(group, at.index..at.index + 1, usize::MAX)?.pop() else {
            continue;
        };
        bytes += entry.payload_len() as u64;
        if entry.term != at.term || entry.body.len() < BATCH_BYTES_MIN {
            continue;
        }
        let command = command_of(&entry).and_then(|command| PartitionState::decode(command).ok());
        let emptied = command.and_then(|command| command.emptied());
        commands.extend(emptied.map(|command| (*at, PartitionState::encode(command))));
    }
    Ok((commands, bytes))
}
