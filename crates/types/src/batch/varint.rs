//! The variable-length numbers of a record: zigzag, then seven bits a byte, lowest first. A 32-bit and a 64-bit
//! number of the same value have the same bytes.

use super::error::RecordFlaw;

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unzigzag(bits: u64) -> i64 {
    (bits >> 1) as i64 ^ -((bits & 1) as i64)
}

/// Bytes that a number takes.
pub(super) const fn len(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Appends a number to `out`.
pub(super) fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Takes a 64-bit number from the front of `bytes`.
#[inline]
pub(super) fn take_i64(bytes: &mut &[u8]) -> Result<i64, RecordFlaw> {
    // Most numbers of a record have one byte.
    match bytes.split_first() {
        Some((byte, rest)) if *byte < 0x80 => {
            *bytes = rest;
            Ok(unzigzag(u64::from(*byte)))
        }
        _ => take_long(bytes),
    }
}

fn take_long(bytes: &mut &[u8]) -> Result<i64, RecordFlaw> {
    let mut bits = 0_u64;
    for (i, byte) in bytes.iter().enumerate() {
        // The tenth byte has one bit of the number.
        if i == 9 && *byte > 1 {
            return Err(RecordFlaw::Varint);
        }
        bits |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            *bytes = &bytes[i + 1..];
            return Ok(unzigzag(bits));
        }
    }
    Err(RecordFlaw::Truncated)
}

/// Takes a 32-bit number from the front of `bytes`.
#[inline]
pub(super) fn take_i32(bytes: &mut &[u8]) -> Result<i32, RecordFlaw> {
    i32::try_from(take_i64(bytes)?).map_err(|_| RecordFlaw::Varint)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGES: [i64; 14] = [
        0,
        -1,
        1,
        63,
        -64,
        64,
        -65,
        8191,
        8192,
        i32::MAX as i64,
        i32::MIN as i64,
        i32::MAX as i64 + 1,
        i64::MAX,
        i64::MIN,
    ];

    #[test]
    fn numbers_round_trip_with_their_length() {
        for value in EDGES {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out.len(), len(value), "{value}");
            out.push(0xee);
            let mut rest = &out[..];
            assert_eq!(take_i64(&mut rest), Ok(value));
            assert_eq!(rest, [0xee]);
        }
    }

    /// Examples of Kafka's own `ByteUtilsTest`.
    #[test]
    fn bytes_are_kafkas() {
        let vectors: [(i64, &[u8]); 8] = [
            (0, &[0x00]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (i32::MAX as i64, &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ];
        for (value, bytes) in vectors {
            let mut out = Vec::new();
            put(&mut out, value);
            assert_eq!(out, bytes, "{value}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert_eq!(take_i64(&mut &[][..]), Err(RecordFlaw::Truncated));
        assert_eq!(take_i64(&mut &[0x80, 0x80][..]), Err(RecordFlaw::Truncated));
        assert_eq!(take_i64(&mut &[0xff; 11][..]), Err(RecordFlaw::Varint));
        let mut out = Vec::new();
        put(&mut out, i32::MAX as i64 + 1);
        assert_eq!(take_i32(&mut &out[..]), Err(RecordFlaw::Varint));
    }
}
