//! What clients may ask for at once.

use jangada_types::limits::{FETCH_BYTES_MAX, REQUEST_BYTES_MAX};

use super::Problem;

settings! {
    /// What clients may ask for at once. Each queue of the broker is bounded here, in bytes; beyond a bound the answer
    /// is RESOURCE_EXHAUSTED with a delay after which to try again.
    LimitSettings {
        keys {
            /// The largest request, bytes. Requests that carry no records have at most 4 MiB in any case.
            request_bytes_max: u64 = REQUEST_BYTES_MAX as u64, range(1_048_576, 67_108_864);
            /// Bytes of requests that are being received and answered, all together, and as many that their fields take
            /// decoded. A message counts before it is taken up, and before it is decoded; beyond it messages wait for up to
            /// 5 s, and then BROKER_BUSY.
            request_inflight_bytes: u64 = 268_435_456, range(67_108_864, 17_179_869_184);
            /// Bytes of answers that were not sent, all together, other than what is fetched. Beyond it: BROKER_BUSY.
            answer_inflight_bytes: u64 = 67_108_864, range(33_554_432, 17_179_869_184);
            /// How long a message may be under way without a byte of it coming or being taken, milliseconds. Then a request is
            /// refused, and the connection of an answer is closed; that after 2 s already when others wait for its room.
            stalled_ms: u64 = 60_000, range(1_000, 3_600_000);
            /// What the connections from one address may hold of each resource that all share, in percent of it and of what
            /// is free together. A connection may hold half of what its address may still take: a quarter of all, if it is
            /// alone.
            /// With 100 an address may take all: for clients behind one proxy.
            address_share_percent: u32 = 75, range(1, 100);
            /// Batches of one partition that are received and on their way through its quorum, bytes. Beyond it:
            /// PARTITION_BUSY. A connection with several may hold half of what it holds and what is free together.
            produce_inflight_bytes_per_partition: u64 = 16_777_216, range(8_388_608, 1_073_741_824);
            /// The same over all partitions of the broker, bytes; and as much may wait for the broker's disk when its
            /// followers are faster. Beyond either: BROKER_BUSY.
            produce_inflight_bytes: u64 = 268_435_456, range(16_777_216, 17_179_869_184);
            /// Bytes that one fetch returns at most, unless its first batch alone is larger.
            fetch_bytes_max: u64 = FETCH_BYTES_MAX as u64, range(65_536, FETCH_BYTES_MAX as u64);
            /// Bytes that all fetches in the raw form together have read and not sent, and as many in the plain form. They
            /// count until the client has taken them. Beyond
            /// it fetches wait, and then BROKER_BUSY.
            fetch_inflight_bytes: u64 = 134_217_728, range(16_777_216, 17_179_869_184);
            /// Produce and fetch streams of all connections together; shared as all else. Beyond it: TOO_MANY_STREAMS.
            streams_max: u32 = 10_000, range(1, 1_000_000);
            /// Calls of all connections together, streams included; each takes about 16 KiB beside its messages. Shared as all
            /// else. Beyond it: BROKER_BUSY.
            calls_max: u32 = 20_000, range(100, 1_000_000);
            /// Calls that one connection may have open at once; HTTP/2 lets others wait. The client of this project has up to 100
            /// streams on a connection.
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
