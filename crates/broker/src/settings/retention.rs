//! Settings of the timing of retention.

settings! {
    /// Timing of retention. How long records are kept is a setting of each topic (`retention.ms`, `retention.bytes`).
    RetentionSettings {
        keys {
            /// How often a leader checks for records that `retention.ms` and `retention.bytes` allow it to delete, milliseconds.
            check_interval_ms: u64 = 5_000, range(100, 3_600_000);
            /// How long this broker must have observed its wall clock, without a step of more than a minute and in agreement with
            /// most of the live brokers, before it deletes records or expires producers by time, milliseconds. Data that is kept
            /// for a shorter time waits only for that time. Operators have this long to notice a wrong clock.
            steady_clock_ms: u64 = 3_600_000, range(0, 86_400_000);
        }
        sections {}
    }
}
