//! How a broker stops.

settings! {
    /// How a broker stops on SIGTERM: it hands its leaderships over, answers what is in flight, and ends.
    ShutdownSettings {
        keys {
            /// How long handing leaderships over may take, milliseconds.
            transfer_ms: u64 = 5_000, range(0, 600_000);
            /// How long answering what is in flight may take after that, milliseconds.
            drain_ms: u64 = 5_000, range(0, 600_000);
        }
        sections {}
    }
}
