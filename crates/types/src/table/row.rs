//! What rows are encoded and decoded with. A value begins with a version byte; a version from the future is refused, never
//! guessed. Numbers in values are little-endian, as nothing is ordered by them.

use bytes::{Bytes, BytesMut};

/// Why a row cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RowError {
    /// It is not what was written.
    #[error("{0}")]
    Damaged(String),
    /// A later build wrote it, which alone can read it. Not damage.
    #[error("{0}")]
    LaterVersion(String),
}

/// Fills a value of fixed size front to back.
pub struct RowWriter<const N: usize> {
    value: [u8; N],
    len: usize,
}

impl<const N: usize> RowWriter<N> {
    /// Begins a value with its version.
    pub fn new(version: u8) -> Self {
        let mut writer = Self { value: [0; N], len: 0 };
        writer.put(&[version]);
        writer
    }

    /// Adds these bytes. Panics when there is no room for them: that is a bug of the encoding.
    pub fn put(&mut self, bytes: &[u8]) {
        self.value[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    /// The value. Panics when the fields do not fill it.
    pub fn finish(self) -> [u8; N] {
        assert_eq!(self.len, N, "the fields fill the value");
        self.value
    }
}

/// Takes a value apart front to back.
pub struct RowReader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> RowReader<'a> {
    /// Checks the version byte. `what` names the value in errors.
    pub fn new(what: &'static str, version: u8, value: &'a [u8]) -> Result<Self, RowError> {
        match value.split_first() {
            Some((found, rest)) if *found == version => Ok(Self { what, rest }),
            Some((found, _)) => Err(RowError::LaterVersion(format!(
                "{what} has version {found}, known is {version}"
            ))),
            None => Err(RowError::Damaged(format!("{what} is empty"))),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], RowError> {
        let (now, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(*now)
    }

    /// The next four bytes.
    pub fn u32(&mut self) -> Result<u32, RowError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    /// The next eight bytes.
    pub fn u64(&mut self) -> Result<u64, RowError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// The next eight bytes, signed.
    pub fn i64(&mut self) -> Result<i64, RowError> {
        Ok(i64::from_le_bytes(self.take()?))
    }

    /// What is left.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The error that says that the value has a wrong length.
    pub fn damaged(&self) -> RowError {
        RowError::Damaged(format!("{} has a wrong length", self.what))
    }

    /// Nothing may be left.
    pub fn finish(self) -> Result<(), RowError> {
        match self.rest {
            [] => Ok(()),
            _ => Err(self.damaged()),
        }
    }
}

/// Bytes of a block that rows share.
const BLOCK_BYTES: usize = 1024;

/// Keeps keys and values of rows in blocks that they share, so that a row costs no allocation of its own.
#[derive(Debug, Default)]
pub struct RowBuffer(BytesMut);

impl RowBuffer {
    /// A copy of key and value.
    pub fn copy(&mut self, key: &[u8], value: &[u8]) -> (Bytes, Bytes) {
        let len = key.len() + value.len();
        if self.0.capacity() - self.0.len() < len {
            self.0.reserve(len.max(BLOCK_BYTES));
        }
        self.0.extend_from_slice(key);
        self.0.extend_from_slice(value);
        let mut row = self.0.split().freeze();
        let key = row.split_to(key.len());
        (key, row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_and_damaged_ones_are_refused() {
        let mut writer = RowWriter::<13>::new(1);
        writer.put(&7_u32.to_le_bytes());
        writer.put(&(-9_i64).to_le_bytes());
        let value = writer.finish();
        assert_eq!(value, *b"\x01\x07\0\0\0\xf7\xff\xff\xff\xff\xff\xff\xff");
        let read = |value: &[u8]| -> Result<(u32, i64), RowError> {
            let mut reader = RowReader::new("row", 1, value)?;
            let read = (reader.u32()?, reader.i64()?);
            reader.finish()?;
            Ok(read)
        };
        assert_eq!(read(&value), Ok((7, -9)));
        for bad in [&value[..12], &[&value[..], b"x"].concat(), b"\x01", b""] {
            assert!(matches!(read(bad), Err(RowError::Damaged(_))), "{bad:?}");
        }
        assert!(matches!(read(b"\x02"), Err(RowError::LaterVersion(_))));
    }

    #[test]
    fn rows_of_one_block_keep_their_bytes() {
        let mut buffer = RowBuffer::default();
        let long = [9; 3 * BLOCK_BYTES];
        let rows: Vec<_> = (0..100_u8).map(|n| buffer.copy(&[n, n], &[n; 41])).collect();
        let after = buffer.copy(b"key", &long);
        for (n, (key, value)) in (0..100_u8).zip(rows) {
            assert_eq!((&key[..], &value[..]), (&[n, n][..], &[n; 41][..]));
        }
        assert_eq!((&after.0[..], &after.1[..]), (&b"key"[..], &long[..]));
    }
}
