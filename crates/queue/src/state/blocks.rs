//! A sorted map from numbers to small values, in blocks of neighbours that are shared with clones of the map until one of them changes.
//! A clone, which a snapshot is encoded from, costs a pointer for each block; a change moves what is in one block, at most.
//!
//! ```text
//!   begin -> block      up to 256 values; the keys as distances from the begin, in ascending order
//!   begin -> block      one that is full is split where a value comes between; one with few takes its neighbour's
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

/// Values of a block, at most: what a change moves, or copies beside a clone, and what the block itself costs is little beside it.
const MOST: usize = 256;
/// A block with fewer is joined with a neighbour, if both together have no more than `JOINED`.
const FEW: usize = MOST / 4;
const JOINED: usize = MOST * 3 / 4;
/// How often a block with few looks at its neighbours: whenever it has lost so many.
const LOOK: usize = FEW / 4;

/// A value that may have a time by which it is found.
pub(crate) trait Timed {
    /// The time; `u64::MAX`: none.
    fn time(&self) -> u64 {
        u64::MAX
    }
}

/// Values by their keys.
#[derive(Clone, Debug)]
struct Block<V> {
    /// Of each key the distance from where the block begins.
    keys: Vec<u32>,
    values: Vec<V>,
    /// No value has an earlier time.
    least: u64,
}

/// A map in blocks. Which key is in which block follows from its history: equal maps may differ in that.
#[derive(Clone, Debug)]
pub(crate) struct Blocks<V> {
    blocks: BTreeMap<u64, Arc<Block<V>>>,
    len: usize,
    /// No value has an earlier time.
    least: u64,
}

impl<V> Default for Blocks<V> {
    fn default() -> Self {
        Self {
            blocks: BTreeMap::new(),
            len: 0,
            least: u64::MAX,
        }
    }
}

impl<V: Timed + Clone + PartialEq> PartialEq for Blocks<V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<V: Timed + Clone + Eq> Eq for Blocks<V> {}

/// Grows by a quarter, not by the double: what lies unused counts as much as what is used.
fn make_room<T>(items: &mut Vec<T>) {
    if items.len() == items.capacity() {
        items.reserve_exact((items.len() / 4 + 4).min(MOST.saturating_sub(items.len()).max(1)));
    }
}

/// Gives back what is left when most is gone.
fn give_back<T>(items: &mut Vec<T>) {
    if items.capacity() > 16 && items.len() * 2 < items.capacity() {
        items.shrink_to(items.len() + items.len() / 4);
    }
}

impl<V: Timed + Clone> Block<V> {
    fn of(value: V) -> Self {
        Self {
            keys: vec![0],
            least: value.time(),
            values: vec![value],
        }
    }

    fn insert(&mut self, at: usize, low: u32, value: V) {
        make_room(&mut self.keys);
        make_room(&mut self.values);
        self.least = self.least.min(value.time());
        self.keys.insert(at, low);
        self.values.insert(at, value);
    }

    /// Takes the upper half out, and says how far it begins behind this block.
    fn split(&mut self) -> (u32, Self) {
        let at = self.keys.len() / 2;
        let begin = self.keys[at];
        let keys = self.keys.split_off(at).into_iter().map(|low| low - begin).collect();
        let upper = Self {
            keys,
            values: self.values.split_off(at),
            least: self.least,
        };
        give_back(&mut self.keys);
        give_back(&mut self.values);
        (begin, upper)
    }

    /// Takes in the values of the block that begins so far behind this one.
    fn join(&mut self, distance: u32, upper: &Self) {
        let count = upper.keys.len();
        self.keys.reserve_exact(count);
        self.keys.extend(upper.keys.iter().map(|low| low + distance));
        self.values.reserve_exact(count);
        self.values.extend(upper.values.iter().cloned());
        self.least = self.least.min(upper.least);
    }

    /// The last key, as a distance from the begin.
    fn last(&self) -> u32 {
        *self.keys.last().expect("a block has a value")
    }
}

