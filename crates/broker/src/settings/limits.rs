//! Limits of what clients may use at once.

use jangada_types::limits::{FETCH_BYTES_MAX, REQUEST_BYTES_MAX};

use super::Problem;

settings! {
    /// Limits of what clients may use at once. Each queue of the broker is bounded here, in bytes. Beyond a limit a request is
    /// refused with RESOURCE_EXHAUSTED and a delay after which to try again.
    LimitSettings {
        keys {
            /// The largest request, bytes. Requests that carry no records have at most 4 MiB in any case.
            request_bytes_max: u64 = REQUEST_BYTES_MAX as u64, range(1_048_576, 67_108_864);
            /// Encoded bytes of all requests that are being received or processed, and again as many bytes for their decoded form.
            /// A message is counted before it is read, and before it is decoded. Beyond the limit messages wait for up to 5 s, and
            /// are then refused with BROKER_BUSY.
            request_inflight_bytes: u64 = 268_435_456, range(67_108_864, 17_179_869_184);
            /// Bytes of all responses that are not sent yet, fetched records apart. Beyond the limit: BROKER_BUSY.
            answer_inflight_bytes: u64 = 67_108_864, range(33_554_432, 17_179_869_184);
            /// How long a message may be in transfer without a byte of it being received or sent, milliseconds. Then a request is
            /// refused, and the connection of a response is closed; the latter after 2 s already while others wait for the memory.
            stalled_ms: u64 = 60_000, range(1_000, 3_600_000);
            /// What the connections from one address may hold of each shared resource, in percent of what they hold and what is
            /// free together. A connection may hold half of what its address may still take; if it is the only one, a quarter of
            /// the resource. With 100 one address may take all, for clients behind one proxy.
            address_share_percent: u32 = 75, range(1, 100);
            /// Bytes of received batches of one partition that its quorum has not committed yet. Beyond the limit: PARTITION_BUSY.
            /// A connection with several batches may hold half of what it holds and what is free together.
            produce_inflight_bytes_per_partition: u64 = 16_777_216, range(8_388_608, 1_073_741_824);
            /// Bytes of such batches over all partitions of the broker; and as many may wait for the broker's disk when its
            /// followers are faster. Beyond either limit: BROKER_BUSY.
            produce_inflight_bytes: u64 = 268_435_456, range(16_777_216, 17_179_869_184);
            /// Bytes that one fetch returns at most, unless its first batch alone is larger.
            fetch_bytes_max: u64 = FETCH_BYTES_MAX as u64, range(65_536, FETCH_BYTES_MAX as u64);
            /// Bytes that all fetches of batches have read and not sent yet, and again as many for all fetches of decoded records.
            /// They count until they are written to the client's socket. Beyond the limit fetches wait, and are then refused with
            /// BROKER_BUSY.
            fetch_inflight_bytes: u64 = 134_217_728, range(16_777_216, 17_179_869_184);
            /// Produce and fetch streams of all connections together, shared by `address_share_percent`. Beyond the limit:
            /// TOO_MANY_STREAMS.
            streams_max: u32 = 10_000, range(1, 1_000_000);
            /// Calls of all connections together, streams included, shared by `address_share_percent`; each takes about 16 KiB
            /// beside its messages. Beyond the limit: BROKER_BUSY.
            calls_max: u32 = 20_000, range(100, 1_000_000);
            /// Calls that one connection may have open at once; HTTP/2 makes the client wait with further ones. This project's
            /// client has up to 100 streams on a connection.
            calls_per_connection_max: u32 = 2_000, range(1, 100_000);
            /// Connections of each client listener, as far as the limit of open files has room for them beside the store's files.
            /// Beyond the limit an idle connection of the address that has the most is closed in favour of another address; other
            /// new connections are refused with TOO_MANY_CONNECTIONS.
            connections_max: u32 = 10_000, range(16, 1_000_000);
            /// Connections of clients from one address (of IPv6: from one /64 network); at most three quarters of a listener's.
            connections_per_address_max: u32 = 1_000, range(1, 1_000_000);
            /// How long a connection may have no call before it is closed, milliseconds.
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
        if self.request_inflight_bytes < 2 * self.request_bytes_max {
            let message = format!(
                "is {}, must be at least twice limits.request_bytes_max ({})",
                self.request_inflight_bytes, self.request_bytes_max
            );
            problems.push(Problem::new("limits.request_inflight_bytes", message));
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
