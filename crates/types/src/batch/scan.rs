//! Walks over the records of a batch as their bytes come, without keeping them: the broker's check of compressed
//! batches.
//!
//! Of each record the scan reads the fields before its key, and skips the rest. So it makes the checks that
//! [`validate`](super::validate()) makes of uncompressed records: that there are as many as the header says, that each
//! has its index as its offset delta, and that the last one ends where the bytes do. It also finds the records' times.

use super::error::{Malformed, RecordFlaw};
use super::varint;

/// Most bytes that a record's length takes.
const LENGTH_MAX: usize = 10;
/// Most bytes between the length and the key: attributes, timestamp delta and offset delta.
const FRONT_MAX: usize = 1 + 10 + 10;

/// The time of a record that has none, as in Kafka.
pub const NO_TIMESTAMP: i64 = -1;

/// The earliest and the latest time of a batch's records. Records without a time do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordTimes {
    /// The earliest and the latest time. None: no record has one.
    range: Option<(RecordTime, RecordTime)>,
}

/// The time of one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordTime {
    /// The time, milliseconds since the Unix epoch.
    pub ms: i64,
    /// The record's index in the batch. `None`: the time is from the batch's header, and the records were not read.
    pub index: Option<i32>,
}

impl RecordTimes {
    /// The record with the earliest time.
    pub fn earliest(&self) -> Option<RecordTime> {
        self.range.map(|(earliest, _)| earliest)
    }

    /// The record with the latest time.
    pub fn latest(&self) -> Option<RecordTime> {
        self.range.map(|(_, latest)| latest)
    }

    /// Adds the time of the record at this index; `None`: the time in the header.
    #[inline]
    pub(super) fn add(&mut self, ms: i64, index: Option<i32>) {
        if ms == NO_TIMESTAMP {
            return;
        }
        let time = RecordTime { ms, index };
        let (earliest, latest) = self.range.get_or_insert((time, time));
        if ms < earliest.ms {
            *earliest = time;
        }
        if ms > latest.ms {
            *latest = time;
        }
    }
}

/// A scan of a batch's records, fed with pieces of any size.
pub(super) struct RecordScan {
    count: i32,
    base_timestamp: i64,
    times: RecordTimes,
    /// Index of the record that comes next.
    next: i32,
    /// Bytes of the record before it that are still to be skipped.
    skip: usize,
    /// The beginning of a record whose front continues in the next piece.
    held: [u8; LENGTH_MAX + FRONT_MAX],
    held_len: usize,
}

/// The front of a record.
struct Front {
    timestamp_delta: i64,
    /// Bytes of the front, the length included.
    bytes: usize,
    /// Bytes of the record behind the front.
    left: usize,
}

impl RecordScan {
    pub fn new(count: i32, base_timestamp: i64) -> Self {
        Self {
            count,
            base_timestamp,
            times: RecordTimes::default(),
            next: 0,
            skip: 0,
            held: [0; LENGTH_MAX + FRONT_MAX],
            held_len: 0,
        }
    }

    /// Takes the next piece of the records.
    pub fn feed(&mut self, mut piece: &[u8]) -> Result<(), Malformed> {
        if self.held_len > 0 {
            piece = self.complete(piece)?;
        }
        loop {
            let skipped = self.skip.min(piece.len());
            piece = &piece[skipped..];
            self.skip -= skipped;
            if piece.is_empty() {
                return Ok(());
            }
            if self.next == self.count {
                return Err(Malformed::TrailingRecords { bytes: piece.len() });
            }
            match front(piece, self.next).map_err(|flaw| self.flawed(flaw))? {
                Some(front) => {
                    piece = &piece[front.bytes..];
                    self.take(&front);
                }
                None => {
                    self.held[..piece.len()].copy_from_slice(piece);
                    self.held_len = piece.len();
                    return Ok(());
                }
            }
        }
    }

