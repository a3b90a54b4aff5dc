//! Defaults of producing.

use jangada_types::limits::{PRODUCE_TIMEOUT_MS_DEFAULT, PRODUCE_TIMEOUT_MS_MAX};

settings! {
    /// Defaults of producing.
    ProduceSettings {
        keys {
            /// How long a batch waits for its quorum when the request has no timeout of its own, milliseconds. After that the
            /// request fails with QUORUM_TIMEOUT.
            timeout_ms: u32 = PRODUCE_TIMEOUT_MS_DEFAULT, range(100, PRODUCE_TIMEOUT_MS_MAX as u64);
            /// How long a partition keeps the state of an idempotent producer that sends nothing, milliseconds (7 days).
            producer_expiration_ms: u64 = 604_800_000, range(1_000, 31_536_000_000);
        }
        sections {}
    }
}
