//! Limits of the number of series in `/metrics`.

settings! {
    /// Limits of the number of series in `/metrics`. Each series costs memory and disk where metrics are collected.
    MetricsSettings {
        keys {
            /// Topics that have series of their own on this broker; the others are counted together as `(others)`.
            topics_max: u32 = 500, range(0, 10_000);
            /// Pairs of a group and a topic whose lag has a series of its own, of the groups that this broker coordinates; the
            /// others are summed as `(others)`. 0: the lag is not computed.
            group_series_max: u32 = 1_000, range(0, 100_000);
            /// How often the lag of groups is computed while `/metrics` is scraped, milliseconds.
            group_lag_interval_ms: u64 = 10_000, range(500, 600_000);
        }
        sections {}
    }
}
