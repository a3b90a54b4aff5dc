//! Numbers of variable length: LEB128, as protobuf has them, in one form only.

use bytes::BufMut;

/// A number of 64 bits, seven in a byte.
const BYTES_MAX: usize = 10;

pub(crate) fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// How many bytes [`put_varint`] writes.
pub(crate) fn varint_bytes(value: u64) -> usize {
    (u64::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// The number at the beginning of `input`; none: it is cut off, too long, or not in its only form.
pub(crate) fn get_varint(input: &mut &[u8]) -> Option<u64> {
    let bytes = *input;
    let mut value = 0_u64;
    for (at, byte) in bytes.iter().take(BYTES_MAX).enumerate() {
        let part = u64::from(byte & 0x7f);
        // No bit is lost, and the last byte is not 0.
        if (at == BYTES_MAX - 1 && part > 1) || (*byte == 0 && at > 0) {
            return None;
        }
        value |= part << (7 * at);
        if *byte < 0x80 {
            *input = &bytes[at + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_in_one_form() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(varint_bytes(value), out.len());
            let mut input = &out[..];
            assert_eq!((get_varint(&mut input), input.len()), (Some(value), 0));
        }
        let beyond = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        for bad in [&[0x80_u8][..], &[0x80, 0x00], &[0xff; 11], &beyond] {
            assert_eq!(get_varint(&mut &bad[..]), None, "{bad:?}");
        }
    }
}
