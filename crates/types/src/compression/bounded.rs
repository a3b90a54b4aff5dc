//! Reads from a decoder no more bytes than are allowed.

use std::io::{BufRead, Read};

use super::codec::{Codec, CompressionError};

/// Passes the reader's output to `take`, up to its end, but no more than `max` bytes.
pub(super) fn take_bounded<E: From<CompressionError>>(
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
pub(super) fn read_bounded(
    codec: Codec,
    reader: impl Read,
    packed: usize,
    max: usize,
) -> Result<Vec<u8>, CompressionError> {
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
pub(super) fn first_guess(packed: usize, max: usize) -> usize {
    packed.saturating_mul(4).min(max)
}