    /// Completes the front that is held; returns the rest of the piece.
    fn complete<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], Malformed> {
        let before = self.held_len;
        let taken = (self.held.len() - before).min(piece.len());
        self.held[before..before + taken].copy_from_slice(&piece[..taken]);
        let held = self.held;
        match front(&held[..before + taken], self.next).map_err(|flaw| self.flawed(flaw))? {
            Some(front) => {
                self.held_len = 0;
                self.take(&front);
                // The held bytes alone were not a whole front, so the front ends in this piece.
                Ok(&piece[front.bytes - before..])
            }
            None => {
                self.held_len = before + taken;
                Ok(&piece[taken..])
            }
        }
    }

    #[inline]
    fn take(&mut self, front: &Front) {
        // Deltas wrap, as they do in Kafka.
        self.times
            .add(self.base_timestamp.wrapping_add(front.timestamp_delta), Some(self.next));
        self.next += 1;
        self.skip = front.left;
    }

    /// Ends the scan after the last byte.
    pub fn finish(self) -> Result<RecordTimes, Malformed> {
        if self.skip > 0 {
            return Err(Malformed::Record {
                index: self.next - 1,
                flaw: RecordFlaw::Truncated,
            });
        }
        if self.next < self.count {
            return Err(self.flawed(RecordFlaw::Truncated));
        }
        Ok(self.times)
    }

    fn flawed(&self, flaw: RecordFlaw) -> Malformed {
        Malformed::Record { index: self.next, flaw }
    }
}

/// Reads the front of record `index`. `None`: it continues behind these bytes.
#[inline]
fn front(bytes: &[u8], index: i32) -> Result<Option<Front>, RecordFlaw> {
    let mut rest = bytes;
    let length = match varint::take_i32(&mut rest) {
        Err(RecordFlaw::Truncated) if bytes.len() < LENGTH_MAX => return Ok(None),
        length => usize::try_from(length?).map_err(|_| RecordFlaw::NegativeLength)?,
    };
    let fields = &rest[..length.min(rest.len())];
    let mut left = fields;
    let parsed = fields_front(&mut left);
    let (timestamp_delta, offset_delta) = match parsed {
        Err(RecordFlaw::Truncated) if fields.len() < length && fields.len() < FRONT_MAX => return Ok(None),
        parsed => parsed?,
    };
    if offset_delta != index {
        return Err(RecordFlaw::OffsetDelta);
    }
    let read = fields.len() - left.len();
    Ok(Some(Front {
        timestamp_delta,
        bytes: bytes.len() - rest.len() + read,
        left: length - read,
    }))
}

#[inline]
fn fields_front(fields: &mut &[u8]) -> Result<(i64, i32), RecordFlaw> {
    // The record's attributes have no bits yet, and Kafka ignores them.
    *fields = fields.split_first().ok_or(RecordFlaw::Truncated)?.1;
    let timestamp_delta = varint::take_i64(fields)?;
    Ok((timestamp_delta, varint::take_i32(fields)?))
}

#[cfg(test)]
mod tests {
    use super::super::{BatchBuilder, BatchHeader};
    use super::*;
    use crate::compression::Codec;

    /// The records of a batch, with fronts of all lengths.
    fn body() -> (Vec<u8>, i32) {
        let mut builder = BatchBuilder::new(Codec::None);
        let times = [1000, 900, -1, i64::MAX, 1000 + (1 << 40), 1001];
        for nth in 0..300_usize {
            let value = vec![7; nth % 37];
            builder
                .append(times[nth % times.len()], None, Some(&value), [])
                .unwrap();
        }
        let count = builder.len() as i32;
        (builder.build()[BatchHeader::LEN..].to_vec(), count)
    }

