//! The gRPC codec of the contract: protobuf by prost, with memory reserved for a whole message before it is written.
//!
//! A message here is mostly record batches, up to some megabytes. Without the reservation the buffer doubles while it
//! fills, and each time copies what is in it already.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::ProstDecoder;

/// Initial size of the transport's buffer, bytes; the same as tonic's.
const BUFFER_BYTES: usize = 8 << 10;
/// Bytes that are encoded before they are passed on. A stream keeps a buffer as large as the largest piece that was
/// passed on.
const PASSED_ON_BYTES: usize = 12 << 10;

/// A codec that encodes `T` and decodes `U`.
#[derive(Debug)]
pub struct RoomyCodec<T, U> {
    of: PhantomData<(T, U)>,
}

impl<T, U> Default for RoomyCodec<T, U> {
    fn default() -> Self {
        Self { of: PhantomData }
    }
}

impl<T, U> Codec for RoomyCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = RoomyEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        RoomyEncoder { of: PhantomData }
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::default()
    }
}

/// The encoder of [`RoomyCodec`].
#[derive(Debug)]
pub struct RoomyEncoder<T> {
    of: PhantomData<T>,
}

impl<T: Message> Encoder for RoomyEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, message: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message
            .encode(buffer)
            .map_err(|error| Status::internal(error.to_string()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, PASSED_ON_BYTES)
    }
}
