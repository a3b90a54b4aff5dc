//! Records in the plain form: batches unpacked by the broker, for clients that do not know the batch format. Pure.

use std::ops::Range;

use bytes::Bytes;
use jangada_proto::v1;
use jangada_types::batch::{BatchIter, Records};
use jangada_types::limits::{DECOMPRESSED_BYTES_MAX, PLAIN_HEADER_BYTES, PLAIN_PIECE_BYTES, PLAIN_RECORD_BYTES};
use jangada_types::{BatchHeader, Codec, Offset, Reason, Record};

use crate::error::RequestError;

const _: () = {
    assert!(size_of::<v1::Record>() <= PLAIN_RECORD_BYTES);
    assert!(size_of::<v1::RecordHeader>() <= PLAIN_HEADER_BYTES);
};

/// How much one response may unpack, bytes as [`record_bytes`] counts them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnpackLimits {
    /// A further batch is left out when it would go over this.
    pub asked: usize,
    /// The first batch is cut when it goes over this, and goes on in the next response; unless that leaves no record.
    pub piece: usize,
    /// No record may go over this.
    pub most: usize,
}

impl UnpackLimits {
    /// For a fetch that asks for so many bytes, of a broker whose responses carry `most`.
    pub fn new(asked: usize, most: usize) -> Self {
        let piece = PLAIN_PIECE_BYTES.max(asked).min(most);
        Self { asked, piece, most }
    }
}

/// The records of one response.
#[derive(Debug, Default)]
pub(crate) struct Unpacked {
    pub records: Vec<v1::Record>,
    /// Where to go on.
    pub next_offset: Offset,
    /// What the records take.
    pub bytes: usize,
}

/// Unpacks batches, from the record at `within.start` on, up to one that cannot be read. They are all that is to be seen up to
/// `within.end`. Needs up to `DECOMPRESSED_BYTES_MAX` beside the result.
///
/// # Errors
/// The first batch cannot be read, or no response can carry its first record.
pub(crate) fn unpack(batches: Bytes, within: Range<Offset>, limits: UnpackLimits) -> Result<Unpacked, RequestError> {
    let from = within.start;
    let mut unpacked = Unpacked {
        next_offset: from,
        ..Unpacked::default()
    };
    for batch in BatchIter::new(batches) {
        let end = unpacked.end();
        let added = batch.map_err(RequestError::from).and_then(|(header, batch)| {
            let added = unpacked.add(&header, &batch, from, limits);
            added.map_err(|error| with_place(error, &header))
        });
        match added {
            Ok(true) => {}
            Ok(false) => return Ok(unpacked),
            Err(error) if end.records == 0 => return Err(error),
            // What comes before it can be read all the same. The next response says what is wrong.
            Err(_) => {
                unpacked.cut(end);
                return Ok(unpacked);
            }
        }
    }
    // Behind the last record there may be what this reader does not see.
    unpacked.next_offset = within.end;
    Ok(unpacked)
}

/// Whether unpacking these is little work: nothing is compressed.
pub(crate) fn is_light(batches: &Bytes) -> bool {
    let plain = |batch: Result<(BatchHeader, Bytes), _>| {
        batch.is_ok_and(|(header, _)| matches!(header.attributes.codec(), Ok(Codec::None)))
    };
    BatchIter::new(batches.clone()).all(plain)
}

/// What a record counts for.
fn record_bytes(record: &v1::Record) -> usize {
    let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
    let headers = record.headers.iter();
    PLAIN_RECORD_BYTES
        + length(&record.key)
        + length(&record.value)
        + headers
            .map(|header| PLAIN_HEADER_BYTES + header.key.len() + length(&header.value))
            .sum::<usize>()
}

/// Where the records of some batches end.
struct End {
    records: usize,
    bytes: usize,
    next_offset: Offset,
}

impl Unpacked {
    fn end(&self) -> End {
        End {
            records: self.records.len(),
            bytes: self.bytes,
            next_offset: self.next_offset,
        }
    }

