//! Tells a refused connection, or an idle one that is closed, why: by an HTTP/2 GOAWAY frame with the reason as text, or by an
//! HTTP/1 response. The bytes are built here, without an HTTP server.

use std::sync::Arc;
use std::time::Duration;

use jangada_env::Socket;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;

use super::descriptors::REFUSALS_CONCURRENT_MAX;
use super::gate::{Cause, Refused};
use super::protocol::Protocol;

/// How long a refused connection stays open for its peer to read the reason. If it were closed at once with received bytes unread,
/// the kernel would reset it, and the peer might never see the reason.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// How many bytes of a refused connection are read and dropped meanwhile. A client begins with its preface and perhaps a request.
const UNREAD_BYTES_MAX: usize = 64 << 10;

/// HTTP/2's error codes (RFC 9113, section 7).
const NO_ERROR: u32 = 0;
const ENHANCE_YOUR_CALM: u32 = 0xb;
/// The first frame of an HTTP/2 server: a SETTINGS frame without a setting (RFC 9113, section 3.4).
const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Tells refused connections why, a bounded number at once.
pub(super) struct Refusals {
    protocol: Protocol,
    room: Arc<Semaphore>,
}

impl Refusals {
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            room: Arc::new(Semaphore::new(REFUSALS_CONCURRENT_MAX)),
        }
    }

    /// Sends the reason in a task of its own. When `REFUSALS_CONCURRENT_MAX` such tasks run, the connection is closed without a reason.
    pub fn tell(&self, mut socket: Socket, refused: Refused) {
        let Ok(permit) = self.room.clone().try_acquire_owned() else {
            return;
        };
        let text = refused.to_string();
        let bytes = match self.protocol.is_http2() {
            true => [&EMPTY_SETTINGS[..], &go_away(ENHANCE_YOUR_CALM, &text)].concat(),
            false => http_answer(&text),
        };
        tokio::spawn(async move {
            let telling = async {
                socket.write_all(&bytes).await?;
                socket.shutdown().await?;
                let mut rest = socket.take(UNREAD_BYTES_MAX as u64);
                let mut unread = [0; 1024];
                while rest.read(&mut unread).await? > 0 {}
                std::io::Result::Ok(())
            };
            // The connection is closed in any case, also when the peer is gone or does not read.
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, telling).await;
            drop(permit);
        });
    }
}

/// The last frame of an HTTP/2 connection without calls: a GOAWAY, by which the client knows that requests it sends from now on
/// were not processed and can be sent again on another connection.
pub(super) fn farewell(cause: Cause) -> Vec<u8> {
    go_away(NO_ERROR, cause.text())
}

/// A GOAWAY frame with last stream id 0 (RFC 9113, section 6.8).
fn go_away(code: u32, text: &str) -> Vec<u8> {
    let length = u32::try_from(8 + text.len()).expect("a reason is short");
    let mut frame = Vec::with_capacity(9 + 8 + text.len());
    frame.extend_from_slice(&length.to_be_bytes()[1..]);
    frame.extend_from_slice(&[7, 0, 0, 0, 0, 0]);
    frame.extend_from_slice(&0u32.to_be_bytes());
    frame.extend_from_slice(&code.to_be_bytes());
    frame.extend_from_slice(text.as_bytes());
    frame
}

fn http_answer(text: &str) -> Vec<u8> {
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n{text}\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goaway_frame_is_laid_out_as_the_rfc_says() {
        let frame = go_away(ENHANCE_YOUR_CALM, "full");
        assert_eq!(
            frame,
            [
                0, 0, 12, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11, b'f', b'u', b'l', b'l'
            ]
        );
    }
}
