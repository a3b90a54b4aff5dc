//! The records of messages, taken out of the batches that hold them. Pure.

use bytes::Bytes;
use jangada_types::batch::{BatchIter, Records};
use jangada_types::limits::{DECOMPRESSED_BYTES_MAX, PLAIN_HEADER_BYTES, PLAIN_RECORD_BYTES};
use jangada_types::{Codec, Header, Record};

use crate::error::RequestError;
use crate::queues::outgoing::MESSAGE_ID_HEADER;

/// What was sent as a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Body {
    pub offset: u64,
    pub key: Option<Bytes>,
    /// None: a record without a value.
    pub body: Option<Bytes>,
    pub headers: Vec<Header>,
    pub timestamp_ms: i64,
    pub message_id: Option<String>,
}

impl Body {
    fn of(mut record: Record) -> Option<Self> {
        let offset = u64::try_from(record.offset.get()).ok()?;
        let at = record
            .headers
            .iter()
            .rposition(|header| header.key == MESSAGE_ID_HEADER);
        let id = at.map(|at| record.headers.remove(at));
        let message_id = id.and_then(|id| String::from_utf8(id.value?.to_vec()).ok());
        Some(Self {
            offset,
            key: record.key,
            body: record.value,
            headers: record.headers,
            timestamp_ms: record.timestamp_ms,
            message_id,
        })
    }

    /// What it counts for, as a record in the plain form does.
    pub fn bytes(&self) -> usize {
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let headers = self.headers.iter();
        let headers = headers.map(|header| PLAIN_HEADER_BYTES + header.key.len() + length(&header.value));
        let of_id = self.message_id.as_ref().map_or(0, String::len);
        PLAIN_RECORD_BYTES + length(&self.key) + length(&self.body) + of_id + headers.sum::<usize>()
    }

    /// Keeps its own bytes and not the batch that they are slices of.
    fn own(&mut self) {
        let values = self.headers.iter_mut().map(|header| &mut header.value);
        for bytes in [&mut self.key, &mut self.body].into_iter().chain(values) {
            *bytes = bytes.as_deref().map(Bytes::copy_from_slice);
        }
    }
}

/// What was taken out of batches.
#[derive(Debug, Default)]
pub(crate) struct Picked {
    pub bodies: Vec<Body>,
    /// All wanted offsets below it were looked for.
    pub looked_to: u64,
}

/// Takes the records at the wanted offsets, which are in their order, out of batches that begin at or below the first of them. Each batch
/// is unpacked once, and one without a wanted record not at all. Needs up to `DECOMPRESSED_BYTES_MAX` beside the result.
///
/// # Errors
/// A batch with a wanted record cannot be read.
pub(crate) fn pick(batches: Bytes, wanted: &[u64]) -> Result<Picked, RequestError> {
    let mut picked = Picked::default();
    let mut rest = wanted;
    for batch in BatchIter::new(batches) {
        let Some(first) = rest.first().copied() else { break };
        let (header, batch) = batch?;
        let end = header
            .base_offset
            .saturating_add(i64::from(header.last_offset_delta))
            .saturating_add(1);
        let end = u64::try_from(end).unwrap_or(0);
        picked.looked_to = end;
        if end <= first {
            continue;
        }
        let count = rest.iter().take_while(|offset| **offset < end).count();
        let (inside, behind) = rest.split_at(count);
        let before = picked.bodies.len();
        let bytes = pick_records(&batch, inside, &mut picked.bodies)?;
        if bytes < batch.len() / 2 {
            // Small pieces would keep all of a large batch in memory for as long as they are kept.
            picked.bodies[before..].iter_mut().for_each(Body::own);
        }
        rest = behind;
    }
    Ok(picked)
}

/// Whether reading these is little work: nothing is compressed.
pub(crate) fn is_light(batches: &Bytes) -> bool {
    BatchIter::new(batches.clone())
        .all(|batch| batch.is_ok_and(|(header, _)| matches!(header.attributes.codec(), Ok(Codec::None))))
}

