//! The slots that a record of an exchange's log is for.

use bytes::{Buf, BufMut};

use crate::ids::SlotId;
use crate::limits::SLOTS_MAX;
use crate::varint::{get_varint, put_varint, varint_bytes};

/// The slots that a record is for: all that are open where it is appended, or only some.
///
/// Some are written as their numbers or as bits from the lowest number on, whichever takes fewer bytes, so equal sets are equal bytes:
/// of 100 slots that were opened one after another from about 15 on that is the bits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotSet(Form);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Form {
    #[default]
    All,
    /// Ascending, each once; not empty.
    Numbers(Box<[SlotId]>),
    /// Bits from `base` on, the lowest of a byte first. The first and one of the last byte are set.
    Bits { base: u32, bits: Box<[u8]> },
}

impl SlotSet {
    /// All slots that are open where the record is appended.
    pub const ALL: Self = Self(Form::All);

    /// Only these slots; none: there are no such, and whoever asks must not take that for all.
    pub fn only(slots: impl IntoIterator<Item = SlotId>) -> Option<Self> {
        let mut numbers: Vec<SlotId> = slots.into_iter().collect();
        numbers.sort_unstable();
        numbers.dedup();
        let (base, last) = (numbers.first()?.get(), numbers.last()?.get());
        let bit_bytes = ((last - base) / 8 + 1) as usize;
        if !bits_are_shorter(base, bit_bytes, numbers.iter().copied()) {
            return Some(Self(Form::Numbers(numbers.into())));
        }
        let mut bits = vec![0; bit_bytes];
        for number in numbers {
            let at = (number.get() - base) as usize;
            bits[at / 8] |= 1 << (at % 8);
        }
        let bits = bits.into();
        Some(Self(Form::Bits { base, bits }))
    }

    /// Whether it is all slots.
    pub fn is_all(&self) -> bool {
        self.0 == Form::All
    }

    /// Whether a record is for this slot.
    pub fn has(&self, slot: SlotId) -> bool {
        match &self.0 {
            Form::All => true,
            Form::Numbers(numbers) => numbers.binary_search(&slot).is_ok(),
            Form::Bits { base, bits } => slot.get().checked_sub(*base).is_some_and(|at| {
                let byte = bits.get(at as usize / 8).copied().unwrap_or(0);
                byte >> (at % 8) & 1 == 1
            }),
        }
    }

    /// Whether it is written as bits, which builds before them cannot read.
    pub(super) fn has_bits(&self) -> bool {
        matches!(self.0, Form::Bits { .. })
    }

    /// Numbers: `count | number of each`. Bits: `base | bytes | bits`. All numbers are LEB128. Nothing of all slots.
    pub(super) fn encode(&self, out: &mut impl BufMut) {
        match &self.0 {
            Form::All => {}
            Form::Numbers(numbers) => {
                put_varint(out, numbers.len() as u64);
                let numbers = numbers.iter();
                numbers.for_each(|slot| put_varint(out, u64::from(slot.get())));
            }
            Form::Bits { base, bits } => {
                put_varint(out, u64::from(*base));
                put_varint(out, bits.len() as u64);
                out.put_slice(bits);
            }
        }
    }

    /// The reverse of [`SlotSet::encode`] for numbers. None: they are damaged, or not in their only form.
    pub(super) fn decode_numbers(input: &mut &[u8]) -> Option<Self> {
        let count = get_varint(input).filter(|count| *count != 0 && *count <= SLOTS_MAX as u64)?;
        let mut numbers = Vec::with_capacity(input.len().min(count as usize));
        for _ in 0..count {
            let number = SlotId(u32::try_from(get_varint(input)?).ok()?);
            if numbers.last().is_some_and(|last| *last >= number) {
                return None;
            }
            numbers.push(number);
        }
        let (base, last) = (numbers.first()?.get(), numbers.last()?.get());
        let bit_bytes = ((last - base) / 8 + 1) as usize;
        let is_short = !bits_are_shorter(base, bit_bytes, numbers.iter().copied());
        is_short.then(|| Self(Form::Numbers(numbers.into())))
    }

    /// The reverse of [`SlotSet::encode`] for bits. None: they are damaged, or not in their only form.
    pub(super) fn decode_bits(input: &mut &[u8]) -> Option<Self> {
        let base = u32::try_from(get_varint(input)?).ok()?;
        let length = usize::try_from(get_varint(input)?).ok()?;
        if length == 0 || length > input.remaining() {
            return None;
        }
        let (bits, rest) = input.split_at(length);
        let count: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
        let ends = bits[0] & 1 == 1 && bits[length - 1] != 0;
        // Its highest number is a slot's.
        let fits = base.checked_add(u32::try_from(8 * length).ok()?).is_some();
        if !ends || !fits || count as usize > SLOTS_MAX {
            return None;
        }
        *input = rest;
        let bits = Self(Form::Bits {
            base,
            bits: bits.into(),
        });
        bits_are_shorter(base, length, bits.numbers()).then_some(bits)
    }

