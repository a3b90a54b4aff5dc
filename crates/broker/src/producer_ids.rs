//! Allocates ids and epochs for idempotent producers (KIP-98), by commands of the metadata group.

use std::ops::Range;

use jangada_controller::{Command, Reply, admission};
use jangada_types::{ProducerEpoch, ProducerId, Reason};
use tokio::sync::Mutex;

use crate::cluster::metadata::Metadata;
use crate::error::RequestError;

/// How many ids a broker allocates from the metadata group with one command. Those that are left when it stops are never used.
const BLOCK_IDS: u32 = 1000;

/// Allocates ids and epochs of producers.
pub(crate) struct ProducerIds {
    metadata: Metadata,
    /// The ids of the last block that were not given to a producer yet.
    free: Mutex<Range<i64>>,
}

impl ProducerIds {
    pub fn new(metadata: Metadata) -> Self {
        Self {
            metadata,
            free: Mutex::new(0..0),
        }
    }

    /// A new id, which no producer had before, with epoch 0.
    pub async fn new_producer(&self) -> Result<(ProducerId, ProducerEpoch), RequestError> {
        let mut free = self.free.lock().await;
        if free.is_empty() {
            let command = Command::AllocateProducerIds { count: BLOCK_IDS };
            match self.metadata.propose(&command).await?.0 {
                Reply::ProducerIds { first, count } => *free = first.get()..first.get() + i64::from(count),
                other => return Err(unexpected_reply("AllocateProducerIds", &other)),
            }
        }
        let id = free.next().expect("the block has ids");
        Ok((ProducerId(id), ProducerEpoch(0)))
    }

    /// Raises the epoch of a known producer by one, which fences its earlier instances.
    pub async fn next_epoch(
        &self,
        producer_id: ProducerId,
        epoch: ProducerEpoch,
    ) -> Result<(ProducerId, ProducerEpoch), RequestError> {
        let command = admission::validate_bump_producer_epoch(&self.metadata.image(), producer_id, epoch)?;
        match self.metadata.propose(&command).await?.0 {
            Reply::ProducerEpoch { producer_id, epoch } => Ok((producer_id, epoch)),
            other => Err(unexpected_reply("BumpProducerEpoch", &other)),
        }
    }
}

fn unexpected_reply(command: &str, reply: &Reply) -> RequestError {
    RequestError::new(Reason::Internal, format!("unexpected reply to {command}: {reply:?}"))
}
