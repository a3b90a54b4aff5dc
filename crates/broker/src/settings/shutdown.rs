//! Settings of a clean stop.

settings! {
    /// Timing of a clean stop, on SIGTERM: the broker hands over its leaderships, answers the calls in flight, and ends.
    ShutdownSettings {
        keys {
            /// How long the hand-over of leaderships may take, milliseconds.
            transfer_ms: u64 = 5_000, range(0, 600_000);
            /// How long the calls in flight may take after that, milliseconds.
            drain_ms: u64 = 5_000, range(0, 600_000);
        }
        sections {}
    }
}
