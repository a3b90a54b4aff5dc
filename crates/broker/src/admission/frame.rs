//! Answers that are encoded here, and that the transport passes on as they are.
//!
//! tonic encodes the messages of an answer into one buffer, which stays as large as the largest message for as long as the
//! stream lives: idle streams that gave much once would hold gigabytes that nothing counts. So a fetched message is put into
//! a frame here, around the batches as they were read, and an empty one takes its place on the way through tonic. That saves
//! copying them once more, too.

use bytes::{BufMut as _, Bytes, BytesMut};
use jangada_proto::v1::FetchResponse;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::caller::Holding;

/// Before each message: whether it is compressed, and its length.
pub(super) const HEAD_BYTES: usize = 5;

/// Batches up to this size go behind their head into one piece.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// `FetchResponse.batches`.
const BATCHES: u32 = 1;
/// `FetchStreamResponse.fetch`.
const FETCH: u32 = 1;

/// A message as it goes out, with its part of the budgets.
pub(crate) struct Framed {
    pub(super) head: Bytes,
    /// Behind it.
    pub(super) rest: Bytes,
    pub(super) room: Holding,
}

impl Framed {
    /// The answer to `Fetch`.
    pub fn fetched(response: FetchResponse, room: Holding) -> Self {
        let (head, rest) = frame(response, false);
        Self { head, rest, room }
    }

    /// One of those of `FetchStream`.
    pub fn pushed(response: FetchResponse, room: Holding) -> Self {
        let (head, rest) = frame(response, true);
        Self { head, rest, room }
    }

    pub(super) fn len(&self) -> usize {
        self.head.len() + self.rest.len()
    }
}

/// A response in gRPC's frame, or a message around it. Its fields may come in any order: the batches are last, and as they
/// are.
fn frame(mut response: FetchResponse, is_nested: bool) -> (Bytes, Bytes) {
    let batches = std::mem::take(&mut response.batches);
    let fields = response.encoded_len();
    let of_batches = match batches.len() {
        0 => 0,
        length => key_len(BATCHES) + encoded_len_varint(length as u64) + length,
    };
    let inner = fields + of_batches;
    let outer = match is_nested {
        true => key_len(FETCH) + encoded_len_varint(inner as u64),
        false => 0,
    };
    let copied = match batches.len() <= COPIED_BYTES_MAX {
        true => batches.len(),
        false => 0,
    };
    let mut head = BytesMut::with_capacity(HEAD_BYTES + outer + inner - batches.len() + copied);
    head.put_u8(0);
    head.put_u32(u32::try_from(outer + inner).expect("a response has some megabytes"));
    if is_nested {
        encode_key(FETCH, WireType::LengthDelimited, &mut head);
        encode_varint(inner as u64, &mut head);
    }
    response.encode_raw(&mut head);
    if !batches.is_empty() {
        encode_key(BATCHES, WireType::LengthDelimited, &mut head);
        encode_varint(batches.len() as u64, &mut head);
    }
    if batches.len() <= COPIED_BYTES_MAX {
        head.put_slice(&batches);
        return (head.freeze(), Bytes::new());
    }
    (head.freeze(), batches)
}

#[cfg(test)]
mod tests {
    use jangada_proto::v1::{FetchStreamResponse, Record};

    use super::*;

    fn response(bytes: usize, records: usize) -> FetchResponse {
        let record = Record {
            value: Some(Bytes::from(vec![7; 300])),
            offset: 12,
            ..Record::default()
        };
        FetchResponse {
            batches: Bytes::from(vec![1; bytes]),
            records: vec![record; records],
            high_watermark: 300,
            log_start_offset: 0,
            next_offset: 290,
            leader_epoch: 3,
        }
    }

    /// What a reader finds in the frame.
    fn content((head, rest): (Bytes, Bytes)) -> Bytes {
        let all = [head, rest].concat();
        assert_eq!(all[0], 0);
        let length = u32::from_be_bytes(all[1..HEAD_BYTES].try_into().expect("four bytes"));
        assert_eq!(length as usize, all.len() - HEAD_BYTES);
        Bytes::from(all).split_off(HEAD_BYTES)
    }

    #[test]
    fn a_frame_has_the_response_that_was_put_into_it() {
        let sizes = [
            (0, 0),
            (0, 40),
            (100, 0),
            (COPIED_BYTES_MAX, 0),
            (COPIED_BYTES_MAX + 1, 1),
            (3 << 20, 0),
        ];
        for (bytes, records) in sizes {
            let sent = response(bytes, records);
            let alone = content(frame(sent.clone(), false));
            assert_eq!(FetchResponse::decode(alone), Ok(sent.clone()));
            let nested = content(frame(sent.clone(), true));
            assert_eq!(
                FetchStreamResponse::decode(nested),
                Ok(FetchStreamResponse { fetch: Some(sent) })
            );
        }
        let nothing = content(frame(FetchResponse::default(), false));
        assert_eq!(nothing, Bytes::new());
    }

    #[test]
    fn large_batches_are_not_copied() {
        let sent = response(1 << 20, 0);
        let (head, rest) = frame(sent.clone(), true);
        assert_eq!(rest.as_ptr(), sent.batches.as_ptr());
        assert!(head.len() < 64, "{}", head.len());
    }
}
