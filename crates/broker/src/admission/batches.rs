//! The messages of a produce stream, decoded from its body in place of tonic.
//!
//! tonic has one decode buffer per stream, which stays as large as the largest message so far until the stream ends: ten thousand
//! streams that were busy once would hold gigabytes. So each message is collected here in a buffer of its own size, and tonic gets
//! an empty message in its place.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use jangada_proto::v1::ProduceStreamRequest;
use parking_lot::Mutex;
use prost::{DecodeError, Message as _};

/// An empty message with gRPC's prefix.
const EMPTY: [u8; 5] = [0; 5];
/// Empty messages, as many as one HTTP/2 frame usually brings, so that they need no allocation.
const EMPTIES: [u8; 1024 * EMPTY.len()] = [0; 1024 * EMPTY.len()];

/// Decoded messages that the service has not taken yet. They are few, since tonic reads the body only when it has none left.
#[derive(Clone, Default)]
pub(crate) struct Batches(Arc<Mutex<VecDeque<(ProduceStreamRequest, usize)>>>);

impl Batches {
    /// The next message, with its encoded length in bytes. Called once for each empty message that tonic yields.
    pub fn take(&self) -> Option<(ProduceStreamRequest, usize)> {
        self.0.lock().pop_front()
    }
}

/// Assembles the messages of a body.
pub(super) struct Collector {
    batches: Batches,
    /// The received part of the current message.
    part: BytesMut,
    /// Complete messages that are not decoded yet, since their decoded form must be counted first.
    complete: Vec<Bytes>,
}

impl Collector {
    pub fn new(batches: Batches) -> Self {
        Self {
            batches,
            part: BytesMut::new(),
            complete: Vec::new(),
        }
    }

    /// Adds the next bytes of a message, after which `left` more bytes of it are to come.
    pub fn push(&mut self, bytes: Bytes, left: usize) {
        if self.part.is_empty() && left == 0 {
            self.complete.push(bytes);
            return;
        }
        if self.part.is_empty() {
            self.part = BytesMut::with_capacity(bytes.len() + left);
        }
        self.part.extend_from_slice(&bytes);
        if left == 0 {
            self.complete.push(std::mem::take(&mut self.part).freeze());
        }
    }

    /// Decodes the complete messages, up to the first one that cannot be decoded. Returns an empty message for each decoded one,
    /// or `None` if there are none.
    pub fn hand_over(&mut self) -> (Option<Bytes>, Result<(), DecodeError>) {
        let (mut count, mut result) = (0, Ok(()));
        for message in self.complete.drain(..) {
            let bytes = message.len();
            match ProduceStreamRequest::decode(message) {
                Ok(message) => {
                    self.batches.0.lock().push_back((message, bytes));
                    count += 1;
                }
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let empties = match count * EMPTY.len() {
            0 => None,
            bytes if bytes <= EMPTIES.len() => Some(Bytes::from_static(&EMPTIES[..bytes])),
            bytes => Some(Bytes::from(vec![0; bytes])),
        };
        (empties, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(correlation_id: u64, bytes: usize) -> ProduceStreamRequest {
        ProduceStreamRequest {
            correlation_id,
            batch: Bytes::from(vec![7; bytes]),
            ..ProduceStreamRequest::default()
        }
    }

    #[test]
    fn a_message_is_put_together_from_its_pieces() {
        let batches = Batches::default();
        let mut collector = Collector::new(batches.clone());
        let sent = message(9, 1000);
        let mut bytes = Bytes::from(sent.encode_to_vec());
        let length = bytes.len();
        while !bytes.is_empty() {
            assert_eq!(collector.hand_over(), (None, Ok(())));
            let piece = bytes.split_to(bytes.len().min(100));
            collector.push(piece, bytes.len());
        }
        assert_eq!(collector.hand_over(), (Some(Bytes::from_static(&EMPTY)), Ok(())));
        assert_eq!(batches.take(), Some((sent, length)));
        assert_eq!(batches.take(), None);
    }

    #[test]
    fn whole_messages_keep_their_order() {
        let batches = Batches::default();
        let mut collector = Collector::new(batches.clone());
        for number in 0..3 {
            let bytes = Bytes::from(message(number, 10).encode_to_vec());
            collector.push(bytes, 0);
        }
        collector.push(Bytes::from_static(&[0x0f]), 0);
        let (empties, result) = collector.hand_over();
        assert_eq!(empties.map(|bytes| bytes.len()), Some(3 * EMPTY.len()));
        result.expect_err("the last one is no message");
        let numbers: Vec<_> = std::iter::from_fn(|| batches.take())
            .map(|(message, _)| message.correlation_id)
            .collect();
        assert_eq!(numbers, [0, 1, 2]);
    }
}
