//! Chunks: how a state lies on disk that one row does not hold, so that nobody needs all of it in one buffer.
//!
//! ```text
//!  rows STATE_CHUNK   generation 7: 0 1 2 3     generation 8: 0 1 ...
//!                           |                         |
//!  a state record ----------+                         +-- being written; no record names it
//! ```
//!
//! The chunks of one state have a generation of their own. They are written first, and a record that names the generation takes the
//! place of the one before in a later write: a crash in between leaves chunks that no record names, never a record whose chunks are
//! not there. Such leftovers are deleted when the replica is opened. The chunks of a state whose record was replaced are deleted when
//! the last one who reads them is done.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use bytes::{Bytes, BytesMut};
use jangada_machine::RestoreError;
use jangada_storage::{Op, StateKind, Store, StoreError, next_state};
use jangada_types::GroupId;
use jangada_types::limits::{STATE_CHUNK_BYTES, STATE_ROW_BYTES_MAX};
use parking_lot::RecursiveRwLock;
use xxhash_rust::xxh3::Xxh3;

use super::record::{self, CHUNK_HEAD_LEN, Manifest, Part, StateBody};
use crate::damage::unreadable;
use crate::log_store::{Durable, LogStore};
use crate::raft_types::SnapshotMeta;

/// Where the suffixes of a generation begin.
fn first_suffix(generation: u32) -> u64 {
    u64::from(generation) << 32
}

/// Suffix of a chunk.
fn suffix(generation: u32, chunk: u32) -> u64 {
    first_suffix(generation) | u64::from(chunk)
}

/// Deletes all chunks of a generation, from one on.
pub(super) fn delete_from(generation: u32, chunk: u32) -> Op {
    Op::DeleteStateRange {
        kind: StateKind::STATE_CHUNK,
        suffixes: suffix(generation, chunk)..first_suffix(generation + 1),
    }
}

/// The chunks of one replica, for as long as it is open.
pub(crate) struct ChunkStore {
    log: LogStore,
    next_generation: AtomicU32,
    /// The replica is closed. The next one that opens the same data may use the same generations, so nothing is written here any
    /// more. Writers hold the lock while they queue a write.
    is_closed: RecursiveRwLock<bool>,
}

impl ChunkStore {
    /// Deletes the chunks that belong to no state. `live` are the generations that records name. Blocks.
    pub fn open(log: LogStore, live: &[u32]) -> Result<Arc<Self>, StoreError> {
        let mut next_generation = 1;
        while let Some(suffix) = next_state(
            &**log.store(),
            log.group(),
            StateKind::STATE_CHUNK,
            first_suffix(next_generation),
        )? {
            let generation = u32::try_from(suffix >> 32).expect("half of 64 bits");
            if !live.contains(&generation) {
                tracing::debug!(group = %log.group(), generation, "chunks of a state that was never whole are deleted");
                log.write_lazy(vec![delete_from(generation, 0)]);
            }
            next_generation = generation + 1;
        }
        Ok(Arc::new(Self {
            log,
            next_generation: AtomicU32::new(next_generation),
            is_closed: RecursiveRwLock::new(false),
        }))
    }

    /// Nothing is written through this any more.
    pub fn close(&self) {
        *self.is_closed.write() = true;
    }

    /// Queues operations that ride along with the next commit.
    pub fn write(&self, ops: Vec<Op>) -> io::Result<Durable> {
        self.unless_closed(|log| log.start_lazy(ops))
    }

    /// Queues a write, unless the replica is closed.
    pub fn unless_closed<T>(&self, write: impl FnOnce(&LogStore) -> T) -> io::Result<T> {
        // A completion that is called meanwhile may come here again.
        let is_closed = self.is_closed.read();
        match *is_closed {
            true => Err(io::Error::other("the replica was closed")),
            false => Ok(write(&self.log)),
        }
    }

    /// The log of the replica.
    pub fn log(&self) -> &LogStore {
        &self.log
    }

    fn delete(&self, generation: u32) {
        // After a close the next opening does it.
        let _ = self.write(vec![delete_from(generation, 0)]);
    }

    /// The chunks that a record names.
    pub fn kept(self: &Arc<Self>, manifest: Manifest) -> Arc<Chunks> {
        Arc::new(Chunks {
            store: self.clone(),
            manifest,
            rows_installed: AtomicBool::new(false),
            is_kept: AtomicBool::new(true),
        })
    }
}

