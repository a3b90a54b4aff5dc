//! The last offset of each key, in a bounded memory.
//!
//! A key is 128 bits of SipHash-2-4 under a key that nobody outside knows: two keys with one hash would lose one of the two, and nobody
//! can look for such keys. Open addressing with linear probing, 24 bytes a place, 70 % of the places at most, so about 35 bytes a key.
//! Kafka's cleaner keeps MD5 in the same way.

use jangada_types::Offset;
use siphasher::sip128::SipHasher24;

/// Bytes of a place.
const PLACE_BYTES: usize = size_of::<Place>();
const _: () = assert!(PLACE_BYTES == 24);
/// Of so many places, [`LOAD_NUMERATOR`] may be taken.
const LOAD_DENOMINATOR: usize = 10;
const LOAD_NUMERATOR: usize = 7;
/// A map of fewer keys is not worth making.
const KEYS_MIN: usize = 16;

/// A key's hash and offset. A hash of zeros is a place that is free.
#[derive(Clone, Copy, Default)]
struct Place {
    hash: [u64; 2],
    offset: i64,
}

/// The hash of a key under the secret of one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHash([u64; 2]);

/// The last offset of each key that was put.
pub struct KeyMap {
    hasher: SipHasher24,
    places: Vec<Place>,
    len: usize,
}

/// There is no room for another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl KeyMap {
    /// An empty map for so many keys, if they fit into so many bytes, or else for as many as do. `secret` is a random number of its own for
    /// each map.
    pub fn new(secret: u128, keys: u64, bytes_max: usize) -> Self {
        let most = (bytes_max / PLACE_BYTES).max(KEYS_MIN);
        let wanted = usize::try_from(keys).unwrap_or(usize::MAX).max(KEYS_MIN);
        let wanted = (wanted / LOAD_NUMERATOR + 1).saturating_mul(LOAD_DENOMINATOR);
        Self {
            hasher: SipHasher24::new_with_key(&secret.to_le_bytes()),
            places: vec![Place::default(); wanted.min(most)],
            len: 0,
        }
    }

    /// Memory that the map takes, bytes.
    pub fn bytes(&self) -> usize {
        self.places.len() * PLACE_BYTES
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn is_full(&self) -> bool {
        (self.len + 1) * LOAD_DENOMINATOR > self.places.len() * LOAD_NUMERATOR
    }

    /// The hash that a key has in this map.
    pub fn hash(&self, key: &[u8]) -> KeyHash {
        let hash = self.hasher.hash(key);
        match [hash.h1, hash.h2] {
            [0, 0] => KeyHash([1, 0]),
            hash => KeyHash(hash),
        }
    }

    /// The place that has the key, or the free one where it belongs.
    fn place_of(&self, KeyHash(hash): KeyHash) -> usize {
        let count = self.places.len();
        let mut at = ((u128::from(hash[0]) * count as u128) >> 64) as usize;
        loop {
            let place = &self.places[at];
            if place.hash == hash || place.hash == [0, 0] {
                return at;
            }
            at = (at + 1) % count;
        }
    }

    /// Says where a key occurs, if not further on.
    ///
    /// # Errors
    /// The key is new, and there is no room for it.
    pub fn put(&mut self, key: KeyHash, offset: Offset) -> Result<(), Full> {
        let at = self.place_of(key);
        if self.places[at].hash == [0, 0] {
            if self.is_full() {
                return Err(Full);
            }
            self.len += 1;
            self.places[at] = Place {
                hash: key.0,
                offset: offset.get(),
            };
        }
        let place = &mut self.places[at];
        place.offset = place.offset.max(offset.get());
        Ok(())
    }

    /// Where a key occurs last; `None`: nowhere.
    pub fn get(&self, key: &[u8]) -> Option<Offset> {
        let place = &self.places[self.place_of(self.hash(key))];
        (place.hash != [0, 0]).then_some(Offset(place.offset))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn hashes_are_those_of_the_reference() {
        // The first vectors of the reference implementation: the key is 0, 1, 2 ... 15.
        let map = KeyMap::new(u128::from_le_bytes(std::array::from_fn(|at| at as u8)), 1, 0);
        let bytes = |key: &[u8]| map.hash(key).0.map(u64::to_le_bytes).concat();
        assert_eq!(bytes(&[])[..8], [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6]);
        assert_eq!(bytes(&[])[8..], [0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93]);
        assert_eq!(bytes(&[0])[..8], [0xda, 0x87, 0xc1, 0xd8, 0x6b, 0x99, 0xaf, 0x44]);
    }

    #[test]
    fn the_last_offset_of_each_key_is_found() {
        let mut map = KeyMap::new(7, 1_000, 1 << 20);
        let mut expected = BTreeMap::new();
        for offset in 0..5_000_i64 {
            let key = (offset * 7_919 % 1_000).to_string();
            let hash = map.hash(key.as_bytes());
            map.put(hash, Offset(offset)).expect("there is room");
            map.put(hash, Offset(offset - 1)).expect("it is there");
            expected.insert(key, Offset(offset));
        }
        assert_eq!(map.len(), 1_000);
        for (key, offset) in &expected {
            assert_eq!(map.get(key.as_bytes()), Some(*offset), "{key}");
        }
        assert_eq!(map.get(b"another"), None);
    }

    #[test]
    fn a_full_map_takes_keys_that_it_has_and_no_other() {
        let mut map = KeyMap::new(7, 1 << 40, 24 * 1_000);
        assert_eq!(map.bytes(), 24 * 1_000);
        let mut taken = 0_u32;
        while map.put(map.hash(&taken.to_le_bytes()), Offset(1)).is_ok() {
            taken += 1;
        }
        assert_eq!((taken, map.len()), (700, 700));
        for key in 0..taken {
            assert_eq!(map.put(map.hash(&key.to_le_bytes()), Offset(2)), Ok(()));
        }
        assert_eq!(map.get(&0_u32.to_le_bytes()), Some(Offset(2)));
        assert_eq!(map.get(&taken.to_le_bytes()), None);
    }

    #[test]
    fn a_map_is_no_larger_than_its_keys_need_and_never_of_no_use() {
        assert!(KeyMap::new(1, 100, 128 << 20).bytes() < 4_000);
        let mut map = KeyMap::new(1, 1 << 50, 0);
        assert!(map.is_empty());
        assert_eq!(
            map.put(map.hash(b"k"), Offset(0)),
            Ok(()),
            "a pass always makes progress"
        );
    }
}
