//! Producer ids and epochs. No row is kept per producer;
//! [`Command::BumpProducerEpoch`](crate::Command::BumpProducerEpoch) says what that guarantees.

use jangada_types::{ProducerEpoch, ProducerId, Reason, Rejection};

use crate::image::Image;
use crate::reply::Reply;
use crate::rules;

impl Image {
    pub(super) fn allocate_producer_ids(&mut self, count: u32) -> Result<Reply, Rejection> {
        if count == 0 {
            return Err(Rejection::new(
                Reason::InvalidRequest,
                "a block of 0 producer ids was asked for: ask for at least 1",
            ));
        }
        let first = self.take_producer_ids(count)?;
        Ok(Reply::ProducerIds { first, count })
    }

    pub(super) fn bump_producer_epoch(&mut self, id: ProducerId, epoch: ProducerEpoch) -> Result<Reply, Rejection> {
        rules::producer(self, id, epoch)?;
        let (producer_id, epoch) = match epoch.get().checked_add(1) {
            Some(next) => (id, ProducerEpoch(next)),
            None => (self.take_producer_ids(1)?, ProducerEpoch(0)),
        };
        Ok(Reply::ProducerEpoch { producer_id, epoch })
    }

    fn take_producer_ids(&mut self, count: u32) -> Result<ProducerId, Rejection> {
        let first = self.next_producer_id;
        self.next_producer_id = first
            .checked_add(i64::from(count))
            .ok_or_else(|| Rejection::new(Reason::Internal, "the cluster has used up its producer ids".to_owned()))?;
        Ok(ProducerId(first))
    }
}
