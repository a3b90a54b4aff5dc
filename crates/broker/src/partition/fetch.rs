//! Reading a partition: raw batches from an offset on, never past the high watermark, nor past the last stable offset for who reads
//! committed records.
//!
//! The end of the log is read from memory. Older batches are found through the offset index and read on the blocking
//! pool, a bounded number at once. Either way the batches are copied once, one after the other, into the response,
//! where base offset and epoch are patched into their headers. What is missing in the middle is damage of this replica and
//! an error, never passed over.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use jangada_log::IndexEntry;
use jangada_log::tables::offset_index::{Gap, begins_at, follow};
use jangada_replication::{GroupStatus, ReadError};
use jangada_storage::{Store, StoreError};
use jangada_types::batch::{BatchIter, Records, TimestampType};
use jangada_types::limits::DECOMPRESSED_BYTES_MAX;
use jangada_types::planted::{self, Bug};
use jangada_types::{BatchError, BatchHeader, GroupId, LeaderEpoch, Offset, ProducerId, Reason};

use super::index_reads::{row_at, row_by_timestamp, rows_from};
use super::isolation::{Ends, Isolation, Reading};
use super::rows::{Assembled, assemble, keep_below, read_entries};
use super::{Partition, READ_TIMEOUT};
use crate::error::RequestError;

/// Index rows that one read looks at: with the smallest batches, what fills a response may need more than one read.
const ROWS_MAX: usize = 1024;

/// Reads of one fetch that find no batch, of [`ROWS_MAX`] rows each.
const EMPTY_READS_MAX: usize = 8;

/// How long a read that met damage waits for the next leader.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// What a fetch found.
pub(crate) struct Fetched {
    /// Whole batches one after the other.
    pub batches: Bytes,
    /// Where to go on.
    pub next_offset: Offset,
    pub ends: Ends,
    pub log_start: Offset,
    pub epoch: LeaderEpoch,
    /// The aborted transactions with records in the batches, if they are asked for: whose, and their first offsets, which rise.
    pub aborted: Vec<(ProducerId, Offset)>,
    /// Compaction has taken batches from among these, or from before or behind them.
    pub has_holes: bool,
}

impl Partition {
    /// Reads at once what there is, at most `max_bytes` but at least one batch; of these what the reader sees, which may be nothing.
    pub async fn read(&self, offset: Offset, max_bytes: usize, reading: Reading) -> Result<Fetched, RequestError> {
        let epoch = self.hosted.leader_epoch()?;
        let ends = self.ends_for(offset).await?;
        let empty = Fetched {
            batches: Bytes::new(),
            next_offset: offset,
            ends,
            log_start: self.view.log_start(),
            epoch,
            aborted: Vec::new(),
            has_holes: false,
        };
        let end = reading.end(ends);
        if offset >= end {
            return Ok(empty);
        }
        let (mut batches, mut next_offset, mut aborted) = (Bytes::new(), offset, Vec::new());
        let mut has_holes = false;
        // Of what was compacted or aborted nothing may be left for long stretches: an answer without a batch tells where to go on.
        for _ in 0..EMPTY_READS_MAX {
            let read = match self.read_whole(next_offset, end, max_bytes).await {
                Err(error) if error.reason == Reason::DataCorrupted => return Err(self.after_hand_over(error).await),
                read => read?,
            };
            (batches, next_offset) = (read.batches, read.next);
            has_holes |= read.has_holes;
            if self.view.has_transactions() {
                (batches, aborted) = self.seen_by(reading, batches, next_offset).await?;
            }
            if !batches.is_empty() || next_offset >= end {
                break;
            }
        }
        assert!(
            offset <= next_offset && next_offset <= end,
            "a read from {offset} goes on at {next_offset}, beyond {end}"
        );
        self.shared.metrics.fetched(&self.traffic, batches.len());
        Ok(Fetched {
            batches,
            next_offset,
            aborted,
            has_holes,
            ..empty
        })
    }

    /// Whether no other broker has the partition's records.
    pub fn is_only_replica(&self) -> bool {
        self.hosted.group.members().voters.len() < 2
    }

