//! Leaves out what a reader must not see of transactions.
//!
//! Brokers send all batches up to the end that the isolation allows, with the list of aborted transactions among them, and the reader
//! leaves out what it must not see. So it still notices when batches are missing, which a reader that gets holes cannot.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use jangada_proto::v1;
use jangada_types::batch::{BatchIter, EndMarker};

/// The batches of a response that a reader sees: without control batches, and without those of the transactions in `aborted`, which is
/// ordered by first offset. `None`: all are seen. What cannot be read is left to the decoder, with all behind it.
pub(crate) fn visible(batches: &Bytes, mut aborted: Vec<v1::AbortedTransaction>) -> Option<Bytes> {
    aborted.sort_by_key(|transaction| transaction.first_offset);
    let mut aborted = aborted.into_iter().peekable();
    let mut open: BTreeSet<i64> = BTreeSet::new();
    // The bytes up to the first batch that is left out, then those of the batches that are not.
    let mut seen: Option<BytesMut> = None;
    let mut at = 0;
    for batch in BatchIter::new(batches.clone()) {
        let Ok((header, bytes)) = batch else {
            if let Some(seen) = &mut seen {
                seen.extend_from_slice(&batches[at..]);
            }
            break;
        };
        let producer = header.producer_id.get();
        let last = header.base_offset.saturating_add(i64::from(header.last_offset_delta));
        while let Some(begun) = aborted.next_if(|transaction| transaction.first_offset <= last) {
            open.insert(begun.producer_id);
        }
        let is_hidden = if header.attributes.is_control() {
            // An aborted transaction ends with its marker: what its producer writes then is another one.
            if matches!(EndMarker::read(&bytes), Ok(Some(EndMarker { commit: false, .. }))) {
                open.remove(&producer);
            }
            true
        } else {
            header.attributes.is_transactional() && open.contains(&producer)
        };
        match &mut seen {
            None if is_hidden => seen = Some(BytesMut::from(&batches[..at])),
            Some(seen) if !is_hidden => seen.extend_from_slice(&bytes),
            _ => {}
        }
        at += bytes.len();
    }
    seen.map(BytesMut::freeze)
}

#[cfg(test)]
mod tests {
    use jangada_types::batch::{decode_records, set_position};
    use jangada_types::{BatchBuilder, Codec, LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence};

    use super::*;

    /// A batch of one record at an offset; of a transaction if a producer is named.
    fn batch(offset: i64, producer: Option<i64>, value: &str) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        builder
            .append(0, None, Some(value.as_bytes()), [])
            .expect("a small record");
        if let Some(id) = producer {
            builder
                .producer(ProducerId(id), ProducerEpoch(0), Sequence(0))
                .transactional();
        }
        at(offset, builder.build())
    }

    fn at(offset: i64, batch: Bytes) -> Bytes {
        let mut batch = BytesMut::from(&batch[..]);
        set_position(&mut batch, Offset(offset), LeaderEpoch(1));
        batch.freeze()
    }

    fn marker(offset: i64, producer: i64, commit: bool) -> Bytes {
        let marker = EndMarker {
            producer_id: ProducerId(producer),
            producer_epoch: ProducerEpoch(1),
            coordinator_epoch: 1,
            commit,
        };
        at(offset, marker.build(0))
    }

    fn values(batches: &[Bytes], aborted: &[(i64, i64)]) -> String {
        let all = Bytes::from(batches.concat());
        let aborted = aborted
            .iter()
            .map(|(producer_id, first_offset)| v1::AbortedTransaction {
                producer_id: *producer_id,
                first_offset: *first_offset,
            });
        let seen = visible(&all, aborted.collect()).unwrap_or(all);
        let records =
            BatchIter::new(seen).flat_map(|batch| decode_records(&batch.expect("whole").1, 1 << 20).expect("whole"));
        records
            .map(|record| String::from_utf8(record.value.expect("a value").to_vec()).expect("text"))
            .collect()
    }

    #[test]
    fn plain_batches_are_not_copied() {
        let all = Bytes::from([batch(0, None, "a"), batch(1, Some(7), "b")].concat());
        assert_eq!(visible(&all, Vec::new()), None);
    }

    #[test]
    fn aborted_transactions_and_markers_are_left_out() {
        let log = [
            batch(0, None, "a"),
            batch(1, Some(7), "b"),
            batch(2, Some(8), "c"),
            batch(3, None, "d"),
            marker(4, 7, false),
            // Another transaction of the same producer, which is committed.
            batch(5, Some(7), "e"),
            marker(6, 8, true),
            batch(7, Some(7), "f"),
            marker(8, 7, true),
            batch(9, Some(8), "g"),
            marker(10, 8, false),
        ];
        assert_eq!(values(&log, &[(8, 9), (7, 1)]), "acdef");
        // A response that begins in the middle of a transaction.
        assert_eq!(values(&log[2..], &[(7, 1), (8, 9)]), "cdef");
        assert_eq!(values(&log[4..6], &[(7, 1)]), "e");
        // Who reads uncommitted gets no list: only markers are left out.
        assert_eq!(values(&log, &[]), "abcdefg");
    }

    #[test]
    fn what_cannot_be_read_is_left_to_the_decoder() {
        let mut all = [marker(0, 7, true), batch(1, None, "a")].concat();
        all.extend_from_slice(b"garbage");
        let seen = visible(&Bytes::from(all), Vec::new()).expect("the marker is left out");
        assert!(seen.ends_with(b"garbage"));
        assert_eq!(BatchIter::new(seen).filter(Result::is_ok).count(), 1);
    }
}