    fn scan(body: &[u8], count: i32, piece: usize) -> Result<RecordTimes, Malformed> {
        let mut scan = RecordScan::new(count, 1000);
        for piece in body.chunks(piece) {
            scan.feed(piece)?;
        }
        scan.finish()
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_are_cut() {
        let (body, count) = body();
        let whole = scan(&body, count, body.len()).unwrap();
        let at = |time: Option<RecordTime>| time.map(|time| (time.ms, time.index));
        assert_eq!(at(whole.earliest()), Some((900, Some(1))));
        assert_eq!(at(whole.latest()), Some((i64::MAX, Some(3))));
        for piece in 1..60 {
            assert_eq!(scan(&body, count, piece), Ok(whole), "{piece}");
        }
    }

    #[test]
    fn each_wrong_byte_count_and_cut_is_noticed_wherever_it_is_cut() {
        let (body, count) = body();
        for piece in [1, 2, 3, 5, 21, 22, 64, body.len()] {
            let missing = Malformed::Record {
                index: count,
                flaw: RecordFlaw::Truncated,
            };
            assert_eq!(scan(&body, count + 1, piece), Err(missing));
            assert!(matches!(
                scan(&body, count - 1, piece),
                Err(Malformed::TrailingRecords { .. })
            ));
            for cut in 1..body.len().min(60) {
                let cut = &body[..body.len() - cut];
                let error = scan(cut, count, piece).unwrap_err();
                assert!(
                    matches!(
                        error,
                        Malformed::Record {
                            flaw: RecordFlaw::Truncated,
                            ..
                        }
                    ),
                    "{error}"
                );
            }
            let mut shifted = body.clone();
            shifted.remove(0);
            assert!(scan(&shifted, count, piece).is_err());
        }
    }

    #[test]
    fn a_length_and_a_delta_that_no_record_has_are_refused() {
        let flaw = |body: &[u8], piece| match scan(body, 1, piece) {
            Err(Malformed::Record { index: 0, flaw }) => flaw,
            other => panic!("{other:?}"),
        };
        for piece in [1, 100] {
            assert_eq!(flaw(&[1], piece), RecordFlaw::NegativeLength);
            assert_eq!(flaw(&[0xff; 30], piece), RecordFlaw::Varint);
            assert_eq!(flaw(&[12, 0, 0, 2, 1, 1, 0], piece), RecordFlaw::OffsetDelta);
            // The fields are longer than the record.
            assert_eq!(flaw(&[4, 0, 0, 0, 1, 1, 0], piece), RecordFlaw::Truncated);
        }
    }

    /// Run it by `cargo test --release --workspace --locked --lib -- --ignored --nocapture what_the_check_costs`.
    #[test]
    #[ignore = "prints figures for docs/architecture/produce.md"]
    fn what_the_check_costs() {
        const MAX: usize = 64 << 20;
        const GIB: f64 = 1_073_741_824.0;
        const ROUNDS_SECONDS: f64 = 0.7;
        // The CPU time of this thread, so that others' load does not count.
        let cpu_seconds = || {
            let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells");
            let nanoseconds: f64 = text
                .split(' ')
                .next()
                .and_then(|first| first.parse().ok())
                .expect("a number");
            nanoseconds / 1e9
        };
        for target in [64 << 10, 1 << 20] {
            for codec in Codec::ALL {
                let mut builder = BatchBuilder::new(codec);
                let mut nth = 0_u64;
                while builder.estimated_size() < target - 300 {
                    let noise = nth.wrapping_mul(6_364_136_223_846_793_005);
                    let value = format!(
                        "{{\"order\":{nth},\"customer\":\"{noise:016x}\",\"city\":\"city-{}\",\
                         \"items\":[{},{}],\"note\":\"leave it at the door\"}}",
                        noise % 97,
                        noise % 1000,
                        noise % 777
                    );
                    builder
                        .append(1_764_000_000_000, Some(&nth.to_be_bytes()), Some(value.as_bytes()), [])
                        .unwrap();
                    nth += 1;
                }
                let unpacked = builder.estimated_size();
                let batch = builder.build();
                let (begin, mut rounds) = (cpu_seconds(), 0_u32);
                while cpu_seconds() - begin < ROUNDS_SECONDS {
                    match codec {
                        Codec::None => super::super::validate(&batch, &crate::BatchLimits { max_batch_bytes: MAX })
                            .map(drop)
                            .unwrap(),
                        _ => super::super::validate_packed(&batch, MAX).map(drop).unwrap(),
                    }
                    rounds += 1;
                }
                let per_batch = (cpu_seconds() - begin) / f64::from(rounds);
                println!(
                    "{codec} {unpacked} -> {} bytes, {nth} records: {:.1} us a batch, {:.2} CPU s/GiB unpacked, {:.2} CPU s/GiB sent",
                    batch.len(),
                    per_batch * 1e6,
                    per_batch * GIB / unpacked as f64,
                    per_batch * GIB / batch.len() as f64
                );
            }
        }
    }
}
