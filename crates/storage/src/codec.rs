//! Formats of the values on disk. Each begins with a version byte; a version from the future is refused, never guessed.
//!
//! ```text
//! log     1 | term u64 | head length u32 | head | body
//! index   1 | base offset u64 | raft index u64 | epoch u32 | max timestamp i64 | running max i64 | size u32
//! keys    1 | last offset i64
//! purged  1 | term u64 | index u64
//! commit  1 | sequence u64 | chain u64
//! ```
//!
//! Numbers are little-endian here, as nothing is ordered by them. Index, last offset and group stand in the key. Rows
//! of state are the caller's own and are stored as they are, version byte included, except those named above.

use bytes::Bytes;
use jangada_types::{GroupId, LeaderEpoch, Offset};

use crate::error::StoreError;
use crate::keys;
use crate::mark::CommitPoint;
use crate::store::{IndexEntry, LogEntry, LogPosition, StateKind};

const VERSION: u8 = 1;

const LOG_HEADER_LEN: usize = 1 + 8 + 4;
const INDEX_LEN: usize = 1 + 8 + 8 + 4 + 8 + 8 + 4;
const PAIR_LEN: usize = 1 + 8 + 8;
const KEY_LEN: usize = 1 + 8;

const _: () = assert!(
    LOG_HEADER_LEN == 13 && INDEX_LEN == 41 && PAIR_LEN == 17,
    "the format on disk"
);

/// Writes a log entry's value into `scratch`, replacing what was there.
pub(crate) fn encode_log(scratch: &mut Vec<u8>, entry: &LogEntry) {
    let head_len = u32::try_from(entry.head.len()).expect("a head is a few bytes");
    scratch.clear();
    scratch.reserve(LOG_HEADER_LEN + entry.payload_len());
    scratch.push(VERSION);
    scratch.extend_from_slice(&entry.term.to_le_bytes());
    scratch.extend_from_slice(&head_len.to_le_bytes());
    scratch.extend_from_slice(&entry.head);
    scratch.extend_from_slice(&entry.body);
}

/// Reads a log entry. The value is copied once; head and body share the copy.
pub(crate) fn decode_log(index: u64, value: &[u8]) -> Result<LogEntry, StoreError> {
    let mut reader = Reader::new("log entry", value)?;
    let term = reader.u64()?;
    let head_len = reader.u32()? as usize;
    let mut head = Bytes::copy_from_slice(reader.rest);
    if head_len > head.len() {
        return Err(reader.damaged());
    }
    let body = head.split_off(head_len);
    Ok(LogEntry {
        index,
        term,
        head,
        body,
    })
}

/// A log entry's value without head and body.
pub(crate) fn encode_log_head(term: u64) -> [u8; LOG_HEADER_LEN] {
    let mut value = [0; LOG_HEADER_LEN];
    let mut writer = Writer::new(&mut value);
    writer.put(&[VERSION]);
    writer.put(&term.to_le_bytes());
    writer.put(&0_u32.to_le_bytes());
    writer.finish();
    value
}

/// Reads only the term of a log entry.
pub(crate) fn decode_log_term(value: &[u8]) -> Result<u64, StoreError> {
    Reader::new("log entry", value)?.u64()
}

/// Writes an index row.
pub(crate) fn encode_index(entry: &IndexEntry) -> [u8; INDEX_LEN] {
    let mut value = [0; INDEX_LEN];
    let mut writer = Writer::new(&mut value);
    writer.put(&[VERSION]);
    writer.put(&entry.base_offset.get().to_le_bytes());
    writer.put(&entry.raft_index.to_le_bytes());
    writer.put(&entry.epoch.get().to_le_bytes());
    writer.put(&entry.max_timestamp_ms.to_le_bytes());
    writer.put(&entry.running_max_timestamp_ms.to_le_bytes());
    writer.put(&entry.size_bytes.to_le_bytes());
    writer.finish();
    value
}

