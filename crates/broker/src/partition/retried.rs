//! A batch that the partition does not take as it is now, and perhaps took before: its answer was lost, then the topic's limits were
//! changed, or time went by, and it is sent again. What it is answered must be what became of it, not what would become of it today.
//!
//! Only the log's order tells whether it was appended, and the state machine already judges it there. So its header alone goes through
//! the quorum, as a batch with a condition that never holds: a batch that was appended is answered with its offsets, as any
//! duplicate, and nothing else changes anything. That costs a quorum's round for a batch that is refused, and nothing for others.

use bytes::Bytes;
use jangada_types::batch::{self, BatchHeader};
use jangada_types::{Offset, Reason};
use tokio::time::Instant;

use super::append::Admitted;
use super::command::PartitionCommand;
use super::condition::{Conditions, NO_OFFSET};
use super::room::Room;
use super::{Partition, keyed::Pending};
use crate::error::RequestError;
use crate::proposed::Proposed;

/// No batch begins there.
const NOWHERE: Offset = NO_OFFSET;

/// Whether a batch that is refused so may have been taken before: by other settings of the topic, or at another time.
pub(crate) fn may_have_been_taken(refusal: &RequestError) -> bool {
    matches!(
        refusal.reason,
        Reason::BatchTooLarge | Reason::InvalidTimestamp | Reason::InvalidBatch | Reason::NoKeyIndex
    )
}

/// What is asked about an idempotent batch; `None`: no leader ever took it.
fn question(batch: &Bytes) -> Option<Bytes> {
    let header = batch::verify(batch).ok()?;
    let is_whole = header.record_count > 0 && header.last_offset_delta == header.record_count - 1;
    let has_sequence = header.producer_epoch.get() >= 0 && header.base_sequence.get() >= 0;
    let is_askable = header.producer_id.is_some() && is_whole && has_sequence;
    is_askable.then(|| Bytes::copy_from_slice(&batch::header_alone(batch)))
}

/// The room that a question takes.
pub(crate) const QUESTION_BYTES: usize = BatchHeader::LEN;

impl Partition {
    /// Asks whether a batch that is refused was appended before. What is admitted is answered with its offsets then, and with the
    /// refusal if not.
    pub async fn ask(&self, batch: &Bytes, refusal: RequestError, room: Room) -> Result<Admitted, RequestError> {
        let Some(question) = question(batch) else {
            return Err(refusal);
        };
        let began = Instant::now();
        let command = PartitionCommand::Append {
            now_ms: self.shared.clock.now_ms(),
            expiration_ms: self.producer_expiration_ms(),
            conditions: Conditions {
                end_offset: Some(NOWHERE),
                key: None,
            },
        };
        let proposed = Proposed::submit(&self.hosted.group, command.encode(question), room).await;
        let proposed = proposed.map_err(|error| self.hosted.propose_error(&error))?;
        Ok(Admitted {
            pending: Pending::Proposed(proposed),
            append_time_ms: -1,
            bytes: batch.len(),
            began,
            refusal: Some(Box::new(refusal)),
        })
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::{BatchBuilder, Codec, ProducerEpoch, ProducerId, Sequence, TopicConfig};

    use super::super::testing::{Broker, Options, PATIENCE, append};
    use super::super::{Appended, Expectation};
    use super::*;
    use crate::admission::Caller;

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
        partition.acknowledged(admitted, PATIENCE).await
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

    #[tokio::test]
    async fn nothing_is_asked_of_what_no_leader_took() {
        let mut damaged = batch(0, 1).to_vec();
        *damaged.last_mut().expect("it is not empty") ^= 1;
        assert!(question(&damaged.into()).is_none());
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(0, None, None, []).expect("it is small");
        assert!(question(&builder.build()).is_none(), "it has no producer");
        let asked = question(&batch(3, 2)).expect("it may be there");
        assert_eq!(asked.len(), QUESTION_BYTES);
        let header = batch::verify(&asked).expect("it is one batch");
        assert_eq!((header.base_sequence, header.last_offset_delta), (Sequence(3), 1));
    }
}
