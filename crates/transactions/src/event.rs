//! Events that people may ask about later. The host of a shard's leader writes them down.

use std::sync::Arc;

use crate::command::Command;
use crate::image::Image;
use crate::leader::Target;
use crate::outcome::Outcome;
use crate::producer::Producer;

/// A change of a transactional id that its producer did not ask for, or one that is not possible for long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A transaction is aborted, and not by its producer.
    Aborted {
        /// The transactional id.
        id: Arc<str>,
        /// The producer that wrote it.
        producer: Producer,
        /// The number of the transaction.
        seq: u64,
        /// The reason: a timeout, another process, an operator.
        outcome: Outcome,
        /// Number of its partitions.
        partitions: usize,
        /// Number of groups with staged offsets.
        groups: usize,
    },
    /// An id that was not used for long is forgotten.
    Expired {
        /// The transactional id.
        id: Arc<str>,
    },
    /// A marker could not be written for long: the id waits for it, and so do readers of committed records of that partition.
    MarkerWaits {
        /// The transactional id.
        id: Arc<str>,
        /// The number of the transaction.
        seq: u64,
        /// The partition or group that does not take the marker.
        target: Target,
        /// How often it was tried.
        attempts: u32,
    },
}

impl Event {
    /// The events of a command that is applied to this state and not refused. What producers do has none.
    pub fn of(image: &Image, command: &Command) -> Vec<Self> {
        match command {
            Command::End {
                id,
                producer,
                seq,
                outcome,
                ..
            } if !outcome.is_by_producer() => {
                let row = image.id(id);
                vec![Self::Aborted {
                    id: Arc::clone(id),
                    producer: *producer,
                    seq: *seq,
                    outcome: *outcome,
                    partitions: row.map_or(0, |row| row.partitions.len()),
                    groups: row.map_or(0, |row| row.groups.len()),
                }]
            }
            Command::Expire { id, .. } => vec![Self::Expired { id: Arc::clone(id) }],
            _ => Vec::new(),
        }
    }
}