/// Reads an index row.
pub(crate) fn decode_index(last_offset: u64, value: &[u8]) -> Result<IndexEntry, StoreError> {
    let mut reader = Reader::new("index row", value)?;
    let last_offset = i64::try_from(last_offset).map_err(|_| reader.damaged())?;
    let entry = IndexEntry {
        last_offset: Offset::from(last_offset),
        base_offset: Offset::from(reader.i64()?),
        raft_index: reader.u64()?,
        epoch: LeaderEpoch::from(reader.u32()?),
        max_timestamp_ms: reader.i64()?,
        running_max_timestamp_ms: reader.i64()?,
        size_bytes: reader.u32()?,
    };
    reader.finish()?;
    Ok(entry)
}

/// Writes the last offset of a key.
pub(crate) fn encode_key_offset(offset: Offset) -> [u8; KEY_LEN] {
    let mut value = [0; KEY_LEN];
    let mut writer = Writer::new(&mut value);
    writer.put(&[VERSION]);
    writer.put(&offset.get().to_le_bytes());
    writer.finish();
    value
}

/// Reads the last offset of a key.
pub(crate) fn decode_key_offset(value: &[u8]) -> Result<Offset, StoreError> {
    let mut reader = Reader::new("last offset of a key", value)?;
    let offset = reader.i64()?;
    reader.finish()?;
    Ok(Offset::from(offset))
}

/// Writes the row that says where the log starts.
pub(crate) fn encode_purged(position: LogPosition) -> [u8; PAIR_LEN] {
    encode_pair(position.term, position.index)
}

/// Reads the row that says where the log starts.
pub(crate) fn decode_purged(value: &[u8]) -> Result<LogPosition, StoreError> {
    decode_pair("purged position", value).map(|(term, index)| LogPosition { term, index })
}

/// Writes the row that numbers the commits.
pub(crate) fn encode_commit(point: CommitPoint) -> [u8; PAIR_LEN] {
    encode_pair(point.sequence, point.chain)
}

/// Reads the row that numbers the commits.
pub(crate) fn decode_commit(value: &[u8]) -> Result<CommitPoint, StoreError> {
    decode_pair("commit point", value).map(|(sequence, chain)| CommitPoint { sequence, chain })
}

/// The commit of a write batch as RocksDB logs it: the row COMMIT, which is its last. `None`: it is no commit of ours.
pub(crate) fn last_commit(batch: &[u8]) -> Option<CommitPoint> {
    /// Sequence number and count.
    const BATCH_HEADER_LEN: usize = 8 + 4;
    /// Puts a row into another family than the first.
    const PUT_IN_FAMILY: u8 = 5;
    /// Tag, family, length of the key, key, length of the value, value; each number below 128 is one byte.
    const ROW_LEN: usize = 1 + 1 + 1 + keys::STATE_KEY_LEN + 1 + PAIR_LEN;
    let row = batch.get(BATCH_HEADER_LEN..)?.last_chunk::<ROW_LEN>()?;
    let (head, value) = row.split_at(ROW_LEN - PAIR_LEN);
    let [tag, family, key_len, key @ .., value_len] = head else {
        return None;
    };
    let is_commit = *tag == PUT_IN_FAMILY
        && *family < 128
        && usize::from(*key_len) == keys::STATE_KEY_LEN
        && *key == keys::state(GroupId::NODE, StateKind::COMMIT, 0)
        && usize::from(*value_len) == PAIR_LEN;
    is_commit.then(|| decode_commit(value).ok()).flatten()
}

fn encode_pair(first: u64, second: u64) -> [u8; PAIR_LEN] {
    let mut value = [0; PAIR_LEN];
    let mut writer = Writer::new(&mut value);
    writer.put(&[VERSION]);
    writer.put(&first.to_le_bytes());
    writer.put(&second.to_le_bytes());
    writer.finish();
    value
}

fn decode_pair(what: &'static str, value: &[u8]) -> Result<(u64, u64), StoreError> {
    let mut reader = Reader::new(what, value)?;
    let pair = (reader.u64()?, reader.u64()?);
    reader.finish()?;
    Ok(pair)
}

