//! When old records go.

settings! {
    /// When old records go. How long they are kept is each topic's own setting.
    RetentionSettings {
        keys {
            /// How often a leader looks for records that `retention.ms` and `retention.bytes` allow to drop,
            /// milliseconds.
            check_interval_ms: u64 = 5_000, range(100, 3_600_000);
            /// How long this broker must have seen its wall clock, without a step of more than a minute and in agreement with
            /// most of the live brokers, before it drops records or forgets producers by time, milliseconds. What is kept for less
            /// waits for only as long as that. A wrong clock leaves this time in which somebody can notice.
            steady_clock_ms: u64 = 3_600_000, range(0, 86_400_000);
        }
        sections {}
    }
}
