//! The codecs of a record batch, in Kafka's framing, with decompression bounded by the caller.
//!
//! Input comes from clients: it may be damaged or made to harm. No decoder returns more than `max` bytes, and none
//! allocates memory beyond `max` plus a constant because of a length that the input merely claims.
//!
//! | codec | framing |
//! |---|---|
//! | gzip | RFC 1952, also several members |
//! | snappy | written in xerial blocks; xerial and raw are read |
//! | lz4 | one LZ4 frame of independent 64 KiB blocks, the only kind that Kafka's Java client reads |
//! | zstd | frames, level 3 |

mod bounded;
mod codec;
mod lz4;
mod snappy;
#[cfg(test)]
mod tests;
mod zstd;

use std::cell::RefCell;
use std::io::{BufReader, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use self::bounded::{read_bounded, take_bounded};
pub use self::codec::{Codec, CompressionError};

/// The level of gzip, Kafka's default.
const GZIP_LEVEL: u32 = 6;
/// Bytes of gzip output that are decompressed at once.
const GZIP_PIECE: usize = 32 * 1024;
/// Bytes of its buffer that a thread keeps for the next batch.
const PIECE_KEPT: usize = 1024 * 1024;

thread_local! {
    /// The decompressed piece of a batch while it is read. Each thread that decompresses keeps at most [`PIECE_KEPT`],
    /// so that batches of usual sizes need no allocation.
    static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Compresses `input` with `codec`.
pub fn compress(codec: Codec, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress_into(codec, input, &mut out);
    out
}

/// Compresses `input` to the end of `out`.
pub(crate) fn compress_into(codec: Codec, input: &[u8], out: &mut Vec<u8>) {
    match codec {
        Codec::None => out.extend_from_slice(input),
        Codec::Gzip => compress_gzip(input, out),
        Codec::Snappy => snappy::compress(input, out),
        Codec::Lz4 => lz4::compress(input, out),
        Codec::Zstd => zstd::compress(input, out),
    }
}

fn compress_gzip(input: &[u8], out: &mut Vec<u8>) {
    let mut encoder = GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
    encoder
        .write_all(input)
        .and_then(|()| encoder.finish())
        .expect("writing to a Vec cannot fail");
}

/// Decompresses the whole of `input` into at most `max` bytes.
///
/// # Errors
/// When the output is larger than `max`, when the bytes are damaged or cut off, and when further bytes follow them.
pub fn decompress(codec: Codec, input: &[u8], max: usize) -> Result<Vec<u8>, CompressionError> {
    match codec {
        Codec::None if input.len() > max => Err(CompressionError::TooLarge { max }),
        Codec::None => Ok(input.to_vec()),
        Codec::Gzip => read_bounded(codec, MultiGzDecoder::new(input), input.len(), max),
        Codec::Snappy => snappy::decompress(input, max),
        Codec::Lz4 => lz4::decompress(input, max),
        Codec::Zstd => zstd::decompress(input, max),
    }
}

/// Decompresses the whole of `input`, at most `max` bytes, and gives it to `take` piece by piece, in order. Nothing is
/// decompressed after an error. Keeps one piece: a block of LZ4 or of xerial's snappy, 32 KiB of gzip, the whole output
/// of zstd and of raw snappy.
///
/// # Errors
/// The errors of [`decompress`], and those of `take`.
pub(crate) fn decompress_pieces<E: From<CompressionError>>(
    codec: Codec,
    input: &[u8],
    max: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    match codec {
        Codec::None if input.len() > max => Err(CompressionError::TooLarge { max }.into()),
        Codec::None => take(input),
        Codec::Gzip => {
            let reader = BufReader::with_capacity(GZIP_PIECE, MultiGzDecoder::new(input));
            take_bounded(codec, reader, max, take)
        }
        Codec::Snappy => with_piece(|piece| snappy::unpack(input, max, piece, |piece| take(piece))),
        Codec::Lz4 => lz4::unpack(input, max, take),
        Codec::Zstd => with_piece(|piece| {
            zstd::unpack(input, max, piece)?;
            take(piece)
        }),
    }
}

/// Lends the thread's piece, and frees the memory that a large batch made it allocate, also when that batch was
/// refused.
fn with_piece<R>(unpack: impl FnOnce(&mut Vec<u8>) -> R) -> R {
    PIECE.with_borrow_mut(|piece| {
        let unpacked = unpack(piece);
        if piece.capacity() > PIECE_KEPT {
            piece.truncate(PIECE_KEPT);
            piece.shrink_to(PIECE_KEPT);
        }
        unpacked
    })
}