    /// Takes out what was added since.
    fn cut(&mut self, end: End) {
        self.records.truncate(end.records);
        (self.bytes, self.next_offset) = (end.bytes, end.next_offset);
    }

    /// False: there is no room for more.
    fn add(
        &mut self,
        header: &BatchHeader,
        batch: &Bytes,
        from: Offset,
        limits: UnpackLimits,
    ) -> Result<bool, RequestError> {
        let is_first = self.records.is_empty();
        // Unpacked it takes more than packed, so there is no need to look.
        if !is_first && self.bytes + batch.len() > limits.asked {
            return Ok(false);
        }
        let limit = if is_first {
            limits.piece
        } else {
            limits.asked.min(limits.piece)
        };
        let end = self.end();
        let mut is_whole = true;
        let mut has_room = true;
        for record in Records::new(batch, DECOMPRESSED_BYTES_MAX)? {
            let record = record?;
            let offset = record.offset;
            if offset < from {
                is_whole = false;
                continue;
            }
            let record = plain(record);
            let record_bytes = record_bytes(&record);
            if self.bytes + record_bytes > limit {
                if !is_first {
                    self.cut(end);
                    return Ok(false);
                }
                (is_whole, has_room) = (false, false);
                if !self.records.is_empty() {
                    break;
                }
                if record_bytes > limits.most {
                    return Err(too_large(offset, record_bytes, limits.most));
                }
            }
            self.bytes += record_bytes;
            self.next_offset = Offset(offset.get() + 1);
            self.records.push(record);
            if !has_room {
                // One record is more than a piece has room for: it comes alone.
                break;
            }
        }
        if has_room {
            // Compaction may have left no record for the last of its offsets.
            let end = header.base_offset + i64::from(header.last_offset_delta) + 1;
            self.next_offset = self.next_offset.max(Offset(end));
        }
        if !is_whole && header.attributes.codec()? != Codec::None {
            // Slices of the unpacked batch would keep all of it.
            self.records[end.records..].iter_mut().for_each(own);
        }
        Ok(has_room)
    }
}

/// Says where the batch lies that cannot be read, so that a client can go on after it.
fn with_place(error: RequestError, header: &BatchHeader) -> RequestError {
    if error.reason == Reason::RecordTooLarge {
        return error;
    }
    // The broker gives each stored batch its place, and has held the count against the records that it knew of.
    let next_offset = header
        .base_offset
        .saturating_add(i64::from(header.last_offset_delta))
        .saturating_add(1);
    error
        .with("offset", header.base_offset)
        .with("next_offset", next_offset)
}

fn too_large(offset: Offset, bytes: usize, limit: usize) -> RequestError {
    let message = format!(
        "the record at offset {offset} takes {bytes} bytes in the plain form, and a response carries {limit}: fetch it \
         in the raw form"
    );
    RequestError::new(Reason::RecordTooLarge, message)
        .with("offset", offset)
        .with("next_offset", offset.get() + 1)
        .with("actual", bytes)
        .with("limit", limit)
}

fn plain(record: Record) -> v1::Record {
    let headers = record.headers.into_iter().map(|header| v1::RecordHeader {
        key: header.key.to_string(),
        value: header.value,
    });
    v1::Record {
        key: record.key,
        value: record.value,
        headers: headers.collect(),
        timestamp_ms: Some(record.timestamp_ms),
        offset: record.offset.get(),
    }
}

