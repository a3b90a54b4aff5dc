//! The codecs of a record batch, in Kafka's framing, with decompression bounded by the caller.
//!
//! Input is what a client sent: it may be damaged or made to harm. No decoder returns more than `max` bytes, and none
//! sets aside memory beyond `max` plus a constant because of a length that the input merely claims.
//!
//! | codec | framing |
//! |---|---|
//! | gzip | RFC 1952, also several members |
//! | snappy | written in xerial blocks; xerial and raw are read |
//! | lz4 | one LZ4 frame of independent 64 KiB blocks, the only kind that Kafka's Java client reads |
//! | zstd | frames, level 3 |

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read, Write};

use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;
use lz4_flex::frame::{BlockMode, BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use zstd::zstd_safe;

/// Level of zstd, Kafka's default.
const ZSTD_LEVEL: i32 = 3;
/// Level of gzip, Kafka's default.
const GZIP_LEVEL: u32 = 6;

/// What begins a stream of xerial's snappy blocks: the magic, then version 1, compatible with 1.
const XERIAL_HEADER: [u8; 16] = *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";
const XERIAL_MAGIC_LEN: usize = 8;
/// Bytes before compression of one xerial block.
const XERIAL_BLOCK: usize = 32 * 1024;
/// Snappy's best element gives 64 bytes for 3. What claims to grow by more is damaged, and nothing is set aside for
/// it.
const SNAPPY_RATIO_MAX: usize = 22;

thread_local! {
    /// Setting one up costs as much as packing a batch of a few KiB. About 1 MiB for each thread that packs.
    static ZSTD_PACKER: RefCell<zstd_safe::CCtx<'static>> = RefCell::new(zstd_safe::CCtx::create());
    /// About 100 KiB for each thread that unpacks.
    static ZSTD_UNPACKER: RefCell<zstd_safe::DCtx<'static>> = RefCell::new(zstd_safe::DCtx::create());
    /// What a batch unpacks to while it is looked at. At most [`PIECE_KEPT`] for each thread that unpacks are kept, so that batches
    /// of usual sizes find their room.
    static PIECE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of the smallest blocks of LZ4, those of Kafka's clients.
const LZ4_BLOCK: usize = 64 * 1024;
/// How much room a thread keeps for the next batch, bytes.
const PIECE_KEPT: usize = 1024 * 1024;
/// Bytes of gzip that are unpacked at once.
const GZIP_PIECE: usize = 32 * 1024;

/// How a batch's records are compressed. The numbers are those of the batch's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// Not at all.
    #[default]
    None = 0,
    /// Gzip.
    Gzip = 1,
    /// Snappy.
    Snappy = 2,
    /// LZ4.
    Lz4 = 3,
    /// Zstandard.
    Zstd = 4,
}

impl Codec {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::None, Self::Gzip, Self::Snappy, Self::Lz4, Self::Zstd];

    /// From the number in the batch's attributes.
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

    /// The number in the batch's attributes.
    pub const fn id(self) -> u8 {
        self as u8
    }

    /// Kafka's name of it: `none`, `gzip`, `snappy`, `lz4`, `zstd`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Snappy => "snappy",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    /// From Kafka's name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.as_str() == name)
    }
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why bytes could not be decompressed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// There is more than the caller allows.
    #[error("more than {max} bytes after decompression")]
    TooLarge {
        /// What the caller allows, bytes.
        max: usize,
    },
    /// The bytes are not what the codec writes.
    #[error("not valid {codec}: {detail}")]
    Damaged {
        /// The codec.
        codec: Codec,
        /// What its decoder says.
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

/// Compresses `input`.
pub fn compress(codec: Codec, input: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    compress_into(codec, input, &mut out);
    out
}

/// Compresses `input` to the end of `out`.
pub(crate) fn compress_into(codec: Codec, input: &[u8], out: &mut Vec<u8>) {
    match codec {
        Codec::None => out.extend_from_slice(input),
        Codec::Gzip => {
            let mut encoder = GzEncoder::new(out, flate2::Compression::new(GZIP_LEVEL));
            encoder
                .write_all(input)
                .and_then(|()| encoder.finish())
                .expect("writing to a Vec cannot fail");
        }
        Codec::Snappy => compress_snappy(input, out),
        Codec::Lz4 => {
            let info = FrameInfo::new()
                .block_size(BlockSize::Max64KB)
                .block_mode(BlockMode::Independent);
            let mut encoder = FrameEncoder::with_frame_info(info, out);
            encoder.write_all(input).expect("writing to a Vec cannot fail");
            encoder.finish().expect("writing to a Vec cannot fail");
        }
        Codec::Zstd => {
            let start = out.len();
            out.resize(start + zstd_safe::compress_bound(input.len()), 0);
            let written = ZSTD_PACKER
                .with_borrow_mut(|context| context.compress(&mut out[start..], input, ZSTD_LEVEL))
                .expect("the output has room for the worst case and the level exists");
            out.truncate(start + written);
        }
    }
}

fn compress_snappy(input: &[u8], out: &mut Vec<u8>) {
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
///
/// # Errors
/// When there is more than `max`, when the bytes are damaged or cut off, and when something follows them.
pub fn decompress(codec: Codec, input: &[u8], max: usize) -> Result<Vec<u8>, CompressionError> {
    match codec {
        Codec::None if input.len() > max => Err(CompressionError::TooLarge { max }),
        Codec::None => Ok(input.to_vec()),
        Codec::Gzip => read_bounded(codec, MultiGzDecoder::new(input), input.len(), max),
        Codec::Snappy => decompress_snappy(input, max),
        Codec::Lz4 => decompress_lz4(input, max),
        Codec::Zstd => decompress_zstd(input, max),
    }
}

/// Decompresses the whole of `input`, at most `max` bytes, and gives it to `take` piece by piece, in order. What comes after an
/// error is not unpacked. Keeps one piece: a block of LZ4 or of xerial's snappy, 32 KiB of gzip, all of zstd and of raw snappy.
///
/// # Errors
/// Those of [`decompress`], and those of `take`.
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
        Codec::Snappy => with_piece(|piece| unpack_snappy(input, max, piece, |piece| take(piece))),
        Codec::Lz4 => {
            if lz4_block_bytes(input) > max.max(LZ4_BLOCK) {
                return Err(CompressionError::TooLarge { max }.into());
            }
            let mut decoder = FrameDecoder::new(NotPastEnd::new(input));
            take_bounded(codec, &mut decoder, max, take)?;
            check_lz4_end(decoder)?;
            Ok(())
        }
        Codec::Zstd => with_piece(|piece| {
            unpack_zstd(input, max, piece)?;
            take(piece)
        }),
    }
}

