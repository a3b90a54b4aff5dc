//! Snapshots on their way from one broker to another: a stream of messages on a connection of its own, none of which is larger than
//! a chunk, so that neither side has more of a snapshot in memory than lies in the connection's windows.
//!
//! ```text
//!  header: hello, group, vote, log ids, members, size, tables
//!  data, checksum      data, checksum      ...     the state
//!  rows, checksum      rows, checksum      ...     rows of tables that go with it
//!  end: checksum of the state, count of the messages with rows
//! ```
//!
//! The sender reads a chunk when the connection takes one. The receiver writes each into its store under a generation that no record
//! names, makes a state machine of them when all are there, and only then hands the snapshot to openraft, which has it installed in
//! one write. A stream that breaks leaves nothing but chunks, which are deleted.
//!
//! Earlier builds send the header and the data alone, and read nothing else: they take what is sent here, and what they send is
//! taken. None of them has a group with such tables, whose commands need a feature level that they do not know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use jangada_proto::internal::{Hello, InstallSnapshotResponse, SnapshotChunk, SnapshotEnd, SnapshotHeader};
use jangada_types::limits::{
    SNAPSHOT_BYTES_MAX, SNAPSHOT_RESTORE_BYTES_PER_MS_MIN, SNAPSHOT_STALLED_MS_MAX, STATE_CHUNK_BYTES,
};
use jangada_types::{BrokerId, GroupId, Incarnation, ReplicaId};
use openraft::Snapshot as RaftSnapshot;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;
use tonic::Status;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::inbox::{Hosted, Inbox};
use super::plausible::{Cause, Refusal};
use crate::codec::{self, CodecError};
use crate::log_store::off_worker;
use crate::raft_types::{SnapshotMeta, StoredMembership, Vote};
use crate::snapshot::chunks::{ReadStateError, StateWriter, Stored};
use crate::snapshot::rows::{self, RowCursor};
use crate::snapshot::{Snapshot, SnapshotData};
use crate::wire;

/// How long nothing may go forward before a snapshot is given up.
pub(super) const STALLED: Duration = Duration::from_millis(SNAPSHOT_STALLED_MS_MAX);

/// Longest time from the last message of a snapshot to the receiver's answer.
pub(super) fn answer_timeout(bytes: u64) -> Duration {
    STALLED + Duration::from_millis(bytes / SNAPSHOT_RESTORE_BYTES_PER_MS_MIN)
}

/// What the sender's stream tells the one who waits for the answer.
#[derive(Default)]
pub(super) struct Progress {
    messages: AtomicU64,
    is_sent: AtomicBool,
    failure: Mutex<Option<String>>,
}

impl Progress {
    /// Messages that the connection has taken, and whether they are all.
    pub fn get(&self) -> (u64, bool) {
        (
            self.messages.load(Ordering::Relaxed),
            self.is_sent.load(Ordering::Relaxed),
        )
    }

    /// Why the stream ended early, if it did.
    pub fn take_failure(&self) -> Option<String> {
        self.failure.lock().take()
    }
}

/// The header of a snapshot.
pub(super) fn header(group: GroupId, target: ReplicaId, vote: &Vote, snapshot: &Snapshot) -> SnapshotHeader {
    let meta = &snapshot.meta;
    let store = snapshot.snapshot.store.log().store();
    SnapshotHeader {
        group_id: group.get(),
        to_incarnation: target.incarnation.get(),
        vote: Some(wire::vote_to(vote)),
        last_log_id: meta.last_log_id.map(wire::log_id_to),
        membership: codec::encode_membership(meta.last_membership.membership()),
        membership_log_id: meta.last_membership.log_id().map(wire::log_id_to),
        size_bytes: snapshot.snapshot.state.bytes(),
        tables: rows::tables(&**store).map(|table| table.name.to_owned()).collect(),
        has_end: true,
    }
}

