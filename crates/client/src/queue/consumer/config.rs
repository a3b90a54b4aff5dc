//! Settings of a queue consumer.

use std::time::Duration;

use crate::config::TIME_MAX;
use crate::error::ClientError;

/// Messages that a session may hold in a partition.
const PREFETCH_MAX: u32 = 10_000;
/// The longest lease.
const LEASE_MAX: Duration = Duration::from_secs(12 * 3600);

/// How a [`QueueConsumer`](crate::QueueConsumer) takes messages.
#[derive(Clone, Debug)]
pub struct QueueConsumerConfig {
    /// Messages that may be on their way, waiting here, or in work, from each broker that leads partitions of the queue. Others get what
    /// one consumer does not take: for work that takes long, or has priorities, let it be small. 1 to 10,000. Default: 16.
    pub prefetch: u32,
    /// How long a message is this consumer's before it has to be extended. Default: as the queue's settings say. 1 s to 12 hours.
    pub lease: Option<Duration>,
    /// How long the lease of a message is extended by itself while its handle lives, since it came. After that it runs out, and another
    /// consumer gets the message. Default: an hour. Zero: leases are not extended. Up to 7 days.
    pub extend_for: Duration,
    /// At most so many bytes of messages in one response of a broker; a larger message comes alone. Default: 1 MiB, at most 16 MiB.
    pub response_bytes: u32,
}

impl Default for QueueConsumerConfig {
    fn default() -> Self {
        Self {
            prefetch: 16,
            lease: None,
            extend_for: Duration::from_secs(3600),
            response_bytes: 1 << 20,
        }
    }
}

impl QueueConsumerConfig {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let bad = |what: String| Err(ClientError::Config(what));
        if self.prefetch == 0 || self.prefetch > PREFETCH_MAX {
            return bad(format!("prefetch {}: 1 to {PREFETCH_MAX}", self.prefetch));
        }
        if let Some(lease) = self.lease
            && (lease < Duration::from_secs(1) || lease > LEASE_MAX)
        {
            return bad(format!("lease {lease:?}: 1s to {LEASE_MAX:?}"));
        }
        if self.extend_for > TIME_MAX {
            return bad(format!("extend_for {:?}: up to {TIME_MAX:?}", self.extend_for));
        }
        let limit = jangada_types::limits::FETCH_BYTES_MAX;
        if self.response_bytes as usize > limit {
            return bad(format!("response_bytes {}: at most {limit}", self.response_bytes));
        }
        Ok(())
    }
}
