//! Rows of the offset index and the log entries that they name, held against each other: what is read has no gap, or it is
//! an error. A replica can lose either by itself (a file of its store is damaged), and passing over what is missing would
//! look to consumers as if nothing were.

use bytes::{Bytes, BytesMut};
use jangada_log::IndexEntry;
use jangada_log::compaction::rewritten::compacted_form;
use jangada_log::tables::offset_index::Gap;
use jangada_storage::{LogEntry, Store, StoreError};
use jangada_types::{GroupId, Offset, batch};

/// Leaves out what was applied after the high watermark was looked at: rows are there a moment before it moves.
pub(super) fn keep_below(rows: &mut Vec<IndexEntry>, high_watermark: Offset) {
    rows.truncate(rows.partition_point(|row| row.last_offset < high_watermark));
}

/// So many entries that no row is about are read for nothing rather than reading twice.
const READ_OVER: u64 = 64;

/// The log entries of rows, up to so many bytes, and at least one. Rows of a partition that is compacted may be far apart in the log: what
/// lies between is not read.
pub(super) fn read_entries(
    store: &dyn Store,
    group: GroupId,
    rows: &[IndexEntry],
    max_bytes: usize,
) -> Result<Vec<LogEntry>, StoreError> {
    let mut entries: Vec<LogEntry> = Vec::new();
    let mut bytes = 0;
    let mut with_batch = rows.iter().filter(|row| row.size_bytes > 0).peekable();
    while let Some(first) = with_batch.next() {
        let mut last = first.raft_index;
        while let Some(next) = with_batch.next_if(|next| next.raft_index - last <= READ_OVER) {
            last = next.raft_index;
        }
        let most = match entries.is_empty() {
            true => max_bytes.max(first.size_bytes as usize),
            false if bytes + first.size_bytes as usize > max_bytes => break,
            false => max_bytes - bytes,
        };
        let read = store.read_log(group, first.raft_index..last + 1, most)?;
        bytes += read.iter().map(LogEntry::payload_len).sum::<usize>();
        let is_whole = read.last().is_some_and(|entry| entry.index == last);
        entries.extend(read);
        if !is_whole {
            break;
        }
    }
    Ok(entries)
}

/// Batches behind one another, as readers get them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Assembled {
    pub batches: Bytes,
    /// The offset behind the last row that was looked at.
    pub next: Offset,
    /// There are offsets among them that no batch has, as compaction has taken it.
    pub has_holes: bool,
}

/// Puts the batches of the rows behind one another, each with its offset and epoch. Entries without a row (blank,
/// membership, refused) are passed over. Ends where the entries end, as they were read up to so many bytes; an entry that
/// is left out before that, or is not the one that its row is about, is a gap.
pub(super) fn assemble(rows: &[IndexEntry], entries: &[LogEntry]) -> Result<Assembled, Gap> {
    let size: usize = rows.iter().map(|row| row.size_bytes as usize).sum();
    let mut out = BytesMut::with_capacity(size);
    let mut next = rows.first().map_or(Offset(0), IndexEntry::first_offset);
    let mut has_holes = false;
    let mut entries = entries.iter();
    for row in rows {
        // Compaction has left nothing of it.
        if row.size_bytes == 0 {
            (next, has_holes) = (Offset(row.last_offset.get() + 1), true);
            continue;
        }
        let Some(entry) = entries.find(|entry| entry.index >= row.raft_index) else {
            break;
        };
        if entry.index != row.raft_index {
            return Err(Gap(format!(
                "offsets {} to {} are in log entry {}, which is missing: the next one is {}",
                row.base_offset, row.last_offset, row.raft_index, entry.index
            )));
        }
        let is_its_batch = entry.body.len() == row.size_bytes as usize || is_other_form(row, entry);
        if !is_its_batch || entry.term != u64::from(row.epoch.get()) {
            return Err(Gap(format!(
                "offsets {} to {} are {} bytes of term {} in log entry {}, which has {} bytes of term {}",
                row.base_offset,
                row.last_offset,
                row.size_bytes,
                row.epoch,
                row.raft_index,
                entry.body.len(),
                entry.term
            )));
        }
        let start = out.len();
        out.extend_from_slice(&entry.body);
        has_holes |= row.offsets_before > 0 || out.len() == start;
        if out.len() > start {
            batch::set_position(&mut out[start..], row.base_offset, row.epoch);
        }
        next = Offset(row.last_offset.get() + 1);
    }
    // What is read waits to be sent, and is counted as long as it is.
    let batches = match out.len() < size / 2 {
        true => Bytes::copy_from_slice(&out),
        false => out.freeze(),
    };
    Ok(Assembled {
        batches,
        next,
        has_holes,
    })
}

/// Whether a row and an entry that differ in size are two forms of one batch: either may have been read before it was compacted. Both are
/// right for a reader.
fn is_other_form(row: &IndexEntry, entry: &LogEntry) -> bool {
    let compacted = jangada_replication::command_of(entry).and_then(|command| compacted_form(command.head()));
    match compacted {
        Some(original_bytes) => {
            let own = i64::from(row.original_bytes) - i64::from(original_bytes);
            own >= 0 && (own == 0 || row.offsets_before > 0)
        }
        // The row is newer.
        None => entry.body.len() <= row.original_bytes as usize && row.original_bytes != row.size_bytes,
    }
}

