//! Keys, and their partitions according to other programs.

/// Keys with their hashes, as Kafka's own tests have them (`UtilsTest.testMurmur2`) for all but the last three; those come from another
/// program (Python), which agrees on the others. Over five partitions they leave none out.
pub const MURMUR2: [(&str, i32); 10] = [
    ("21", -973_932_308),
    ("foobar", -790_332_482),
    ("a-little-bit-long-string", -985_981_536),
    ("a-little-bit-longer-string", -1_486_304_829),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
    ("abc", 479_470_107),
    ("", 275_646_681),
    ("customer 7", -551_276_946),
    ("customer 4", 1_062_985_548),
    ("\u{4e2d}\u{6587}", 1_074_123_597),
];

/// The partition to which Kafka's default partitioner sends a key of this hash.
pub fn partition_of(hash: i32, partitions: u32) -> u32 {
    (hash as u32 & 0x7fff_ffff) % partitions
}
