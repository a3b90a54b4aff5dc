//! Reads the records of a batch, with or without keeping them.
//!
//! ```text
//! length varint | attributes i8 | timestamp delta varint | offset delta varint |
//! key length varint, key | value length varint, value | header count varint, (key length, key, value length, value)*
//! ```
//!
//! A length of -1 is null. Every length and count is checked against the bytes that are left before memory is allocated
//! for it.

use bytes::Bytes;

use super::error::{BatchError, Malformed, RecordFlaw};
use super::header::{BatchHeader, TimestampType};
use super::scan::{RecordScan, RecordTimes};
use super::{validate, varint};
use crate::compression::{self, Codec};
use crate::ids::Offset;

/// Bytes of the smallest header: two lengths.
const HEADER_BYTES_MIN: usize = 2;

/// One record, as a consumer gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The record's position in its partition.
    pub offset: Offset,
    /// The record's time, milliseconds since the Unix epoch; [`NO_TIMESTAMP`](super::NO_TIMESTAMP) when the producer
    /// gave none. On a topic with `LogAppendTime` it is the time of the append.
    pub timestamp_ms: i64,
    /// The key, if the record has one; an empty key is a key.
    pub key: Option<Bytes>,
    /// The value; a record without one is a tombstone.
    pub value: Option<Bytes>,
    /// The headers in the order given; a key may appear more than once.
    pub headers: Vec<Header>,
}

/// One header of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The header's key, which may be empty.
    pub key: String,
    /// The header's value, if it has one.
    pub value: Option<Bytes>,
}

/// Decodes all records of one batch. The records of an uncompressed batch are slices of it and keep its memory alive;
/// those of a compressed one share the unpacked bytes.
///
/// Small records take up to 15 times their bytes in memory when all are held at once, headers up to 30 times.
/// [`Records`] gives them one at a time.
///
/// # Errors
/// The errors of [`Records::new`], and [`BatchError::Invalid`] for the first record that is malformed.
pub fn decode_records(batch: &Bytes, max_decompressed: usize) -> Result<Vec<Record>, BatchError> {
    let records = Records::new(batch, max_decompressed)?;
    // `Records::new` has checked the count against the bytes.
    let mut decoded = Vec::with_capacity(records.remaining());
    for record in records {
        decoded.push(record?);
    }
    Ok(decoded)
}

/// Decodes every record of a batch that [`validate`](super::validate()) has accepted, without keeping any, and checks
/// that the greatest timestamp in the header is theirs. The checksum is not checked again.
///
/// # Errors
/// The errors of [`decode_records`].
pub fn validate_records(bytes: &[u8], max_decompressed: usize) -> Result<(), BatchError> {
    validate_records_with_times(bytes, max_decompressed).map(drop)
}

/// Like [`validate_records`]; also returns the times of the records.
///
/// # Errors
/// The errors of [`decode_records`].
pub fn validate_records_with_times(bytes: &[u8], max_decompressed: usize) -> Result<RecordTimes, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    let unpacked;
    let packed = &bytes[BatchHeader::LEN..];
    let mut body = match header.attributes.codec()? {
        Codec::None => packed,
        codec => {
            unpacked = compression::decompress(codec, packed, max_decompressed)?;
            &unpacked
        }
    };
    check_size(body.len(), max_decompressed)?;
    validate::check_count(&header, Some(body.len()))?;
    let mut max_timestamp = i64::MIN;
    let mut times = RecordTimes::default();
    for index in 0..header.record_count {
        let flawed = |flaw| Malformed::Record { index, flaw };
        let raw = RawRecord::take(&mut body, Deltas::only(index)).map_err(flawed)?;
        raw.headers().try_for_each(|header| header.map(drop)).map_err(flawed)?;
        let timestamp = header.base_timestamp.wrapping_add(raw.timestamp_delta);
        max_timestamp = max_timestamp.max(timestamp);
        times.add(timestamp, Some(index));
    }
    if !body.is_empty() {
        return Err(Malformed::TrailingRecords { bytes: body.len() }.into());
    }
    let is_create_time = header.attributes.timestamp_type() == TimestampType::CreateTime;
    if is_create_time && header.max_timestamp != max_timestamp {
        return Err(Malformed::MaxTimestamp {
            max: header.max_timestamp,
            actual: max_timestamp,
        }
        .into());
    }
    Ok(times)
}

