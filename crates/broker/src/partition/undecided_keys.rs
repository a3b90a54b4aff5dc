//! The keys of records behind the last stable offset. Whether those of transactions count is not decided there, so the index of keys, whose
//! rows nothing takes back, ends before them; this is what it knows of the rest, in memory.
//!
//! ```text
//!            last stable offset          high watermark
//!   rows            |     in memory            |
//! ------------------+--------------------------+
//! ```
//!
//! Without open transactions there is nothing between the two.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use jangada_types::Offset;

/// Records that are remembered, and bytes of their keys. Where there are more, what lies behind them is not known until transactions end.
const RECORDS_MAX: usize = 65_536;
const KEY_BYTES_MAX: usize = 8 << 20;

/// A key's last records.
#[derive(Clone, Copy, Debug, Default)]
struct Last {
    plain: Option<Offset>,
    transactional: Option<Offset>,
}

/// The record of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyedAt {
    pub key: Bytes,
    pub offset: Offset,
    pub is_transactional: bool,
}

/// What is known of a key behind the last stable offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// No record there has it.
    Nothing,
    /// The last one, which counts.
    Record(Offset),
    /// A transaction has written it, and may yet be aborted.
    Undecided,
}

/// The keys behind the last stable offset, as far as they were read.
#[derive(Debug, Default)]
pub(super) struct UndecidedKeys {
    last: HashMap<Bytes, Last>,
    /// By offset, so that what is decided goes from the front.
    records: VecDeque<(Offset, Bytes)>,
    key_bytes: usize,
    /// The index has rows of what lies below.
    from: Offset,
    /// What lies below was read.
    upto: Offset,
}

impl UndecidedKeys {
    /// The index has rows of everything below this offset.
    pub fn decided(&mut self, from: Offset) {
        self.from = self.from.max(from);
        self.upto = self.upto.max(from);
        while let Some((_, key)) = self.records.pop_front_if(|(offset, _)| *offset < from) {
            self.key_bytes -= key.len();
            let Some(last) = self.last.get_mut(&key) else { continue };
            last.plain = last.plain.filter(|offset| *offset >= from);
            last.transactional = last.transactional.filter(|offset| *offset >= from);
            if last.plain.is_none() && last.transactional.is_none() {
                self.last.remove(&key);
            }
        }
    }

    /// The offset below which the index has rows.
    pub fn from(&self) -> Offset {
        self.from
    }

    /// The offset below which all keys are known, here or in the index.
    pub fn upto(&self) -> Offset {
        self.upto
    }

    /// Whether no more can be remembered.
    pub fn is_full(&self) -> bool {
        self.records.len() >= RECORDS_MAX || self.key_bytes >= KEY_BYTES_MAX
    }

    /// Adds the records up to an offset, in their order, as far as there is room.
    pub fn add(&mut self, records: Vec<KeyedAt>, upto: Offset) {
        for record in records.into_iter().filter(|record| record.offset >= self.from) {
            if self.is_full() {
                self.upto = self.upto.max(record.offset);
                return;
            }
            let KeyedAt {
                key,
                offset,
                is_transactional,
            } = record;
            self.key_bytes += key.len();
            self.records.push_back((offset, key.clone()));
            let last = self.last.entry(key).or_default();
            match is_transactional {
                true => last.transactional = Some(offset),
                false => last.plain = Some(offset),
            }
        }
        self.upto = self.upto.max(upto);
    }

    /// What is known of a key.
    pub fn find(&self, key: &[u8]) -> Behind {
        match self.last.get(key) {
            None => Behind::Nothing,
            Some(Last {
                transactional: Some(_), ..
            }) => Behind::Undecided,
            Some(Last { plain, .. }) => plain.map_or(Behind::Nothing, Behind::Record),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(key: &'static str, offset: i64, is_transactional: bool) -> KeyedAt {
        KeyedAt {
            key: key.into(),
            offset: Offset(offset),
            is_transactional,
        }
    }

    #[test]
    fn a_key_is_undecided_until_the_index_has_the_transaction() {
        let mut keys = UndecidedKeys::default();
        keys.decided(Offset(10));
        let records = vec![
            at("a", 10, false),
            at("b", 11, true),
            at("a", 12, false),
            at("b", 13, false),
        ];
        keys.add(records, Offset(14));
        assert_eq!((keys.from(), keys.upto()), (Offset(10), Offset(14)));
        let find = |keys: &UndecidedKeys| ["a", "b", "c"].map(|key| keys.find(key.as_bytes()));
        let a = Behind::Record(Offset(12));
        assert_eq!(find(&keys), [a, Behind::Undecided, Behind::Nothing]);
        keys.decided(Offset(12));
        assert_eq!(find(&keys), [a, Behind::Record(Offset(13)), Behind::Nothing]);
        keys.decided(Offset(20));
        assert_eq!(find(&keys), [Behind::Nothing; 3]);
        assert!(keys.last.is_empty() && keys.key_bytes == 0);
        assert_eq!(keys.upto(), Offset(20));
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let mut keys = UndecidedKeys::default();
        let many = (0..RECORDS_MAX as i64 + 10).map(|offset| at("k", offset, true));
        keys.add(many.collect(), Offset(1 << 20));
        assert!(keys.is_full());
        assert_eq!(keys.upto(), Offset(RECORDS_MAX as i64), "what is behind is not known");
        keys.decided(Offset(10));
        assert!(!keys.is_full());
        keys.add(vec![at("l", RECORDS_MAX as i64, false)], Offset(RECORDS_MAX as i64 + 1));
        assert_eq!(keys.find(b"l"), Behind::Record(Offset(RECORDS_MAX as i64)));
        assert_eq!(keys.upto(), Offset(RECORDS_MAX as i64 + 1));
    }
}