/// The messages of a snapshot, each made when it can be sent. Where something cannot be read the stream ends early, and `progress`
/// says why.
pub(super) fn messages(
    hello: Hello,
    header: SnapshotHeader,
    data: SnapshotData,
    progress: Arc<Progress>,
) -> impl Stream<Item = SnapshotChunk> + Send + use<> {
    let first = SnapshotChunk {
        hello: Some(hello),
        header: Some(header),
        ..SnapshotChunk::default()
    };
    let outgoing = Outgoing {
        data,
        next: Next::State(0),
        hash: Xxh3::new(),
        row_messages: 0,
        progress,
    };
    let rest = stream::unfold(outgoing, |mut outgoing| async move {
        match outgoing.next().await {
            Ok(message) => message.map(|message| (message, outgoing)),
            Err(error) => {
                *outgoing.progress.failure.lock() = Some(error.to_string());
                None
            }
        }
    });
    stream::iter([first]).chain(rest)
}

/// A snapshot that is being sent.
struct Outgoing {
    data: SnapshotData,
    next: Next,
    /// Of the state so far.
    hash: Xxh3,
    row_messages: u64,
    progress: Arc<Progress>,
}

/// What is sent next.
enum Next {
    /// This piece of the state.
    State(u32),
    Rows(RowCursor),
    Nothing,
}

impl Outgoing {
    async fn next(&mut self) -> std::io::Result<Option<SnapshotChunk>> {
        self.progress.messages.fetch_add(1, Ordering::Relaxed);
        if let Next::State(number) = self.next {
            if let Some(data) = self.state_piece(number).await? {
                self.next = Next::State(number + 1);
                self.hash.update(&data);
                return Ok(Some(SnapshotChunk {
                    checksum: Some(xxh3_64(&data)),
                    data,
                    ..SnapshotChunk::default()
                }));
            }
            self.next = Next::Rows(RowCursor::default());
        }
        if let Next::Rows(cursor) = &self.next {
            let (log, mut cursor) = (self.data.store.log().clone(), cursor.clone());
            let read = off_worker(self.data.store.log().blocking(), move || {
                let rows = rows::read_piece(&**log.store(), log.group(), &mut cursor).map_err(std::io::Error::other)?;
                Ok((rows, cursor))
            });
            if let (Some(rows), cursor) = read.await? {
                self.next = Next::Rows(cursor);
                self.row_messages += 1;
                return Ok(Some(SnapshotChunk {
                    checksum: Some(xxh3_64(&rows)),
                    rows,
                    ..SnapshotChunk::default()
                }));
            }
            self.next = Next::Nothing;
            self.progress.is_sent.store(true, Ordering::Relaxed);
            return Ok(Some(SnapshotChunk {
                end: Some(SnapshotEnd {
                    state_checksum: self.hash.digest(),
                    row_messages: self.row_messages,
                }),
                ..SnapshotChunk::default()
            }));
        }
        Ok(None)
    }

    async fn state_piece(&self, number: u32) -> std::io::Result<Option<Bytes>> {
        match &self.data.state {
            Stored::Row(state) => {
                let from = number as usize * STATE_CHUNK_BYTES;
                let to = state.len().min(from + STATE_CHUNK_BYTES);
                Ok((from < to).then(|| state.slice(from..to)))
            }
            Stored::Chunks(chunks) if number == chunks.manifest().state.chunks => Ok(None),
            Stored::Chunks(chunks) => {
                let chunks = chunks.clone();
                off_worker(self.data.store.log().blocking(), move || {
                    chunks.read(number).map(Some).map_err(std::io::Error::other)
                })
                .await
            }
        }
    }
}

/// What the header of a snapshot says.
fn snapshot_meta(header: &SnapshotHeader) -> Result<(Vote, SnapshotMeta), CodecError> {
    let membership = codec::decode_membership(&header.membership)?;
    let meta = SnapshotMeta {
        last_log_id: header.last_log_id.map(wire::log_id_from),
        last_membership: StoredMembership::new(header.membership_log_id.map(wire::log_id_from), membership),
    };
    Ok((wire::vote_from(header.vote)?, meta))
}

