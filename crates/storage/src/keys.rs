//! Keys of the column families: numbers are big-endian, so that RocksDB's byte order is the order of the numbers.
//!
//! ```text
//! log     group u64 | raft index u64
//! tables  group u64 | the row's key
//! state   group u64 | kind u8 | suffix u64
//! ```
//!
//! Every key begins with its group, so everything of a group lies in one range of each column family.

use jangada_types::GroupId;

use crate::store::StateKind;

const GROUP_LEN: usize = 8;
/// Length of a key in `log`.
pub(crate) const ROW_KEY_LEN: usize = GROUP_LEN + 8;
/// Length of a key in `state`.
pub(crate) const STATE_KEY_LEN: usize = GROUP_LEN + 1 + 8;

const _: () = assert!(ROW_KEY_LEN == 16 && STATE_KEY_LEN == 17, "the format on disk");

pub(crate) type RowKey = [u8; ROW_KEY_LEN];
pub(crate) type StateKey = [u8; STATE_KEY_LEN];

fn row(group: GroupId, number: u64) -> RowKey {
    let mut key = [0; ROW_KEY_LEN];
    key[..GROUP_LEN].copy_from_slice(&group.get().to_be_bytes());
    key[GROUP_LEN..].copy_from_slice(&number.to_be_bytes());
    key
}

/// Key of a log entry.
pub(crate) fn log(group: GroupId, index: u64) -> RowKey {
    row(group, index)
}

/// Key of a row of a table.
pub(crate) fn key(group: GroupId, key: &[u8]) -> Vec<u8> {
    [&group.get().to_be_bytes()[..], key].concat()
}

/// Key of a row of state.
pub(crate) fn state(group: GroupId, kind: StateKind, suffix: u64) -> StateKey {
    let mut key = [0; STATE_KEY_LEN];
    key[..GROUP_LEN].copy_from_slice(&group.get().to_be_bytes());
    key[GROUP_LEN] = kind.0;
    key[GROUP_LEN + 1..].copy_from_slice(&suffix.to_be_bytes());
    key
}

/// First possible key of a group, in any column family.
pub(crate) fn group_start(group: GroupId) -> [u8; GROUP_LEN] {
    group.get().to_be_bytes()
}

/// First possible key after a group, in any column family. After [`GroupId::NODE`] comes no group, and it has no
/// rows of tables but those of state; this is longer than any other key.
pub(crate) fn group_end(group: GroupId) -> Vec<u8> {
    match group.get().checked_add(1) {
        Some(next) => next.to_be_bytes().to_vec(),
        None => vec![0xff; STATE_KEY_LEN + 1],
    }
}

/// Group of a key of any column family; `None` if the key is none of ours.
pub(crate) fn group_of(key: &[u8]) -> Option<GroupId> {
    let bytes = key.get(..GROUP_LEN)?.try_into().ok()?;
    Some(GroupId::from(u64::from_be_bytes(bytes)))
}

/// Group and row's key of a key of a table.
pub(crate) fn split(key: &[u8]) -> Option<(GroupId, &[u8])> {
    Some((group_of(key)?, &key[GROUP_LEN..]))
}

