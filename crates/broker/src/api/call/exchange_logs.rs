//! What only the leader of a partition of an exchange's log can do: append messages for the queues that are views over it.

use std::time::Duration;

use jangada_types::{ExchangeId, PartitionIndex, QueueId};

use crate::api::queue_messages::NewMessage;

/// Appends published messages to a partition of the log, in one batch if it may be that large.
#[derive(Debug)]
pub(crate) struct AppendToLog {
    pub exchange: ExchangeId,
    pub index: PartitionIndex,
    pub messages: Vec<NewMessage>,
    pub readers: Readers,
    /// The version of the metadata by which the queues were found.
    pub version: u64,
    /// How long the leader waits for the quorum.
    pub timeout: Duration,
}

/// Which queues messages are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Each of them for all queues that are views over the log.
    All,
    /// Sets of queues, and of each message the number of its set.
    Some { sets: Vec<Vec<QueueId>>, of: Vec<u32> },
}

impl Readers {
    /// Those of the messages from a place on.
    pub fn from(&self, first: usize) -> Self {
        match self {
            Self::All => Self::All,
            Self::Some { sets, of } => Self::Some {
                sets: sets.clone(),
                of: of[first..].to_vec(),
            },
        }
    }
}