fn judge(hosted: &Hosted, peer: BrokerId, vote: &Vote, meta: &SnapshotMeta) -> Result<(), Refusal> {
    let metrics = hosted.raft.metrics();
    let (last, following) = {
        let metrics = metrics.borrow_watched();
        (metrics.last_log_index, metrics.vote)
    };
    Ok(hosted.judge(peer).snapshot(vote, meta, last, &following)?)
}

/// Hands a snapshot to openraft, if it can be true and be read. Gives the vote of this replica.
pub(super) async fn install(
    hosted: &Hosted,
    peer: BrokerId,
    vote: Vote,
    meta: SnapshotMeta,
    state: Stored,
) -> Result<Vote, Refusal> {
    judge(hosted, peer, &vote, &meta)?;
    let (check, to_read) = (hosted.check.clone(), state.clone());
    let read = off_worker(hosted.chunks.log().blocking(), move || {
        Ok(to_read.read(|pieces| check.restore(pieces)))
    });
    let restored = match read.await.map_err(Refusal::stopped)? {
        Ok(restored) => restored,
        Err(ReadStateError::Restore(error)) => return Err(Refusal::of(Cause::Snapshot, error.to_string())),
        Err(error) => return Err(Refusal::Busy(error.to_string())),
    };
    let snapshot = SnapshotData {
        store: hosted.chunks.clone(),
        state,
        restored: Some(restored),
    };
    let installed = hosted
        .raft
        .install_full_snapshot(vote, RaftSnapshot { meta, snapshot })
        .await;
    Ok(installed.map_err(Refusal::stopped)?.vote)
}

/// Takes a snapshot for one group. `first` is its first message.
pub(super) async fn take(
    inbox: &dyn Inbox,
    peer: BrokerId,
    first: SnapshotChunk,
    messages: impl Stream<Item = Result<SnapshotChunk, Status>> + Unpin,
) -> Result<InstallSnapshotResponse, Refusal> {
    let header = first
        .header
        .ok_or_else(|| Refusal::malformed("a snapshot begins with its header"))?;
    let group = GroupId::from(header.group_id);
    let hosted = inbox
        .hosted(group, Incarnation::from(header.to_incarnation))
        .map_err(Refusal::Busy)?;
    inbox.may_speak(group, peer)?;
    let (vote, meta) = snapshot_meta(&header)?;
    // Before anything of it is kept, and again when it is there.
    judge(&hosted, peer, &vote, &meta)?;
    let room = inbox.snapshot_room(header.size_bytes);
    let _room = room.ok_or_else(|| Refusal::flood("other snapshots are under way"))?;
    let state = receive(&hosted, &header, first.data, messages).await?;
    let vote = install(&hosted, peer, vote, meta, state).await?;
    Ok(InstallSnapshotResponse {
        vote: Some(wire::vote_to(&vote)),
    })
}

/// Writes a snapshot into the store as it comes. What was written is deleted when this fails.
pub(super) async fn receive(
    hosted: &Hosted,
    header: &SnapshotHeader,
    first: Bytes,
    mut messages: impl Stream<Item = Result<SnapshotChunk, Status>> + Unpin,
) -> Result<Stored, Refusal> {
    let mut incoming = Incoming::begin(hosted, header)?;
    incoming
        .take(SnapshotChunk {
            data: first,
            ..SnapshotChunk::default()
        })
        .await?;
    loop {
        let next = tokio::time::timeout(STALLED, messages.next()).await;
        let stalled = |_| Refusal::Busy(format!("a snapshot made no progress for {STALLED:?}"));
        match next.map_err(stalled)? {
            Some(Ok(message)) => incoming.take(message).await?,
            Some(Err(status)) => {
                return Err(Refusal::Busy(format!(
                    "a snapshot's stream broke: {}",
                    status.message()
                )));
            }
            None => return incoming.finish().await,
        }
    }
}

