//! Whether a batch was appended before. Its answer was lost, perhaps, then the topic's limits were changed, and now it is
//! sent again and is more than the topic takes: it must be answered what became of it, not what would become of it today.
//!
//! Only the log's order tells, and the state machine already judges it there. So the batch's header alone goes through the
//! quorum, as a batch with a condition that never holds: one that was appended is answered with its offsets, as any duplicate,
//! and nothing else changes anything.

use bytes::Bytes;
use jangada_types::Offset;
use jangada_types::batch::{self, BatchHeader};

use crate::command::PartitionCommand;
use crate::condition::{Conditions, NO_OFFSET};

/// No batch begins there.
const NOWHERE: Offset = NO_OFFSET;

/// What a question takes in the log.
pub const QUESTION_BYTES: usize = BatchHeader::LEN;

impl PartitionCommand {
    /// The question about an idempotent batch; `None`: no leader ever took it.
    pub fn question(batch: &Bytes, now_ms: i64, expiration_ms: i64) -> Option<Self> {
        let header = batch::verify(batch).ok()?;
        let is_whole = header.record_count > 0 && header.last_offset_delta == header.record_count - 1;
        let has_sequence = header.producer_epoch.get() >= 0 && header.base_sequence.get() >= 0;
        let is_askable = header.producer_id.is_some() && is_whole && has_sequence;
        is_askable.then(|| Self::Append {
            now_ms,
            expiration_ms,
            conditions: Conditions {
                end_offset: Some(NOWHERE),
                key: None,
            },
            batch: Bytes::copy_from_slice(&batch::header_alone(batch)),
        })
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::{BatchBuilder, Codec, ProducerEpoch, ProducerId, Sequence};

    use super::*;

    fn batch(sequence: i32, records: usize) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..records {
            builder.append(0, None, Some(&[7; 100]), []).expect("it is small");
        }
        builder.producer(ProducerId(1_000), ProducerEpoch(0), Sequence(sequence));
        builder.build()
    }

    #[test]
    fn nothing_is_asked_of_what_no_leader_took() {
        let mut damaged = batch(0, 1).to_vec();
        *damaged.last_mut().expect("it is not empty") ^= 1;
        assert_eq!(PartitionCommand::question(&damaged.into(), 1, 2), None);
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(0, None, None, []).expect("it is small");
        assert_eq!(
            PartitionCommand::question(&builder.build(), 1, 2),
            None,
            "it has no producer"
        );
        let asked = PartitionCommand::question(&batch(3, 2), 1, 2);
        let Some(PartitionCommand::Append { batch: asked, .. }) = asked else {
            panic!("it may be there: {asked:?}");
        };
        assert_eq!(asked.len(), QUESTION_BYTES);
        let header = batch::verify(&asked).expect("it is one batch");
        assert_eq!((header.base_sequence, header.last_offset_delta), (Sequence(3), 1));
    }
}
