//! Response messages of fetches, encoded here and not by tonic.
//!
//! tonic encodes the messages of a response into one buffer, which stays as large as the largest message until the stream ends:
//! idle streams that were busy once would hold gigabytes that are counted nowhere. So a fetch response is encoded here, around the
//! batches as they were read from the log, and tonic gets an empty message in its place. That also saves one copy of the batches.

use bytes::{BufMut as _, Bytes, BytesMut};
use jangada_proto::v1::FetchResponse;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::quota::Holding;

/// gRPC's prefix of a message: a flag whether it is compressed, and its length (PROTOCOL-HTTP2.md, "Length-Prefixed-Message").
pub(super) const HEAD_BYTES: usize = 5;

/// Batches up to this size are copied behind the head, so that a small message is one piece.
const COPIED_BYTES_MAX: usize = 16 << 10;

/// The field number of `FetchResponse.batches`.
const BATCHES: u32 = 1;
/// The field number of `FetchStreamResponse.fetch`.
const PUSHED: u32 = 1;
/// The field number of `ForwardResponse.fetch`, between brokers.
const PASSED_ON: u32 = 17;

/// An encoded message with its holding.
pub(crate) struct Framed {
    /// gRPC's prefix and all fields but large batches.
    pub(super) head: Bytes,
    /// The batches, where they are not copied into the head; otherwise empty.
    pub(super) rest: Bytes,
    /// None: the message is short, and of a stream.
    pub(super) room: Option<Holding>,
}

impl Framed {
    /// The response of `Fetch`.
    pub fn fetched(response: FetchResponse, room: Holding) -> Self {
        let (head, rest) = frame(response, None);
        Self {
            head,
            rest,
            room: Some(room),
        }
    }

    /// A response of `FetchStream`.
    pub fn pushed(response: FetchResponse, room: Holding) -> Self {
        let (head, rest) = frame(response, Some(PUSHED));
        Self {
            head,
            rest,
            room: Some(room),
        }
    }

    /// The answer to a fetch that another broker has passed on.
    pub fn passed_on(response: FetchResponse, room: Holding) -> Self {
        let (head, rest) = frame(response, Some(PASSED_ON));
        Self {
            head,
            rest,
            room: Some(room),
        }
    }

    /// Any other response, with the room that its content takes if that is much.
    pub fn of(response: &impl prost::Message, room: Option<Holding>) -> Self {
        let length = response.encoded_len();
        let mut head = BytesMut::with_capacity(HEAD_BYTES + length);
        head.put_u8(0);
        head.put_u32(u32::try_from(length).expect("a response has some megabytes"));
        response.encode_raw(&mut head);
        Self {
            head: head.freeze(),
            rest: Bytes::new(),
            room,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.head.len() + self.rest.len()
    }
}

/// Encodes a response with gRPC's prefix, by itself or nested in this field of another message. Protobuf allows any order of fields,
/// so the batches come last and are not copied.
fn frame(mut response: FetchResponse, field: Option<u32>) -> (Bytes, Bytes) {
    let batches = std::mem::take(&mut response.batches);
    let fields = response.encoded_len();
    let of_batches = match batches.len() {
        0 => 0,
        length => key_len(BATCHES) + encoded_len_varint(length as u64) + length,
    };
    let inner = fields + of_batches;
    let outer = field.map_or(0, |field| key_len(field) + encoded_len_varint(inner as u64));
    let copied = match batches.len() <= COPIED_BYTES_MAX {
        true => batches.len(),
        false => 0,
    };
    let mut head = BytesMut::with_capacity(HEAD_BYTES + outer + inner - batches.len() + copied);
    head.put_u8(0);
    head.put_u32(u32::try_from(outer + inner).expect("a response has some megabytes"));
    if let Some(field) = field {
        encode_key(field, WireType::LengthDelimited, &mut head);
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
    use jangada_proto::internal::ForwardResponse;
    use jangada_proto::internal::forward_response::Answer;
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
            ..Default::default()
        }
    }

    /// The message behind the prefix.
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
            let alone = content(frame(sent.clone(), None));
            assert_eq!(FetchResponse::decode(alone), Ok(sent.clone()));
            let pushed = content(frame(sent.clone(), Some(PUSHED)));
            let fetch = Some(sent.clone());
            assert_eq!(FetchStreamResponse::decode(pushed), Ok(FetchStreamResponse { fetch }));
            let passed_on = content(frame(sent.clone(), Some(PASSED_ON)));
            let answer = Some(Answer::Fetch(sent));
            assert_eq!(ForwardResponse::decode(passed_on), Ok(ForwardResponse { answer }));
        }
        let nothing = content(frame(FetchResponse::default(), None));
        assert_eq!(nothing, Bytes::new());
    }

    #[test]
    fn large_batches_are_not_copied() {
        let sent = response(1 << 20, 0);
        let (head, rest) = frame(sent.clone(), Some(PUSHED));
        assert_eq!(rest.as_ptr(), sent.batches.as_ptr());
        assert!(head.len() < 64, "{}", head.len());
    }
}
