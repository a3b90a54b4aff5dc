//! Where the rows of a group lie in each family: with its number, or apart, behind everything else.
//!
//! A block of a table has the last rows of one group and the first of the next. When it is damaged, a search in the range of a
//! group whose rows were deleted reads it all the same: RocksDB goes on to the end of what was deleted, which lies in that block.
//! So once a table is damaged, a replica that is filled again gets a place of its own, which is behind each key that is in any
//! file: no search for its rows comes to a block of a file from before.
//!
//! ```text
//! keys    0 ... | group 7 (deleted) | group 8 | ... | node ff*8 | ff*18 place 1 (group 7 again) | ff*18 place 2 ...
//! files   [----------- damaged -----------------------------]
//! new                                                             [---------------------]
//! ```
//!
//! - Numbers of places rise and are never used again.
//! - Only searches that go forward end at a file without reading in it: backwards, RocksDB reads its last block. So the last row
//!   of such a place is found by halving.
//! - Row PLACES of the node's group has all of them. It is written in the batch that deletes the rows of the old place.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_types::GroupId;
use parking_lot::Mutex;

use crate::error::StoreError;
use crate::keys;

/// What all keys of places apart begin with: behind all keys of [`GroupId::NODE`], as [`keys::group_end`] says.
const APART: [u8; 18] = [0xff; 18];
/// With the number of a place.
const APART_LEN: usize = APART.len() + 8;
const KEY_LEN_MAX: usize = APART_LEN + 8;

const _: () = assert!(
    APART.len() == keys::STATE_KEY_LEN + 1,
    "no key of a group lies behind it"
);

const VERSION: u8 = 1;
const HEAD_LEN: usize = 1 + 8 + 4;
const PLACE_LEN: usize = 16;

/// Where the rows of a group lie in each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Under the group's number.
    Group(GroupId),
    /// Under a number of its own, behind all groups.
    Apart(u64),
}

/// A key of fixed size, of either form.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    bytes: [u8; KEY_LEN_MAX],
    len: usize,
}

impl Key {
    fn of(parts: &[&[u8]]) -> Self {
        let mut key = Self {
            bytes: [0; KEY_LEN_MAX],
            len: 0,
        };
        for part in parts {
            key.bytes[key.len..key.len + part.len()].copy_from_slice(part);
            key.len += part.len();
        }
        key
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl From<GroupId> for Place {
    fn from(group: GroupId) -> Self {
        Self::Group(group)
    }
}

impl Place {
    pub(crate) fn is_apart(self) -> bool {
        matches!(self, Self::Apart(_))
    }

    /// Key of a row of the log, or of a table with numbers.
    pub(crate) fn number(self, number: u64) -> Key {
        match self {
            Self::Group(group) => Key::of(&[&keys::log(group, number)]),
            Self::Apart(place) => Key::of(&[&APART, &place.to_be_bytes(), &number.to_be_bytes()]),
        }
    }

    /// Key of a log entry.
    pub(crate) fn log(self, index: u64) -> Key {
        self.number(index)
    }

    /// Key of a row of a table.
    pub(crate) fn key(self, key: &[u8]) -> Vec<u8> {
        [&self.start(), key].concat()
    }

    /// Puts the key of a row of a table into `out`, in the place of what is there.
    pub(crate) fn put_key(self, key: &[u8], out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.start());
        out.extend_from_slice(key);
    }

    /// What such a key has behind its place: the row's own key.
    pub(crate) fn row_key(self, key: &[u8]) -> Option<&[u8]> {
        key.strip_prefix(&*self.start())
    }

    /// First possible key, in any column family.
    pub(crate) fn start(self) -> Key {
        match self {
            Self::Group(group) => Key::of(&[&keys::group_start(group)]),
            Self::Apart(place) => Key::of(&[&APART, &place.to_be_bytes()]),
        }
    }

    /// First possible key behind it, in any column family.
    pub(crate) fn end(self) -> Key {
        match self {
            Self::Group(group) => Key::of(&[&keys::group_end(group)]),
            Self::Apart(place) => Self::Apart(place + 1).start(),
        }
    }
}

/// Raft index of a key of `log`, or the number of a key of a table with numbers.
pub(crate) fn number_of(key: &[u8]) -> Option<u64> {
    keys::number_of(key).or_else(|| Some(u64::from_be_bytes(apart(key)?.try_into().ok()?)))
}

/// What a key of a place apart has behind its place.
fn apart(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(&APART).and_then(|rest| rest.get(8..))
}

/// The places of all groups that have one apart.
pub(crate) struct Places {
    state: Mutex<State>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    /// The next place that is given.
    next: u64,
    groups: BTreeMap<GroupId, u64>,
}

/// A change of the places, and the row that says so.
pub(crate) struct Moved {
    /// Where the group's rows lie from now on.
    pub(crate) to: Place,
    pub(crate) row: Bytes,
}

impl Places {
    /// From the row, if there is one.
    pub(crate) fn load(row: Option<&[u8]>) -> Result<Self, StoreError> {
        let none = State {
            next: 1,
            groups: BTreeMap::new(),
        };
        let state = row.map_or(Ok(none), State::decode)?;
        Ok(Self {
            state: Mutex::new(state),
        })
    }

    /// Where the rows of a group lie.
    pub(crate) fn of(&self, group: GroupId) -> Place {
        let apart = self.state.lock().groups.get(&group).copied();
        apart.map_or(Place::Group(group), Place::Apart)
    }

    /// All groups with a place apart.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.state.lock().groups.keys().copied().collect()
    }

