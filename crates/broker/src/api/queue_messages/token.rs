//! Tokens of deliveries, which clients take for opaque. Pure.
//!
//! ```text
//! version u8 = 1 | queue u32 | partition u32 | offset u64 | lease u64 | checksum u32     big-endian
//! ```
//!
//! `queue` is a hash of the queue's id, so that the token of another queue is told from one that was damaged. The checksum is over all
//! before it.

use bytes::Buf as _;
use jangada_queue::LeaseId;
use jangada_types::{PartitionIndex, QueueId, Reason};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::RequestError;

const VERSION: u8 = 1;
const CHECKED_BYTES: usize = 1 + 4 + 4 + 8 + 8;

/// The length of a token, bytes. Clients are told 40.
pub(crate) const TOKEN_BYTES: usize = CHECKED_BYTES + 4;

/// One delivery of one message of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token {
    pub partition: PartitionIndex,
    pub offset: u64,
    pub lease: LeaseId,
}

/// The low half of a hash.
fn low(hash: u64) -> u32 {
    (hash & u64::from(u32::MAX)) as u32
}

fn queue_hash(queue: QueueId) -> u32 {
    low(xxh3_64(&queue.0.to_be_bytes()))
}

impl Token {
    /// The token's bytes for clients of the queue.
    pub fn encode(&self, queue: QueueId) -> [u8; TOKEN_BYTES] {
        let mut token = [0; TOKEN_BYTES];
        token[0] = VERSION;
        token[1..5].copy_from_slice(&queue_hash(queue).to_be_bytes());
        token[5..9].copy_from_slice(&self.partition.get().to_be_bytes());
        token[9..17].copy_from_slice(&self.offset.to_be_bytes());
        token[17..25].copy_from_slice(&self.lease.get().to_be_bytes());
        let checksum = low(xxh3_64(&token[..CHECKED_BYTES]));
        token[CHECKED_BYTES..].copy_from_slice(&checksum.to_be_bytes());
        token
    }

    /// Reads the token of a queue that has so many partitions. `place`: which one it is in its request, from 0 on.
    ///
    /// # Errors
    /// INVALID_TOKEN: it was damaged, is of another queue, or was made by a later version.
    pub fn decode(bytes: &[u8], queue: (QueueId, &str), partitions: usize, place: usize) -> Result<Self, RequestError> {
        let (id, name) = queue;
        let invalid = |what: &str| {
            let message = format!(
                "token {place} of the request {what}: send tokens as they came with the messages of queue {name:?}"
            );
            RequestError::new(Reason::InvalidToken, message).with("actual", place)
        };
        let Some((version, _)) = bytes.split_first() else {
            return Err(invalid("is empty"));
        };
        let Ok(token) = <&[u8; TOKEN_BYTES]>::try_from(bytes) else {
            return Err(invalid(&format!("has {} bytes, not {TOKEN_BYTES}", bytes.len())));
        };
        let mut rest = &token[CHECKED_BYTES..];
        if rest.get_u32() != low(xxh3_64(&token[..CHECKED_BYTES])) {
            return Err(invalid("was damaged: its checksum does not match"));
        }
        if *version != VERSION {
            return Err(invalid(&format!(
                "is of version {version}, which this broker does not know"
            )));
        }
        let mut rest = &token[1..];
        if rest.get_u32() != queue_hash(id) {
            return Err(invalid("is of another queue"));
        }
        let partition = rest.get_u32();
        if partition as usize >= partitions {
            return Err(invalid("names a partition that the queue has not"));
        }
        Ok(Self {
            partition: PartitionIndex(partition),
            offset: rest.get_u64(),
            lease: LeaseId(rest.get_u64()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: QueueId = QueueId(7);

    fn token() -> Token {
        Token {
            partition: PartitionIndex(3),
            offset: 0x0102_0304_0506,
            lease: LeaseId(9 << 16 | 1),
        }
    }

    fn decode(bytes: &[u8]) -> Result<Token, RequestError> {
        Token::decode(bytes, (QUEUE, "jobs"), 4, 0)
    }

    #[test]
    fn a_token_is_read_as_it_was_made() {
        let bytes = token().encode(QUEUE);
        assert!(bytes.len() <= 40, "what clients are told");
        assert_eq!(decode(&bytes), Ok(token()));
    }

    #[test]
    fn every_damaged_byte_and_every_other_length_is_noticed() {
        let bytes = token().encode(QUEUE);
        for at in 0..bytes.len() {
            let mut damaged = bytes;
            damaged[at] ^= 0x10;
            let error = decode(&damaged).expect_err("it was damaged");
            assert_eq!(error.reason, Reason::InvalidToken, "byte {at}: {error}");
        }
        for length in 0..bytes.len() {
            let error = decode(&bytes[..length]).expect_err("it is too short");
            assert_eq!(error.reason, Reason::InvalidToken, "{length} bytes: {error}");
        }
        decode(&[&bytes[..], &[0]].concat()).expect_err("it is too long");
    }

    #[test]
    fn a_token_of_another_queue_or_partition_is_named() {
        let error = decode(&token().encode(QueueId(8))).expect_err("it is of another queue");
        assert!(error.message.contains("another queue"), "{error}");
        let bytes = token().encode(QUEUE);
        let error = Token::decode(&bytes, (QUEUE, "jobs"), 3, 5).expect_err("there are three partitions");
        assert!(
            error.message.contains("token 5") && error.message.contains("partition"),
            "{error}"
        );
    }
}