    /// The numbers that it names; none of all slots.
    pub fn numbers(&self) -> Box<dyn Iterator<Item = SlotId> + '_> {
        match &self.0 {
            Form::All => Box::new(std::iter::empty()),
            Form::Numbers(numbers) => Box::new(numbers.iter().copied()),
            Form::Bits { base, bits } => {
                let is_set = |at: &u32| bits[*at as usize / 8] >> (at % 8) & 1 == 1;
                let places = (0..8 * bits.len() as u32).filter(is_set);
                Box::new(places.map(move |at| SlotId(base + at)))
            }
        }
    }
}

/// Whether so many bytes of bits from `base` on take less room than the numbers.
fn bits_are_shorter(base: u32, bit_bytes: usize, numbers: impl Iterator<Item = SlotId>) -> bool {
    let (mut count, mut bytes) = (0, 0);
    for number in numbers {
        count += 1;
        bytes += varint_bytes(u64::from(number.get()));
    }
    varint_bytes(u64::from(base)) + varint_bytes(bit_bytes as u64) + bit_bytes < varint_bytes(count) + bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use jangada_types::replicated::Seeds;

    use super::*;

    fn bytes_of(set: &SlotSet) -> Vec<u8> {
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        bytes
    }

    fn decode(set: &SlotSet, mut bytes: &[u8]) -> Option<SlotSet> {
        let decoded = match set.has_bits() {
            true => SlotSet::decode_bits(&mut bytes),
            false => SlotSet::decode_numbers(&mut bytes),
        };
        decoded.filter(|_| bytes.is_empty())
    }

    #[test]
    fn a_set_has_what_it_was_made_of_and_comes_back() {
        for seed in 0..2_000 {
            let mut seeds = Seeds::new(seed);
            let first = seeds.below(300) as u32;
            let (count, step) = (1 + seeds.below(200), 1 + seeds.below(40));
            let mut wanted = BTreeSet::new();
            let mut at = first;
            for _ in 0..count {
                wanted.insert(SlotId(at));
                at += seeds.below(step) as u32 + u32::from(seeds.below(3) == 0);
            }
            let set = SlotSet::only(wanted.iter().rev().copied()).expect("it has slots");
            assert!((0..at + 20).all(|slot| set.has(SlotId(slot)) == wanted.contains(&SlotId(slot))));
            assert_eq!(set.numbers().collect::<BTreeSet<_>>(), wanted);
            let bytes = bytes_of(&set);
            assert_eq!(decode(&set, &bytes), Some(set.clone()), "seed {seed}");
            for length in 0..bytes.len() {
                assert_eq!(decode(&set, &bytes[..length]), None, "seed {seed}: {length} bytes");
            }
        }
    }

    #[test]
    fn whatever_is_shorter_is_written() {
        let hundred = SlotSet::only((1..=100).map(SlotId)).expect("it has slots");
        assert!(hundred.has_bits());
        assert_eq!(bytes_of(&hundred).len(), 2 + 13);
        let thousand = SlotSet::only((1..=1_000).map(SlotId)).expect("it has slots");
        assert_eq!(bytes_of(&thousand).len(), 2 + 125);
        // One in fourteen, two bytes each: about as long either way.
        let far = SlotSet::only((0..70).map(|at| SlotId(1 + at * 14))).expect("it has slots");
        let near = SlotSet::only((0..70).map(|at| SlotId(200 + at * 16))).expect("it has slots");
        assert_eq!((far.has_bits(), near.has_bits()), (true, false));
    }

    #[test]
    fn none_are_not_all() {
        assert_eq!(SlotSet::only([]), None);
        assert!(SlotSet::ALL.has(SlotId(7)) && SlotSet::ALL.is_all());
        assert_eq!(SlotSet::default(), SlotSet::ALL);
    }

    #[test]
    fn other_forms_of_a_set_are_refused() {
        let numbers = |mut bytes: &[u8]| SlotSet::decode_numbers(&mut bytes);
        let bits = |mut bytes: &[u8]| SlotSet::decode_bits(&mut bytes);
        assert_eq!(numbers(b"\x02\x05\x05"), None, "a number twice");
        assert_eq!(numbers(b"\x02\x05\x04"), None, "out of order");
        assert_eq!(numbers(b"\x00"), None, "none");
        assert_eq!(
            numbers(b"\x08\x01\x02\x03\x04\x05\x06\x07\x08"),
            None,
            "bits are shorter"
        );
        assert_eq!(bits(b"\x01\x01\x01"), None, "numbers are shorter");
        assert_eq!(bits(b"\x01\x01\xfe"), None, "the first is not set");
        assert_eq!(bits(b"\x01\x02\xff\x00"), None, "a last byte without any");
        assert_eq!(bits(b"\x01\x00"), None, "none");
        assert!(bits(b"\x01\x01\xff").is_some());
        let mut beyond = Vec::new();
        put_varint(&mut beyond, u64::from(u32::MAX - 3));
        beyond.extend([1, 0xff]);
        assert_eq!(bits(&beyond), None, "beyond the largest number");
    }
}
