//! Records in the plain form: packed into one record batch by the broker, for clients that do not know the batch format.

use bytes::Bytes;
use jangada_proto::v1::{Compression, PlainRecords, ProducerSequence};
use jangada_types::{BatchBuilder, Codec, ProducerEpoch, ProducerId, Reason, Sequence};
use prost::Message as _;

use crate::error::RequestError;
use crate::node::Node;
use crate::pool::SMALL_BYTES;

/// Packs records into one batch, not on a worker of the runtime when it is much work.
///
/// # Errors
/// INVALID_REQUEST (no records, or a producer out of its bounds), UNSUPPORTED_CODEC, and what a batch refuses.
pub(crate) async fn pack(node: &Node, records: PlainRecords, is_transactional: bool) -> Result<Bytes, RequestError> {
    let now_ms = node.partitions.clock.now_ms();
    if records.encoded_len() <= SMALL_BYTES {
        return batch_of(&records, is_transactional, now_ms);
    }
    node.partitions
        .compute
        .run(move || batch_of(&records, is_transactional, now_ms))
        .await?
}

fn batch_of(records: &PlainRecords, is_transactional: bool, now_ms: i64) -> Result<Bytes, RequestError> {
    if records.records.is_empty() {
        return Err(invalid("the request has no records: send at least one"));
    }
    let mut builder = BatchBuilder::new(codec(records.compression)?);
    if let Some(producer) = &records.producer {
        let (id, epoch, sequence) = producer_of(producer)?;
        builder.producer(id, epoch, sequence);
    } else if is_transactional {
        return Err(invalid(
            "records of a transaction have a producer: set `records.producer` to what InitTransactions gave",
        ));
    }
    if is_transactional {
        builder.transactional();
    }
    for record in &records.records {
        let headers = record
            .headers
            .iter()
            .map(|header| (header.key.as_str(), header.value.as_deref()));
        builder.append(
            record.timestamp_ms.unwrap_or(now_ms),
            record.key.as_deref(),
            record.value.as_deref(),
            headers,
        )?;
    }
    Ok(builder.build())
}

fn codec(compression: i32) -> Result<Codec, RequestError> {
    match Compression::try_from(compression) {
        Ok(Compression::Unspecified | Compression::None) => Ok(Codec::None),
        Ok(Compression::Gzip) => Ok(Codec::Gzip),
        Ok(Compression::Snappy) => Ok(Codec::Snappy),
        Ok(Compression::Lz4) => Ok(Codec::Lz4),
        Ok(Compression::Zstd) => Ok(Codec::Zstd),
        Err(_) => Err(RequestError::new(
            Reason::UnsupportedCodec,
            format!("compression {compression} is not known"),
        )),
    }
}

/// The identity under which the batch is appended at most once.
fn producer_of(producer: &ProducerSequence) -> Result<(ProducerId, ProducerEpoch, Sequence), RequestError> {
    let &ProducerSequence {
        producer_id,
        producer_epoch,
        base_sequence,
    } = producer;
    let Ok(epoch @ 0..) = i16::try_from(producer_epoch) else {
        let message = format!(
            "producer_epoch is {producer_epoch}: 0 to {}, as InitProducer gave it",
            i16::MAX
        );
        return Err(invalid(message));
    };
    if producer_id < 0 {
        return Err(invalid(format!(
            "producer_id is {producer_id}: 0 or more, as InitProducer gave it"
        )));
    }
    if base_sequence < 0 {
        let message = format!("base_sequence is {base_sequence}: 0 to {}", i32::MAX);
        return Err(invalid(message));
    }
    Ok((ProducerId(producer_id), ProducerEpoch(epoch), Sequence(base_sequence)))
}

fn invalid(message: impl Into<String>) -> RequestError {
    RequestError::new(Reason::InvalidRequest, message)
}

#[cfg(test)]
mod tests {
    use jangada_proto::v1::Record;
    use jangada_types::BatchHeader;

    use super::*;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn records(producer: Option<ProducerSequence>) -> PlainRecords {
        let record = |value: &'static [u8]| Record {
            value: Some(Bytes::from_static(value)),
            ..Record::default()
        };
        PlainRecords {
            records: vec![record(b"one"), record(b"two")],
            compression: Compression::None.into(),
            producer,
        }
    }

    fn sequence(producer_id: i64, producer_epoch: i32, base_sequence: i32) -> ProducerSequence {
        ProducerSequence {
            producer_id,
            producer_epoch,
            base_sequence,
        }
    }

    #[test]
    fn a_batch_without_a_producer_has_none() {
        let batch = batch_of(&records(None), false, NOW_MS).expect("it is packed");
        let header = BatchHeader::parse(&batch).expect("a batch");
        assert!(!header.producer_id.is_some());
        assert_eq!((header.record_count, header.max_timestamp), (2, NOW_MS));
    }

    #[test]
    fn the_producer_of_the_request_is_that_of_the_batch() {
        let batch = batch_of(&records(Some(sequence(7, 3, 41))), false, NOW_MS).expect("it is packed");
        let header = BatchHeader::parse(&batch).expect("a batch");
        assert_eq!(header.producer_id, ProducerId(7));
        assert_eq!(header.producer_epoch, ProducerEpoch(3));
        assert_eq!(header.base_sequence, Sequence(41));
    }

    #[test]
    fn the_same_records_of_one_producer_give_the_same_batch() {
        let once = batch_of(&records(Some(sequence(7, 3, 41))), false, NOW_MS).expect("it is packed");
        let again = batch_of(&records(Some(sequence(7, 3, 41))), false, NOW_MS).expect("it is packed");
        assert_eq!(once, again);
    }

    #[test]
    fn a_producer_out_of_its_bounds_is_refused_by_name() {
        for (producer, field) in [
            (sequence(-1, 0, 0), "producer_id"),
            (sequence(7, -1, 0), "producer_epoch"),
            (sequence(7, 32_768, 0), "producer_epoch"),
            (sequence(7, 0, -1), "base_sequence"),
        ] {
            let error = batch_of(&records(Some(producer)), false, NOW_MS).expect_err("it is out of bounds");
            assert_eq!(error.reason, Reason::InvalidRequest);
            assert!(error.message.contains(field), "{error}");
        }
    }
}
