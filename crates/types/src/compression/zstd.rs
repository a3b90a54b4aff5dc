//! Zstandard: frames of level 3.

use std::cell::RefCell;

use zstd::zstd_safe;

use super::bounded::first_guess;
use super::codec::{Codec, CompressionError};

/// Kafka's default level.
const LEVEL: i32 = 3;

thread_local! {
    /// Creating a context costs as much as compressing a batch of a few KiB. About 1 MiB for each thread that
    /// compresses.
    static PACKER: RefCell<zstd_safe::CCtx<'static>> = RefCell::new(zstd_safe::CCtx::create());
    /// About 100 KiB for each thread that decompresses.
    static UNPACKER: RefCell<zstd_safe::DCtx<'static>> = RefCell::new(zstd_safe::DCtx::create());
}

/// Compresses `input` to the end of `out`.
pub(super) fn compress(input: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + zstd_safe::compress_bound(input.len()), 0);
    let written = PACKER
        .with_borrow_mut(|context| context.compress(&mut out[start..], input, LEVEL))
        .expect("the output has room for the worst case and the level exists");
    out.truncate(start + written);
}

/// Decompresses in one go into a buffer that is enlarged until everything fits. The streaming decoder would allocate
/// the window that the frame claims, up to 128 MiB, and copy everything once more.
pub(super) fn decompress(input: &[u8], max: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    unpack(input, max, &mut out)?;
    Ok(out)
}

/// Like [`decompress`], into a buffer that may have room already.
pub(super) fn unpack(input: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), CompressionError> {
    const OUTPUT_TOO_SMALL: usize =
        (zstd_safe::zstd_sys::ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize).wrapping_neg();
    const GUESS_MIN: usize = 4096;

    let claimed = zstd_safe::get_frame_content_size(input)
        .map_err(|e| CompressionError::damaged(Codec::Zstd, e))?
        .map(|size| usize::try_from(size).unwrap_or(usize::MAX));
    if claimed.is_some_and(|size| size > max) {
        return Err(CompressionError::TooLarge { max });
    }
    let mut capacity = claimed.unwrap_or(first_guess(input.len(), max).max(GUESS_MIN)).min(max);
    loop {
        out.clear();
        out.reserve_exact(capacity);
        match UNPACKER.with_borrow_mut(|context| context.decompress(out, input)) {
            Ok(_) if out.len() > max => return Err(CompressionError::TooLarge { max }),
            Ok(_) => return Ok(()),
            Err(OUTPUT_TOO_SMALL) if capacity >= max => return Err(CompressionError::TooLarge { max }),
            Err(OUTPUT_TOO_SMALL) => capacity = capacity.max(GUESS_MIN).saturating_mul(2).min(max),
            Err(code) => return Err(CompressionError::damaged(Codec::Zstd, zstd_safe::get_error_name(code))),
        }
    }
}
