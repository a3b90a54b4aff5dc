//! A sorted map from numbers to small values, in blocks that are shared with clones of the map until one of them changes. A clone,
//! which a snapshot is encoded from, costs a pointer for each block.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The values whose keys are equal above their lowest bits, sorted by those.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Block<V> {
    keys: Vec<u32>,
    values: Vec<V>,
}

/// A map whose blocks have the keys with equal bits above the lowest `SHIFT`, of which there are at most 32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blocks<V, const SHIFT: u32> {
    blocks: BTreeMap<u64, Arc<Block<V>>>,
    len: usize,
}

impl<V, const SHIFT: u32> Default for Blocks<V, SHIFT> {
    fn default() -> Self {
        Self {
            blocks: BTreeMap::new(),
            len: 0,
        }
    }
}

/// Grows by a quarter, not by the double: what lies unused counts as much as what is used.
fn make_room<T>(items: &mut Vec<T>) {
    if items.len() == items.capacity() {
        items.reserve_exact(items.len() / 4 + 4);
    }
}

/// Gives back what is left when most is gone.
fn give_back<T>(items: &mut Vec<T>) {
    if items.capacity() > 64 && items.len() * 2 < items.capacity() {
        items.shrink_to(items.len() + items.len() / 4);
    }
}

impl<V: Clone, const SHIFT: u32> Blocks<V, SHIFT> {
    const LOW: u64 = (1 << SHIFT) - 1;

    fn split(key: u64) -> (u64, u32) {
        const { assert!(SHIFT <= 32, "the rest of a key has 32 bits") };
        (key >> SHIFT, (key & Self::LOW) as u32)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn get(&self, key: u64) -> Option<&V> {
        let (number, low) = Self::split(key);
        let block = self.blocks.get(&number)?;
        let at = block.keys.binary_search(&low).ok()?;
        Some(&block.values[at])
    }

    pub(crate) fn get_mut(&mut self, key: u64) -> Option<&mut V> {
        let (number, low) = Self::split(key);
        let block = self.blocks.get_mut(&number)?;
        let at = block.keys.binary_search(&low).ok()?;
        Some(&mut Arc::make_mut(block).values[at])
    }

    /// Puts a value, and gives the one that had the key.
    pub(crate) fn insert(&mut self, key: u64, value: V) -> Option<V> {
        let (number, low) = Self::split(key);
        let block = self.blocks.entry(number).or_insert_with(|| {
            Arc::new(Block {
                keys: Vec::new(),
                values: Vec::new(),
            })
        });
        let block = Arc::make_mut(block);
        // Most come in ascending order.
        let at = match block.keys.last() {
            Some(last) if *last < low => Err(block.keys.len()),
            None => Err(0),
            Some(_) => block.keys.binary_search(&low),
        };
        match at {
            Ok(at) => Some(std::mem::replace(&mut block.values[at], value)),
            Err(at) => {
                make_room(&mut block.keys);
                make_room(&mut block.values);
                block.keys.insert(at, low);
                block.values.insert(at, value);
                self.len += 1;
                None
            }
        }
    }

    pub(crate) fn remove(&mut self, key: u64) -> Option<V> {
        let (number, low) = Self::split(key);
        let shared = self.blocks.get_mut(&number)?;
        let at = shared.keys.binary_search(&low).ok()?;
        let block = Arc::make_mut(shared);
        block.keys.remove(at);
        let removed = block.values.remove(at);
        self.len -= 1;
        if block.keys.is_empty() {
            self.blocks.remove(&number);
        } else {
            give_back(&mut block.keys);
            give_back(&mut block.values);
        }
        Some(removed)
    }

    /// The values from `key` on, in ascending order.
    pub(crate) fn from(&self, key: u64) -> impl Iterator<Item = (u64, &V)> {
        let (number, low) = Self::split(key);
        self.blocks.range(number..).flat_map(move |(at, block)| {
            let skip = match *at == number {
                true => block.keys.partition_point(|key| *key < low),
                false => 0,
            };
            let keys = block.keys[skip..]
                .iter()
                .map(move |low| (at << SHIFT) + u64::from(*low));
            keys.zip(&block.values[skip..])
        })
    }

    /// All values, in ascending order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &V)> {
        self.from(0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_map_is_what_a_naive_one_is(ops in prop::collection::vec((0..4_u8, 0..300_u64, any::<u8>()), 0..400)) {
            let mut map = Blocks::<u8, 4>::default();
            let mut model = BTreeMap::new();
            for (kind, key, value) in ops {
                match kind {
                    0 | 1 => prop_assert_eq!(map.insert(key, value), model.insert(key, value)),
                    2 => prop_assert_eq!(map.remove(key), model.remove(&key)),
                    _ => {
                        if let Some(found) = map.get_mut(key) {
                            *found = value;
                            model.insert(key, value);
                        }
                    }
                }
                prop_assert_eq!(map.get(key), model.get(&key));
                prop_assert_eq!(map.len(), model.len());
                prop_assert!(map.from(key).eq(model.range(key..).map(|(key, value)| (*key, value))));
            }
            prop_assert!(map.iter().eq(model.iter().map(|(key, value)| (*key, value))));
        }
    }
}
