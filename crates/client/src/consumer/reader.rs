//! Reads a set of partitions that may change at any time. Every kind of consumer is built on it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::config::{ConsumerConfig, OnBadBatch, Skipped};
use super::fetcher::Fetcher;
use super::inbox::{FetchSession, Fetched, Inbox, Window};
use super::record::{ConsumedRecord, Gap, RawBatches, Undecoded, check};
use super::visible::visible;
use crate::cluster::Cluster;
use crate::error::ClientError;
use crate::metadata::TopicMetadata;
use crate::notice::Notice;

/// An error, and the fetch session that ran into it.
type Failed = (FetchSession, ClientError);

pub(crate) struct Reader {
    cluster: Arc<Cluster>,
    config: ConsumerConfig,
    /// The group whose member reads, if one does.
    group: Option<Arc<str>>,
    inbox: Arc<Inbox>,
    slots: BTreeMap<FetchSession, Slot>,
    next_session: u64,
    /// The response that is handed out next; `decoded_of` is its fetch session.
    decoded: Decoded,
    decoded_of: FetchSession,
    /// Paused fetch sessions that were resumed, and may have responses buffered from their pause.
    resumed: VecDeque<FetchSession>,
    skipped: Skipped,
    /// A partition whose position moved without a record to hand out: past a batch that was skipped with nothing behind it so
    /// far, past the end of a transaction, or to where it was reset.
    passed: Option<FetchSession>,
}

/// How much of a response is decoded at once: further batches are decoded until their records take so many bytes.
const DECODED_BYTES: usize = 1024 * 1024;

/// The part of a response that is not handed out yet.
#[derive(Default)]
struct Decoded {
    records: VecDeque<ConsumedRecord>,
    /// The batches behind the records, not decoded yet.
    rest: Option<Undecoded>,
    /// The end of the response, or the error there; handed out after `records` and `rest`.
    end: Option<Result<i64, ClientError>>,
    /// Whether a batch was skipped and no record behind it has been decoded so far.
    ends_skipped: bool,
    /// Whether the response ends with offsets of which nothing is handed out.
    ends_hidden: bool,
}

impl Decoded {
    fn is_over(&self) -> bool {
        self.records.is_empty() && self.rest.is_none() && self.end.is_none()
    }
}

/// The records that can be handed out next without waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NextBatch {
    /// The fetch session that they belong to.
    pub session: FetchSession,
    /// The offset after the last record.
    pub end: i64,
    /// The leader epoch of the last record.
    pub leader_epoch: Option<u32>,
}

/// A partition that is read.
struct Slot {
    topic: Arc<TopicMetadata>,
    partition: u32,
    /// The next offset that is handed out.
    position: i64,
    /// Set at a damaged place: nothing behind it is taken.
    is_stopped: bool,
    /// Set where records are missing: nothing is taken any more except the error that says so.
    has_gap: bool,
    /// Whether the partition is paused: nothing of it is handed out, and responses are buffered.
    is_paused: bool,
    buffered: BufferedWhilePaused,
    window: Arc<Window>,
    task: JoinHandle<()>,
}

/// Data of a paused partition, `decoded` before `fetched`. All of it but the decoded records counts in the window until
/// it is handed out.
#[derive(Default)]
struct BufferedWhilePaused {
    decoded: Option<Decoded>,
    fetched: VecDeque<Fetched>,
}

