//! What an append says of its records to the queues of the partition, beside the records themselves.

use bytes::{Buf, BufMut};

use crate::command::slot_set::SlotSet;
use crate::limits::LANES;
use crate::varint::{get_varint, put_varint};

const VERSION: u8 = 1;
/// Some slots are written as bits. Other marks keep the version that builds before know.
const VERSION_WITH_BITS: u8 = 2;
/// Records of one batch with marks: those of any batch.
const RECORDS_MAX: u64 = 1 << 20;

const DELIVER_AT: u8 = 1;
const EXPIRES_AT: u8 = 2;
const KEY: u8 = 4;
const LANE: u8 = 8;
const ID: u8 = 16;
const SLOTS: u8 = 32;
const SLOT_BITS: u8 = 64;
const KNOWN: u8 = DELIVER_AT | EXPIRES_AT | KEY | LANE | ID | SLOTS;

/// The marks of one record. The default has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// Not before this time, milliseconds since the Unix epoch; 0: at once.
    pub deliver_at_ms: u64,
    /// Not after this time, milliseconds since the Unix epoch; 0: at any time.
    pub expires_at_ms: u64,
    /// The hash of its key, where the queue keeps an order by key; 0: it has none.
    pub key: u64,
    /// Its level of priority, 0 the lowest.
    pub lane: u8,
    /// The hash of its message id, where the queue leaves out repetitions; 0: it has none.
    pub id: u128,
    /// The slots that it is for.
    pub slots: SlotSet,
}

/// How long message ids are remembered, as the queue's setting is when the batch is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdWindow {
    /// Milliseconds, by the clock of the leaders that append.
    pub window_ms: u64,
    /// Ids that are too old are deleted with this batch: once for each bucket of time is enough.
    pub forgets: bool,
}

/// The marks of a batch, one for each record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks(pub Vec<Mark>);

impl Marks {
    /// No record has any.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `version u8 | count | each: flags u8, then what they name`. Times and numbers of slots are LEB128, hashes have their size. The
    /// version is 2 where slots are written as bits.
    /// `with_ids`: a row leaves out the ids of messages, which have rows of their own.
    pub fn encode(&self, with_ids: bool, out: &mut impl BufMut) {
        let has_bits = self.0.iter().any(|mark| mark.slots.has_bits());
        out.put_u8(if has_bits { VERSION_WITH_BITS } else { VERSION });
        put_varint(out, self.0.len() as u64);
        for mark in &self.0 {
            let slots = match mark.slots.has_bits() {
                true => SLOT_BITS,
                false => SLOTS,
            };
            let has_id = with_ids && mark.id != 0;
            let flag = |present: bool, flag: u8| if present { flag } else { 0 };
            out.put_u8(
                flag(mark.deliver_at_ms != 0, DELIVER_AT)
                    | flag(mark.expires_at_ms != 0, EXPIRES_AT)
                    | flag(mark.key != 0, KEY)
                    | flag(mark.lane != 0, LANE)
                    | flag(has_id, ID)
                    | flag(!mark.slots.is_all(), slots),
            );
            if mark.deliver_at_ms != 0 {
                put_varint(out, mark.deliver_at_ms);
            }
            if mark.expires_at_ms != 0 {
                put_varint(out, mark.expires_at_ms);
            }
            if mark.key != 0 {
                out.put_u64(mark.key);
            }
            if mark.lane != 0 {
                out.put_u8(mark.lane);
            }
            if has_id {
                out.put_u128(mark.id);
            }
            mark.slots.encode(out);
        }
    }

    /// The reverse of [`Marks::encode`]. None: a later build wrote them, or they are damaged.
    pub fn decode(input: &mut &[u8]) -> Option<Self> {
        let known = known_in(input.try_get_u8().ok()?)?;
        let count = get_varint(input).filter(|count| *count <= RECORDS_MAX)?;
        let mut marks = Vec::with_capacity(input.len().min(count as usize));
        for _ in 0..count {
            marks.push(Mark::decode(input, known)?);
        }
        Some(Self(marks))
    }
}

/// The marks of a batch as bytes, which are read when the messages are looked at: a tenth of what they take when they were.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedMarks {
    bytes: Vec<u8>,
    count: u64,
    not_before_ms: u64,
}

impl PackedMarks {
    /// Marks without their ids, as rows have them.
    pub fn of(marks: &Marks) -> Self {
        let mut bytes = Vec::new();
        marks.encode(false, &mut bytes);
        Self::check(&bytes).expect("what was written just now is read")
    }

    /// The bytes of [`Marks::encode`]. None: a later build wrote them, or they are damaged.
    pub fn check(bytes: &[u8]) -> Option<Self> {
        let mut input = bytes;
        let known = known_in(input.try_get_u8().ok()?)?;
        let count = get_varint(&mut input).filter(|count| *count <= RECORDS_MAX)?;
        let mut not_before_ms = u64::MAX;
        for _ in 0..count {
            let at_ms = match *input.first()? {
                // There may be millions of these to pass.
                DELIVER_AT => {
                    input = &input[1..];
                    get_varint(&mut input).filter(|at| *at != 0)?
                }
                flags if flags & !(DELIVER_AT | EXPIRES_AT) == 0 => Mark::decode(&mut input, known)?.deliver_at_ms,
                _ => {
                    Mark::decode(&mut input, known)?;
                    0
                }
            };
            not_before_ms = not_before_ms.min(at_ms);
        }
        let not_before_ms = if count == 0 { 0 } else { not_before_ms };
        input.is_empty().then(|| Self {
            bytes: bytes.to_vec(),
            count,
            not_before_ms,
        })
    }

