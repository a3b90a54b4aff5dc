//! Formats of the values on disk. Each begins with a version byte; a version from the future is refused, never guessed.
//!
//! ```text
//! log     1 | term u64 | head length u32 | head | body
//! purged  1 | term u64 | index u64
//! commit  1 | sequence u64 | chain u64
//! ```
//!
//! Numbers are little-endian here, as nothing is ordered by them. Index and group stand in the key. Rows of tables and of state
//! are the caller's own and are stored as they are, version byte included, except those named above.

use bytes::Bytes;
use jangada_types::GroupId;
use jangada_types::table::row::{RowReader, RowWriter};

use crate::error::StoreError;
use crate::keys;
use crate::mark::CommitPoint;
use crate::store::{LogEntry, LogPosition, StateKind};

const VERSION: u8 = 1;

const LOG_HEADER_LEN: usize = 1 + 8 + 4;
const PAIR_LEN: usize = 1 + 8 + 8;
const SEQUENCE_LEN: usize = 1 + 8;

const _: () = assert!(LOG_HEADER_LEN == 13 && PAIR_LEN == 17, "the format on disk");

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
    let mut reader = RowReader::new("log entry", VERSION, value)?;
    let term = reader.u64()?;
    let head_len = reader.u32()? as usize;
    let mut head = Bytes::copy_from_slice(reader.rest());
    if head_len > head.len() {
        return Err(reader.damaged().into());
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
    let mut writer = RowWriter::new(VERSION);
    writer.put(&term.to_le_bytes());
    writer.put(&0_u32.to_le_bytes());
    writer.finish()
}

/// Reads only the term of a log entry.
pub(crate) fn decode_log_term(value: &[u8]) -> Result<u64, StoreError> {
    Ok(RowReader::new("log entry", VERSION, value)?.u64()?)
}

/// Writes the row of a table that numbers the commits, into `value`, replacing what was there. It has the size that rows of the
/// table have, if all have the same.
pub(crate) fn encode_sequence(value: &mut Vec<u8>, sequence: u64, value_bytes: Option<usize>) {
    value.clear();
    value.push(VERSION);
    value.extend_from_slice(&sequence.to_le_bytes());
    value.resize(value_bytes.unwrap_or(0).max(SEQUENCE_LEN), 0);
}

/// Reads the number of a commit from such a row.
pub(crate) fn decode_sequence(value: &[u8]) -> Result<u64, StoreError> {
    Ok(RowReader::new("commit row", VERSION, value)?.u64()?)
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
    let mut writer = RowWriter::new(VERSION);
    writer.put(&first.to_le_bytes());
    writer.put(&second.to_le_bytes());
    writer.finish()
}

fn decode_pair(what: &'static str, value: &[u8]) -> Result<(u64, u64), StoreError> {
    let mut reader = RowReader::new(what, VERSION, value)?;
    let pair = (reader.u64()?, reader.u64()?);
    reader.finish()?;
    Ok(pair)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn commit_rows_of_tables_are_pinned() {
        let sequence = b"\x01\x02\x01\0\0\0\0\0\0";
        let mut value = b"old".to_vec();
        encode_sequence(&mut value, 258, None);
        assert_eq!(value, sequence);
        encode_sequence(&mut value, 258, Some(12));
        assert_eq!(value, [&sequence[..], &[0; 3]].concat());
        assert_eq!(decode_sequence(&value).unwrap(), 258);
        assert!(decode_sequence(&sequence[..8]).is_err());
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
    }
}
