//! The rows of tables that go with a snapshot: those of tables that declare `in_snapshot`.
//!
//! The sender reads them while it sends, so they are of later moments than the state, each of its own. That does no harm: a machine
//! only writes rows and never reads them, and what it writes follows from the log alone. The new replica applies the log from the
//! state on, which brings each row to where it is on all replicas, as it does after a crash that kept later rows than the saved
//! state (a fuzzy snapshot, as ZooKeeper's: Hunt et al., USENIX ATC 2010, section 4.3). Before it has applied what the sender had,
//! the replica neither leads nor counts as in sync.
//!
//! Rows travel and lie in pieces: `table u8`, then for each row `length u32, key, length u32, value`.

use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use jangada_storage::{KeyRange, Op, StateKind, Store, StoreError};
use jangada_types::limits::STATE_CHUNK_BYTES;
use jangada_types::planted::{self, Bug};
use jangada_types::table::KeyForm;
use jangada_types::{GroupId, RowChange, Table};

use super::chunks::{ChunkStore, Stored, delete_from};
use crate::codec::CodecError;
use crate::damage::unreadable;
use crate::raft_types::SnapshotMeta;

/// The tables whose rows go with a snapshot.
pub(crate) fn tables(store: &dyn Store) -> impl Iterator<Item = &'static Table> {
    store.tables().iter().copied().filter(|table| table.in_snapshot)
}

/// Where reading the rows of a group goes on.
#[derive(Clone, Default)]
pub(crate) struct RowCursor {
    /// How many tables are done.
    table: usize,
    from: Vec<u8>,
}

/// The next piece of the rows of a group, about as large as a chunk; `None`: there are no more. Blocks.
pub(crate) fn read_piece(
    store: &dyn Store,
    group: GroupId,
    cursor: &mut RowCursor,
) -> Result<Option<Bytes>, StoreError> {
    if planted::is(Bug::SnapshotWithoutRows) {
        return Ok(None);
    }
    while let Some(table) = tables(store).nth(cursor.table) {
        let mut piece = BytesMut::new();
        // A table without rows has a piece, too: the rows that the receiver has of it go.
        if cursor.from.is_empty() {
            piece.put_u8(table.id.0);
        }
        let mut last = None;
        let range = KeyRange::from(&cursor.from);
        store.scan_rows(group, table, range, usize::MAX, &mut |key, value| {
            if piece.is_empty() {
                piece.put_u8(table.id.0);
            }
            for bytes in [key, value] {
                piece.put_u32(u32::try_from(bytes.len()).expect("a row is far smaller"));
                piece.put_slice(bytes);
            }
            if piece.len() < STATE_CHUNK_BYTES {
                return Ok(ControlFlow::Continue(()));
            }
            last = Some(key.to_vec());
            Ok(ControlFlow::Break(()))
        })?;
        if let Some(mut last) = last {
            // The first key that comes after it.
            last.push(0);
            cursor.from = last;
        } else {
            cursor.table += 1;
            cursor.from.clear();
        }
        if !piece.is_empty() {
            return Ok(Some(piece.freeze()));
        }
    }
    Ok(None)
}

/// The changes that bring the rows of a piece into their table.
pub(crate) fn decode_piece(store: &dyn Store, mut piece: Bytes) -> Result<Vec<RowChange>, CodecError> {
    const RECORD: &str = "a piece of a table's rows";
    let damaged = |_| CodecError::Damaged(RECORD);
    let id = piece.try_get_u8().map_err(damaged)?;
    let table = tables(store).find(|table| table.id.0 == id);
    let table = table.ok_or(CodecError::Damaged(
        "a snapshot with rows of a table that is not declared",
    ))?;
    let mut rows = Vec::new();
    while !piece.is_empty() {
        let mut take = || {
            let len = piece.try_get_u32().map_err(damaged)? as usize;
            match len <= piece.len() {
                true => Ok(piece.split_to(len)),
                false => Err(CodecError::Damaged(RECORD)),
            }
        };
        let (key, value) = (take()?, take()?);
        if table.keys == KeyForm::Number && key.len() != size_of::<u64>() {
            return Err(CodecError::Damaged(RECORD));
        }
        rows.push(RowChange::Put { table, key, value });
    }
    Ok(rows)
}

/// Puts the rows that came with a snapshot into their tables, in the place of those that are there, and then writes a record of the
/// snapshot that does not name them any more. Until it does, the replica does this first whenever it is opened. Blocks.
pub(crate) fn finish_installation(store: &Arc<ChunkStore>, meta: &SnapshotMeta, state: &Stored) -> io::Result<()> {
    let Some(chunks) = state.chunks() else { return Ok(()) };
    let manifest = chunks.manifest();
    let rows = manifest.rows.chunks;
    if rows == 0 {
        return Ok(());
    }
    let log = store.log();
    let (kept, group) = (&**log.store(), log.group());
    let clear = tables(kept).map(|table| {
        Op::Row(RowChange::DeleteRange {
            table,
            from: Bytes::new(),
            to: None,
        })
    });
    store.write(clear.collect())?.wait_blocking(kept)?;
    for chunk in manifest.state.chunks..manifest.state.chunks + rows {
        let piece = chunks.read(chunk).map_err(io::Error::other)?;
        let changes = decode_piece(kept, piece);
        let changes =
            changes.map_err(|cause| io::Error::other(unreadable(kept, group, "rows of a snapshot", &cause)))?;
        store
            .write(changes.into_iter().map(Op::Row).collect())?
            .wait_blocking(kept)?;
    }
    chunks.rows_are_installed();
    let record = Op::PutState {
        kind: StateKind::SNAPSHOT,
        suffix: None,
        value: state.record(meta),
    };
    let row_chunks = delete_from(manifest.generation, manifest.state.chunks);
    store.write(vec![record, row_chunks])?.wait_blocking(kept)
}