    /// Gives a group the next place. To be written in the batch that deletes its rows.
    pub(crate) fn give(&self, group: GroupId) -> Moved {
        let mut state = self.state.lock();
        let place = state.next;
        state.next += 1;
        state.groups.insert(group, place);
        Moved {
            to: Place::Apart(place),
            row: state.encode(),
        }
    }

    /// The group is deleted for good. `None`: it has no place apart.
    pub(crate) fn forget(&self, group: GroupId) -> Option<Moved> {
        let mut state = self.state.lock();
        state.groups.remove(&group)?;
        Some(Moved {
            to: Place::Group(group),
            row: state.encode(),
        })
    }
}

impl State {
    fn encode(&self) -> Bytes {
        let mut row = BytesMut::with_capacity(HEAD_LEN + self.groups.len() * PLACE_LEN);
        row.put_u8(VERSION);
        row.put_u64_le(self.next);
        row.put_u32_le(u32::try_from(self.groups.len()).expect("a broker has fewer replicas"));
        for (group, place) in &self.groups {
            row.put_u64_le(group.get());
            row.put_u64_le(*place);
        }
        row.freeze()
    }

    fn decode(mut row: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Corrupt("the row of places is damaged".to_owned());
        match row.first() {
            Some(&VERSION) => {}
            Some(version) => {
                return Err(StoreError::Corrupt(format!(
                    "the row of places has version {version}, known is {VERSION}"
                )));
            }
            None => return Err(damaged()),
        }
        if row.len() < HEAD_LEN {
            return Err(damaged());
        }
        row.advance(1);
        let (next, count) = (row.get_u64_le(), row.get_u32_le());
        if row.len() != count as usize * PLACE_LEN {
            return Err(damaged());
        }
        let groups = (0..count).map(|_| (GroupId(row.get_u64_le()), row.get_u64_le()));
        let groups: BTreeMap<GroupId, u64> = groups.collect();
        if groups.len() != count as usize || groups.values().any(|place| *place >= next) {
            return Err(damaged());
        }
        Ok(Self { next, groups })
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::table::number_key;

    use super::*;
    use crate::store::StateKind;
    use crate::tables::state_key;

    #[test]
    fn keys_of_a_place_apart_lie_behind_all_others_and_in_its_range_only() {
        let (place, next) = (Place::Apart(7), Place::Apart(8));
        let node = Place::Group(GroupId::NODE);
        let last = state_key(StateKind(255), u64::MAX);
        let all_ones = node.key(&last);
        for key in [&place.log(0)[..], &place.log(u64::MAX), &place.key(&last)] {
            assert!(key >= &place.start()[..] && key < &place.end()[..]);
            assert!(key > &all_ones[..] && key >= &node.end()[..]);
            assert!(key < &next.start()[..]);
        }
        let key = place.key(&[0xff; 1024]);
        assert!(key[..] >= place.start()[..] && key[..] < place.end()[..]);
        let group = Place::Group(GroupId(7));
        assert_eq!(group.log(9)[..], keys::log(GroupId(7), 9));
        assert_eq!(
            group.key(&state_key(StateKind::VOTE, 1)),
            keys::state(GroupId(7), StateKind::VOTE, 1)
        );
    }

    #[test]
    fn the_format_of_a_place_apart_is_pinned() {
        let place = Place::Apart(0x0102);
        let head = [&[0xff; 18][..], &[0, 0, 0, 0, 0, 0, 1, 2]].concat();
        assert_eq!(place.start()[..], head);
        assert_eq!(place.log(3)[..], [&head[..], &[0, 0, 0, 0, 0, 0, 0, 3]].concat());
        assert_eq!(place.key(&number_key(3))[..], place.number(3)[..]);
        assert_eq!(
            place.key(&state_key(StateKind::CHECKPOINT, 1)),
            [&head[..], &[6, 0, 0, 0, 0, 0, 0, 0, 1]].concat()
        );
        assert_eq!(place.key(b"k"), [&head[..], b"k"].concat());
    }

    #[test]
    fn numbers_and_rows_come_out_of_keys_of_both_forms() {
        for place in [Place::Group(GroupId(3)), Place::Apart(3)] {
            assert_eq!(number_of(&place.log(u64::MAX)), Some(u64::MAX));
            let key = place.key(b"row");
            assert_eq!(place.row_key(&key), Some(&b"row"[..]));
            let mut same = b"old".to_vec();
            place.put_key(b"row", &mut same);
            assert_eq!(same, key);
            assert_eq!(number_of(&key), None);
            assert_eq!(Place::Group(GroupId(4)).row_key(&key), None);
        }
        assert_eq!(number_of(b"short"), None);
    }

    #[test]
    fn places_come_back_and_none_is_given_twice() {
        let places = Places::load(None).unwrap();
        assert_eq!(places.of(GroupId(5)), Place::Group(GroupId(5)));
        assert!(places.forget(GroupId(5)).is_none());
        assert_eq!(places.give(GroupId(5)).to, Place::Apart(1));
        assert_eq!(places.give(GroupId(4)).to, Place::Apart(2));
        assert_eq!(places.give(GroupId(5)).to, Place::Apart(3));
        let row = places.forget(GroupId(5)).unwrap().row;
        assert_eq!(row[..13], [1, 4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        let again = Places::load(Some(&row)).unwrap();
        assert_eq!(*again.state.lock(), *places.state.lock());
        assert_eq!(again.groups(), [GroupId(4)]);
        assert_eq!(again.give(GroupId(5)).to, Place::Apart(4));
        for bad in [&row[..5], &row[..row.len() - 1], &[2; 13], &[][..]] {
            assert!(Places::load(Some(bad)).is_err(), "{bad:?}");
        }
    }
}