/// Lends the thread's piece, and gives back what a large batch made it take, also when that batch was refused.
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

/// Gives to `take` what the reader has, up to its end, but no more than `max` bytes.
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

/// What to set aside when the unpacked size is not known: records commonly shrink to a quarter.
fn first_guess(packed: usize, max: usize) -> usize {
    packed.saturating_mul(4).min(max)
}

fn decompress_snappy(input: &[u8], max: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    let mut piece = Vec::new();
    unpack_snappy(input, max, &mut piece, |piece| {
        // One piece is the rule for raw snappy, which may be large.
        match out.is_empty() {
            true => std::mem::swap(&mut out, piece),
            false => out.extend_from_slice(piece),
        }
        Ok::<_, CompressionError>(())
    })?;
    Ok(out)
}

/// Unpacks one block after the other into `piece`, and gives each to `take`.
fn unpack_snappy<E: From<CompressionError>>(
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
        // What is there is written over.
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

/// A slice that must not be read past its end. `lz4_flex` takes the end of its input for the end of the frame, also
/// where the frame should go on.
struct NotPastEnd<'a> {
    left: &'a [u8],
    /// What reading past the end says.
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

fn decompress_lz4(input: &[u8], max: usize) -> Result<Vec<u8>, CompressionError> {
    let mut decoder = FrameDecoder::new(NotPastEnd::new(input));
    let out = read_bounded(Codec::Lz4, &mut decoder, input.len(), max)?;
    check_lz4_end(decoder)?;
    Ok(out)
}

/// Checks that the frame has ended, and the input with it. `lz4_flex` takes an empty block for the end, too. Asked once more, it
/// begins another frame behind one that has ended, and passes on that there is none; within a frame it takes
/// `UnexpectedEof` for the end.
fn check_lz4_end(mut decoder: FrameDecoder<NotPastEnd<'_>>) -> Result<(), CompressionError> {
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

/// What the decoder sets aside for a block of this frame, bytes. An input that is no frame has none.
fn lz4_block_bytes(input: &[u8]) -> usize {
    const LEGACY: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
    match input {
        _ if input.starts_with(&LEGACY) => 8 << 20,
        [_, _, _, _, _, block, ..] => match block >> 4 & 7 {
            5 => 256 << 10,
            6 => 1 << 20,
            7 => 4 << 20,
            _ => LZ4_BLOCK,
        },
        _ => 0,
    }
}

/// In one go into a buffer that is made larger until everything fits. The streaming decoder would set aside the
/// window that the frame claims, up to 128 MiB, and copy everything once more.
fn decompress_zstd(input: &[u8], max: usize) -> Result<Vec<u8>, CompressionError> {
    let mut out = Vec::new();
    unpack_zstd(input, max, &mut out)?;
    Ok(out)
}

/// [`decompress_zstd`], into room that may be there already.
fn unpack_zstd(input: &[u8], max: usize, out: &mut Vec<u8>) -> Result<(), CompressionError> {
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
        match ZSTD_UNPACKER.with_borrow_mut(|context| context.decompress(out, input)) {
            Ok(_) if out.len() > max => return Err(CompressionError::TooLarge { max }),
            Ok(_) => return Ok(()),
            Err(OUTPUT_TOO_SMALL) if capacity >= max => return Err(CompressionError::TooLarge { max }),
            Err(OUTPUT_TOO_SMALL) => capacity = capacity.max(GUESS_MIN).saturating_mul(2).min(max),
            Err(code) => return Err(CompressionError::damaged(Codec::Zstd, zstd_safe::get_error_name(code))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 20;

    /// What [`decompress`] says, after it was held against what comes in pieces.
    fn decompress(codec: Codec, input: &[u8], max: usize) -> Result<Vec<u8>, CompressionError> {
        let whole = super::decompress(codec, input, max);
        let mut out = Vec::new();
        let pieces = decompress_pieces(codec, input, max, |piece| {
            out.extend_from_slice(piece);
            Ok::<_, CompressionError>(())
        });
        assert_eq!(pieces.map(|()| out), whole, "{codec}");
        whole
    }

    fn damaged(result: Result<Vec<u8>, CompressionError>) -> bool {
        matches!(result, Err(CompressionError::Damaged { .. }))
    }

    /// Compresses well but not to nothing, over several blocks of each codec.
    fn text(bytes: usize) -> Vec<u8> {
        (0_u32..)
            .flat_map(|i| format!("record {i} of {}; ", i.wrapping_mul(2_654_435_761)).into_bytes())
            .take(bytes)
            .collect()
    }

    fn from_hex(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn names_and_numbers_are_kafkas() {
        let expected = [("none", 0), ("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)];
        for (codec, (name, id)) in Codec::ALL.into_iter().zip(expected) {
            assert_eq!((codec.as_str(), codec.id()), (name, id));
            assert_eq!(Codec::parse(name), Some(codec));
            assert_eq!(Codec::from_id(id), Some(codec));
        }
        assert_eq!(Codec::from_id(5), None);
        assert_eq!(Codec::parse("brotli"), None);
    }

    #[test]
    fn every_codec_round_trips_across_its_blocks() {
        for codec in Codec::ALL {
            for size in [0, 1, 100, XERIAL_BLOCK, XERIAL_BLOCK + 1, 300_000] {
                let input = text(size);
                let packed = compress(codec, &input);
                assert_eq!(decompress(codec, &packed, MAX).as_ref(), Ok(&input), "{codec} {size}");
            }
            assert!(
                codec == Codec::None || compress(codec, &text(300_000)).len() < 250_000,
                "{codec}"
            );
        }
    }

    #[test]
    fn the_bound_is_exact() {
        for codec in Codec::ALL {
            for size in [1, 5000, 200_000] {
                let input = text(size);
                let packed = compress(codec, &input);
                assert_eq!(decompress(codec, &packed, size).as_ref(), Ok(&input), "{codec} {size}");
                let refused = Err(CompressionError::TooLarge { max: size - 1 });
                assert_eq!(decompress(codec, &packed, size - 1), refused, "{codec} {size}");
            }
        }
    }

    #[test]
    fn a_bomb_is_refused() {
        let zeros = vec![0; 64 << 20];
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let packed = compress(codec, &zeros);
            assert_eq!(
                decompress(codec, &packed, MAX),
                Err(CompressionError::TooLarge { max: MAX }),
                "{codec}"
            );
        }
    }

    #[test]
    fn every_truncation_is_noticed() {
        let input = text(70_000);
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let packed = compress(codec, &input);
            for length in (0..packed.len()).step_by(997).chain(packed.len() - 12..packed.len()) {
                // Cut off at a block's end, a snappy stream is whole; the record count tells.
                let result = decompress(codec, &packed[..length], MAX);
                assert_ne!(result.as_ref(), Ok(&input), "{codec} {length}");
                let is_silent = matches!(codec, Codec::Snappy) || length == 0;
                assert!(is_silent || damaged(result), "{codec} {length}");
            }
        }
    }

    #[test]
    fn lz4_cut_off_at_a_block_end_is_noticed() {
        let packed = compress(Codec::Lz4, &text(70_000));
        let end_mark = 4;
        assert!(damaged(decompress(Codec::Lz4, &packed[..packed.len() - end_mark], MAX)));
    }

    #[test]
    fn lz4_that_stops_with_an_empty_block_is_cut_off() {
        let packed = compress(Codec::Lz4, &text(70_000));
        let end_mark = 4;
        let mut stopped = packed[..packed.len() - end_mark].to_vec();
        stopped.extend_from_slice(&0x8000_0000_u32.to_le_bytes());
        let error = decompress(Codec::Lz4, &stopped, MAX).unwrap_err();
        assert!(error.to_string().contains("cut off"), "{error}");
    }

    #[test]
    fn lz4_whose_blocks_take_more_than_there_is_room_for_is_not_begun() {
        let info = FrameInfo::new().block_size(BlockSize::Max4MB);
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(b"small").unwrap();
        let packed = encoder.finish().unwrap();
        let pieces = |max| decompress_pieces(Codec::Lz4, &packed, max, |_| Ok::<_, CompressionError>(()));
        assert_eq!(
            pieces((4 << 20) - 1),
            Err(CompressionError::TooLarge { max: (4 << 20) - 1 })
        );
        assert_eq!(pieces(4 << 20), Ok(()));
    }

    #[test]
    fn what_a_large_batch_took_is_given_back_also_when_it_is_refused() {
        let zeros = vec![0; 16 << 20];
        let raw_snappy = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
        for (codec, mut packed) in [
            (Codec::Zstd, compress(Codec::Zstd, &zeros)),
            (Codec::Snappy, raw_snappy),
        ] {
            let pieces = |packed: &[u8]| decompress_pieces(codec, packed, 16 << 20, |_| Ok::<_, CompressionError>(()));
            let kept = || PIECE.with_borrow(Vec::capacity);
            pieces(&packed).unwrap();
            assert!(kept() <= PIECE_KEPT, "{codec}: {}", kept());
            packed.pop();
            pieces(&packed).unwrap_err();
            assert!(kept() <= PIECE_KEPT, "{codec}: {}", kept());
        }
    }

    #[test]
    fn what_follows_is_noticed() {
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut packed = compress(codec, &text(1000));
            packed.extend_from_slice(&[1, 2, 3]);
            assert!(damaged(decompress(codec, &packed, MAX)), "{codec}");
        }
    }

    #[test]
    fn snappy_is_read_raw_too() {
        let input = text(100_000);
        let packed = snap::raw::Encoder::new().compress_vec(&input).unwrap();
        assert_eq!(decompress(Codec::Snappy, &packed, MAX), Ok(input));
    }

    #[test]
    fn snappy_size_out_of_reach_is_refused_before_it_is_set_aside() {
        let claims_a_mebibyte = [0x80, 0x80, 0x40, 0x00, b'x'];
        let error = decompress(Codec::Snappy, &claims_a_mebibyte, MAX).unwrap_err();
        assert!(error.to_string().contains("out of reach"), "{error}");
    }

    #[test]
    fn snappy_ratio_is_that_of_its_best_element() {
        let zeros = vec![0; MAX];
        let packed = snap::raw::Encoder::new().compress_vec(&zeros).unwrap();
        assert_eq!(decompress(Codec::Snappy, &packed, MAX), Ok(zeros));
    }

    #[test]
    fn gzip_of_several_members_is_read() {
        let mut packed = compress(Codec::Gzip, b"one ");
        packed.extend(compress(Codec::Gzip, b"two"));
        assert_eq!(decompress(Codec::Gzip, &packed, MAX), Ok(b"one two".to_vec()));
    }

    #[test]
    fn lz4_of_linked_blocks_with_checksums_is_read() {
        let input = text(200_000);
        let info = FrameInfo::new()
            .block_size(BlockSize::Max64KB)
            .block_mode(BlockMode::Linked)
            .block_checksums(true)
            .content_checksum(true)
            .content_size(Some(input.len() as u64));
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(&input).unwrap();
        let packed = encoder.finish().unwrap();
        assert_eq!(decompress(Codec::Lz4, &packed, MAX), Ok(input));
    }

    #[test]
    fn lz4_is_written_as_kafkas_java_client_reads_it() {
        let packed = compress(Codec::Lz4, b"x");
        let version_1_independent_blocks = 0b0110_0000;
        assert_eq!(packed[4], version_1_independent_blocks);
    }

    /// As Kafka's Java client sends it: no content size. Packed by python-zstandard: `b"0123456789" * 20_000`.
    #[test]
    fn zstd_of_unknown_size_is_read() {
        let packed = from_hex("28b52ffd005894000050303132333435363738390100f3ffcd0b124d0000083201003c0d391002");
        assert!(matches!(zstd_safe::get_frame_content_size(&packed), Ok(None)));
        let expected = b"0123456789".repeat(20_000);
        assert_eq!(decompress(Codec::Zstd, &packed, MAX).as_ref(), Ok(&expected));
        assert_eq!(decompress(Codec::Zstd, &packed, 200_000), Ok(expected));
        assert_eq!(
            decompress(Codec::Zstd, &packed, 199_999),
            Err(CompressionError::TooLarge { max: 199_999 })
        );
    }

    #[test]
    fn zstd_that_claims_too_much_is_refused_unread() {
        let mut packed = from_hex("28b52ffda0");
        packed.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            decompress(Codec::Zstd, &packed, MAX),
            Err(CompressionError::TooLarge { max: MAX })
        );
    }
}