    /// How many records there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All records are delayed, and none is to go out before this time, milliseconds since the Unix epoch; 0: one is not delayed, or has
    /// a key, a lane, or slots.
    pub fn not_before_ms(&self) -> u64 {
        self.not_before_ms
    }

    /// The marks of all records.
    pub fn unpack(&self) -> Marks {
        Marks::decode(&mut &self.bytes[..]).expect("they were checked")
    }
}

/// The flags that marks of a version may have; none: a later build wrote it.
fn known_in(version: u8) -> Option<u8> {
    match version {
        VERSION => Some(KNOWN),
        VERSION_WITH_BITS => Some(KNOWN | SLOT_BITS),
        _ => None,
    }
}

impl Mark {
    fn decode(input: &mut &[u8], known: u8) -> Option<Self> {
        let flags = input.try_get_u8().ok()?;
        if flags & !known != 0 || flags & (SLOTS | SLOT_BITS) == SLOTS | SLOT_BITS {
            return None;
        }
        let mut mark = Self::default();
        if flags & DELIVER_AT != 0 {
            mark.deliver_at_ms = get_varint(input).filter(|at| *at != 0)?;
        }
        if flags & EXPIRES_AT != 0 {
            mark.expires_at_ms = get_varint(input).filter(|at| *at != 0)?;
        }
        if flags & KEY != 0 {
            mark.key = input.try_get_u64().ok().filter(|key| *key != 0)?;
        }
        if flags & LANE != 0 {
            mark.lane = input.try_get_u8().ok().filter(|lane| *lane != 0 && *lane < LANES)?;
        }
        if flags & ID != 0 {
            mark.id = input.try_get_u128().ok().filter(|id| *id != 0)?;
        }
        if flags & SLOTS != 0 {
            mark.slots = SlotSet::decode_numbers(input)?;
        }
        if flags & SLOT_BITS != 0 {
            mark.slots = SlotSet::decode_bits(input)?;
        }
        Some(mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SlotId;

    fn only(numbers: impl IntoIterator<Item = u32>) -> SlotSet {
        SlotSet::only(numbers.into_iter().map(SlotId)).expect("there are some")
    }

    #[test]
    fn packed_marks_are_the_same_and_say_when_the_first_is_due() {
        let delayed = |deliver_at_ms, expires_at_ms| Mark {
            deliver_at_ms,
            expires_at_ms,
            ..Mark::default()
        };
        let keyed = Mark {
            key: 1,
            ..delayed(5, 0)
        };
        let (one, two) = (delayed(900, 0), delayed(300, 301));
        for (marks, not_before_ms) in [
            (vec![], 0),
            (vec![one.clone(), two.clone()], 300),
            (vec![one.clone(), Mark::default()], 0),
            (vec![one, two, keyed], 0),
        ] {
            let marks = Marks(marks);
            let packed = PackedMarks::of(&marks);
            assert_eq!(packed.not_before_ms(), not_before_ms);
            assert_eq!((packed.count(), packed.unpack()), (marks.0.len() as u64, marks));
            let whole = packed.bytes.len();
            (0..whole).for_each(|length| assert_eq!(PackedMarks::check(&packed.bytes[..length]), None));
        }
        assert_eq!(PackedMarks::check(b"\x01\x01\x40"), None);
        assert_eq!(PackedMarks::check(b"\x01\x01\x01\x00"), None);
        assert_eq!(PackedMarks::check(b"\x01\x00\x00"), None);
    }

    #[test]
    fn the_format_is_pinned() {
        let marks = Marks(vec![
            Mark::default(),
            Mark {
                deliver_at_ms: 300,
                expires_at_ms: 1,
                key: 2,
                lane: 3,
                id: 4,
                slots: only([1, 200]),
            },
        ]);
        let mut bytes = Vec::new();
        marks.encode(true, &mut bytes);
        let golden =
            b"\x01\x02\x00\x3f\xac\x02\x01\0\0\0\0\0\0\0\x02\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04\x02\x01\xc8\x01";
        assert_eq!(bytes, golden);
        assert_eq!(Marks::decode(&mut &bytes[..]), Some(marks));
        for length in 0..bytes.len() {
            assert_eq!(Marks::decode(&mut &bytes[..length]), None, "{length} bytes");
        }
        assert_eq!(Marks::decode(&mut &b"\x03\0"[..]), None);
        assert_eq!(Marks::decode(&mut &b"\x01\x01\x40"[..]), None);
    }

    #[test]
    fn slots_as_bits_are_pinned_too() {
        let marks = Marks(vec![
            Mark {
                slots: only(1..=20),
                ..Mark::default()
            },
            Mark::default(),
        ]);
        let mut bytes = Vec::new();
        marks.encode(true, &mut bytes);
        assert_eq!(bytes, b"\x02\x02\x40\x01\x03\xff\xff\x0f\x00");
        assert_eq!(Marks::decode(&mut &bytes[..]), Some(marks.clone()));
        assert_eq!(PackedMarks::of(&marks).unpack(), marks);
        for length in 0..bytes.len() {
            assert_eq!(Marks::decode(&mut &bytes[..length]), None, "{length} bytes");
        }
        bytes[0] = 1;
        assert_eq!(
            Marks::decode(&mut &bytes[..]),
            None,
            "a build that knows no bits reads none"
        );
        assert_eq!(
            Marks::decode(&mut &b"\x02\x01\x60\x01\x01\x01\x01\xff"[..]),
            None,
            "both forms"
        );
    }
}