impl<V: Timed + Clone> Blocks<V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The block that has the key, if any has, and its distance from the begin.
    fn block_of(&self, key: u64) -> Option<(&Block<V>, u32)> {
        let (begin, block) = self.blocks.range(..=key).next_back()?;
        Some((block, u32::try_from(key - begin).ok()?))
    }

    pub(crate) fn get(&self, key: u64) -> Option<&V> {
        let (block, low) = self.block_of(key)?;
        let at = block.keys.binary_search(&low).ok()?;
        Some(&block.values[at])
    }

    /// A value to change, if there is one. Its time is to be changed by [`Blocks::insert`].
    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let (begin, block) = self.blocks.range_mut(..=key).next_back()?;
        let low = u32::try_from(key - begin).ok()?;
        let at = block.keys.binary_search(&low).ok()?;
        Some(&mut Arc::make_mut(block).values[at])
    }

    /// Puts a value, and gives the one that had the key.
    pub(crate) fn insert(&mut self, key: u64, value: V) -> Option<V> {
        self.least = self.least.min(value.time());
        let before = self.blocks.range_mut(..=key).next_back();
        let before = before.and_then(|(begin, block)| Some((*begin, block, u32::try_from(key - begin).ok()?)));
        if let Some((begin, shared, low)) = before {
            // Most come in ascending order.
            let at = match shared.last() < low {
                true => Err(shared.keys.len()),
                false => shared.keys.binary_search(&low),
            };
            let is_full = shared.keys.len() >= MOST;
            match at {
                Ok(at) => {
                    let block = Arc::make_mut(shared);
                    block.least = block.least.min(value.time());
                    return Some(std::mem::replace(&mut block.values[at], value));
                }
                Err(at) if !is_full => {
                    Arc::make_mut(shared).insert(at, low, value);
                    self.len += 1;
                    return None;
                }
                // It comes between.
                Err(at) if at < shared.keys.len() => {
                    let (distance, mut upper) = Arc::make_mut(shared).split();
                    match at.checked_sub(shared.keys.len()) {
                        Some(at) if low > distance => upper.insert(at, low - distance, value),
                        _ => Arc::make_mut(shared).insert(at, low, value),
                    }
                    self.blocks.insert(begin + u64::from(distance), Arc::new(upper));
                    self.len += 1;
                    return None;
                }
                Err(_) => {}
            }
        }
        self.len += 1;
        // It comes in front of a block, or behind all of them.
        let after = self.blocks.range(key..).next().map(|(begin, _)| *begin);
        let after = after.and_then(|begin| {
            let distance = u32::try_from(begin - key).ok()?;
            let block = &self.blocks[&begin];
            let fits = block.keys.len() < MOST && block.last().checked_add(distance).is_some();
            fits.then_some((begin, distance))
        });
        let mut block = Block::of(value);
        if let Some((begin, distance)) = after {
            block.join(distance, &self.blocks.remove(&begin).expect("it is there"));
        }
        self.blocks.insert(key, Arc::new(block));
        None
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<V> {
        let (begin, shared) = self.blocks.range_mut(..=key).next_back()?;
        let begin = *begin;
        let low = u32::try_from(key - begin).ok()?;
        let at = shared.keys.binary_search(&low).ok()?;
        let block = Arc::make_mut(shared);
        block.keys.remove(at);
        let removed = block.values.remove(at);
        self.len -= 1;
        let left = block.keys.len();
        if left == 0 {
            self.blocks.remove(&begin);
            if self.blocks.is_empty() {
                self.least = u64::MAX;
            }
            return Some(removed);
        }
        give_back(&mut block.keys);
        give_back(&mut block.values);
        if left < FEW && left % LOOK == 0 {
            let before = self.blocks.range(..begin).next_back().map(|(begin, _)| *begin);
            if !before.is_some_and(|before| self.join(before, begin)) {
                let after = self.blocks.range(begin + 1..).next().map(|(begin, _)| *begin);
                let _ = after.is_some_and(|after| self.join(begin, after));
            }
        }
        Some(removed)
    }

    /// Makes one of two blocks that follow each other, if both have few. Says whether they had.
    fn join(&mut self, lower: u64, upper: u64) -> bool {
        let (of_lower, of_upper) = (&self.blocks[&lower], &self.blocks[&upper]);
        let Ok(distance) = u32::try_from(upper - lower) else {
            return false;
        };
        if of_lower.keys.len() + of_upper.keys.len() > JOINED || of_upper.last().checked_add(distance).is_none() {
            return false;
        }
        let taken = self.blocks.remove(&upper).expect("it is there");
        let lower = self.blocks.get_mut(&lower).expect("it is there");
        Arc::make_mut(lower).join(distance, &taken);
        true
    }

    /// The values from `key` on, in ascending order.
    pub(crate) fn from(&self, key: u64) -> impl Iterator<Item = (u64, &V)> {
        let first = self.blocks.range(..=key).next_back().map_or(key, |(begin, _)| *begin);
        self.blocks.range(first..).flat_map(move |(begin, block)| {
            let skip = match key.checked_sub(*begin) {
                Some(low) => block.keys.partition_point(|key| u64::from(*key) < low),
                None => 0,
            };
            let keys = block.keys[skip..].iter().map(move |low| begin + u64::from(*low));
            keys.zip(&block.values[skip..])
        })
    }

    /// How many values there are from a key on, below another.
    pub(crate) fn count(&self, from: u64, until: u64) -> u64 {
        let first = self.blocks.range(..=from).next_back().map_or(from, |(begin, _)| *begin);
        let of_block = |(begin, block): (&u64, &Arc<Block<V>>)| {
            let below = |key: u64| match key.checked_sub(*begin) {
                Some(low) => block.keys.partition_point(|key| u64::from(*key) < low),
                None => 0,
            };
            (below(until) - below(from)) as u64
        };
        self.blocks.range(first..until.max(first)).map(of_block).sum()
    }

    /// All values, in ascending order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.from(0)
    }

    /// No value has an earlier time; `u64::MAX`: none has a time. There may be none with just this one.
    pub(crate) fn least_time(&self) -> u64 {
        self.least
    }

    /// The times up to `until` with the keys of their values, in ascending order. The caller changes the times of these values: they are
    /// not found again by the old ones.
    pub(crate) fn take_times(&mut self, until: u64) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        if self.least > until {
            return found;
        }
        self.least = u64::MAX;
        for (begin, shared) in &mut self.blocks {
            if shared.least <= until {
                let block = Arc::make_mut(shared);
                block.least = u64::MAX;
                for (low, value) in block.keys.iter().zip(&block.values) {
                    match value.time() {
                        time if time <= until => found.push((time, begin + u64::from(*low))),
                        time => block.least = block.least.min(time),
                    }
                }
            }
            self.least = self.least.min(shared.least);
        }
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    impl Timed for u16 {
        fn time(&self) -> u64 {
            match self {
                0 => u64::MAX,
                time => u64::from(*time),
            }
        }
    }

    fn check(map: &Blocks<u16>) {
        let mut end = 0;
        for (begin, block) in &map.blocks {
            assert!(*begin >= end, "blocks do not overlap");
            end = begin + u64::from(block.last()) + 1;
            assert_eq!(block.keys.len(), block.values.len());
            assert!(block.keys.len() <= MOST && block.keys.is_sorted_by(|one, other| one < other));
            let least = block.values.iter().map(Timed::time).min().unwrap_or(u64::MAX);
            assert!(block.least <= least && map.least <= block.least);
        }
    }

    /// Neighbours, what lies far apart, and what is too far for one block.
    fn key() -> impl Strategy<Value = u64> {
        prop_oneof![0..700_u64, (0..700_u64).prop_map(|at| at * 100_000_000)]
    }

    proptest! {
        #[test]
        fn a_map_is_what_a_naive_one_is(
            ranges in prop::collection::vec((key(), 0..600_u64, any::<bool>()), 0..4),
            ops in prop::collection::vec((0..6_u8, key(), any::<u16>()), 0..400),
        ) {
            let mut map = Blocks::<u16>::default();
            let mut model = BTreeMap::new();
            for (first, count, is_upward) in ranges {
                for at in 0..count {
                    let key = first + if is_upward { at } else { count - at };
                    prop_assert_eq!(map.insert(key, 1), model.insert(key, 1));
                }
            }
            for (kind, key, value) in ops {
                match kind {
                    0 | 1 => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    2 => prop_assert_eq!(map.remove(key), model.remove(&key)),
                    3 => {
                        let gone: Vec<u64> = model.range(key..).map(|(key, _)| *key).take(300).collect();
                        for key in gone {
                            prop_assert_eq!(map.remove(key), model.remove(&key));
                        }
                    }
                    4 => {
                        let mut due: Vec<(u64, u64)> = model.iter().map(|(key, value)| (value.time(), *key)).collect();
                        due.retain(|(time, _)| *time <= u64::from(value));
                        due.sort_unstable();
                        prop_assert_eq!(&map.take_times(u64::from(value)), &due);
                        for (_, key) in due {
                            map.insert(key, 0);
                            model.insert(key, 0);
                        }
                        prop_assert!(map.least_time() > u64::from(value));
                    }
                    _ => {
                        if let Some(found) = map.get_mut(key) {
                            // It has no other time.
                            *found = found.wrapping_add(0);
                        }
                    }
                }
                check(&map);
                prop_assert_eq!(map.get(key), model.get(&key));
                prop_assert_eq!(map.len(), model.len());
                let until = key + u64::from(value);
                prop_assert_eq!(map.count(key, until), model.range(key..until).count() as u64);
                prop_assert!(map.from(key).eq(model.range(key..).map(|(key, value)| (*key, value))));
            }
            prop_assert!(map.iter().eq(model.iter().map(|(key, value)| (*key, value))));
            let mut other = Blocks::default();
            for (key, value) in model.iter().rev() {
                other.insert(*key, *value);
            }
            prop_assert_eq!(map, other, "whatever their histories");
        }
    }

    #[test]
    fn blocks_are_full_when_they_come_in_order_and_few_when_most_is_gone() {
        let mut map = Blocks::<u16>::default();
        (0..10_000).for_each(|key| assert_eq!(map.insert(key, 0), None));
        assert_eq!(map.blocks.len(), 10_000_usize.div_ceil(MOST));
        let capacity: usize = map.blocks.values().map(|block| block.values.capacity()).sum();
        assert!(capacity < 10_000 + MOST, "{capacity}");
        (0..10_000)
            .filter(|key| key % 100 != 0)
            .for_each(|key| assert_eq!(map.remove(key), Some(0)));
        assert!(map.blocks.len() <= 3, "{} blocks of 100 values", map.blocks.len());
        let mut map = Blocks::<u16>::default();
        (0..10_000).rev().for_each(|key| assert_eq!(map.insert(key, 0), None));
        assert_eq!(map.blocks.len(), 10_000_usize.div_ceil(MOST));
    }
}
