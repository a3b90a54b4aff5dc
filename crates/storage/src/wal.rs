//! Reads RocksDB's write-ahead logs before RocksDB does, only to see which commits they hold.
//!
//! RocksDB replays what it finds: it has no word for a file that is gone, empty, or filled with zeros, and goes on with
//! the next one. Every commit ends with its number (row COMMIT), so whoever reads along knows when one is missing.
//!
//! The format is RocksDB's (wiki, "Write Ahead Log File Format"): blocks of 32 KiB, in them fragments, of which one or
//! several make a record, which is a write batch.
//!
//! ```text
//! fragment  crc u32 | length u16 | type u8 | payload                    legacy
//!           crc u32 | length u16 | type u8 | file number u32 | payload  in files that may be written over
//! batch     sequence u64 | count u32 | rows ...  | row COMMIT
//! ```
//!
//! Reading ends where RocksDB's own reading would end: at a fragment that is cut, has another checksum, or is left from
//! the file's former life. Like RocksDB it goes on behind a block's rest that is zero.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::codec;
use crate::error::StoreError;
use crate::mark::CommitPoint;

const BLOCK: usize = 32 * 1024;
const READ_BYTES: usize = 1024 * 1024;
const HEADER: usize = 7;
const RECYCLABLE_HEADER: usize = HEADER + 4;

/// The files of the write-ahead log in a directory, with their numbers, ascending; none if there is no directory.
pub(crate) fn list(directory: &Path) -> Result<Vec<(u64, PathBuf)>, StoreError> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(StoreError::io("list", directory, error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| StoreError::io("list", directory, error))?.path();
        let is_wal = path.extension().is_some_and(|extension| extension == "log");
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok());
        if let Some(number) = number.filter(|_| is_wal) {
            found.push((number, path));
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// Calls `each` with every commit of a file and where its record ends, in the order of the file.
pub(crate) fn commits(number: u64, path: &Path, each: impl FnMut(CommitPoint, u64)) -> Result<(), StoreError> {
    let file = File::open(path).map_err(|error| StoreError::io("open", path, error))?;
    let input = BufReader::with_capacity(READ_BYTES, file);
    read(number, input, each).map_err(|error| StoreError::io("read", path, error))
}

fn read(number: u64, mut input: impl Read, mut each: impl FnMut(CommitPoint, u64)) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    let mut block_end = 0;
    let mut record = |batch: &[u8], end| {
        if let Some(point) = codec::last_commit(batch) {
            each(point, end);
        }
    };
    // The parts of a record that goes over several fragments.
    let mut parts: Option<Vec<u8>> = None;
    loop {
        let filled = fill(&mut input, &mut block)?;
        block_end += filled as u64;
        let mut rest = &block[..filled];
        loop {
            let (part, payload, len) = match Fragment::read(number, rest) {
                Fragment::Part(part, payload, len) => (part, payload, len),
                Fragment::BlockEnd => break,
                Fragment::Zeros if parts.is_none() => break,
                Fragment::Zeros | Fragment::End => return Ok(()),
            };
            rest = &rest[len..];
            let end = block_end - rest.len() as u64;
            match (part, &mut parts) {
                (Part::Full, None) => record(payload, end),
                (Part::First, None) => parts = Some(payload.to_vec()),
                (Part::Middle, Some(parts)) => parts.extend_from_slice(payload),
                (Part::Last, Some(whole)) => {
                    whole.extend_from_slice(payload);
                    record(whole, end);
                    parts = None;
                }
                (Part::Other, None) => {}
                _ => return Ok(()),
            }
        }
        if filled < BLOCK {
            return Ok(());
        }
    }
}