/// Checks that `body`, which is not compressed, is exactly `count` records, each with its index as its offset delta. It
/// reads a few bytes of each: [`validate_records`] checks the rest. Returns their times.
pub(super) fn check_places(mut body: &[u8], header: &BatchHeader) -> Result<RecordTimes, Malformed> {
    let mut times = RecordTimes::default();
    for index in 0..header.record_count {
        let front = take_front(&mut body, Deltas::only(index)).map_err(|flaw| Malformed::Record { index, flaw })?;
        times.add(header.base_timestamp.wrapping_add(front.timestamp_delta), Some(index));
    }
    if !body.is_empty() {
        return Err(Malformed::TrailingRecords { bytes: body.len() });
    }
    Ok(times)
}

/// Decompresses the records of a compressed batch that [`validate`](super::validate()) has accepted, piece by piece,
/// and makes the checks that it makes of uncompressed records. Returns their times. Keeps no more than a piece: 64 KiB
/// as a rule, but the whole output of zstd and of snappy without xerial's framing.
///
/// # Errors
/// [`BatchError::Invalid`], and [`BatchError::TooLarge`] when there are more than `max_decompressed` bytes of records.
pub fn validate_packed(bytes: &[u8], max_decompressed: usize) -> Result<RecordTimes, BatchError> {
    let header = BatchHeader::parse(bytes)?;
    let mut scan = RecordScan::new(header.record_count, header.base_timestamp);
    let codec = header.attributes.codec()?;
    compression::decompress_pieces(codec, &bytes[BatchHeader::LEN..], max_decompressed, |piece| {
        scan.feed(piece).map_err(BatchError::from)
    })?;
    Ok(scan.finish()?)
}

/// The records of one batch, decoded one at a time. Ends after the first error. Compaction may have taken some of them: those that are
/// left have the offsets that they had.
#[derive(Debug)]
pub struct Records {
    body: Bytes,
    position: usize,
    next_index: i32,
    /// Those that the next record may have.
    deltas: Deltas,
    /// Number of records; after an error the number that was read.
    count: i32,
    base_offset: i64,
    base_timestamp: i64,
    /// The time of every record, on a topic with `LogAppendTime`.
    append_time: Option<i64>,
}

impl Records {
    /// Checks framing, checksum and count of the batch and decompresses it.
    ///
    /// # Errors
    /// The errors of [`verify`](super::verify), and [`BatchError::TooLarge`] when there are more than
    /// `max_decompressed` bytes of records.
    pub fn new(batch: &Bytes, max_decompressed: usize) -> Result<Self, BatchError> {
        let header = validate::verify(batch)?;
        let packed = batch.slice(BatchHeader::LEN..);
        let body = match header.attributes.codec()? {
            Codec::None => packed,
            codec => compression::decompress(codec, &packed, max_decompressed)?.into(),
        };
        check_size(body.len(), max_decompressed)?;
        validate::check_count_left(&header, Some(body.len()))?;
        let length = i64::from(header.last_offset_delta) + 1;
        if header.base_offset.checked_add(length).is_none() {
            return Err(Malformed::BaseOffset(header.base_offset).into());
        }
        let append_time = match header.attributes.timestamp_type() {
            TimestampType::CreateTime => None,
            TimestampType::LogAppendTime => Some(header.max_timestamp),
        };
        Ok(Self {
            body,
            position: 0,
            next_index: 0,
            deltas: Deltas::up_to(header.last_offset_delta),
            count: header.record_count,
            base_offset: header.base_offset,
            base_timestamp: header.base_timestamp,
            append_time,
        })
    }

    fn remaining(&self) -> usize {
        (self.count - self.next_index) as usize
    }

