//! Chooses the partition of a key. The same hash as Kafka's default partitioner, so that producers in all languages put
//! a key into the same partition.
//!
//! The hash is Austin Appleby's MurmurHash2 (32 bit) with the seed that Kafka chose.

use crate::ids::PartitionIndex;

const SEED: u32 = 0x9747_b28c;
const MULTIPLIER: u32 = 0x5bd1_e995;

/// MurmurHash2 of `data`, as Kafka computes it.
pub fn murmur2(data: &[u8]) -> i32 {
    let mix = |k: u32| {
        let k = k.wrapping_mul(MULTIPLIER);
        (k ^ (k >> 24)).wrapping_mul(MULTIPLIER)
    };
    // Kafka's lengths are i32 and wrap in the same way.
    let mut hash = SEED ^ data.len() as u32;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        hash = hash.wrapping_mul(MULTIPLIER) ^ mix(u32::from_le_bytes(*word));
    }
    if !tail.is_empty() {
        let mut last = [0; 4];
        last[..tail.len()].copy_from_slice(tail);
        hash = (hash ^ u32::from_le_bytes(last)).wrapping_mul(MULTIPLIER);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(MULTIPLIER);
    (hash ^ (hash >> 15)) as i32
}

/// The partition of a key among `partitions`.
///
/// # Panics
/// Panics without partitions: every topic has one.
pub fn partition_for_key(key: &[u8], partitions: u32) -> PartitionIndex {
    assert!(partitions > 0, "a topic has at least one partition");
    // Kafka clears the sign bit rather than taking the absolute value.
    PartitionIndex((murmur2(key) as u32 & i32::MAX as u32) % partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_is_kafkas() {
        let vectors = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (text, hash) in vectors {
            assert_eq!(murmur2(text.as_bytes()), hash, "{text}");
        }
    }

    #[test]
    fn negative_hashes_find_a_partition() {
        let expected = (-973_932_308_i32 & i32::MAX) as u32;
        for partitions in [1, 2, 3, 12, 10_000] {
            assert_eq!(
                partition_for_key(b"21", partitions),
                PartitionIndex(expected % partitions)
            );
        }
    }

    #[test]
    #[should_panic(expected = "at least one partition")]
    fn no_partitions_is_a_bug() {
        partition_for_key(b"key", 0);
    }
}
