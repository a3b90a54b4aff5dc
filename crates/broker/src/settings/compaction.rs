//! Settings of compaction by key.

settings! {
    /// Compaction by key of topics with `cleanup.policy=compact`.
    CompactionSettings {
        keys {
            /// How fast compaction reads and writes, bytes per second. 0: no compaction on this broker.
            bytes_per_second: u64 = 67_108_864, range(0, 10_737_418_240);
            /// Memory for the keys of one pass, about 35 bytes for each key. With more keys a partition is compacted in several
            /// passes.
            map_bytes: u64 = 134_217_728, range(1_048_576, 17_179_869_184);
        }
        sections {}
    }
}
