//! The contents of records: slices of one buffer, so that making a record costs nothing.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::cli::PayloadKind;

/// Size of the buffer without the last record. Larger than the window of any codec.
const BUFFER_BYTES: usize = 8 << 20;

/// Distance between two records in the buffer. A prime, so that positions repeat late and at no codec's block size.
const STRIDE: usize = 4_099;

const WORDS: [&str; 16] = [
    "order",
    "customer",
    "amount",
    "currency",
    "jangada",
    "partition",
    "created",
    "shipped",
    "pending",
    "returned",
    "EUR",
    "BRL",
    "true",
    "false",
    "null",
    "region",
];

/// A source of values.
pub struct Payload {
    buffer: Bytes,
    size: usize,
    next: usize,
}

impl Payload {
    /// Values of `size` bytes.
    pub fn new(kind: PayloadKind, size: usize) -> Payload {
        // The seed is always the same, so that runs can be compared.
        let mut random = SmallRng::seed_from_u64(0x6a61_6e67_6164_6121);
        let mut buffer = Vec::with_capacity(BUFFER_BYTES + size);
        match kind {
            PayloadKind::Random => {
                buffer.resize(BUFFER_BYTES + size, 0);
                random.fill(buffer.as_mut_slice());
            }
            PayloadKind::Text => {
                while buffer.len() < BUFFER_BYTES + size {
                    let word = WORDS[random.random_range(0..WORDS.len())];
                    buffer.extend_from_slice(format!("\"{word}\":{},", random.random_range(0..10_000u32)).as_bytes());
                }
            }
        }
        Payload {
            buffer: buffer.into(),
            size,
            next: 0,
        }
    }

    /// The next value.
    pub fn next(&mut self) -> Bytes {
        let value = self.buffer.slice(self.next..self.next + self.size);
        self.next = (self.next + STRIDE) % BUFFER_BYTES;
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_size_and_differ() {
        for kind in [PayloadKind::Random, PayloadKind::Text] {
            let mut payload = Payload::new(kind, 100);
            let first = payload.next();
            assert_eq!(first.len(), 100);
            assert_ne!(first, payload.next());
        }
        assert_eq!(
            Payload::new(PayloadKind::Text, 10).next(),
            Payload::new(PayloadKind::Text, 10).next()
        );
    }
}