    fn decode_next(&mut self) -> Result<Record, Malformed> {
        let index = self.next_index;
        let flawed = |flaw| Malformed::Record { index, flaw };
        let mut rest = &self.body[self.position..];
        let raw = RawRecord::take(&mut rest, self.deltas).map_err(flawed)?;
        let share = |bytes: &[u8]| self.body.slice_ref(bytes);
        let mut headers = Vec::with_capacity(raw.header_count);
        for header in raw.headers() {
            let (key, value) = header.map_err(flawed)?;
            headers.push(Header {
                key: key.to_owned(),
                value: value.map(share),
            });
        }
        let record = Record {
            offset: Offset(self.base_offset + i64::from(raw.offset_delta)),
            // Deltas wrap, as they do in Kafka, so that timestamps far apart come back as they were.
            timestamp_ms: self
                .append_time
                .unwrap_or(self.base_timestamp.wrapping_add(raw.timestamp_delta)),
            key: raw.key.map(share),
            value: raw.value.map(share),
            headers,
        };
        let left = rest.len();
        self.position = self.body.len() - left;
        self.deltas = self.deltas.above(raw.offset_delta);
        self.next_index += 1;
        if self.next_index == self.count && left != 0 {
            return Err(Malformed::TrailingRecords { bytes: left });
        }
        Ok(record)
    }
}

impl Iterator for Records {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next_index == self.count {
            return None;
        }
        let record = self.decode_next();
        if record.is_err() {
            self.count = self.next_index;
        }
        Some(record.map_err(BatchError::from))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.remaining();
        // An error may end the iteration early.
        (left.min(1), Some(left))
    }
}

pub(super) fn check_size(bytes: usize, max_decompressed: usize) -> Result<(), BatchError> {
    match bytes > max_decompressed {
        true => Err(BatchError::TooLarge {
            size: bytes,
            limit: max_decompressed,
        }),
        false => Ok(()),
    }
}

impl std::iter::FusedIterator for Records {}

/// The offset deltas that a record may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deltas {
    lowest: i32,
    highest: i32,
}

impl Deltas {
    /// The deltas of one record.
    fn only(delta: i32) -> Self {
        Self {
            lowest: delta,
            highest: delta,
        }
    }

    /// From 0 up to that of a batch's last record.
    pub fn up_to(highest: i32) -> Self {
        Self { lowest: 0, highest }
    }

    /// Those of them that are above another.
    pub fn above(self, delta: i32) -> Self {
        Self {
            lowest: delta + 1,
            ..self
        }
    }
}

/// A record's fields as slices of the batch. The headers are not parsed yet.
pub(super) struct RawRecord<'a> {
    timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    header_count: usize,
    header_bytes: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// Takes the record at the front of `body`, whose offset delta must be one of these.
    pub fn take(body: &mut &'a [u8], deltas: Deltas) -> Result<Self, RecordFlaw> {
        let Front {
            timestamp_delta,
            offset_delta,
            mut fields,
        } = take_front(body, deltas)?;
        let key = take_nullable(&mut fields)?;
        let value = take_nullable(&mut fields)?;
        let header_count = take_length(&mut fields)?.ok_or(RecordFlaw::NegativeLength)?;
        if header_count > fields.len() / HEADER_BYTES_MIN {
            return Err(RecordFlaw::Truncated);
        }
        if header_count == 0 && !fields.is_empty() {
            return Err(RecordFlaw::Trailing);
        }
        Ok(Self {
            timestamp_delta,
            offset_delta,
            key,
            value,
            header_count,
            header_bytes: fields,
        })
    }

    pub fn headers(&self) -> RawHeaders<'a> {
        RawHeaders {
            left: self.header_count,
            bytes: self.header_bytes,
        }
    }
}

/// The headers of a record as slices of the batch. Yields `header_count` items or ends with an error.
pub(super) struct RawHeaders<'a> {
    left: usize,
    bytes: &'a [u8],
}

type RawHeader<'a> = (&'a str, Option<&'a [u8]>);

impl<'a> RawHeaders<'a> {
    fn take(&mut self) -> Result<RawHeader<'a>, RecordFlaw> {
        let key = take_nullable(&mut self.bytes)?.ok_or(RecordFlaw::NegativeLength)?;
        let key = str::from_utf8(key).map_err(|_| RecordFlaw::HeaderKey)?;
        let value = take_nullable(&mut self.bytes)?;
        if self.left == 0 && !self.bytes.is_empty() {
            return Err(RecordFlaw::Trailing);
        }
        Ok((key, value))
    }
}

impl<'a> Iterator for RawHeaders<'a> {
    type Item = Result<RawHeader<'a>, RecordFlaw>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        Some(self.take())
    }
}

/// The first fields of a record, and those that are left.
struct Front<'a> {
    timestamp_delta: i64,
    offset_delta: i32,
    fields: &'a [u8],
}

