//! A batch that the partition does not take as it is now, and perhaps took before: its answer was lost, then the topic's limits were
//! changed, or time went by, and it is sent again. What it is answered must be what became of it, not what would become of it today.
//!
//! Only the log's order tells whether it was appended: a question goes through the quorum
//! ([`question`](jangada_log::question)). That costs a quorum's round for a batch that is refused, and nothing for others.

use bytes::Bytes;
use jangada_log::{PartitionCommand, PartitionState};
use jangada_types::Reason;
use tokio::time::Instant;

use super::append::Admitted;
use super::room::Room;
use super::{Partition, keyed::Pending};
use crate::error::RequestError;
use crate::replica::InflightProposal;

/// Whether a batch that is refused so may have been taken before: by other settings of the topic, or at another time.
pub(crate) fn may_have_been_taken(refusal: &RequestError) -> bool {
    matches!(
        refusal.reason,
        Reason::BatchTooLarge | Reason::InvalidTimestamp | Reason::InvalidBatch | Reason::NoKeyIndex
    )
}

impl Partition {
    /// Asks whether a batch that is refused was appended before. What is admitted is answered with its offsets then, and with the
    /// refusal if not.
    pub async fn ask(&self, batch: &Bytes, refusal: RequestError, room: Room) -> Result<Admitted, RequestError> {
        let began = Instant::now();
        let (now_ms, expiration_ms) = (self.shared.clock.now_ms(), self.producer_expiration_ms());
        let Some(question) = PartitionCommand::question(batch, now_ms, expiration_ms) else {
            return Err(refusal);
        };
        let proposed = InflightProposal::submit::<PartitionState>(&self.hosted.group, question, room).await;
        let proposed = proposed.map_err(|error| self.hosted.propose_error(&error))?;
        Ok(Admitted {
            pending: Pending::InflightProposal(proposed),
            append_time_ms: -1,
            bytes: batch.len(),
            began,
            refusal: Some(Box::new(refusal)),
            reserved: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use jangada_log::question::QUESTION_BYTES;
    use jangada_types::{BatchBuilder, Codec, Offset, ProducerEpoch, ProducerId, Sequence, TopicConfig};

    use super::super::testing::{Broker, Options, TIMEOUT, append};
    use super::super::{Appended, Expectation};
    use super::*;
    use crate::quota::Caller;

    fn batch(sequence: i32, records: usize) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..records {
            builder.append(0, None, Some(&[7; 100]), []).expect("it is small");
        }
        builder.producer(ProducerId(1_000), ProducerEpoch(0), Sequence(sequence));
        builder.build()
    }

    async fn ask(partition: &Partition, batch: &Bytes) -> Result<Appended, RequestError> {
        let room = |bytes| partition.room(&Caller::alone(), bytes).expect("there is room");
        let refusal = partition
            .admit(batch.clone(), Expectation::default(), room(batch.len()))
            .await
            .map(drop)
            .expect_err("it is larger than the topic takes");
        assert!(may_have_been_taken(&refusal), "{refusal}");
        let admitted = partition.ask(batch, refusal, room(QUESTION_BYTES)).await?;
        partition.acknowledged(admitted, TIMEOUT).await
    }

    #[tokio::test]
    async fn a_batch_that_is_refused_now_is_answered_by_what_became_of_it() {
        let broker = Broker::start(Options::default());
        let partition = broker.lead(TopicConfig::default()).await;
        let (first, second) = (batch(0, 20), batch(20, 20));
        append(&partition, first.clone()).await.expect("it is taken");
        let smaller = TopicConfig {
            max_batch_bytes: 1_000,
            ..TopicConfig::default()
        };
        partition.set_config(smaller.into()).await;
        let answered = ask(&partition, &first).await.expect("it is there");
        assert_eq!((answered.base_offset, answered.last_offset), (Offset(0), Offset(19)));
        assert!(answered.duplicate);
        // Of the same number, and another batch.
        for absent in [&second, &batch(0, 21)] {
            let refused = ask(&partition, absent).await.map(drop).expect_err("it is not there");
            assert!(refused.reason != Reason::Internal && refused.definite, "{refused}");
        }
        let refused = ask(&partition, &second).await.map(drop).expect_err("it is not there");
        assert_eq!(refused.reason, Reason::BatchTooLarge);
        // Nothing was appended, and the sequence was not used.
        assert_eq!(partition.view.high_watermark(), Offset(20));
        append(&partition, batch(20, 1)).await.expect("it is next");
        broker.stop().await;
    }
}