fn own(record: &mut v1::Record) {
    let values = record.headers.iter_mut().map(|header| &mut header.value);
    for bytes in [&mut record.key, &mut record.value].into_iter().chain(values) {
        *bytes = bytes.as_deref().map(Bytes::copy_from_slice);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jangada_types::batch::{set_position, set_producer};
    use jangada_types::{BatchBuilder, LeaderEpoch, ProducerEpoch, ProducerId, Sequence};

    const VALUE_BYTES: usize = 1000;
    const RECORD: usize = PLAIN_RECORD_BYTES + VALUE_BYTES;

    /// Batches of so many records each, from offset 0 on.
    fn batches(codec: Codec, counts: &[usize]) -> Bytes {
        let mut all = Vec::new();
        let mut next = 0;
        for &count in counts {
            let mut builder = BatchBuilder::new(codec);
            for _ in 0..count {
                builder.append(1, None, Some(&[7; VALUE_BYTES]), []).unwrap();
            }
            let mut batch = builder.build().to_vec();
            set_position(&mut batch, Offset(next), LeaderEpoch(1));
            next += i64::try_from(count).unwrap();
            all.extend(batch);
        }
        all.into()
    }

    /// Of batches with nothing left out behind them.
    fn unpack(batches: Bytes, from: Offset, limits: UnpackLimits) -> Result<Unpacked, RequestError> {
        let last = BatchIter::new(batches.clone()).map_while(Result::ok).last();
        let end = last.map_or(from, |(header, _)| {
            Offset(header.base_offset + i64::from(header.last_offset_delta) + 1)
        });
        super::unpack(batches, from..end, limits)
    }

    #[test]
    fn a_reader_goes_on_behind_what_it_does_not_see() {
        let log = batches(Codec::None, &[3]);
        let roomy = limits(8 * RECORD, 100 * RECORD);
        let all = super::unpack(log.clone(), Offset(1)..Offset(9), roomy).unwrap();
        assert_eq!((offsets(&all), all.next_offset), (vec![1, 2], Offset(9)));
        let nothing = super::unpack(Bytes::new(), Offset(1)..Offset(9), roomy).unwrap();
        assert_eq!((nothing.records.len(), nothing.next_offset), (0, Offset(9)));
        let piece = super::unpack(log, Offset(0)..Offset(9), limits(1, 2 * RECORD)).unwrap();
        assert_eq!((offsets(&piece), piece.next_offset), (vec![0, 1], Offset(2)));
    }

    fn offsets(unpacked: &Unpacked) -> Vec<i64> {
        unpacked.records.iter().map(|record| record.offset).collect()
    }

    fn limits(asked: usize, most: usize) -> UnpackLimits {
        UnpackLimits {
            asked,
            piece: most,
            most,
        }
    }

    #[test]
    fn batches_are_added_while_they_fit() {
        for codec in [Codec::None, Codec::Zstd] {
            let log = batches(codec, &[3, 2, 4]);
            let all = unpack(log.clone(), Offset(1), limits(8 * RECORD, 100 * RECORD)).unwrap();
            assert_eq!(offsets(&all), (1..9).collect::<Vec<_>>());
            assert_eq!((all.next_offset, all.bytes), (Offset(9), 8 * RECORD));
            let two = unpack(log.clone(), Offset(1), limits(8 * RECORD - 1, 100 * RECORD)).unwrap();
            assert_eq!(offsets(&two), [1, 2, 3, 4]);
            assert_eq!((two.next_offset, two.bytes), (Offset(5), 4 * RECORD));
        }
    }

    #[test]
    fn the_first_batch_comes_whole_although_less_was_asked_for() {
        let first = unpack(batches(Codec::Gzip, &[3, 2]), Offset(0), limits(1, 100 * RECORD)).unwrap();
        assert_eq!(offsets(&first), [0, 1, 2]);
        assert_eq!(first.next_offset, Offset(3));
    }

    #[test]
    fn a_batch_that_no_response_can_carry_comes_in_pieces() {
        let log = batches(Codec::Lz4, &[10]);
        let mut from = Offset(0);
        let mut seen = Vec::new();
        while from < Offset(10) {
            let piece = unpack(log.clone(), from, limits(RECORD, 4 * RECORD)).unwrap();
            assert!(piece.bytes <= 4 * RECORD);
            seen.push(offsets(&piece));
            from = piece.next_offset;
        }
        assert_eq!(seen, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    }

    #[test]
    fn what_comes_before_a_batch_that_cannot_be_read_is_given() {
        for codec in [Codec::None, Codec::Gzip] {
            let mut log = batches(codec, &[3, 2, 4]).to_vec();
            let second = BatchHeader::parse(&log).unwrap().total_size();
            let third = second + BatchHeader::parse(&log[second..]).unwrap().total_size();
            log[third - 1] ^= 1;
            let (log, roomy) = (Bytes::from(log), limits(100 * RECORD, 100 * RECORD));
            let sound = unpack(log.clone(), Offset(1), roomy).unwrap();
            assert_eq!(offsets(&sound), [1, 2]);
            assert_eq!((sound.next_offset, sound.bytes), (Offset(3), 2 * RECORD));
            let error = unpack(log.slice(second..), sound.next_offset, roomy).unwrap_err();
            assert_eq!(error.reason, Reason::CorruptBatch);
            assert_eq!(
                (&*error.metadata["offset"], &*error.metadata["next_offset"]),
                ("3", "5")
            );
        }
    }

    #[test]
    fn of_a_batch_whose_second_record_is_wrong_nothing_is_given() {
        let mut log = batches(Codec::None, &[3, 2]).to_vec();
        let second = BatchHeader::parse(&log).unwrap().total_size();
        let batch = &mut log[second..];
        // Length (two bytes), attributes and timestamp delta stand before it.
        let delta = BatchHeader::LEN + (batch.len() - BatchHeader::LEN) / 2 + 4;
        assert_eq!(batch[delta], 1 << 1);
        batch[delta] = 0;
        // Makes the checksum right again.
        set_producer(batch, ProducerId::NONE, ProducerEpoch::NONE, Sequence::NONE);
        let (log, roomy) = (Bytes::from(log), limits(100 * RECORD, 100 * RECORD));
        let sound = unpack(log.clone(), Offset(0), roomy).unwrap();
        assert_eq!(offsets(&sound), [0, 1, 2]);
        assert_eq!((sound.next_offset, sound.bytes), (Offset(3), 3 * RECORD));
        let error = unpack(log.slice(second..), sound.next_offset, roomy).unwrap_err();
        assert_eq!(error.reason, Reason::InvalidBatch);
    }

    #[test]
    fn a_record_that_no_response_can_carry_is_named() {
        let error = unpack(batches(Codec::None, &[2]), Offset(1), limits(RECORD, RECORD - 1)).unwrap_err();
        assert_eq!(error.reason, Reason::RecordTooLarge);
        assert!(error.message.contains("offset 1"), "{error}");
        assert_eq!(error.metadata["next_offset"], "2");
    }

    #[test]
    fn pieces_are_as_small_as_what_clients_accept_by_default() {
        let limits = UnpackLimits::new(1 << 20, 24 << 20);
        assert_eq!((limits.asked, limits.piece, limits.most), (1 << 20, 3 << 20, 24 << 20));
        let limits = UnpackLimits::new(16 << 20, 24 << 20);
        assert_eq!(limits.piece, 16 << 20, "whoever asks for more gets it");
        let limits = UnpackLimits::new(1 << 20, 2 << 20);
        assert_eq!(limits.piece, 2 << 20, "the broker's budget is the bound");
    }

    #[test]
    fn a_record_larger_than_a_piece_comes_alone() {
        let log = batches(Codec::Lz4, &[3]);
        let limits = UnpackLimits {
            asked: 1,
            piece: RECORD - 1,
            most: RECORD,
        };
        for offset in 0..3 {
            let one = unpack(log.clone(), Offset(offset), limits).unwrap();
            assert_eq!(offsets(&one), [offset]);
            assert_eq!(one.next_offset, Offset(offset + 1));
        }
    }

    #[test]
    fn a_bomb_stays_within_the_room() {
        let mut builder = BatchBuilder::new(Codec::Zstd);
        for _ in 0..30_000 {
            builder.append(1, None, Some(&[0; VALUE_BYTES]), []).unwrap();
        }
        let batch = builder.build();
        assert!(batch.len() < VALUE_BYTES * 300, "{} bytes", batch.len());
        let most = 1000 * RECORD;
        let piece = unpack(batch, Offset(0), limits(1, most)).unwrap();
        assert_eq!((piece.records.len(), piece.bytes), (1000, most));
    }
}