/// Takes the record at the front of `body`, whose offset delta must be one of these, and reads no more of it than the fields before the
/// key.
#[inline]
fn take_front<'a>(body: &mut &'a [u8], deltas: Deltas) -> Result<Front<'a>, RecordFlaw> {
    let length = take_length(body)?.ok_or(RecordFlaw::NegativeLength)?;
    let mut fields = take_bytes(body, length)?;
    // The record's attributes have no bits yet, and Kafka ignores them.
    take_bytes(&mut fields, 1)?;
    let timestamp_delta = varint::take_i64(&mut fields)?;
    let offset_delta = varint::take_i32(&mut fields)?;
    if offset_delta < deltas.lowest || offset_delta > deltas.highest {
        return Err(RecordFlaw::OffsetDelta);
    }
    Ok(Front {
        timestamp_delta,
        offset_delta,
        fields,
    })
}

/// Takes a length; -1 is `None`.
fn take_length(bytes: &mut &[u8]) -> Result<Option<usize>, RecordFlaw> {
    match varint::take_i32(bytes)? {
        -1 => Ok(None),
        length => usize::try_from(length)
            .map(Some)
            .map_err(|_| RecordFlaw::NegativeLength),
    }
}

fn take_bytes<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], RecordFlaw> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or(RecordFlaw::Truncated)?;
    *bytes = rest;
    Ok(taken)
}

fn take_nullable<'a>(bytes: &mut &'a [u8]) -> Result<Option<&'a [u8]>, RecordFlaw> {
    take_length(bytes)?.map(|length| take_bytes(bytes, length)).transpose()
}

#[cfg(test)]
mod tests {
    use super::super::header::{at, put};
    use super::super::{BatchBuilder, checksum};
    use super::*;

    const MAX: usize = 1 << 20;

    /// A batch of one record; `fields` are its bytes from the attributes on.
    fn batch_of(fields: &[u8]) -> Bytes {
        let mut record = Vec::new();
        varint::put(&mut record, fields.len() as i64);
        record.extend_from_slice(fields);
        batch_of_body(&record)
    }

    fn batch_of_body(body: &[u8]) -> Bytes {
        let mut builder = BatchBuilder::new(Codec::None);
        builder.append(0, None, None, []).unwrap();
        let mut batch = builder.build().to_vec();
        batch.truncate(BatchHeader::LEN);
        batch.extend_from_slice(body);
        seal(batch)
    }

    fn seal(mut batch: Vec<u8>) -> Bytes {
        let length = (batch.len() - at::LEADER_EPOCH) as i32;
        put(&mut batch, at::BATCH_LENGTH, length.to_be_bytes());
        let crc = checksum(&batch);
        put(&mut batch, at::CRC, crc.to_be_bytes());
        batch.into()
    }

    /// The error of both readers, which must be the same.
    fn error_of(batch: &Bytes) -> BatchError {
        let error = decode_records(batch, MAX).unwrap_err();
        assert_eq!(validate_records(batch, MAX), Err(error.clone()));
        error
    }

