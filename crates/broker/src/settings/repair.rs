//! Settings of the detection and repair of damaged data.

settings! {
    /// Detection and repair of damaged data on the disk.
    RepairSettings {
        keys {
            /// How many damaged replicas of this broker may be given up and filled again from their peers at the same time. 0: none,
            /// an operator replaces the broker.
            replicas_max: u32 = 4, range(0, 10_000);
            /// How fast the scrub reads the data on disk, to find damage before it is needed, bytes per second. 0: no scrub.
            scrub_bytes_per_second: u64 = 8_388_608, range(0, 10_737_418_240);
            /// The least time between the starts of two rounds of the scrub, milliseconds (7 days).
            scrub_interval_ms: u64 = 604_800_000, range(1_000, 31_536_000_000);
        }
        sections {}
    }
}