/// Takes records out of one batch. Returns their bytes.
fn pick_records(batch: &Bytes, wanted: &[u64], bodies: &mut Vec<Body>) -> Result<usize, RequestError> {
    let mut wanted = wanted.iter().copied().peekable();
    let mut bytes = 0;
    for record in Records::new(batch, DECOMPRESSED_BYTES_MAX)? {
        let Some(next) = wanted.peek().copied() else { break };
        let Some(body) = Body::of(record?) else { continue };
        if body.offset == next {
            wanted.next();
            bytes += body.bytes();
            bodies.push(body);
        } else if body.offset > next {
            // It is not in the batch: whoever looks for it says so.
            wanted.next();
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use jangada_types::batch::set_position;
    use jangada_types::{BatchBuilder, LeaderEpoch, Offset};

    use super::*;

    /// Batches of so many records each, from offset 0 on; the value of each is its offset.
    fn batches(codec: Codec, counts: &[i64]) -> Bytes {
        let mut all = Vec::new();
        let mut next = 0;
        for &count in counts {
            let mut builder = BatchBuilder::new(codec);
            for offset in next..next + count {
                let value = offset.to_string();
                let id = value.as_bytes();
                let headers = [("trace", Some(&b"1"[..])), (MESSAGE_ID_HEADER, Some(id))];
                builder
                    .append(5, None, Some(value.as_bytes()), headers)
                    .expect("it is small");
            }
            let mut batch = builder.build().to_vec();
            set_position(&mut batch, Offset(next), LeaderEpoch(1));
            next += count;
            all.extend(batch);
        }
        all.into()
    }

    fn offsets(picked: &Picked) -> Vec<u64> {
        picked.bodies.iter().map(|body| body.offset).collect()
    }

    #[test]
    fn wanted_records_are_taken_from_any_batch() {
        for codec in [Codec::None, Codec::Zstd] {
            let log = batches(codec, &[10, 5, 10]);
            let picked = pick(log, &[3, 4, 9, 17, 24]).expect("the batches are sound");
            assert_eq!(offsets(&picked), [3, 4, 9, 17, 24]);
            assert_eq!(picked.looked_to, 25);
            let body = &picked.bodies[3];
            assert_eq!(body.body.as_deref(), Some(&b"17"[..]));
            assert_eq!(body.message_id.as_deref(), Some("17"));
            assert_eq!(body.headers.len(), 1, "the id is no header any more");
        }
    }

    #[test]
    fn what_is_not_there_is_left_out_and_what_was_not_read_is_told() {
        let log = batches(Codec::None, &[10, 5]);
        let picked = pick(log.clone(), &[2, 20]).expect("the batches are sound");
        assert_eq!((offsets(&picked), picked.looked_to), (vec![2], 15));
        let picked = pick(log.slice(..0), &[2]).expect("there is none");
        assert_eq!((offsets(&picked), picked.looked_to), (vec![], 0));
    }

    #[test]
    fn a_damaged_batch_is_an_error_only_if_it_is_wanted() {
        let first = batches(Codec::None, &[10]).len();
        let mut log = batches(Codec::None, &[10, 5, 5]).to_vec();
        log[first + 70] ^= 1;
        let log = Bytes::from(log);
        assert_eq!(offsets(&pick(log.clone(), &[3]).expect("the first is sound")), [3]);
        pick(log, &[3, 12]).expect_err("the second is damaged");
    }

    #[test]
    fn a_small_piece_does_not_keep_a_large_batch() {
        let log = batches(Codec::None, &[1_000]);
        let picked = pick(log.clone(), &[500]).expect("the batches are sound");
        let body = picked.bodies[0].body.as_ref().expect("it has a value");
        assert!(!log.as_ptr_range().contains(&body.as_ptr()), "it was copied");
    }
}