    /// A damaged replica hands its leadership over if it can (`repair`): then the reader is sent to the next leader.
    async fn after_hand_over(&self, error: RequestError) -> RequestError {
        if self.is_only_replica() {
            return error;
        }
        let mut status = self.hosted.group.watch();
        let handed_over = |status: &GroupStatus| {
            let next = status.leader.filter(|leader| *leader != self.hosted.group.replica());
            status.stopped || next.is_some()
        };
        let handed_over = tokio::time::timeout(HAND_OVER_TIMEOUT, status.wait_for(handed_over)).await;
        if handed_over.is_ok() {
            self.hosted.not_leader()
        } else {
            error
        }
    }

    /// Waits until at least `min_bytes` of batches can be read from `offset` on, leadership changes, or the time is
    /// over. Reads nothing. On a leader that no quorum answers nobody waits: the records may be coming elsewhere.
    pub async fn await_bytes(
        &self,
        offset: Offset,
        min_bytes: usize,
        max_wait: Duration,
        isolation: Isolation,
    ) -> Result<(), RequestError> {
        let deadline = tokio::time::sleep(max_wait);
        tokio::pin!(deadline);
        let mut ends = self.view.watch_ends();
        let mut status = self.hosted.group.watch();
        status.borrow_and_update();
        self.hosted.leader_epoch()?;
        loop {
            ends.borrow_and_update();
            let end = self.ends_for(offset).await?.of(isolation);
            if self.view.has_bytes(offset, end, min_bytes.max(1)) {
                return Ok(());
            }
            tokio::select! {
                changed = ends.changed() => if changed.is_err() { return Ok(()) },
                // Losing the lead ends the wait; the read that follows says who leads now.
                _ = status.changed() => return Ok(()),
                () = self.hosted.check_quorum.lost() => return Err(self.hosted.no_quorum()),
                () = &mut deadline => return Ok(()),
            }
        }
    }

    /// The ends of the log, if the offset may be read: it is not below the log start, and not above the high watermark. A leader that was
    /// deposed and does not know has neither as they are, so it says that an offset is out of range only after a quorum has
    /// confirmed that it leads.
    async fn ends_for(&self, offset: Offset) -> Result<Ends, RequestError> {
        let ends = self.view.ends();
        if offset >= self.view.log_start() && offset <= ends.high_watermark {
            return Ok(ends);
        }
        if !planted::is(Bug::OffsetResetAtFailover) {
            self.check_lead().await?;
        }
        let ends = self.view.ends();
        self.check_range(offset, ends.high_watermark)?;
        Ok(ends)
    }

    /// Like [`Hosted::confirm_lead`], but a time-out is reported as a lost quorum: a reader is to look for another leader.
    async fn check_lead(&self) -> Result<(), RequestError> {
        self.hosted
            .confirm_lead(READ_TIMEOUT)
            .await
            .map_err(|error| match error {
                ReadError::NotLeader(_) => self.hosted.not_leader(),
                ReadError::Timeout => self.hosted.no_quorum(),
            })
    }

    fn check_range(&self, offset: Offset, high_watermark: Offset) -> Result<(), RequestError> {
        let log_start = self.view.log_start();
        if offset >= log_start && offset <= high_watermark {
            return Ok(());
        }
        let message = format!(
            "partition {}: offset {offset} is out of range; it has offsets {log_start} to {high_watermark} (the next one to be written)",
            self.hosted.name
        );
        Err(RequestError::new(Reason::OffsetOutOfRange, message)
            .with("offset", offset)
            .with("log_start_offset", log_start)
            .with("high_watermark", high_watermark))
    }

    /// The time of the last batch, if a leader gave it and the log still has the batch.
    pub(super) async fn last_append_time(&self) -> Result<Option<i64>, RequestError> {
        let end = self.view.high_watermark();
        if end == Offset(0) {
            return Ok(None);
        }
        let batch = match self.read_batches(Offset(end.get() - 1), end, 0).await {
            Ok(read) => read.batches,
            // All was trimmed.
            Err(LocalReadError::Gap(_)) if self.view.log_start() >= end => return Ok(None),
            Err(error) => return Err(self.read_error(error)),
        };
        let header = BatchHeader::parse(&batch).map_err(|error| self.undecodable(&error))?;
        // The leader gives control batches their time, too.
        let is_append_time =
            header.attributes.timestamp_type() == TimestampType::LogAppendTime || header.attributes.is_control();
        Ok(is_append_time.then_some(header.max_timestamp))
    }

