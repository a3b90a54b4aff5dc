//! Damage on the disk: how it is looked for, and what is done about it.

settings! {
    /// Damage on the disk: how it is looked for, and what is done about it.
    RepairSettings {
        keys {
            /// Damaged replicas of this broker that are given up and filled again from the others at once. 0: none by
            /// itself, an operator replaces the broker.
            replicas_max: u32 = 4, range(0, 10_000);
            /// How fast what is on the disk is read through to find damage before a reader does, bytes per second. 0: not
            /// at all.
            scrub_bytes_per_second: u64 = 8_388_608, range(0, 10_737_418_240);
            /// The least time between the beginnings of two rounds through everything, milliseconds (7 days).
            scrub_interval_ms: u64 = 604_800_000, range(1_000, 31_536_000_000);
        }
        sections {}
    }
}