/// Reads until the block is full or the file ends.
fn fill(input: &mut impl Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match input.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(bytes) => filled += bytes,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[derive(Clone, Copy)]
enum Part {
    Full,
    First,
    Middle,
    Last,
    /// Says something about the file, not about a record.
    Other,
}

enum Fragment<'a> {
    /// Its place in the record, its payload, and its length with the header.
    Part(Part, &'a [u8], usize),
    /// Too little is left of the block for another one.
    BlockEnd,
    /// The rest of the block was never written, or was overwritten with zeros.
    Zeros,
    /// Nothing behind this counts.
    End,
}

impl<'a> Fragment<'a> {
    fn read(number: u64, block: &'a [u8]) -> Self {
        if block.len() < HEADER {
            return Self::BlockEnd;
        }
        let length = usize::from(u16::from_le_bytes([block[4], block[5]]));
        let kind = block[6];
        let (part, is_recyclable) = match kind {
            0 if length == 0 => return Self::Zeros,
            1 => (Part::Full, false),
            2 => (Part::First, false),
            3 => (Part::Middle, false),
            4 => (Part::Last, false),
            5 => (Part::Full, true),
            6 => (Part::First, true),
            7 => (Part::Middle, true),
            8 => (Part::Last, true),
            10 | 130 => (Part::Other, false),
            11 | 131 => (Part::Other, true),
            _ => return Self::End,
        };
        let header = if is_recyclable { RECYCLABLE_HEADER } else { HEADER };
        if block.len() < header {
            return Self::BlockEnd;
        }
        let Some(fragment) = block.get(..header + length) else {
            return Self::End;
        };
        let word = |at: usize| u32::from_le_bytes(fragment[at..at + 4].try_into().expect("four bytes of a header"));
        // Only the number's low half is written.
        let is_of_this_life = !is_recyclable || u64::from(word(HEADER)) == number & u64::from(u32::MAX);
        if is_of_this_life && unmask(word(0)) == crc_fast::crc32_iscsi(&fragment[6..]) {
            Self::Part(part, &fragment[header..], header + length)
        } else {
            Self::End
        }
    }
}

/// Checksums are stored masked, as their data may contain checksums.
fn unmask(masked: u32) -> u32 {
    masked.wrapping_sub(0xa282_ead8).rotate_left(15)
}

#[cfg(test)]
mod tests {
    use rocksdb::{DB, DBRecoveryMode, Options, WriteBatch};

    use super::*;
    use crate::keys;
    use crate::store::StateKind;
    use jangada_types::GroupId;

    /// What RocksDB writes itself, with records of every size around a block's, in new files and in ones that are
    /// written over.
    #[test]
    fn every_commit_of_the_files_of_rocksdb_is_found() {
        let directory = tempfile::tempdir().unwrap();
        for recycled in [0, 2] {
            let path = directory.path().join(recycled.to_string());
            let mut options = Options::default();
            options.create_if_missing(true);
            options.create_missing_column_families(true);
            options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
            options.set_recycle_log_file_num(recycled);
            let db = DB::open_cf(&options, &path, ["state"]).unwrap();
            let family = db.cf_handle("state").unwrap();
            let mut written = 0;
            for round in 0..6 {
                for size in (0..20).map(|step| BLOCK * round / 2 + step * 3) {
                    written += 1;
                    let mut batch = WriteBatch::default();
                    batch.put(b"value", vec![7; size]);
                    let point = CommitPoint {
                        sequence: written,
                        chain: !written,
                    };
                    let key = keys::state(GroupId::NODE, StateKind::COMMIT, 0);
                    batch.put_cf(&family, key, codec::encode_commit(point));
                    db.write(batch).unwrap();
                }
                if round < 5 {
                    db.flush().unwrap();
                    db.flush_cf(&family).unwrap();
                }
            }
            let mut found = Vec::new();
            for (number, path) in list(&path).unwrap() {
                let mut ends = Vec::new();
                commits(number, &path, |point, end| {
                    found.push(point);
                    ends.push(end);
                })
                .unwrap();
                // Cut where a record ends, a file has the commits up to there.
                let whole = std::fs::read(&path).unwrap();
                for (before, end) in ends.into_iter().enumerate() {
                    let mut count = 0;
                    read(number, &whole[..end as usize], |_, _| count += 1).unwrap();
                    assert_eq!(count, before + 1);
                }
            }
            // What was flushed may be there or gone.
            assert!(found.len() >= 20 && found.is_sorted_by(|a, b| a.sequence + 1 == b.sequence));
            assert!(found.iter().all(|point| point.chain == !point.sequence));
            assert_eq!(found.last().unwrap().sequence, written);
        }
    }

    #[test]
    fn reading_ends_at_damage_and_goes_on_behind_zeros() {
        let record = |sequence: u64| {
            let mut batch = WriteBatch::default();
            batch.put(b"filling", vec![1; BLOCK - 200]);
            let mut record = batch.data().to_vec();
            record.extend([0x05, 1, 17]);
            record.extend(keys::state(GroupId::NODE, StateKind::COMMIT, 0));
            record.push(17);
            record.extend(codec::encode_commit(CommitPoint { sequence, chain: 0 }));
            record
        };
        let mut file = Vec::new();
        for sequence in 1..=4 {
            let record = record(sequence);
            let mut fragment = vec![0; 4];
            fragment.extend(u16::try_from(record.len()).unwrap().to_le_bytes());
            fragment.push(5);
            fragment.extend(9_u32.to_le_bytes());
            fragment.extend(record);
            let crc = crc_fast::crc32_iscsi(&fragment[6..]);
            fragment[..4].copy_from_slice(&crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes());
            fragment.resize(BLOCK, 0);
            file.extend(fragment);
        }
        let found = |number, file: &[u8]| {
            let mut found = Vec::new();
            read(number, file, |point, _| found.push(point.sequence)).unwrap();
            found
        };
        assert_eq!(found(9, &file), [1, 2, 3, 4]);
        assert!(found(8, &file).is_empty(), "of the file's former life");
        assert_eq!(found(9, &file[..3 * BLOCK - 300]), [1, 2]);
        file[BLOCK..2 * BLOCK].fill(0);
        assert_eq!(found(9, &file), [1, 3, 4]);
        file[BLOCK / 2] ^= 4;
        assert!(found(9, &file).is_empty());
    }
}