    /// Like [`Partition::read_batches`], but reads a second time when it meets a gap: the log start may have passed the offset meanwhile,
    /// or another replica may lead by now. A gap that is still there is damage.
    async fn read_whole(
        &self,
        offset: Offset,
        high_watermark: Offset,
        max_bytes: usize,
    ) -> Result<Assembled, RequestError> {
        match self.read_batches(offset, high_watermark, max_bytes).await {
            Err(LocalReadError::Gap(_) | LocalReadError::Store(_)) if planted::is(Bug::HoleServed) => {
                return Ok(Assembled {
                    batches: Bytes::new(),
                    next: Offset(offset.get() + 1),
                    has_holes: true,
                });
            }
            Err(LocalReadError::Gap(_)) => {}
            read => return read.map_err(|error| self.read_error(error)),
        }
        self.hosted.leader_epoch()?;
        self.ends_for(offset).await?;
        let again = self.read_batches(offset, high_watermark, max_bytes).await;
        again.map_err(|error| self.read_error(error))
    }

    /// Batches from the one with the offset on, at most `max_bytes` but at least one.
    async fn read_batches(
        &self,
        offset: Offset,
        high_watermark: Offset,
        max_bytes: usize,
    ) -> Result<Assembled, LocalReadError> {
        match self.read_recent(offset, high_watermark, max_bytes) {
            Some(found) => Ok(found),
            None => self.read_stored(offset, high_watermark, max_bytes).await,
        }
    }

    fn read_recent(&self, offset: Offset, high_watermark: Offset, max_bytes: usize) -> Option<Assembled> {
        let mut rows = self.view.recent_rows(offset, max_bytes)?;
        keep_below(&mut rows, high_watermark);
        let range = rows.first()?.raft_index..rows.last()?.raft_index + 1;
        let entries = self
            .shared
            .store
            .read_log_cached(self.hosted.group.id(), range, max_bytes)?;
        // What does not fit is looked at again where it is stored.
        begins_at(&rows, offset).and_then(|()| follow(&rows)).ok()?;
        assemble(&rows, &entries).ok().filter(|read| !read.batches.is_empty())
    }

    async fn read_stored(
        &self,
        offset: Offset,
        high_watermark: Offset,
        max_bytes: usize,
    ) -> Result<Assembled, LocalReadError> {
        let (store, group) = (self.shared.store.clone(), self.hosted.group.id());
        let read = move || {
            let mut rows = rows_from(&*store, group, offset, ROWS_MAX, max_bytes)?;
            keep_below(&mut rows, high_watermark);
            begins_at(&rows, offset)?;
            follow(&rows)?;
            let entries = read_entries(&*store, group, &rows, max_bytes)?;
            let read = assemble(&rows, &entries)?;
            if read.next <= offset {
                let what = format!(
                    "offset {offset} is in log entry {}, which is missing",
                    rows[0].raft_index
                );
                return Err(LocalReadError::Gap(what));
            }
            Ok(read)
        };
        self.shared.read_pool.run(read).await.map_err(LocalReadError::Request)?
    }

    /// As an error of the request. A gap is told as damage of this replica.
    pub(super) fn read_error(&self, error: LocalReadError) -> RequestError {
        match error {
            LocalReadError::Request(error) => error,
            LocalReadError::Store(error) => self.hosted.store_error(&error),
            LocalReadError::Gap(what) => {
                let damage = self.shared.store.damage().report(self.hosted.group.id(), what);
                self.hosted.store_error(&damage)
            }
        }
    }

    /// Batches from the one with the offset on, for the partition's queues: counted as nobody's fetch.
    pub(super) async fn read_for_queues(
        &self,
        offset: Offset,
        max_bytes: usize,
    ) -> Result<(Bytes, Offset), RequestError> {
        let ends = self.ends_for(offset).await?;
        let read = self.read_whole(offset, ends.high_watermark, max_bytes).await?;
        Ok((read.batches, read.next))
    }

    pub(super) fn undecodable(&self, cause: &BatchError) -> RequestError {
        let message = format!("partition {}: reading failed: {cause}", self.hosted.name);
        RequestError::new(Reason::Internal, message)
    }