/// The chunks of one state. When the last handle is dropped they are deleted, unless a record names them.
pub(crate) struct Chunks {
    store: Arc<ChunkStore>,
    manifest: Manifest,
    /// The rows of tables are in their tables, and no chunks any more.
    rows_installed: AtomicBool,
    is_kept: AtomicBool,
}

impl Drop for Chunks {
    fn drop(&mut self) {
        if !self.is_kept.load(Ordering::Acquire) {
            self.store.delete(self.manifest.generation);
        }
    }
}

impl Chunks {
    pub fn manifest(&self) -> Manifest {
        match self.rows_installed.load(Ordering::Acquire) {
            true => Manifest {
                rows: Part::default(),
                ..self.manifest
            },
            false => self.manifest,
        }
    }

    /// The rows of tables that came with them are in their tables.
    pub fn rows_are_installed(&self) {
        self.rows_installed.store(true, Ordering::Release);
    }

    /// A record that names them was queued.
    pub fn keep(&self) {
        self.is_kept.store(true, Ordering::Release);
    }

    /// No record names them any more: to be called when the write that says so was queued.
    pub fn let_go(&self) {
        self.is_kept.store(false, Ordering::Release);
    }

    /// Deletes them in the write that replaces their record. Of chunks that nobody else reads.
    pub fn deletion(&self) -> Op {
        self.keep();
        delete_from(self.manifest.generation, 0)
    }

    /// Whether they are chunks of this replica.
    pub fn are_of(&self, store: &Arc<ChunkStore>) -> bool {
        Arc::ptr_eq(&self.store, store)
    }

    /// The bytes of one chunk. Blocks.
    pub fn read(&self, chunk: u32) -> Result<Bytes, StoreError> {
        let log = &self.store.log;
        let generation = self.manifest.generation;
        let found = read_chunk(&**log.store(), log.group(), generation, chunk)?;
        found.ok_or_else(|| missing(log, generation, chunk))
    }
}

fn missing(log: &LogStore, generation: u32, chunk: u32) -> StoreError {
    let what = format!("chunk {chunk} of state {generation} is missing");
    log.store().damage().report(log.group(), what)
}

/// `None`: it is not there.
fn read_chunk(store: &dyn Store, group: GroupId, generation: u32, chunk: u32) -> Result<Option<Bytes>, StoreError> {
    let Some(row) = store.get_state(group, StateKind::STATE_CHUNK, Some(suffix(generation, chunk)))? else {
        return Ok(None);
    };
    let bytes = record::decode_chunk(&row).map_err(|cause| {
        let what = format!("chunk {chunk} of state {generation}");
        unreadable(store, group, &what, &cause)
    });
    bytes.map(Some)
}

/// A state where it lies.
#[derive(Clone)]
pub(crate) enum Stored {
    /// It is small, and this is all of it.
    Row(Bytes),
    /// It lies in chunks.
    Chunks(Arc<Chunks>),
}

/// Why a state could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadStateError {
    /// Its bytes could not be read, or are not those that were written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A chunk is not there.
    #[error("chunk {0} of the state is missing")]
    Missing(u32),
    /// The state machine does not take them.
    #[error(transparent)]
    Restore(#[from] RestoreError),
}

impl From<ReadStateError> for io::Error {
    fn from(error: ReadStateError) -> Self {
        Self::other(error)
    }
}

impl Stored {
    /// Bytes of the state.
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Row(state) => state.len() as u64,
            Self::Chunks(chunks) => chunks.manifest.state.bytes,
        }
    }

    /// Its chunks, if it has any.
    pub fn chunks(&self) -> Option<&Arc<Chunks>> {
        match self {
            Self::Row(_) => None,
            Self::Chunks(chunks) => Some(chunks),
        }
    }

    /// The record of the state.
    pub fn record(&self, meta: &SnapshotMeta) -> Bytes {
        match self {
            Self::Row(state) => record::encode_state(meta, state),
            Self::Chunks(chunks) => record::encode_chunked_state(meta, &chunks.manifest()),
        }
    }

    /// The state that a record is about.
    pub fn of_record(body: StateBody, store: &Arc<ChunkStore>) -> Self {
        match body {
            StateBody::Row(state) => Self::Row(state),
            StateBody::Chunks(manifest) => Self::Chunks(store.kept(manifest)),
        }
    }

    /// Gives the state in pieces to `restore`. Blocks.
    pub fn read<T>(
        &self,
        restore: impl FnOnce(&mut dyn Iterator<Item = Bytes>) -> Result<T, RestoreError>,
    ) -> Result<T, ReadStateError> {
        let chunks = match self {
            Self::Row(state) => return Ok(restore(&mut std::iter::once(state.clone()))?),
            Self::Chunks(chunks) => chunks,
        };
        let log = &chunks.store.log;
        match read_chunks(&**log.store(), log.group(), &chunks.manifest, restore) {
            Err(ReadStateError::Missing(chunk)) => Err(missing(log, chunks.manifest.generation, chunk).into()),
            read => read,
        }
    }
}