/// Raft index of a key of `log`.
pub(crate) fn number_of(key: &[u8]) -> Option<u64> {
    let key: &RowKey = key.try_into().ok()?;
    Some(u64::from_be_bytes(key[GROUP_LEN..].try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use jangada_types::table::number_key;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::tables::state_key;

    /// Often neighbours, often those at the ends and where a byte overflows.
    fn groups() -> impl Strategy<Value = GroupId> {
        let numbers = prop_oneof![0..3_u64, 254..258_u64, u64::MAX - 2..=u64::MAX, any::<u64>()];
        numbers.prop_map(GroupId::from)
    }

    /// The same of numbers that are offsets, too.
    fn numbers() -> impl Strategy<Value = u64> {
        let end = i64::MAX as u64;
        prop_oneof![0..3_u64, 254..258_u64, end - 2..=end, 0..=end]
    }

    fn record_keys() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![vec(any::<u8>(), 0..12), vec(Just(0xff), 0..12)]
    }

    /// As of a table with numbers.
    fn of_number(group: GroupId, number: u64) -> Vec<u8> {
        key(group, &number_key(number))
    }

    proptest! {
        #[test]
        fn what_went_in_comes_out(
            (group, number) in (groups(), any::<u64>()),
            (kind, record_key) in (any::<u8>(), record_keys()),
        ) {
            let row = log(group, number);
            prop_assert_eq!((group_of(&row), number_of(&row)), (Some(group), Some(number)));
            let row = state(group, StateKind(kind), number);
            prop_assert_eq!(split(&row), Some((group, &state_key(StateKind(kind), number)[..])));
            let row = key(group, &record_key);
            prop_assert_eq!(split(&row), Some((group, &record_key[..])));
        }

        #[test]
        fn a_number_comes_out(group in groups(), number in numbers()) {
            let row = of_number(group, number);
            prop_assert_eq!((group_of(&row), number_of(&row)), (Some(group), Some(number)));
        }

        #[test]
        fn keys_are_ordered_as_what_they_are_made_of(
            one in (groups(), numbers(), any::<u8>(), record_keys()),
            other in (groups(), numbers(), any::<u8>(), record_keys()),
        ) {
            let numbered = (one.0, one.1).cmp(&(other.0, other.1));
            prop_assert_eq!(log(one.0, one.1).cmp(&log(other.0, other.1)), numbered);
            prop_assert_eq!(of_number(one.0, one.1).cmp(&of_number(other.0, other.1)), numbered);
            let of_state = |(group, number, kind, _): &(GroupId, u64, u8, Vec<u8>)| {
                let kind = StateKind(*kind);
                ((*group, kind, *number), state(*group, kind, *number))
            };
            let (one_state, other_state) = (of_state(&one), of_state(&other));
            prop_assert_eq!(one_state.1.cmp(&other_state.1), one_state.0.cmp(&other_state.0));
            let keyed = (one.0, &one.3).cmp(&(other.0, &other.3));
            prop_assert_eq!(key(one.0, &one.3).cmp(&key(other.0, &other.3)), keyed);
        }

        #[test]
        fn a_groups_range_has_its_keys_and_no_other(
            (group, other) in (groups(), groups()),
            (number, kind, record_key) in (numbers(), any::<u8>(), record_keys()),
        ) {
            let (start, end) = (group_start(group), group_end(group));
            let is_within = |row: &[u8]| row >= &start[..] && row < &end[..];
            prop_assert_eq!(is_within(&log(other, number)), other == group);
            prop_assert_eq!(is_within(&of_number(other, number)), other == group);
            prop_assert_eq!(is_within(&state(other, StateKind(kind), number)), other == group);
            // The node's own group has no records.
            if other != GroupId::NODE {
                prop_assert_eq!(is_within(&key(other, &record_key)), other == group);
            }
        }

        /// A row's key has a number by its length, and nothing in it is lost.
        #[test]
        fn no_key_is_taken_for_one_of_another_shape(bytes in vec(any::<u8>(), 0..STATE_KEY_LEN + 3)) {
            let group = group_of(&bytes);
            prop_assert_eq!(group.is_some(), bytes.len() >= GROUP_LEN);
            let numbered = number_of(&bytes).zip(group).map(|(number, group)| log(group, number).to_vec());
            prop_assert_eq!(numbered, (bytes.len() == ROW_KEY_LEN).then(|| bytes.clone()));
        }
    }

    #[test]
    fn format_is_pinned() {
        let group = GroupId::from(0x0102_0304_0506_0708);
        assert_eq!(
            log(group, 0x0a0b),
            [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x0a, 0x0b]
        );
        assert_eq!(
            key(group, &number_key(258)),
            [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 1, 2]
        );
        assert_eq!(key(group, b"k"), [1, 2, 3, 4, 5, 6, 7, 8, b'k']);
        assert_eq!(
            state(group, StateKind::CHECKPOINT, 1),
            [1, 2, 3, 4, 5, 6, 7, 8, 6, 0, 0, 0, 0, 0, 0, 0, 1]
        );
    }

    #[test]
    fn numbers_come_back() {
        let group = GroupId::from(7);
        let key = log(group, u64::MAX);
        assert_eq!(group_of(&key), Some(group));
        assert_eq!(number_of(&key), Some(u64::MAX));
        assert_eq!(number_of(b"short"), None);
        assert_eq!(group_of(b"short"), None);
    }

    #[test]
    fn all_keys_of_a_group_lie_between_its_ends() {
        for group in [GroupId::from(0), GroupId::from(255), GroupId::NODE] {
            let all_ones = state(group, StateKind(255), u64::MAX);
            for key in [&log(group, 0)[..], &log(group, u64::MAX), &all_ones] {
                assert!(key >= &group_start(group)[..] && key < &group_end(group)[..]);
            }
        }
    }
}
