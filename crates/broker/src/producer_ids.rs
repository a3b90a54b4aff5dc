//! Ids and epochs for idempotent producers, from the metadata group.

use std::ops::Range;

use jangada_controller::{Command, Reply, admission};
use jangada_types::{ProducerEpoch, ProducerId, Reason};
use tokio::sync::Mutex;

use crate::cluster::metadata::Metadata;
use crate::error::RequestError;

/// Ids that a broker takes from the metadata group at once.
const BLOCK: u32 = 1000;

/// Allocates ids and epochs of producers.
pub(crate) struct ProducerIds {
    metadata: Metadata,
    /// Of the last block, those that nobody got yet.
    free: Mutex<Range<i64>>,
}

impl ProducerIds {
    pub fn new(metadata: Metadata) -> Self {
        Self {
            metadata,
            free: Mutex::new(0..0),
        }
    }

    /// An id that no producer had, with epoch 0.
    pub async fn new_producer(&self) -> Result<(ProducerId, ProducerEpoch), RequestError> {
        let mut free = self.free.lock().await;
        if free.is_empty() {
            let command = Command::AllocateProducerIds { count: BLOCK };
            match self.metadata.propose(&command).await?.0 {
                Reply::ProducerIds { first, count } => *free = first.get()..first.get() + i64::from(count),
                other => return Err(not_the_reply("an allocation of ids", &other)),
            }
        }
        let id = free.next().expect("the block has ids");
        Ok((ProducerId(id), ProducerEpoch(0)))
    }

    /// The next epoch of a producer that goes on.
    pub async fn next_epoch(
        &self,
        producer_id: ProducerId,
        epoch: ProducerEpoch,
    ) -> Result<(ProducerId, ProducerEpoch), RequestError> {
        let command = admission::validate_bump_producer_epoch(&self.metadata.image(), producer_id, epoch)?;
        match self.metadata.propose(&command).await?.0 {
            Reply::ProducerEpoch { producer_id, epoch } => Ok((producer_id, epoch)),
            other => Err(not_the_reply("a new epoch", &other)),
        }
    }
}

fn not_the_reply(to: &str, reply: &Reply) -> RequestError {
    RequestError::new(Reason::Internal, format!("not the reply to {to}: {reply:?}"))
}
