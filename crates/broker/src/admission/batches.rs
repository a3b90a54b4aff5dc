//! The messages of a produce stream, taken off its body before tonic sees them.
//!
//! tonic collects messages in one buffer for each stream, which stays as large as the largest message ever was for as long as
//! the stream lives: ten thousand streams that were busy once would hold gigabytes. So each message is collected here in a
//! buffer of its own size, and an empty one takes its place on the way through tonic.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use jangada_proto::v1::ProduceStreamRequest;
use parking_lot::Mutex;
use prost::{DecodeError, Message as _};

/// An empty message in gRPC's frame.
const EMPTY: [u8; 5] = [0; 5];
/// As many as one frame of HTTP/2 usually has.
const EMPTIES: [u8; 1024 * EMPTY.len()] = [0; 1024 * EMPTY.len()];

/// The messages that came and were not asked for. Few: the body is read when there are none.
#[derive(Clone, Default)]
pub(crate) struct Batches(Arc<Mutex<VecDeque<(ProduceStreamRequest, usize)>>>);

impl Batches {
    /// The message that an empty one stands for, and how many bytes it had.
    pub fn take(&self) -> Option<(ProduceStreamRequest, usize)> {
        self.0.lock().pop_front()
    }
}

/// Puts the messages of a body together.
pub(super) struct Collector {
    batches: Batches,
    /// Of the message that is under way.
    part: BytesMut,
    /// Messages that are complete and were not decoded: for that they need room.
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

    /// The next bytes of a message, of which so many are still to come after them.
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

    /// Decodes the messages that are complete, up to one that cannot be. Empty messages for them; `None` if there are none.
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
