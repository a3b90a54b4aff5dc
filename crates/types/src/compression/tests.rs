//! Tests of each codec with bytes that it wrote, and with bytes that are cut off, made large or made to harm.

use std::io::Write as _;

use ::zstd::zstd_safe;
use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

use super::snappy::XERIAL_BLOCK;
use super::*;

const MAX: usize = 1 << 20;

/// The result of [`decompress`], after a check that decompressing in pieces agrees.
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

/// A text that compresses well but not to nothing, over several blocks of each codec.
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
            // A snappy stream that is cut off at a block's end is whole; only the record count shows it.
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

/// A zstd frame as Kafka's Java client sends it: no content size. Packed by python-zstandard: `b"0123456789" * 20_000`.
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