/// Gives the chunks of a state to `restore`. Blocks.
pub(super) fn read_chunks<T>(
    store: &dyn Store,
    group: GroupId,
    manifest: &Manifest,
    restore: impl FnOnce(&mut dyn Iterator<Item = Bytes>) -> Result<T, RestoreError>,
) -> Result<T, ReadStateError> {
    let mut pieces = Pieces {
        store,
        group,
        manifest,
        next: 0,
        hash: Xxh3::new(),
        failed: None,
    };
    let restored = restore(&mut pieces);
    // Whatever was made of them, or is wrong with them, says nothing if they are not the bytes that were written.
    pieces.by_ref().for_each(drop);
    pieces.judge()?;
    Ok(restored?)
}

/// The chunks of a state one after the other.
struct Pieces<'a> {
    store: &'a dyn Store,
    group: GroupId,
    manifest: &'a Manifest,
    next: u32,
    hash: Xxh3,
    failed: Option<ReadStateError>,
}

impl Iterator for Pieces<'_> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.next == self.manifest.state.chunks || self.failed.is_some() {
            return None;
        }
        let read = read_chunk(self.store, self.group, self.manifest.generation, self.next);
        match read
            .map_err(ReadStateError::from)
            .and_then(|piece| piece.ok_or(ReadStateError::Missing(self.next)))
        {
            Ok(piece) => {
                self.next += 1;
                self.hash.update(&piece);
                Some(piece)
            }
            Err(error) => {
                self.failed = Some(error);
                None
            }
        }
    }
}

impl Pieces<'_> {
    /// Whether all was read, and as it was written.
    fn judge(self) -> Result<(), ReadStateError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let Manifest { generation, state, .. } = self.manifest;
        if self.hash.digest() != state.checksum {
            let what = format!("the chunks of state {generation} do not have its checksum");
            return Err(self.store.damage().report(self.group, what).into());
        }
        Ok(())
    }
}

/// Takes the bytes of a state, and then rows of tables, as they come. Chunks that are full are handed out, to be queued; what is
/// not finished when this is dropped is deleted.
pub(crate) struct StateWriter {
    store: Arc<ChunkStore>,
    /// The state so far, while it may yet be one row.
    row: Vec<Bytes>,
    row_bytes: usize,
    staging: Option<Staging>,
}

impl StateWriter {
    pub fn new(store: &Arc<ChunkStore>) -> Self {
        Self {
            store: store.clone(),
            row: Vec::new(),
            row_bytes: 0,
            staging: None,
        }
    }

    /// Adds bytes of the state. `queue` gets the operations that write chunks, to be queued in their order.
    pub fn push(&mut self, piece: Bytes, queue: &mut dyn FnMut(Op)) {
        if self.staging.is_none() && self.row_bytes + piece.len() <= STATE_ROW_BYTES_MAX {
            self.row_bytes += piece.len();
            self.row.push(piece);
            return;
        }
        self.staging(queue).push(&piece, queue);
    }

    /// Adds some rows of a table, as [`super::rows`] encodes them. The state is complete.
    pub fn push_rows(&mut self, rows: &[u8], queue: &mut dyn FnMut(Op)) {
        let staging = self.staging(queue);
        staging.end_state(queue);
        staging.push(rows, queue);
        staging.flush(queue);
    }

    fn staging(&mut self, queue: &mut dyn FnMut(Op)) -> &mut Staging {
        let (store, row) = (&self.store, &mut self.row);
        self.staging.get_or_insert_with(|| {
            let mut staging = Staging::begin(store.clone());
            row.drain(..).for_each(|piece| staging.push(&piece, queue));
            staging
        })
    }

