//! gRPC with messages as plain bytes: for messages that no client would send, and for answers that are never read.

use std::net::IpAddr;

use bytes::{Buf as _, BufMut as _, Bytes};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_stream::Stream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

/// More than any message that a broker takes.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// The smallest window that HTTP/2 begins with.
const WINDOW_BYTES: u32 = 65_535;

/// A connection with next to no room on the way: unread bytes stay with the broker.
pub async fn connect(address: &str) -> Channel {
    endpoint(address).connect().await.expect("the node listens")
}

/// A connection with the windows of this project's client: HTTP/2 ends a connection of a client that has small ones and
/// gets many small pieces.
pub async fn connect_with_room(address: &str) -> Channel {
    let endpoint = endpoint(address)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(32 << 20);
    endpoint.connect().await.expect("the node listens")
}

/// Like [`connect`], from another address of this machine, such as 127.0.0.2.
pub async fn connect_from(from: &str, address: &str) -> Channel {
    let from: IpAddr = from.parse().expect("it is an address");
    let endpoint = endpoint(address).local_address(Some(from));
    endpoint.connect().await.expect("the node listens")
}

fn endpoint(address: &str) -> Endpoint {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("it is an address")
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
}

/// Sends messages to a method, such as `LogService/Produce`, or of another package with its name. Its answer is not
/// read until it is asked for.
pub async fn call(
    channel: &Channel,
    method: &str,
    messages: impl Stream<Item = Bytes> + Send + 'static,
) -> Result<Streaming<Bytes>, Status> {
    let mut client = Grpc::new(channel.clone())
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
        .max_decoding_message_size(MESSAGE_BYTES_MAX);
    client
        .ready()
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(path(method)).expect("it is a path");
    let answers = client.streaming(Request::new(messages), path, Bare).await?;
    Ok(answers.into_inner())
}

fn path(method: &str) -> String {
    match method.contains('.') {
        true => format!("/{method}"),
        false => format!("/jangada.v1.{method}"),
    }
}

/// Sends one message, and returns the answer.
pub async fn ask(channel: &Channel, method: &str, message: Bytes) -> Result<Bytes, Status> {
    let mut answers = call(channel, method, tokio_stream::iter([message])).await?;
    let answer = answers.message().await?;
    answers.trailers().await?;
    answer.ok_or_else(|| Status::unknown("no answer"))
}

/// Begins a call with a message that is announced with this length and does not come. It lasts as long as the socket.
pub async fn begin(address: &str, method: &str, announced: u32) -> TcpStream {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut frame = |kind: u8, flags: u8, stream: u32, content: &[u8]| {
        let length = u32::try_from(content.len()).expect("a frame is short");
        bytes.extend_from_slice(&length.to_be_bytes()[1..]);
        bytes.extend_from_slice(&[kind, flags]);
        bytes.extend_from_slice(&stream.to_be_bytes());
        bytes.extend_from_slice(content);
    };
    const SETTINGS: u8 = 4;
    const HEADERS: u8 = 1;
    const END_HEADERS: u8 = 4;
    const DATA: u8 = 0;
    frame(SETTINGS, 0, 0, &[]);
    let path = path(method);
    let mut headers = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", address),
        (":path", &path),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal without indexing (RFC 7541, section 6.2.2); all are shorter than 127 bytes.
        headers.push(0);
        for text in [name, value] {
            headers.push(u8::try_from(text.len()).expect("it is short"));
            headers.extend_from_slice(text.as_bytes());
        }
    }
    frame(HEADERS, END_HEADERS, 1, &headers);
    let mut message = vec![0];
    message.extend_from_slice(&announced.to_be_bytes());
    frame(DATA, 0, 1, &message);
    let mut socket = TcpStream::connect(address).await.expect("the node listens");
    socket.write_all(&bytes).await.expect("the node reads");
    socket
}

/// A field with a length: its tag, the length of its content, the content.
pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 0x80 {
        bytes.push(u8::try_from(length & 0x7f).expect("seven bits") | 0x80);
        length >>= 7;
    }
    bytes.push(u8::try_from(length).expect("seven bits"));
    bytes.extend_from_slice(content);
    bytes
}

/// Empty elements of a repeated field that takes at most this many bytes.
pub fn empties(number: u8, bytes: usize) -> Vec<u8> {
    [number << 3 | 2, 0].repeat(bytes / 2)
}

/// The codec of messages that are plain bytes.
pub struct Bare;

impl Codec for Bare {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Bare;
    type Decoder = Bare;

    fn encoder(&mut self) -> Bare {
        Bare
    }

    fn decoder(&mut self) -> Bare {
        Bare
    }
}

impl Encoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Bare {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}