/// A snapshot that is being received.
struct Incoming<'a> {
    hosted: &'a Hosted,
    header: &'a SnapshotHeader,
    writer: StateWriter,
    bytes: u64,
    /// Of the state so far.
    hash: Xxh3,
    messages: u64,
    row_messages: u64,
    end: Option<SnapshotEnd>,
}

impl<'a> Incoming<'a> {
    fn begin(hosted: &'a Hosted, header: &'a SnapshotHeader) -> Result<Self, Refusal> {
        if header.size_bytes > SNAPSHOT_BYTES_MAX {
            let what = format!(
                "a snapshot of {} bytes: more than {SNAPSHOT_BYTES_MAX}",
                header.size_bytes
            );
            return Err(Refusal::of(Cause::Snapshot, what));
        }
        let store = hosted.chunks.log().store();
        let is_known = |name: &String| rows::tables(&**store).any(|table| table.name == *name);
        if let Some(table) = header.tables.iter().find(|name| !is_known(name)) {
            let what = format!(
                "a snapshot with rows of the table {table}, which this build does not know: upgrade this broker"
            );
            return Err(Refusal::Busy(what));
        }
        Ok(Self {
            hosted,
            header,
            writer: StateWriter::new(&hosted.chunks),
            bytes: 0,
            hash: Xxh3::new(),
            messages: 0,
            row_messages: 0,
            end: None,
        })
    }

    async fn take(&mut self, message: SnapshotChunk) -> Result<(), Refusal> {
        let SnapshotChunk {
            data,
            rows,
            checksum,
            end,
            ..
        } = message;
        if self.end.is_some() {
            return Err(Refusal::malformed("a message behind the end of a snapshot"));
        }
        self.messages += 1;
        for bytes in [&data, &rows] {
            if checksum.is_some_and(|checksum| !bytes.is_empty() && xxh3_64(bytes) != checksum) {
                let what = format!("message {} of a snapshot does not have its checksum", self.messages);
                return Err(Refusal::of(Cause::Snapshot, what));
            }
        }
        let mut ops = Vec::new();
        if !data.is_empty() {
            self.bytes += data.len() as u64;
            if self.bytes > self.header.size_bytes || self.row_messages > 0 {
                return Err(Refusal::of(Cause::Snapshot, "a snapshot longer than its header says"));
            }
            self.hash.update(&data);
            self.writer.push(data, &mut |op| ops.push(op));
        }
        if !rows.is_empty() {
            self.row_messages += 1;
            rows::decode_piece(&**self.hosted.chunks.log().store(), rows.clone())?;
            self.writer.push_rows(&rows, &mut |op| ops.push(op));
        }
        self.end = end;
        self.write(ops).await
    }

    /// Each chunk is with the store's files before the next message is taken, so that they do not pile up in its queue.
    async fn write(&self, ops: Vec<jangada_storage::Op>) -> Result<(), Refusal> {
        if ops.is_empty() {
            return Ok(());
        }
        let written = self.hosted.chunks.write(ops).map_err(Refusal::stopped)?;
        written.wait().await.map_err(Refusal::stopped)
    }

    /// Judges whether everything has come.
    async fn finish(mut self) -> Result<Stored, Refusal> {
        let refuse = |what: &str| Err(Refusal::of(Cause::Snapshot, what));
        match self.end {
            Some(end) if end.state_checksum != self.hash.digest() => {
                return refuse("the state in a snapshot does not have its checksum");
            }
            Some(end) if end.row_messages != self.row_messages => {
                return refuse("a snapshot has not all rows of its tables");
            }
            None if self.header.has_end => return Err(Refusal::Busy("a snapshot's stream ended early".to_owned())),
            Some(_) | None => {}
        }
        if self.bytes != self.header.size_bytes {
            return refuse("a snapshot shorter than its header says");
        }
        let mut ops = Vec::new();
        let writer = std::mem::replace(&mut self.writer, StateWriter::new(&self.hosted.chunks));
        let state = writer.finish(&mut |op| ops.push(op));
        self.write(ops).await?;
        Ok(state)
    }
}

#[cfg(test)]
#[path = "snapshots_tests.rs"]
mod tests;
