//! Changes fields of a batch in place. The buffer holds exactly one batch that has been validated; anything else is a
//! bug of the caller and panics.

use super::header::{Attributes, BatchHeader, LENGTH_COUNTS_FROM, TimestampType, at, put};
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

/// Sets the batch's position in its partition. These fields are outside the checksum.
pub fn set_position(batch: &mut [u8], base_offset: Offset, epoch: LeaderEpoch) {
    put(batch, at::BASE_OFFSET, base_offset.get().to_be_bytes());
    put(batch, at::LEADER_EPOCH, epoch.as_i32().to_be_bytes());
}

/// Gives all records the time of the append, milliseconds since the Unix epoch, and computes the checksum anew.
pub fn set_append_time(batch: &mut [u8], timestamp_ms: i64) {
    let header = BatchHeader::parse(batch).expect("only validated batches are patched");
    let Attributes(attributes) = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
    put(batch, at::ATTRIBUTES, attributes.to_be_bytes());
    put(batch, at::MAX_TIMESTAMP, timestamp_ms.to_be_bytes());
    set_checksum(batch, &header);
}

/// Changes the producer's id, epoch or sequence in the batch, and computes the checksum anew.
pub fn set_producer(batch: &mut [u8], id: ProducerId, epoch: ProducerEpoch, base_sequence: Sequence) {
    let header = BatchHeader::parse(batch).expect("only validated batches are patched");
    put(batch, at::PRODUCER_ID, id.get().to_be_bytes());
    put(batch, at::PRODUCER_EPOCH, epoch.get().to_be_bytes());
    put(batch, at::BASE_SEQUENCE, base_sequence.get().to_be_bytes());
    set_checksum(batch, &header);
}

/// The header of a batch as a batch of its own, without the records. It has the batch's producer and position, for
/// looking up the batch's outcome, and no records to read.
pub fn header_alone(batch: &[u8]) -> [u8; BatchHeader::LEN] {
    let mut alone = *batch.first_chunk().expect("only validated batches are patched");
    let length = BatchHeader::LEN - LENGTH_COUNTS_FROM;
    put(&mut alone, at::BATCH_LENGTH, (length as i32).to_be_bytes());
    let header = BatchHeader::parse(&alone).expect("only its length is another");
    set_checksum(&mut alone, &header);
    alone
}

pub(super) fn set_checksum(batch: &mut [u8], header: &BatchHeader) {
    assert_eq!(
        batch.len(),
        header.total_size(),
        "the checksum covers exactly one batch"
    );
    let crc = super::header::checksum(batch);
    put(batch, at::CRC, crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, verify};
    use super::*;
    use crate::compression::Codec;

    fn build() -> Vec<u8> {
        let mut builder = BatchBuilder::new(Codec::Lz4);
        builder.append(1000, None, Some(b"value"), []).unwrap();
        builder.append(3000, None, Some(b"value"), []).unwrap();
        builder.build().to_vec()
    }

    #[test]
    fn position_leaves_the_checksum_right() {
        let mut batch = build();
        let before = verify(&batch).unwrap();
        set_position(&mut batch, Offset(77), LeaderEpoch(5));
        assert_eq!(
            verify(&batch),
            Ok(BatchHeader {
                base_offset: 77,
                partition_leader_epoch: 5,
                ..before
            })
        );
    }

    #[test]
    fn append_time_keeps_the_first_timestamp_as_kafka_does() {
        let mut batch = build();
        let before = verify(&batch).unwrap();
        set_append_time(&mut batch, 2000);
        let after = verify(&batch).unwrap();
        assert_ne!(after.crc, before.crc);
        let attributes = before.attributes.with_timestamp_type(TimestampType::LogAppendTime);
        assert_eq!(
            after,
            BatchHeader {
                attributes,
                max_timestamp: 2000,
                crc: after.crc,
                ..before
            }
        );
    }

    #[test]
    #[should_panic(expected = "exactly one batch")]
    fn two_batches_are_not_patched() {
        let mut batch = build();
        batch.extend_from_within(..);
        set_append_time(&mut batch, 2000);
    }
}
