//! The records of messages, taken out of the batches that hold them. Pure.

use std::sync::Arc;

use bytes::Bytes;
use jangada_types::batch::{BatchIter, Records};
use jangada_types::limits::{DECOMPRESSED_BYTES_MAX, PLAIN_HEADER_BYTES, PLAIN_RECORD_BYTES};
use jangada_types::{BatchError, Codec, Header, NO_TIMESTAMP, Record};

use super::damaged::Damaged;
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

    /// What is known of a record that cannot be read.
    pub fn unknown(offset: u64) -> Self {
        Self {
            offset,
            key: None,
            body: None,
            headers: Vec::new(),
            timestamp_ms: NO_TIMESTAMP,
            message_id: None,
        }
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
    /// Wanted records that cannot be read.
    pub damaged: Vec<Damaged>,
    /// All wanted offsets below it were looked for.
    pub looked_to: u64,
}

impl Picked {
    fn cannot_read(&mut self, wanted: &[u64], error: &BatchError) {
        let why: Arc<str> = error.to_string().into();
        let damaged = wanted.iter().map(|offset| Damaged {
            offset: *offset,
            why: why.clone(),
        });
        self.damaged.extend(damaged);
    }
}

/// Takes the records at the wanted offsets, which are in their order, out of batches that begin at or below the first of them. Each batch
/// is unpacked once, and one without a wanted record not at all. Needs up to `DECOMPRESSED_BYTES_MAX` beside the result.
pub(crate) fn pick(batches: Bytes, wanted: &[u64]) -> Picked {
    let mut picked = Picked::default();
    let mut rest = wanted;
    for batch in BatchIter::new(batches) {
        let Some(first) = rest.first().copied() else { break };
        let (header, batch) = match batch {
            Ok(batch) => batch,
            Err(error) => {
                // Where the next batch begins is not known: whoever wants more reads from there.
                picked.cannot_read(&rest[..1], &error);
                picked.looked_to = first.saturating_add(1);
                break;
            }
        };
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
        match pick_records(&batch, inside, &mut picked.bodies) {
            // Small pieces would keep all of a large batch in memory for as long as they are kept.
            Ok(bytes) if bytes < batch.len() / 2 => picked.bodies[before..].iter_mut().for_each(Body::own),
            Ok(_) => {}
            Err(error) => {
                picked.bodies.truncate(before);
                picked.cannot_read(inside, &error);
            }
        }
        rest = behind;
    }
    picked
}

/// Whether reading these is little work: nothing is compressed.
pub(crate) fn is_light(batches: &Bytes) -> bool {
    BatchIter::new(batches.clone())
        .all(|batch| batch.is_ok_and(|(header, _)| matches!(header.attributes.codec(), Ok(Codec::None))))
}

/// Takes records out of one batch. Returns their bytes.
fn pick_records(batch: &Bytes, wanted: &[u64], bodies: &mut Vec<Body>) -> Result<usize, BatchError> {
    let mut wanted = wanted.iter().copied().peekable();
    let mut bytes = 0;
    for record in Records::new(batch, DECOMPRESSED_BYTES_MAX)? {
        if wanted.peek().is_none() {
            break;
        }
        let Some(body) = Body::of(record?) else { continue };
        // Those before it are not in the batch: whoever looks for them says so.
        while wanted.next_if(|next| *next < body.offset).is_some() {}
        if wanted.next_if_eq(&body.offset).is_some() {
            bytes += body.bytes();
            bodies.push(body);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use jangada_types::batch::set_position;
    use jangada_types::{BatchBuilder, LeaderEpoch, Offset};

    use super::*;

    #[test]
    fn what_is_left_out_before_a_record_does_not_hide_it() {
        // The first two batches were aborted, and are not among what was read.
        let all = batches(Codec::None, &[1, 1, 1, 2]);
        let lengths: usize = BatchIter::new(all.clone())
            .take(2)
            .map(|batch| batch.expect("it is whole").1.len())
            .sum();
        let picked = pick(all.slice(lengths..), &[0, 1, 2, 4]);
        let offsets: Vec<u64> = picked.bodies.iter().map(|body| body.offset).collect();
        assert_eq!(offsets, [2, 4]);
        assert!(picked.damaged.is_empty());
    }

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
            let picked = pick(log, &[3, 4, 9, 17, 24]);
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
        let picked = pick(log.clone(), &[2, 20]);
        assert_eq!((offsets(&picked), picked.looked_to), (vec![2], 15));
        let picked = pick(log.slice(..0), &[2]);
        assert_eq!((offsets(&picked), picked.looked_to), (vec![], 0));
    }

    #[test]
    fn of_a_damaged_batch_the_wanted_records_are_named_and_the_others_are_read() {
        let first = batches(Codec::None, &[10]).len();
        let mut log = batches(Codec::None, &[10, 5, 5]).to_vec();
        log[first + 70] ^= 1;
        let log = Bytes::from(log);
        assert_eq!(pick(log.clone(), &[3]).damaged, [], "the first is sound");
        let picked = pick(log, &[3, 12, 14, 17]);
        assert_eq!((offsets(&picked), picked.looked_to), (vec![3, 17], 20));
        let damaged: Vec<u64> = picked.damaged.iter().map(|damaged| damaged.offset).collect();
        assert_eq!(damaged, [12, 14]);
    }

    #[test]
    fn behind_a_damaged_frame_the_next_record_is_looked_for_anew() {
        let first = batches(Codec::None, &[10]).len();
        let log = batches(Codec::None, &[10, 5]).slice(..first + 40);
        let picked = pick(log, &[3, 12, 14]);
        assert_eq!((offsets(&picked), picked.looked_to), (vec![3], 13));
        assert_eq!(picked.damaged.len(), 1);
        assert_eq!(picked.damaged[0].offset, 12);
    }

    #[test]
    fn a_small_piece_does_not_keep_a_large_batch() {
        let log = batches(Codec::None, &[1_000]);
        let picked = pick(log.clone(), &[500]);
        let body = picked.bodies[0].body.as_ref().expect("it has a value");
        assert!(!log.as_ptr_range().contains(&body.as_ptr()), "it was copied");
    }
}
