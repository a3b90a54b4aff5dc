//! What compaction reads of a partition, and writes. What it decides stands in `jangada_log::compaction`, when it runs in
//! `broker::compaction`.

use std::ops::ControlFlow;

use jangada_log::AbortedTransaction;
use jangada_log::compaction::{TakenTombstone, Writes};
use jangada_log::tables::cleaned::{Cleaned, Stamp};
use jangada_log::tables::offset_index::{Gap, begins_at, follow};
use jangada_log::tables::{ABORTED, CLEANED, IndexEntry};
use jangada_machine::EncodedCommand;
use jangada_replication::command_of;
use jangada_storage::{KeyRange, Store, StoreError};
use jangada_types::{GroupId, LogPosition, Offset, RowChange};

use super::Partition;
use super::index_reads::rows_from;
use super::rows::read_entries;

/// Rows that are looked at together.
pub(crate) const ROWS_MAX: usize = 1024;

/// What bounds the compaction of a partition, as of now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub log_start: Offset,
    pub high_watermark: Offset,
    /// Below it all transactions are decided.
    pub decided: Offset,
    /// Below it tombstones may go.
    pub horizon: Offset,
    /// The offset below which the index of keys has rows, if there is one.
    pub key_index: Option<Offset>,
}

/// Rows, and the commands of those of which anything is left.
pub(crate) struct Piece {
    pub rows: Vec<(IndexEntry, Option<EncodedCommand>)>,
    /// The offset behind them.
    pub next: Offset,
    pub bytes: u64,
}

impl Partition {
    /// The positions of appends that got no offsets, of which not all were taken before.
    pub fn take_spent(&self) -> Vec<LogPosition> {
        self.view.spent.take()
    }

    /// Puts what is left of such appends in their place. False: it cannot be written.
    pub async fn rewrite_spent(&self, commands: Vec<(LogPosition, EncodedCommand)>) -> bool {
        let rows = self.hosted.group.derived_rows();
        rows.rewrite(commands, Vec::new()).wait().await
    }

    /// What bounds its compaction now.
    pub async fn compaction_bounds(&self) -> Bounds {
        let key_index = self.key_index.held().await.as_ref().map(|index| index.indexed());
        let view = &self.view;
        // The horizon and what is decided are never ahead of the end that is looked at after them.
        Bounds {
            horizon: view.clean_horizon(),
            decided: view.ends().last_stable,
            log_start: view.log_start(),
            high_watermark: view.high_watermark(),
            key_index,
        }
    }

    /// Lets the index of keys, if there is one, forget tombstones that are about to go. False: it cannot now.
    pub async fn forget_keys(&self, tombstones: Vec<TakenTombstone>) -> bool {
        let index = self.key_index.held().await.as_ref().cloned();
        match index {
            Some(index) if !tombstones.is_empty() => index.forget(tombstones).await,
            _ => true,
        }
    }

    /// Writes what a pass has left of entries. Returns when the store's files have it. `knows_keys`: the pass lets the index of keys forget
    /// what it takes. An index that was switched on since would read records that go behind it, so nothing is written then.
    ///
    /// # Errors
    /// Why nothing was written.
    pub async fn rewrite(&self, writes: Writes, knows_keys: bool) -> Result<(), &'static str> {
        // The guard is held until the write is queued: an index that begins to read after that sees what is left.
        let index = self.key_index.held().await;
        if index.is_some() != knows_keys {
            return Err("the index of keys was switched on or off");
        }
        // Before the markers go: a reader that is told of an aborted transaction waits for its marker, and takes what the producer wrote
        // after that for aborted as well.
        let markers = writes.rows.iter().map(|(_, change)| change);
        let markers: Vec<Offset> = markers.filter_map(AbortedTransaction::deleted_by).collect();
        if !markers.is_empty() {
            self.view.forget_aborted(&markers);
        }
        let entries = writes.entries.into_iter().map(|entry| (entry.at, entry.command));
        let rows = self.hosted.group.derived_rows();
        let written = rows.rewrite(entries.collect(), writes.rows);
        drop(index);
        match written.wait().await {
            true => Ok(()),
            false => Err("the replica is being closed"),
        }
    }

    /// Writes where a pass has ended. Returns when that and all that it has written is on the disk, since other replicas count on it: the
    /// tombstones that it has seen may go there.
    pub async fn write_cleaned(&self, changes: Vec<RowChange>) -> bool {
        self.hosted.group.derived_rows().write_synced(changes).wait().await
    }
}

