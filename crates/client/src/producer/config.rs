//! Settings of a producer.

use std::time::Duration;

use jangada_types::Codec;
use jangada_types::limits::{BATCH_BYTES_MAX, BATCH_BYTES_MIN, PRODUCE_TIMEOUT_MS_MAX, PRODUCER_BATCHES_IN_FLIGHT_MAX};

use crate::config::TIME_MAX;
use crate::error::ClientError;

/// When a record counts as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// A record is delivered when a majority of the replicas has it on disk.
    Quorum,
    /// A record counts as delivered when the leader has queued it: no offset is known, and a crash, a change of leader
    /// or a quorum that does not answer may lose it silently. Not with an idempotent producer.
    None,
}

/// Settings of a producer.
///
/// ```
/// use std::time::Duration;
/// use jangada_client::{Codec, ProducerConfig};
///
/// let config = ProducerConfig { linger: Duration::ZERO, compression: Codec::Zstd, ..ProducerConfig::default() };
/// ```
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// When a record counts as delivered. Default: [`Acks::Quorum`].
    pub acks: Acks,
    /// Each record is stored once, however often it has to be sent. Default: true.
    pub idempotent: bool,
    /// How long a batch waits for more records. Zero: it leaves as soon as it may, and gathers only while others of its
    /// partition are in flight. Default: 5 ms.
    pub linger: Duration,
    /// When a batch is full, bytes before compression. The topic's `max.message.bytes` bounds it, too; a record that is larger
    /// than this gets a batch of its own. 1 KiB to 8 MiB, default 256 KiB: it bounds what is in flight to a partition, so
    /// smaller batches leave a disk idle between two syncs. Only while batches are in flight do they grow so large.
    pub batch_bytes: usize,
    /// Bytes of records that may wait for delivery; then `send` waits. At least `batch_bytes`, at most 2 GiB, default 64 MiB.
    pub buffer_bytes: usize,
    /// The codec that batches are compressed with. Default: none.
    pub compression: Codec,
    /// Batches of one partition that may be in flight, 1 to 5. Without `idempotent` it is always 1. Default: 5.
    pub max_in_flight: usize,
    /// When a record is given up, counted from its batch's first record on. Above `linger`, up to 7 days, default 120 s.
    pub delivery_timeout: Duration,
    /// How long the leader waits for the quorum before it calls the outcome unknown, at most 60 s. A leader that is silent for
    /// this and 5 s more is left. Default: 10 s.
    pub request_timeout: Duration,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            acks: Acks::Quorum,
            idempotent: true,
            linger: Duration::from_millis(5),
            batch_bytes: 256 * 1024,
            buffer_bytes: 64 * 1024 * 1024,
            compression: Codec::None,
            max_in_flight: PRODUCER_BATCHES_IN_FLIGHT_MAX,
            delivery_timeout: Duration::from_secs(120),
            request_timeout: Duration::from_secs(10),
        }
    }
}

/// The largest number that the semaphore of the buffer can hand out at once.
const BUFFER_BYTES_MAX: usize = 2 * 1024 * 1024 * 1024;

impl ProducerConfig {
    pub(crate) fn check(&self) -> Result<(), ClientError> {
        let bad = |text: String| Err(ClientError::Config(text));
        if self.acks == Acks::None && self.idempotent {
            return bad("acks none: not with an idempotent producer; set idempotent to false".to_owned());
        }
        if !(BATCH_BYTES_MIN..=BATCH_BYTES_MAX).contains(&self.batch_bytes) {
            return bad(format!(
                "batch_bytes {}: {BATCH_BYTES_MIN} to {BATCH_BYTES_MAX}",
                self.batch_bytes
            ));
        }
        if !(self.batch_bytes..=BUFFER_BYTES_MAX).contains(&self.buffer_bytes) {
            return bad(format!(
                "buffer_bytes {}: batch_bytes to {BUFFER_BYTES_MAX}",
                self.buffer_bytes
            ));
        }
        if !(1..=PRODUCER_BATCHES_IN_FLIGHT_MAX).contains(&self.max_in_flight) {
            return bad(format!(
                "max_in_flight {}: 1 to {PRODUCER_BATCHES_IN_FLIGHT_MAX}",
                self.max_in_flight
            ));
        }
        let request_ms = self.request_timeout.as_millis();
        if !(1..=u128::from(PRODUCE_TIMEOUT_MS_MAX)).contains(&request_ms) {
            return bad(format!(
                "request_timeout {request_ms} ms: 1 to {PRODUCE_TIMEOUT_MS_MAX}"
            ));
        }
        if self.delivery_timeout <= self.linger || self.delivery_timeout > TIME_MAX {
            return bad(format!(
                "delivery_timeout {:?}: above linger, up to {TIME_MAX:?}",
                self.delivery_timeout
            ));
        }
        Ok(())
    }

    /// Most batches of a partition that are in flight.
    pub(crate) fn in_flight_max(&self) -> usize {
        if self.idempotent { self.max_in_flight } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acks_none_and_idempotence_exclude_each_other() {
        let config = ProducerConfig {
            acks: Acks::None,
            ..ProducerConfig::default()
        };
        let error = config.check().expect_err("idempotent by default");
        assert!(error.to_string().contains("idempotent"), "{error}");
        ProducerConfig {
            idempotent: false,
            ..config
        }
        .check()
        .expect("fine");
    }

    #[test]
    fn bounds_are_checked() {
        let good = ProducerConfig::default;
        good().check().expect("the defaults");
        for bad in [
            ProducerConfig {
                batch_bytes: 1023,
                ..good()
            },
            ProducerConfig {
                batch_bytes: BATCH_BYTES_MAX + 1,
                ..good()
            },
            ProducerConfig {
                buffer_bytes: 1024,
                ..good()
            },
            ProducerConfig {
                max_in_flight: 0,
                ..good()
            },
            ProducerConfig {
                max_in_flight: 6,
                ..good()
            },
            ProducerConfig {
                request_timeout: Duration::ZERO,
                ..good()
            },
            ProducerConfig {
                request_timeout: Duration::from_secs(61),
                ..good()
            },
            ProducerConfig {
                delivery_timeout: Duration::from_millis(5),
                ..good()
            },
            ProducerConfig {
                delivery_timeout: Duration::MAX,
                ..good()
            },
        ] {
            assert!(matches!(bad.check(), Err(ClientError::Config(_))), "{bad:?}");
        }
    }

    #[test]
    fn without_idempotence_one_batch_is_in_flight() {
        assert_eq!(
            ProducerConfig {
                idempotent: false,
                ..ProducerConfig::default()
            }
            .in_flight_max(),
            1
        );
        assert_eq!(ProducerConfig::default().in_flight_max(), 5);
    }
}