    fn flaw_of(fields: &[u8]) -> RecordFlaw {
        match error_of(&batch_of(fields)) {
            BatchError::Invalid(Malformed::Record { index: 0, flaw }) => flaw,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn uncompressed_records_are_slices_of_the_batch() {
        let mut builder = BatchBuilder::new(Codec::None);
        builder
            .append(0, Some(b"key"), Some(b"value"), [("h", Some(&b"x"[..]))])
            .unwrap();
        let batch = builder.build();
        let record = &decode_records(&batch, MAX).unwrap()[0];
        let within = batch.as_ptr_range();
        for part in [
            record.key.as_ref(),
            record.value.as_ref(),
            record.headers[0].value.as_ref(),
        ] {
            assert!(within.contains(&part.unwrap().as_ptr()));
        }
    }

    #[test]
    fn each_flaw_is_named() {
        // attributes, timestamp delta, offset delta, key, value, header count
        assert!(decode_records(&batch_of(&[0, 0, 0, 1, 1, 0]), MAX).is_ok());
        assert_eq!(flaw_of(&[0, 0, 0, 1, 1, 0, 9]), RecordFlaw::Trailing);
        assert_eq!(flaw_of(&[0, 0, 2, 1, 1, 0]), RecordFlaw::OffsetDelta);
        assert_eq!(flaw_of(&[0, 0, 0, 3, 1, 0]), RecordFlaw::NegativeLength);
        assert_eq!(flaw_of(&[0, 0, 0, 1, 1, 1]), RecordFlaw::NegativeLength);
        assert_eq!(flaw_of(&[0, 0, 0, 8, 1, 0]), RecordFlaw::Truncated);
        assert_eq!(flaw_of(&[0, 0, 0, 1, 1, 2, 1, 1]), RecordFlaw::NegativeLength);
        assert_eq!(flaw_of(&[0, 0, 0, 1, 1, 2, 2, 0xff, 1]), RecordFlaw::HeaderKey);
        assert_eq!(flaw_of(&[0, 0, 0, 1, 1, 2, 0, 1, 9]), RecordFlaw::Trailing);
        assert_eq!(
            flaw_of(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            RecordFlaw::Varint
        );
    }

    #[test]
    fn a_header_count_out_of_reach_is_refused_before_it_is_set_aside() {
        let mut fields = vec![0, 0, 0, 1, 1];
        varint::put(&mut fields, i64::from(i32::MAX));
        fields.extend_from_slice(&[0; 10]);
        assert_eq!(flaw_of(&fields), RecordFlaw::Truncated);
    }

    #[test]
    fn a_record_length_out_of_reach_is_refused() {
        let mut body = Vec::new();
        varint::put(&mut body, i64::from(i32::MAX));
        body.extend_from_slice(&[0; 10]);
        let cut = Malformed::Record {
            index: 0,
            flaw: RecordFlaw::Truncated,
        };
        assert_eq!(error_of(&batch_of_body(&body)), cut.into());
    }

    #[test]
    fn bytes_after_the_last_record_are_noticed() {
        let body = [12, 0, 0, 0, 1, 1, 0, 0xaa, 0xbb];
        assert_eq!(
            error_of(&batch_of_body(&body)),
            Malformed::TrailingRecords { bytes: 2 }.into()
        );
    }

    #[test]
    fn reading_ends_after_the_first_error() {
        let body = [12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 0, 1, 1, 0, 12, 0, 0, 4, 1, 1, 0];
        let mut batch = batch_of_body(&body).to_vec();
        put(&mut batch, at::RECORD_COUNT, 3_i32.to_be_bytes());
        put(&mut batch, at::LAST_OFFSET_DELTA, 2_i32.to_be_bytes());
        let items: Vec<_> = Records::new(&seal(batch), MAX).unwrap().collect();
        assert_eq!(items.len(), 2);
        let wrong = Malformed::Record {
            index: 1,
            flaw: RecordFlaw::OffsetDelta,
        };
        assert_eq!(items[1], Err(wrong.into()));
    }

    #[test]
    fn a_base_offset_at_the_end_of_all_offsets_is_refused() {
        let mut batch = batch_of(&[0, 0, 0, 1, 1, 0]).to_vec();
        put(&mut batch, at::BASE_OFFSET, i64::MAX.to_be_bytes());
        assert_eq!(
            decode_records(&batch.into(), MAX),
            Err(Malformed::BaseOffset(i64::MAX).into())
        );
    }

    #[test]
    fn unpacking_is_bounded() {
        for codec in Codec::ALL {
            let mut builder = BatchBuilder::new(codec);
            builder.append(0, None, Some(&[0; 10_000]), []).unwrap();
            let body = builder.estimated_size() - BatchHeader::LEN;
            let batch = builder.build();
            assert!(decode_records(&batch, body).is_ok(), "{codec}");
            for result in [
                decode_records(&batch, body - 1).map(drop),
                validate_records(&batch, body - 1),
            ] {
                assert!(matches!(result, Err(BatchError::TooLarge { .. })), "{codec}");
            }
        }
    }

    #[test]
    fn full_validation_holds_the_max_timestamp_against_the_records() {
        let mut builder = BatchBuilder::new(Codec::Gzip);
        builder.append(5, None, None, []).unwrap();
        builder.append(3, None, None, []).unwrap();
        let mut batch = builder.build().to_vec();
        assert_eq!(validate_records(&batch, MAX), Ok(()));
        put(&mut batch, at::MAX_TIMESTAMP, 6_i64.to_be_bytes());
        assert_eq!(
            validate_records(&batch, MAX),
            Err(Malformed::MaxTimestamp { max: 6, actual: 5 }.into())
        );
    }
}