impl Slot {
    /// Ends the reading where records are missing.
    fn stop_at(&mut self, gap: &Gap) -> ClientError {
        self.task.abort();
        self.has_gap = true;
        ClientError::Gap {
            topic: self.topic.name.clone(),
            partition: self.partition,
            expected: gap.expected,
            found: gap.found,
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reader {
    pub fn new(cluster: Arc<Cluster>, config: ConsumerConfig, group: Option<Arc<str>>) -> Result<Self, ClientError> {
        config.check()?;
        Ok(Self {
            cluster,
            config,
            group,
            inbox: Arc::default(),
            slots: BTreeMap::new(),
            next_session: 0,
            decoded: Decoded::default(),
            decoded_of: FetchSession::default(),
            resumed: VecDeque::new(),
            skipped: Skipped::default(),
            passed: None,
        })
    }

    /// How much was skipped so far.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// A partition whose position moved without a record to hand out: past a batch that was skipped, with nothing
    /// behind it, or to where it was reset. Each is returned once.
    pub fn take_passed(&mut self) -> Option<FetchSession> {
        self.passed.take()
    }

    /// Begins to read partitions, each at its offset. The others go on. Must be called within a tokio runtime.
    pub fn add(&mut self, starts: impl IntoIterator<Item = (Arc<TopicMetadata>, u32, i64)>) -> Vec<FetchSession> {
        let starts: Vec<_> = starts.into_iter().collect();
        let share = self.config.share_bytes(self.slots.len() + starts.len());
        self.resize(share);
        let start = |(topic, partition, offset)| self.start((topic, partition, offset), false, share);
        starts.into_iter().map(start).collect()
    }

    /// Begins to read partitions that were added to a topic, each with its first record. The others go on. Must be called within
    /// a tokio runtime.
    pub fn add_new(&mut self, topic: &Arc<TopicMetadata>, partitions: std::ops::Range<u32>) {
        let share = self.config.share_bytes(self.slots.len() + partitions.len());
        self.resize(share);
        for partition in partitions {
            self.start((topic.clone(), partition, 0), true, share);
        }
    }

    fn start(
        &mut self,
        (topic, partition, offset): (Arc<TopicMetadata>, u32, i64),
        is_added: bool,
        share: usize,
    ) -> FetchSession {
        let session = FetchSession(self.next_session);
        self.next_session += 1;
        let window = Arc::new(Window::new(share));
        let fetcher = Fetcher {
            cluster: self.cluster.clone(),
            topic: topic.clone(),
            partition,
            session,
            inbox: self.inbox.clone(),
            window: window.clone(),
            max_bytes: self.config.max_partition_bytes.min(share) as u32,
            offset_reset: self.config.offset_reset,
            isolation: self.config.isolation,
            group: self.group.clone(),
            next_offset: offset,
            is_added,
            trouble: self
                .cluster
                .notices
                .trouble(format!("fetch from {}", topic.name).into(), Some(partition)),
        };
        let slot = Slot {
            topic,
            partition,
            position: offset,
            is_stopped: false,
            has_gap: false,
            is_paused: false,
            buffered: BufferedWhilePaused::default(),
            window,
            task: tokio::spawn(fetcher.run()),
        };
        self.slots.insert(session, slot);
        session
    }

    /// Ends the reading of partitions at once: nothing of them is handed out any more. The others go on.
    pub fn remove(&mut self, sessions: &[FetchSession]) {
        for session in sessions {
            self.slots.remove(session);
        }
        if sessions.contains(&self.decoded_of) {
            self.decoded = Decoded::default();
        }
        self.inbox.retain(|session| !sessions.contains(&session));
        if !self.slots.is_empty() {
            self.resize(self.config.share_bytes(self.slots.len()));
        }
    }

    /// Ends all reading.
    pub fn clear(&mut self) {
        self.slots.clear();
        self.inbox.retain(|_| false);
        self.decoded = Decoded::default();
        self.resumed.clear();
    }

    /// Hands out nothing more of a partition, and keeps what was fetched.
    ///
    /// # Panics
    /// For a partition that is not read.
    pub fn pause(&mut self, session: FetchSession) {
        let is_decoded = self.decoded_of == session;
        let decoded = is_decoded.then(|| std::mem::take(&mut self.decoded));
        let slot = self.slot(session);
        slot.is_paused = true;
        // Responses that were buffered in an earlier pause stay behind this one, in `fetched`.
        if let Some(decoded) = decoded.filter(|decoded| !decoded.is_over()) {
            slot.buffered.decoded = Some(decoded);
        }
    }

    /// Goes on with a paused partition, where it was.
    ///
    /// # Panics
    /// For a partition that is not read.
    pub fn resume(&mut self, session: FetchSession) {
        self.slot(session).is_paused = false;
        self.resumed.push_back(session);
    }

    fn resize(&self, share: usize) {
        for slot in self.slots.values() {
            slot.window.resize(share);
        }
    }

    pub fn find(&self, topic: &str, partition: u32) -> Option<FetchSession> {
        let found = self
            .slots
            .iter()
            .find(|(_, slot)| slot.partition == partition && *slot.topic.name == *topic);
        found.map(|(session, _)| *session)
    }

    /// # Panics
    /// For a partition that is not read.
    pub fn topic(&self, session: FetchSession) -> &Arc<TopicMetadata> {
        &self.slots[&session].topic
    }

    pub fn partitions(&self) -> impl Iterator<Item = (&Arc<TopicMetadata>, u32)> {
        self.slots.values().map(|slot| (&slot.topic, slot.partition))
    }

    /// The next offset that is handed out.
    ///
    /// # Panics
    /// For a partition that is not read.
    pub fn position(&self, session: FetchSession) -> i64 {
        self.slots[&session].position
    }

    /// The offset after the last committed record, by the newest answer.
    pub fn high_watermark(&self, session: FetchSession) -> Option<i64> {
        let heard = self.slots.get(&session)?.window.high_watermark.load(Ordering::Relaxed);
        (heard >= 0).then_some(heard)
    }

    /// Waits until there are records to hand out, or a partition [moved without one](Self::take_passed). A call that is dropped
    /// loses nothing.
    pub async fn fill(&mut self) -> Result<(), Failed> {
        while self.decoded.records.is_empty() {
            if self.decoded.rest.is_some() {
                self.decode();
                continue;
            }
            self.finish_decoded()?;
            if self.passed.is_some() {
                return Ok(());
            }
            if let Some((session, decoded)) = self.take_buffered_decoded() {
                (self.decoded, self.decoded_of) = (decoded, session);
                continue;
            }
            let (session, taken) = self.take().await?;
            let Some((raw, ends_hidden)) = taken else {
                self.passed = Some(session);
                return Ok(());
            };
            self.decoded.ends_hidden = ends_hidden;
            self.decoded.rest = Some(Undecoded::new(raw));
            self.decoded_of = session;
        }
        Ok(())
    }

    /// Describes the records that are handed out next, up to `max`, without taking them.
    pub fn peek_batch(&self, max: usize) -> Option<NextBatch> {
        let records = &self.decoded.records;
        let last = match records.len() <= max {
            true => records.back(),
            false => records.get(max.saturating_sub(1)),
        };
        last.map(|record| NextBatch {
            session: self.decoded_of,
            end: record.offset + 1,
            leader_epoch: record.leader_epoch,
        })
    }

    /// The next record, if there is one without waiting.
    pub fn pop(&mut self) -> Option<(FetchSession, ConsumedRecord)> {
        let record = self.decoded.records.pop_front()?;
        self.handed_out(record.offset + 1);
        Some((self.decoded_of, record))
    }

    /// The next records, all of one partition, if there are some without waiting.
    pub fn pop_all(&mut self, max: usize) -> Option<(FetchSession, Vec<ConsumedRecord>)> {
        let decoded = &mut self.decoded.records;
        let records: Vec<_> = if decoded.len() <= max {
            std::mem::take(decoded).into()
        } else {
            decoded.drain(..max).collect()
        };
        self.handed_out(records.last()?.offset + 1);
        Some((self.decoded_of, records))
    }

    /// Batches of some partition, undecoded; none when its position was reset. Records that are already decoded are
    /// skipped.
    pub async fn next_raw(&mut self) -> Result<RawBatches, Failed> {
        self.decoded.records.clear();
        if let Some(skipped) = self.decoded.rest.take() {
            self.decoded.end = Some(Ok(skipped.raw().next_offset));
        }
        self.finish_decoded()?;
        let (session, taken) = self.take().await?;
        let high_watermark = self.high_watermark(session);
        let slot = self.slot(session);
        let raw = taken.map(|(raw, _)| raw).unwrap_or_else(|| RawBatches {
            topic: slot.topic.name.clone(),
            partition: slot.partition,
            batches: Bytes::new(),
            first_offset: slot.position,
            next_offset: slot.position,
            // The answer that led to the reset may have been the first one, and carries no high watermark.
            high_watermark: high_watermark.unwrap_or(slot.position),
        });
        slot.position = raw.next_offset;
        Ok(raw)
    }

    fn slot(&mut self, session: FetchSession) -> &mut Slot {
        self.slots
            .get_mut(&session)
            .expect("what is decoded belongs to a partition that is read")
    }

    fn handed_out(&mut self, up_to: i64) {
        self.slot(self.decoded_of).position = up_to;
        // The last record may be followed by offsets without one.
        if self.decoded.records.is_empty()
            && let Some(Ok(end)) = self.decoded.end
        {
            self.decoded.end = None;
            self.slot(self.decoded_of).position = end;
        }
    }

    /// The fetch session and the batches of the next response, and whether it ends with offsets of which nothing is seen. `None` for the
    /// batches: its position was reset.
    async fn take(&mut self) -> Result<(FetchSession, Option<(RawBatches, bool)>), Failed> {
        loop {
            let (session, fetched) = match self.take_buffered_response() {
                Some(buffered) => buffered,
                None => self.inbox.take().await,
            };
            let current = self.slots.get_mut(&session).filter(|slot| !slot.is_stopped);
            // A fetcher that was aborted may still have delivered.
            let Some(slot) = current else { continue };
            if slot.has_gap {
                // Behind a gap only the gap's error counts. It follows what was buffered before it.
                match fetched {
                    fetched @ Fetched::Failed(ClientError::Gap { .. }) if slot.is_paused => {
                        slot.buffered.fetched.push_back(fetched);
                    }
                    Fetched::Failed(error @ ClientError::Gap { .. }) => {
                        slot.is_stopped = true;
                        return Err((session, error));
                    }
                    _ => {}
                }
                continue;
            }
            match fetched {
                // Dropped: the fetcher keeps trying, and the error may no longer hold when the partition is resumed.
                Fetched::Failed(error) if slot.is_paused && error.is_retryable() => {}
                fetched if slot.is_paused => slot.buffered.fetched.push_back(fetched),
                Fetched::Failed(error) => return Err((session, error)),
                Fetched::Moved { to } => {
                    slot.position = to;
                    return Ok((session, None));
                }
                Fetched::Batches {
                    batches,
                    first_offset,
                    next_offset,
                    high_watermark,
                    aborted,
                    compacted,
                } => {
                    slot.window.release(batches.len() as i64);
                    let mut raw = RawBatches {
                        topic: slot.topic.name.clone(),
                        partition: slot.partition,
                        batches,
                        first_offset,
                        next_offset,
                        high_watermark,
                    };
                    let checked = check(&raw, compacted);
                    if let Some(gap) = checked.gap {
                        let error = slot.stop_at(&gap);
                        if gap.at == 0 {
                            slot.is_stopped = true;
                            return Err((session, error));
                        }
                        // What comes before the gap is handed out, then the error.
                        raw.batches.truncate(gap.at);
                        raw.next_offset = gap.expected;
                        self.inbox.put(session, Fetched::Failed(error));
                    }
                    let mut end = checked.end;
                    if checked.has_transactions
                        && let Some(seen) = visible(&raw.batches, aborted)
                    {
                        raw.batches = seen;
                        end = check(&raw, true).end;
                    }
                    let ends_hidden = end.unwrap_or(raw.first_offset) < raw.next_offset;
                    return Ok((session, Some((raw, ends_hidden))));
                }
            }
        }
    }

    /// The decoded rest of a response that a resumed partition had buffered.
    fn take_buffered_decoded(&mut self) -> Option<(FetchSession, Decoded)> {
        for session in &self.resumed {
            if let Some(slot) = self.slots.get_mut(session).filter(|slot| !slot.is_paused)
                && let Some(decoded) = slot.buffered.decoded.take()
            {
                return Some((*session, decoded));
            }
        }
        None
    }

    /// The oldest response that a resumed partition had buffered.
    fn take_buffered_response(&mut self) -> Option<(FetchSession, Fetched)> {
        while let Some(session) = self.resumed.front().copied() {
            let slot = self.slots.get_mut(&session).filter(|slot| !slot.is_paused);
            match slot.and_then(|slot| slot.buffered.fetched.pop_front()) {
                Some(fetched) => return Some((session, fetched)),
                None => self.resumed.pop_front(),
            };
        }
        None
    }

    /// Decodes the next part of the response.
    fn decode(&mut self) {
        let position = self.position(self.decoded_of);
        let Decoded {
            records,
            rest,
            end,
            ends_skipped,
            ..
        } = &mut self.decoded;
        let Some(undecoded) = rest else { return };
        let mut bytes = 0;
        while bytes < DECODED_BYTES && !undecoded.is_empty() {
            let before = records.len();
            let bad = match undecoded.decode_next(records) {
                Ok(size) => {
                    bytes += size;
                    *ends_skipped &= records.len() == before;
                    continue;
                }
                Err(bad) => bad,
            };
            let raw = undecoded.raw();
            let next = records.back().map_or(position, |record| record.offset + 1);
            match bad.offsets.filter(|_| self.config.on_bad_batch == OnBadBatch::Skip) {
                Some((base_offset, next_offset)) => {
                    let offset = next.max(base_offset);
                    self.skipped.batches += 1;
                    self.skipped.records += next_offset.saturating_sub(offset).max(0) as u64;
                    *ends_skipped = true;
                    self.cluster.notices.publish(&Notice::BatchSkipped {
                        topic: raw.topic.clone(),
                        partition: raw.partition,
                        offset,
                        next_offset,
                        cause: bad.cause.to_string(),
                    });
                }
                None => {
                    *end = Some(Err(ClientError::Corrupt {
                        topic: raw.topic.clone(),
                        partition: raw.partition,
                        offset: next,
                        message: bad.cause.to_string(),
                    }));
                    *rest = None;
                    return;
                }
            }
        }
        if undecoded.is_empty() {
            *end = Some(Ok(undecoded.raw().next_offset));
            *rest = None;
        }
    }

    /// Called when all that was decoded is handed out: ends the response, or returns the error behind it.
    fn finish_decoded(&mut self) -> Result<(), Failed> {
        let session = self.decoded_of;
        match self.decoded.end.take() {
            Some(Ok(next_offset)) => {
                self.slot(session).position = next_offset;
                let is_passed =
                    std::mem::take(&mut self.decoded.ends_skipped) | std::mem::take(&mut self.decoded.ends_hidden);
                self.passed = is_passed.then_some(session);
            }
            Some(Err(error)) => {
                // Nothing behind the damage is handed out until a seek.
                let slot = self.slot(session);
                slot.task.abort();
                slot.is_stopped = true;
                return Err((session, error));
            }
            None => {}
        }
        Ok(())
    }
}