/// The next rows from an offset on that begin below another, with their commands. `None`: they are not there, as the log start has moved,
/// or a snapshot has taken the log's place. Blocks.
pub(crate) fn read_piece(
    store: &dyn Store,
    group: GroupId,
    from: Offset,
    below: Offset,
    max_bytes: usize,
) -> Result<Option<Piece>, StoreError> {
    let mut rows = rows_from(store, group, from, ROWS_MAX, max_bytes)?;
    // By where its offsets begin: a row may have taken over those before it, and they are below.
    rows.truncate(rows.partition_point(|row| row.first_offset() < below));
    let whole = |rows: &[IndexEntry]| -> Result<(), Gap> {
        begins_at(rows, from)?;
        follow(rows)
    };
    if whole(&rows).is_err() {
        return Ok(None);
    }
    let entries = read_entries(store, group, &rows, max_bytes)?;
    let mut entries = entries.into_iter().peekable();
    let mut piece = Piece {
        rows: Vec::with_capacity(rows.len()),
        next: from,
        bytes: 0,
    };
    for row in rows {
        let mut command = None;
        if row.size_bytes > 0 {
            while entries.next_if(|entry| entry.index < row.raft_index).is_some() {}
            // They end where enough was read.
            let Some(entry) = entries.next_if(|entry| entry.index == row.raft_index) else {
                break;
            };
            let is_its_own = entry.term == u64::from(row.epoch.get()) && entry.body.len() == row.size_bytes as usize;
            if !is_its_own {
                let what = format!(
                    "offsets {} to {} are {} bytes of term {} in log entry {}, which has {} bytes of term {}",
                    row.base_offset,
                    row.last_offset,
                    row.size_bytes,
                    row.epoch,
                    row.raft_index,
                    entry.body.len(),
                    entry.term
                );
                return Err(store.damage().report(group, what));
            }
            piece.bytes += entry.payload_len() as u64;
            command = command_of(&entry);
        }
        piece.next = Offset(row.last_offset.get() + 1);
        piece.rows.push((row, command));
    }
    Ok((!piece.rows.is_empty()).then_some(piece))
}

/// Where passes have ended. Blocks.
pub(crate) fn read_cleaned(store: &dyn Store, group: GroupId) -> Result<Cleaned, StoreError> {
    let mut rows = Vec::new();
    store.scan_rows(group, &CLEANED, KeyRange::from(&[]), usize::MAX, &mut |key, value| {
        rows.push(Stamp::decode(key, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(Cleaned::new(rows))
}

/// The aborted transactions with records below an offset. Blocks.
pub(crate) fn read_aborted(
    store: &dyn Store,
    group: GroupId,
    below: Offset,
) -> Result<Vec<AbortedTransaction>, StoreError> {
    let mut aborted = Vec::new();
    store.scan_rows(group, &ABORTED, KeyRange::from(&[]), usize::MAX, &mut |key, value| {
        let row = AbortedTransaction::decode(key, value)?;
        let goes_on = jangada_log::tables::aborted::pick(&row, below, &mut aborted);
        Ok(if goes_on {
            ControlFlow::Continue(())
        } else {
            ControlFlow::Break(())
        })
    })?;
    Ok(aborted)
}

/// The row that holds an offset, or the one behind it. Blocks.
pub(crate) fn row_holding(store: &dyn Store, group: GroupId, offset: Offset) -> Result<Option<IndexEntry>, StoreError> {
    super::index_reads::row_at(store, group, offset)
}

/// Rows from an offset on, without their entries, so many of them at most. Blocks.
pub(crate) fn rows_behind(
    store: &dyn Store,
    group: GroupId,
    from: Offset,
    limit: usize,
) -> Result<Vec<IndexEntry>, StoreError> {
    rows_from(store, group, from, limit, usize::MAX)
}
