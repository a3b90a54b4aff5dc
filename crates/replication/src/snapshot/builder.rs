//! Makes snapshots, apart from the task that applies, and reads the one that is there.

use std::io;
use std::sync::Arc;

use jangada_storage::{Op, StateKind};
use jangada_types::Offset;
use openraft::Snapshot as RaftSnapshot;
use openraft::storage::RaftSnapshotBuilder;
use parking_lot::Mutex;

use super::chunks::{ChunkStore, StateWriter, Stored};
use super::record::{self, StateBody, StateRecord};
use super::{Snapshot, SnapshotData};
use crate::log_store::{Durable, blocking, off_worker};
use crate::purge_points::{Checkpoint, PurgePoints};
use crate::raft_types::{SnapshotMeta, TypeConfig};
use crate::state_machine::StateImage;

/// What a snapshot is made from.
pub(crate) enum Source {
    /// The state as it was when the builder was made, until that is encoded.
    State(Option<(SnapshotMeta, StateImage)>),
    /// The state as it was at a checkpoint.
    Checkpoint(Checkpoint),
    /// The snapshot that is there.
    Current,
}

/// Makes a snapshot durable, apart from the task that applies.
pub(crate) struct SnapshotBuilder {
    pub chunks: Arc<ChunkStore>,
    pub points: Arc<Mutex<PurgePoints>>,
    pub source: Source,
}

/// The snapshot that is there. Its chunks stay for as long as it is held.
pub(crate) async fn read_snapshot(
    store: &Arc<ChunkStore>,
    points: &Mutex<PurgePoints>,
) -> io::Result<Option<Snapshot>> {
    let found = |meta, state| {
        let snapshot = SnapshotData {
            store: store.clone(),
            state,
            restored: None,
        };
        Ok(Some(RaftSnapshot { meta, snapshot }))
    };
    loop {
        let chunked = points.lock().chunked_snapshot.clone();
        if let Some((meta, chunks)) = chunked {
            return found(meta, Stored::Chunks(chunks));
        }
        let (rows, group) = (store.log().store().clone(), store.log().group());
        let threads = store.log().blocking();
        let Some(row) = blocking(threads, move || rows.get_state(group, StateKind::SNAPSHOT, None)).await? else {
            return Ok(None);
        };
        let StateRecord { meta, body } = record::decode_state(&row)?;
        // A record with chunks took its place between the two looks.
        if let StateBody::Row(state) = body {
            return found(meta, Stored::Row(state));
        }
    }
}

impl SnapshotBuilder {
    async fn current(&self) -> io::Result<Snapshot> {
        let found = read_snapshot(&self.chunks, &self.points).await?;
        found.ok_or_else(|| io::Error::other(format!("group {}: the snapshot is missing", self.chunks.log().group())))
    }

    /// The record of a checkpoint; `None`: a snapshot was installed meanwhile, which took it away.
    async fn checkpoint(&self, point: &Checkpoint) -> io::Result<Option<(SnapshotMeta, Stored)>> {
        let (rows, group, index) = (
            self.chunks.log().store().clone(),
            self.chunks.log().group(),
            point.index,
        );
        let read = move || rows.get_state(group, StateKind::CHECKPOINT, Some(index));
        let Some(row) = blocking(self.chunks.log().blocking(), read).await? else {
            return Ok(None);
        };
        let StateRecord { meta, body } = record::decode_state(&record::decode_checkpoint(&row)?.1)?;
        let state = match (body, &point.chunks) {
            (StateBody::Row(state), _) => Stored::Row(state),
            (StateBody::Chunks(_), Some(chunks)) => Stored::Chunks(chunks.clone()),
            (StateBody::Chunks(_), None) => return Err(io::Error::other("a checkpoint whose chunks are not known")),
        };
        Ok(Some((meta, state)))
    }

    /// Puts the snapshot in the place of the one before, with what becomes superfluous by it. Queued under the lock
    /// that an installation takes too, so that an older snapshot never comes after a newer one. `None`: a newer
    /// one is there.
    fn replace(&self, meta: &SnapshotMeta, state: &Stored, below: Option<Offset>) -> io::Result<Option<Durable>> {
        let index = meta.last_log_id.map(|id| id.index);
        let mut points = self.points.lock();
        if points.snapshot_index.is_some() && points.snapshot_index >= index {
            return Ok(None);
        }
        let mut ops = vec![Op::PutState {
            kind: StateKind::SNAPSHOT,
            suffix: None,
            value: state.record(meta),
        }];
        let passed = points.checkpoints.partition_point(|point| Some(point.index) <= index);
        ops.extend(points.checkpoints.iter().take(passed).map(Checkpoint::deletion));
        if let Some(below) = below {
            let start = u64::try_from(below.get()).expect("a position is not negative");
            ops.push(Op::CutOff(Some(start)));
        }
        let durable = self.chunks.unless_closed(|log| log.start_synced(ops))?;
        points.checkpoints.drain(..passed).for_each(|point| point.let_go());
        // After that: its chunks may be those of a checkpoint that was just let go.
        drop(points.set_snapshot(meta, state));
        Ok(Some(durable))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let state = match &mut self.source {
            Source::State(state) => state.take(),
            _ => None,
        };
        let (meta, state, below) = match (state, &self.source) {
            (Some((meta, image)), _) => {
                let store = self.chunks.clone();
                let encode = move || StateWriter::collect_waiting(&store, |sink| image.encode_into(sink));
                (meta, off_worker(self.chunks.log().blocking(), encode).await?, None)
            }
            (None, Source::Checkpoint(point)) => match self.checkpoint(point).await? {
                Some((meta, state)) => (meta, state, Some(point.position)),
                None => return self.current().await,
            },
            (None, _) => return self.current().await,
        };
        match self.replace(&meta, &state, below)? {
            Some(durable) => durable.wait().await?,
            None => return self.current().await,
        }
        let snapshot = SnapshotData {
            store: self.chunks.clone(),
            state,
            restored: None,
        };
        Ok(RaftSnapshot { meta, snapshot })
    }
}
