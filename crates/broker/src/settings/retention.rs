//! When old records go.

settings! {
    /// When old records go. How long they are kept is each topic's own setting.
    RetentionSettings {
        keys {
            /// How often a leader looks for records that `retention.ms` and `retention.bytes` allow to drop,
            /// milliseconds.
            check_interval_ms: u64 = 5_000, range(100, 3_600_000);
        }
        sections {}
    }
}
