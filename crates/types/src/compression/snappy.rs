//! Snappy: written in xerial's blocks, as Kafka's Java client does; read in those and raw.

use super::codec::{Codec, CompressionError};

/// The beginning of a stream of xerial's snappy blocks: the magic, then version 1, compatible with 1.
const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_MAGIC_LEN: usize = 8;
/// Bytes of one xerial block before compression.
pub(super) const XERIAL_BLOCK: usize = 32 * 1024;
/// Snappy's best element gives 64 bytes for 3. Input that claims to grow by more is damaged, and nothing is allocated
/// for it.
const SNAPPY_RATIO_MAX: usize = 22;

/// Compresses `input` to the end of `out`.
pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) {
    let mut encoder = snap::raw::Encoder::new();
    out.extend_from_slice(&XERIAL_HEADER);
    for block in input.chunks(XERIAL_BLOCK) {
        let start = out.len();
        out.resize(start + 4 + snap::raw::max_compress_len(block.len()), 0);
        let written = encoder
            .compress(block, &mut out[start + 4..])
            .expect("the output has room for the worst case and a block is small");
        out[start..start + 4].copy_from_slice(&(written as u32).to_be_bytes());
        out.truncate(start + 4 + written);
    }
}

/// Decompresses the whole of `input` into at most `max` bytes.
pub(super) fn decompress(input: &[u8], max: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    let mut piece = Vec::new();
    unpack(input, max, &mut piece, |piece| {
        // Raw snappy, which may be large, comes as one piece.
        match out.is_empty() {
            true => std::mem::swap(&mut out, piece),
            false => out.extend_from_slice(piece),
        }
        Ok::<_, CompressionError>(())
    })?;
    Ok(out)
}

/// Decompresses one block after the other into `piece`, and passes each to `take`.
pub(super) fn unpack<E: From<CompressionError>>(
    input: &[u8],
    max: usize,
    piece: &mut Vec<u8>,
    mut take: impl FnMut(&mut Vec<u8>) -> Result<(), E>,
) -> Result<(), E> {
    let damaged = |detail: &str| CompressionError::damaged(Codec::Snappy, detail);
    let mut decoder = snap::raw::Decoder::new();
    let mut left = max;
    let mut unpack = |block: &[u8]| {
        let size = snap::raw::decompress_len(block).map_err(|e| damaged(&e.to_string()))?;
        left = left.checked_sub(size).ok_or(CompressionError::TooLarge { max })?;
        if size > block.len().saturating_mul(SNAPPY_RATIO_MAX) {
            return Err(damaged("the claimed size is out of reach").into());
        }
        // The old bytes are overwritten.
        piece.resize(size, 0);
        let written = decoder.decompress(block, piece).map_err(|e| damaged(&e.to_string()))?;
        piece.truncate(written);
        take(piece)
    };
    if !input.starts_with(&XERIAL_HEADER[..XERIAL_MAGIC_LEN]) {
        return unpack(input);
    }
    // The versions behind the magic have always been 1; readers ignore them.
    let mut rest = input
        .get(XERIAL_HEADER.len()..)
        .ok_or_else(|| damaged("cut off within its header"))?;
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (block, tail) = tail
            .split_at_checked(length)
            .ok_or_else(|| damaged("cut off within a block"))?;
        unpack(block)?;
        rest = tail;
    }
    if !rest.is_empty() {
        return Err(damaged("cut off within a block's length").into());
    }
    Ok(())
}