    /// The state, all of whose chunks were handed out. The caller sees to it that they are queued.
    pub fn finish(self, queue: &mut dyn FnMut(Op)) -> Stored {
        match self.staging {
            Some(staging) => Stored::Chunks(staging.finish(queue)),
            None => Stored::Row(match &self.row[..] {
                [one] => one.clone(),
                pieces => pieces.concat().into(),
            }),
        }
    }

    /// The state of these pieces: what [`StateWriter::push`] and [`StateWriter::finish`] do, where `queue` does not wait.
    pub fn collect(
        store: &Arc<ChunkStore>,
        encode: impl FnOnce(&mut dyn FnMut(Bytes)),
        queue: &mut dyn FnMut(Op),
    ) -> Stored {
        let mut writer = Self::new(store);
        encode(&mut |piece| writer.push(piece, queue));
        writer.finish(queue)
    }

    /// Like [`StateWriter::collect`], and each chunk is with the store's files before the next one is made. Blocks.
    pub fn collect_waiting(store: &Arc<ChunkStore>, encode: impl FnOnce(&mut dyn FnMut(Bytes))) -> io::Result<Stored> {
        let mut failed = None;
        let mut queue = |op| {
            if failed.is_none() {
                let written = store.write(vec![op]);
                failed = written
                    .and_then(|durable| durable.wait_blocking(&**store.log().store()))
                    .err();
            }
        };
        let stored = Self::collect(store, encode, &mut queue);
        failed.map_or(Ok(stored), Err)
    }
}

/// The chunks of a state that is not whole yet.
struct Staging {
    store: Arc<ChunkStore>,
    generation: u32,
    /// The chunk that is being filled.
    chunk: BytesMut,
    next_chunk: u32,
    part: Part,
    hash: Xxh3,
    /// The state, once it is complete.
    state: Option<Part>,
    is_finished: bool,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_finished {
            self.store.delete(self.generation);
        }
    }
}

impl Staging {
    fn begin(store: Arc<ChunkStore>) -> Self {
        Self {
            generation: store.next_generation.fetch_add(1, Ordering::Relaxed),
            store,
            chunk: BytesMut::new(),
            next_chunk: 0,
            part: Part::default(),
            hash: Xxh3::new(),
            state: None,
            is_finished: false,
        }
    }

    fn push(&mut self, mut bytes: &[u8], queue: &mut dyn FnMut(Op)) {
        self.hash.update(bytes);
        self.part.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.chunk.is_empty() {
                self.chunk = record::chunk_buffer(STATE_CHUNK_BYTES);
            }
            // Rows of tables are not cut, so a chunk with them may be larger.
            let room = match self.state {
                Some(_) => bytes.len(),
                None => CHUNK_HEAD_LEN + STATE_CHUNK_BYTES - self.chunk.len(),
            };
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.chunk.extend_from_slice(now);
            bytes = rest;
            if self.state.is_none() && self.chunk.len() == CHUNK_HEAD_LEN + STATE_CHUNK_BYTES {
                self.flush(queue);
            }
        }
    }

    /// Hands out the chunk that is being filled.
    fn flush(&mut self, queue: &mut dyn FnMut(Op)) {
        if self.chunk.is_empty() {
            return;
        }
        queue(Op::PutState {
            kind: StateKind::STATE_CHUNK,
            suffix: Some(suffix(self.generation, self.next_chunk)),
            value: std::mem::take(&mut self.chunk).freeze(),
        });
        self.next_chunk += 1;
        self.part.chunks += 1;
    }

    fn end_part(&mut self, queue: &mut dyn FnMut(Op)) -> Part {
        self.flush(queue);
        let checksum = std::mem::take(&mut self.hash).digest();
        Part {
            checksum,
            ..std::mem::take(&mut self.part)
        }
    }

    /// What comes from here on are rows of tables.
    fn end_state(&mut self, queue: &mut dyn FnMut(Op)) {
        if self.state.is_none() {
            self.state = Some(self.end_part(queue));
        }
    }

    fn finish(mut self, queue: &mut dyn FnMut(Op)) -> Arc<Chunks> {
        self.end_state(queue);
        let rows = self.end_part(queue);
        self.is_finished = true;
        Arc::new(Chunks {
            store: self.store.clone(),
            manifest: Manifest {
                generation: self.generation,
                state: self.state.take().expect("it was ended before"),
                rows,
            },
            rows_installed: AtomicBool::new(false),
            is_kept: AtomicBool::new(false),
        })
    }
}
