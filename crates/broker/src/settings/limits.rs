//! What clients may ask for at once.

use jangada_types::limits::{FETCH_BYTES_MAX, REQUEST_BYTES_MAX};

use super::Problem;

settings! {
    /// What clients may ask for at once. Each queue of the broker is bounded here, in bytes; beyond a bound the answer
    /// is RESOURCE_EXHAUSTED with a delay after which to try again.
    LimitSettings {
        keys {
            /// The largest request, bytes.
            request_bytes_max: u64 = REQUEST_BYTES_MAX as u64, range(1_048_576, 67_108_864);
            /// Batches of one partition that are received and on their way through its quorum, bytes. Beyond it:
            /// PARTITION_BUSY.
            produce_inflight_bytes_per_partition: u64 = 16_777_216, range(8_388_608, 1_073_741_824);
            /// The same over all partitions of the broker, bytes; and as much may wait for the broker's disk when its
            /// followers are faster. Beyond either: BROKER_BUSY.
            produce_inflight_bytes: u64 = 268_435_456, range(16_777_216, 17_179_869_184);
            /// Bytes that one fetch returns at most, unless its first batch alone is larger.
            fetch_bytes_max: u64 = FETCH_BYTES_MAX as u64, range(65_536, FETCH_BYTES_MAX as u64);
            /// Bytes that all fetches in the raw form together have read and not sent, and as many in the plain form. Beyond
            /// it fetches wait, and then BROKER_BUSY.
            fetch_inflight_bytes: u64 = 134_217_728, range(16_777_216, 17_179_869_184);
            /// Produce and fetch streams of all connections together. Beyond it: TOO_MANY_STREAMS.
            streams_max: u32 = 10_000, range(1, 1_000_000);
            /// Calls that one connection may have open at once.
            calls_per_connection_max: u32 = 2_000, range(1, 100_000);
            /// Connections of clients, as far as the limit of open files has room beside the store's. When all are taken, an
            /// idle connection of the address that has most makes way for one from another address; others are refused
            /// with TOO_MANY_CONNECTIONS.
            connections_max: u32 = 10_000, range(16, 1_000_000);
            /// Connections of clients from one address (of IPv6: from one /64 network), at most three quarters of all.
            connections_per_address_max: u32 = 1_000, range(1, 1_000_000);
            /// How long a connection may have no call before it is ended, milliseconds.
            connection_idle_ms: u64 = 600_000, range(1_000, 86_400_000);
        }
        sections {}
    }
}

impl LimitSettings {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        if self.produce_inflight_bytes < self.produce_inflight_bytes_per_partition {
            let message = format!(
                "is {}, must be at least limits.produce_inflight_bytes_per_partition ({})",
                self.produce_inflight_bytes, self.produce_inflight_bytes_per_partition
            );
            problems.push(Problem::new("limits.produce_inflight_bytes", message));
        }
        if self.fetch_inflight_bytes < self.fetch_bytes_max {
            let message = format!(
                "is {}, must be at least limits.fetch_bytes_max ({})",
                self.fetch_inflight_bytes, self.fetch_bytes_max
            );
            problems.push(Problem::new("limits.fetch_inflight_bytes", message));
        }
    }
}