#[cfg(test)]
mod tests {
    use jangada_log::tables::offset_index::{begins_at, follow};
    use jangada_log::{Conditions, PartitionCommand, PartitionState};
    use jangada_machine::{EncodedCommand, Machine as _};
    use jangada_types::{BatchBuilder, Codec, LeaderEpoch};

    use super::*;

    /// The head of an append's command.
    fn append_head() -> Bytes {
        let command = PartitionCommand::Append {
            now_ms: 0,
            expiration_ms: 0,
            conditions: Conditions::default(),
            batch: Bytes::new(),
        };
        Bytes::copy_from_slice(PartitionState::encode(command).head())
    }

    /// Three batches of two records each, in entries 3, 5 and 6.
    fn three() -> (Vec<IndexEntry>, Vec<LogEntry>) {
        let mut builder = BatchBuilder::new(Codec::None);
        for _ in 0..2 {
            builder.append(0, None, Some(b"value"), []).expect("it fits");
        }
        let body = builder.build();
        let places = [(3, 10), (5, 12), (6, 14)];
        let rows = places.map(|(raft_index, base)| IndexEntry {
            last_offset: Offset(base + 1),
            base_offset: Offset(base),
            raft_index,
            epoch: LeaderEpoch(2),
            max_timestamp_ms: 0,
            running_max_timestamp_ms: 0,
            size_bytes: u32::try_from(body.len()).expect("small"),
            original_bytes: u32::try_from(body.len()).expect("small"),
            offsets_before: 0,
        });
        let entries = (3..7).map(|index| LogEntry {
            index,
            term: 2,
            head: Bytes::new(),
            body: if index == 4 { Bytes::new() } else { body.clone() },
        });
        (rows.to_vec(), entries.collect())
    }

    #[test]
    fn whole_rows_and_entries_are_put_together() {
        let (rows, entries) = three();
        assert_eq!(follow(&rows), Ok(()));
        assert_eq!(begins_at(&rows, Offset(11)), Ok(()));
        let found = |rows: &[IndexEntry], entries: &[LogEntry]| {
            let found = assemble(rows, entries).expect("nothing is missing");
            (found.batches.len(), found.next, found.has_holes)
        };
        let one = entries[0].body.len();
        assert_eq!(found(&rows, &entries), (3 * one, Offset(16), false));
        // The entries were read up to so many bytes.
        assert_eq!(found(&rows, &entries[..2]), (one, Offset(12), false));
    }

    #[test]
    fn what_compaction_has_taken_is_told_whichever_form_of_rows_and_entries_was_read() {
        let (rows, entries) = three();
        let one = entries[0].body.len();
        let found = |rows: &[IndexEntry], entries: &[LogEntry]| {
            let found = assemble(rows, entries).expect("nothing is missing");
            (found.batches.len(), found.next, found.has_holes)
        };
        // The row says so.
        let mut emptied = rows.clone();
        emptied[1].size_bytes = 0;
        assert_eq!(found(&emptied, &entries), (2 * one, Offset(16), true));
        // The next row has taken it over.
        let mut merged = vec![rows[0], rows[2]];
        merged[1].offsets_before = 2;
        merged[1].original_bytes *= 2;
        assert_eq!(found(&merged, &entries), (2 * one, Offset(16), true));
        assert_eq!(found(&merged[..1], &entries), (one, Offset(12), false));
        // Only the entry says so, as the rows were read before.
        let command = PartitionState::decode(EncodedCommand::new(&append_head(), entries[2].body.clone()));
        let command = PartitionState::encode(command.expect("an append").emptied().expect("an append"));
        let mut newer = entries.clone();
        (newer[2].head, newer[2].body) = command.into_log();
        assert_eq!(found(&rows, &newer), (2 * one, Offset(16), true));
    }

    #[test]
    fn a_missing_row_is_a_gap() {
        let (mut rows, _) = three();
        rows.remove(1);
        assert!(follow(&rows).is_err_and(|gap| gap.0.contains("offset 11") && gap.0.contains("with 14")));
        rows.remove(0);
        assert!(begins_at(&rows, Offset(12)).is_err_and(|gap| gap.0.contains("offset 12 is missing")));
        assert!(begins_at(&[], Offset(12)).is_err());
    }

    #[test]
    fn rows_out_of_order_are_a_gap() {
        let (mut rows, _) = three();
        rows[2].raft_index = 4;
        assert!(follow(&rows).is_err());
        rows[2].raft_index = 6;
        rows[1].base_offset = Offset(11);
        assert!(follow(&rows).is_err());
    }

    #[test]
    fn a_missing_or_foreign_entry_is_a_gap() {
        let (rows, mut entries) = three();
        let lost = entries.remove(2);
        assert!(assemble(&rows, &entries).is_err_and(|gap| gap.0.contains("log entry 5, which is missing")));
        entries.insert(
            2,
            LogEntry {
                term: 3,
                ..lost.clone()
            },
        );
        assert!(assemble(&rows, &entries).is_err());
        entries[2] = LogEntry {
            body: lost.body.slice(1..),
            ..lost
        };
        assert!(assemble(&rows, &entries).is_err());
        assert!(assemble(&rows, &entries[3..]).is_err(), "the first is missing");
    }
}