/// Fills a value of fixed size front to back.
struct Writer<'a> {
    rest: &'a mut [u8],
}

impl<'a> Writer<'a> {
    fn new(rest: &'a mut [u8]) -> Self {
        Self { rest }
    }

    fn put(&mut self, bytes: &[u8]) {
        let (now, rest) = std::mem::take(&mut self.rest).split_at_mut(bytes.len());
        now.copy_from_slice(bytes);
        self.rest = rest;
    }

    fn finish(self) {
        assert!(self.rest.is_empty(), "the fields fill the value");
    }
}

/// Takes a value apart front to back.
struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Checks the version byte.
    fn new(what: &'static str, value: &'a [u8]) -> Result<Self, StoreError> {
        match value.split_first() {
            Some((&VERSION, rest)) => Ok(Self { what, rest }),
            Some((version, _)) => Err(StoreError::LaterVersion(format!(
                "{what} has version {version}, known is {VERSION}"
            ))),
            None => Err(StoreError::Corrupt(format!("{what} is empty"))),
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (now, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(*now)
    }

    fn u32(&mut self) -> Result<u32, StoreError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, StoreError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn i64(&mut self) -> Result<i64, StoreError> {
        Ok(i64::from_le_bytes(self.take()?))
    }

    fn damaged(&self) -> StoreError {
        StoreError::Corrupt(format!("{} has a wrong length", self.what))
    }

    fn finish(self) -> Result<(), StoreError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.damaged())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index_entry() -> IndexEntry {
        IndexEntry {
            last_offset: Offset::from(9),
            base_offset: Offset::from(2),
            raft_index: 3,
            epoch: LeaderEpoch::from(4),
            max_timestamp_ms: 5,
            running_max_timestamp_ms: -1,
            size_bytes: 7,
        }
    }

    #[test]
    fn log_format_is_pinned() {
        let entry = LogEntry {
            index: 1,
            term: 2,
            head: Bytes::from_static(b"h"),
            body: Bytes::from_static(b"body"),
        };
        let mut value = b"old".to_vec();
        encode_log(&mut value, &entry);
        assert_eq!(value, b"\x01\x02\0\0\0\0\0\0\0\x01\0\0\0hbody");
        assert_eq!(decode_log(1, &value).unwrap(), entry);
        assert_eq!(decode_log_term(&value).unwrap(), 2);
    }

    #[test]
    fn index_format_is_pinned() {
        let value = encode_index(&index_entry());
        let golden: &[u8] = b"\x01\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\0\0\0\x05\0\0\0\0\0\0\0\
            \xff\xff\xff\xff\xff\xff\xff\xff\x07\0\0\0";
        assert_eq!(value, golden);
        assert_eq!(decode_index(9, &value).unwrap(), index_entry());
    }

    #[test]
    fn pair_formats_are_pinned() {
        let golden: &[u8] = b"\x01\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0";
        let purged = LogPosition { term: 2, index: 3 };
        assert_eq!(encode_purged(purged), golden);
        assert_eq!(decode_purged(golden).unwrap(), purged);
        let commit = CommitPoint { sequence: 2, chain: 3 };
        assert_eq!(encode_commit(commit), golden);
        assert_eq!(decode_commit(golden).unwrap(), commit);
    }

    #[test]
    fn damaged_values_are_refused() {
        assert!(decode_log(1, b"").is_err());
        assert!(decode_log(1, b"\x02\x02\0\0\0\0\0\0\0\x01\0\0\0hbody").is_err());
        assert!(decode_log(1, b"\x01\x02\0\0\0\0\0\0\0\x09\0\0\0hbody").is_err());
        assert!(decode_log(1, b"\x01\x02\0\0\0").is_err());
        let value = encode_index(&index_entry());
        assert!(decode_index(9, &value[..40]).is_err());
        assert!(decode_index(9, &[&value[..], b"x"].concat()).is_err());
        assert!(decode_index(u64::MAX, &value).is_err());
    }
}
