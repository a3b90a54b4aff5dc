//! What `/metrics` shows of what there may be many of.

settings! {
    /// What `/metrics` shows of what there may be many of. Each series costs whoever collects them.
    MetricsSettings {
        keys {
            /// Topics that have series of their own on this broker; the others are counted together as `(others)`.
            topics_max: u32 = 500, range(0, 10_000);
            /// Pairs of a group and a topic whose lag has a series of its own, of the groups that this broker coordinates; the
            /// others are summed as `(others)`. 0: the lag of groups is not looked at.
            group_series_max: u32 = 1_000, range(0, 100_000);
            /// How often the lag of groups is found out while somebody scrapes, milliseconds.
            group_lag_interval_ms: u64 = 10_000, range(500, 600_000);
        }
        sections {}
    }
}
