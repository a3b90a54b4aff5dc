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

mod lz4;
mod snappy;
#[cfg(test)]
mod tests;
mod zstd;

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

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

/// The codec of a batch's records. The numbers are those of the batch's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// The records are not compressed.
    #[default]
    None = 0,
    /// Gzip, in the format of RFC 1952.
    Gzip = 1,
    /// Snappy, in xerial's blocks or raw.
    Snappy = 2,
    /// LZ4, as one frame.
    Lz4 = 3,
    /// Zstandard, as frames.
    Zstd = 4,
}

impl Codec {
    /// All codecs, by number.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// The codec with this number in the batch's attributes.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            1 => Some(Self::Gzip),
            2 => Some(Self::Snappy),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }

    /// The codec's number in the batch's attributes.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// Kafka's name of the codec: `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// The codec with this name of Kafka's.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.as_str() == name)
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The reason why bytes could not be decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// The output would be larger than the caller allows.
    #[error("more than {max} bytes after decompression")]
    TooLarge {
        /// Bytes that the caller allows.
        max: usize,
    },
    /// The bytes are not output of the codec.
    #[error("not valid {codec}: {detail}")]
    Damaged {
        /// The codec of the input.
        codec: Codec,
        /// The decoder's error message.
        detail: String,
    },
}

impl CompressionError {
    fn damaged(codec: Codec, detail: impl ToString) -> Self {
        Self::Damaged {
            codec,
            detail: detail.to_string(),
        }
    }
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

/// Passes the reader's output to `take`, up to its end, but no more than `max` bytes.
fn take_bounded<E: From<CompressionError>>(
    codec: Codec,
    mut reader: impl BufRead,
    max: usize,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = max;
    loop {
        let piece = reader.fill_buf().map_err(|e| CompressionError::damaged(codec, e))?;
        if piece.is_empty() {
            return Ok(());
        }
        left = left
            .checked_sub(piece.len())
            .ok_or(CompressionError::TooLarge { max })?;
        take(piece)?;
        let read = piece.len();
        reader.consume(read);
    }
}

/// Reads to the end, but no further than one byte past `max`.
fn read_bounded(codec: Codec, reader: impl Read, packed: usize, max: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::with_capacity(first_guess(packed, max));
    let limit = (max as u64).saturating_add(1);
    reader
        .take(limit)
        .read_to_end(&mut out)
        .map_err(|e| CompressionError::damaged(codec, e))?;
    if out.len() > max {
        return Err(CompressionError::TooLarge { max });
    }
    Ok(out)
}

/// Bytes to allocate when the decompressed size is not known: records commonly shrink to a quarter.
fn first_guess(packed: usize, max: usize) -> usize {
    packed.saturating_mul(4).min(max)
}
