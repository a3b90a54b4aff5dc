//! LZ4: one frame. Written in independent blocks of 64 KiB, the only kind that Kafka's Java client reads.

use std::io::{self, BufRead, Read, Write};

use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};

use super::bounded::{read_bounded, take_bounded};
use super::codec::{Codec, CompressionError};

/// Bytes of the smallest blocks of LZ4, those of Kafka's clients.
const BLOCK_BYTES_MIN: usize = 64 * 1024;

/// Compresses `input` to the end of `out`.
pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) {
    let info = FrameInfo::new()
        .block_size(BlockSize::Max64KB)
        .block_mode(BlockMode::Independent);
    let mut encoder = FrameEncoder::with_frame_info(info, out);
    encoder.write_all(input).expect("writing to a Vec cannot fail");
    encoder.finish().expect("writing to a Vec cannot fail");
}

/// Decompresses the whole of `input` into at most `max` bytes.
pub(super) fn decompress(input: &[u8], max: usize) -> Result<Vec<u8>, CompressionError> {
    let mut decoder = FrameDecoder::new(NotPastEnd::new(input));
    let out = read_bounded(Codec::Lz4, &mut decoder, input.len(), max)?;
    check_end(decoder)?;
    Ok(out)
}

/// Decompresses the whole of `input`, at most `max` bytes, and gives it to `take` block by block.
pub(super) fn unpack<E: From<CompressionError>>(
    input: &[u8],
    max: usize,
    take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    if block_bytes(input) > max.max(BLOCK_BYTES_MIN) {
        return Err(CompressionError::TooLarge { max }.into());
    }
    let mut decoder = FrameDecoder::new(NotPastEnd::new(input));
    take_bounded(Codec::Lz4, &mut decoder, max, take)?;
    check_end(decoder)?;
    Ok(())
}

/// Checks that the frame has ended, and the input with it. `lz4_flex` takes an empty block for the end, too. When it is
/// read once more, behind a frame that has ended it tries to begin another one and passes on that there is none; within
/// a frame it takes `UnexpectedEof` for the end.
fn check_end(mut decoder: FrameDecoder<NotPastEnd<'_>>) -> Result<(), CompressionError> {
    let damaged = |detail: &str| Err(CompressionError::damaged(Codec::Lz4, detail));
    if !decoder.get_ref().left.is_empty() {
        return damaged("something follows the frame");
    }
    decoder.get_mut().past_end = io::ErrorKind::UnexpectedEof;
    match decoder.fill_buf() {
        Err(_) => Ok(()),
        Ok(_) => damaged("cut off"),
    }
}

/// Bytes that the decoder allocates for a block of this frame. An input that is no frame has none.
fn block_bytes(input: &[u8]) -> usize {
    const LEGACY: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
    match input {
        _ if input.starts_with(&LEGACY) => 8 << 20,
        [_, _, _, _, _, block, ..] => match block >> 4 & 7 {
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => BLOCK_BYTES_MIN,
        },
        _ => 0,
    }
}

/// A slice that must not be read past its end. `lz4_flex` takes the end of its input for the end of the frame, also
/// where the frame should continue.
struct NotPastEnd<'a> {
    left: &'a [u8],
    /// The error of reading past the end.
    past_end: io::ErrorKind,
}

impl<'a> NotPastEnd<'a> {
    fn new(left: &'a [u8]) -> Self {
        let past_end = io::ErrorKind::InvalidData;
        Self { left, past_end }
    }
}

impl Read for NotPastEnd<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() && !buf.is_empty() {
            return Err(io::Error::new(self.past_end, "cut off"));
        }
        self.left.read(buf)
    }
}