    /// The first record whose timestamp is at or after `timestamp_ms`: its offset and timestamp. What is found is
    /// committed; that there is none is said only after a quorum has confirmed that this replica leads, as a leader that
    /// was deposed and does not know lacks the newest records.
    /// Looks at what the isolation lets one read.
    pub async fn offset_by_timestamp(
        &self,
        timestamp_ms: i64,
        isolation: Isolation,
    ) -> Result<Option<(Offset, i64)>, RequestError> {
        self.hosted.leader_epoch()?;
        let found = self.search_timestamp(timestamp_ms, isolation).await?;
        if found.is_some() {
            return Ok(found);
        }
        self.check_lead().await?;
        self.search_timestamp(timestamp_ms, isolation).await
    }

    async fn search_timestamp(
        &self,
        timestamp_ms: i64,
        isolation: Isolation,
    ) -> Result<Option<(Offset, i64)>, RequestError> {
        let mut from = self.view.log_start();
        loop {
            let end = self.view.ends().of(isolation);
            if from >= end {
                return Ok(None);
            }
            let (store, group) = (self.shared.store.clone(), self.hosted.group.id());
            let search = move || search_rows(&*store, group, from..end, timestamp_ms);
            let row = match self.shared.read_pool.run(search).await? {
                // The log start moved meanwhile.
                Err(LocalReadError::Gap(_)) if self.view.log_start() > from => {
                    from = self.view.log_start();
                    continue;
                }
                row => row.map_err(|error| self.read_error(error))?,
            };
            let Some(row) = row.filter(|row| row.last_offset < end) else {
                return Ok(None);
            };
            let start = row.base_offset.max(from);
            let batches = match self.read_stored(start, end, row.size_bytes as usize).await {
                Err(LocalReadError::Gap(_)) if self.view.log_start() > start => {
                    from = self.view.log_start();
                    continue;
                }
                read => read.map_err(|error| self.read_error(error))?.batches,
            };
            let log_start = self.view.log_start();
            let find = move || first_at(batches, timestamp_ms, log_start);
            let found = self.shared.compute.run(find).await?;
            match found {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error @ BatchError::Corrupt { .. }) => return Err(self.undecodable(&error)),
                Err(error) => {
                    // Some record of it has such a time. Consumers that begin there do with the batch what they are told to.
                    tracing::warn!(partition = %self.hosted.name, offset = %row.base_offset, %error, "a batch cannot be decoded");
                    return Ok(Some((row.base_offset.max(log_start), row.max_timestamp_ms)));
                }
            }
            // The records of that batch with such a time lie below the log start.
            from = Offset(row.last_offset.get() + 1);
        }
    }
}

/// Why batches were not read.
pub(super) enum LocalReadError {
    Request(RequestError),
    Store(StoreError),
    /// What should be there is not, unless the log start has moved.
    Gap(String),
}

impl From<StoreError> for LocalReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Gap> for LocalReadError {
    fn from(Gap(what): Gap) -> Self {
        Self::Gap(what)
    }
}

/// The first row that reaches a time. The one before it must be there, too, and without any the last one: what is missing
/// could have been the first.
fn search_rows(
    store: &dyn Store,
    group: GroupId,
    within: Range<Offset>,
    timestamp_ms: i64,
) -> Result<Option<IndexEntry>, LocalReadError> {
    let found = row_by_timestamp(store, group, within.clone(), timestamp_ms)?;
    let end = found.map_or(within.end, |row| row.base_offset.min(within.end));
    if end > within.start {
        let before = Offset(end.get() - 1);
        begins_at(row_at(store, group, before)?.as_slice(), before)?;
    }
    Ok(found)
}

/// The first record of these batches at or after a time and at or above the log start. Control records are for no reader.
fn first_at(batches: Bytes, timestamp_ms: i64, log_start: Offset) -> Result<Option<(Offset, i64)>, BatchError> {
    for batch in BatchIter::new(batches) {
        let (header, batch) = batch?;
        if header.attributes.is_control() {
            continue;
        }
        for record in Records::new(&batch, DECOMPRESSED_BYTES_MAX)? {
            let record = record?;
            if record.timestamp_ms >= timestamp_ms && record.offset >= log_start {
                return Ok(Some((record.offset, record.timestamp_ms)));
            }
        }
    }
    Ok(None)
}
