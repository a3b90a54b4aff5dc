//! A member of a consumer group.
//!
//! ```text
//!            view: what it may own                  Reader ──► next(), next_batch()
//! membership ─────────────────────► GroupConsumer ──►  ▲            │
//! (a task)  ◄─────────────────────        │            │            ▼
//!            ack: what it owns            └ committed offsets    Finished ──► committer (a task) ──► CommitOffsets
//! ```
//!
//! Partitions are given up before others are taken up: reading stops, the listener is called, what is finished is committed, and
//! then the coordinator is told. All of that happens inside the consumer's calls, so never while its caller handles a record.

mod committer;
mod config;
mod coordinator;
mod handle;
mod listener;
mod membership;
mod metadata;
mod owned;
mod position;
mod rebalance;
mod starts;

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, Stream};
use futures::{FutureExt as _, StreamExt as _};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

pub(crate) use committer::Finished;
pub use config::{Assignor, CommitMode, GroupConfig};
pub(crate) use coordinator::{Coordinator, group_service, transaction_service};
pub use handle::GroupHandle;
pub use listener::{ListenerError, RebalanceListener, StartPositions};
pub use metadata::GroupMetadata;
pub(crate) use metadata::commit_in_transaction;
pub use position::{OffsetCommit, PartitionPosition, TopicPartition};
pub(crate) use starts::fetch as fetch_offsets;

use crate::cluster::Cluster;
use crate::consumer::{ConsumedRecord, FetchSession, NextBatch, Reader, Skipped, StartAt, start_offset};
use crate::error::ClientError;
use committer::{Committer, Position};
use membership::{Membership, MembershipView};
use owned::{OwnedPartitions, State};
use rebalance::FinishedStep;
use starts::{LookupResult, Starts};

/// A member of a consumer group: reads the partitions that the group's coordinator gives it.
///
/// It joins in the background when it is made, and heartbeats whatever its caller does: a slow handler costs no membership, it only
/// holds up what is fetched ahead. When partitions move, those that stay are read on. When membership is lost, nothing more is handed
/// out of what was owned, and the consumer joins again by itself; the loss is seen by the [listener](RebalanceListener), and by commits
/// that fail with [`ClientError::MembershipLost`].
///
/// Changes of partitions take effect inside the calls of this type. So a handler that works on one record or batch for longer than
/// [`GroupConfig::rebalance_timeout`] loses its membership if partitions are to move meanwhile.
///
/// One that is dropped, instead of [closed](Self::close), leaves the group in the background if the runtime goes on for long enough,
/// and commits nothing more: it is [abandoned](Self::abandon) without waiting.
///
/// ```no_run
/// # async fn handle(_: &jangada_client::ConsumedRecord) {}
/// # async fn example(client: jangada_client::Client) -> Result<(), jangada_client::ClientError> {
/// use jangada_client::{GroupConfig, RebalanceListener};
///
/// let mut consumer = client.group_consumer(GroupConfig::new("billing", ["orders"]))?;
/// for _ in 0..1000 {
///     // At least once: by asking for the next record, the one before is finished.
///     let record = consumer.next().await?;
///     handle(&record).await;
/// }
/// // Commits, and leaves the group.
/// consumer.close().await?;
/// # Ok(())
/// # }
/// ```
pub struct GroupConsumer {
    cluster: Arc<Cluster>,
    config: Arc<GroupConfig>,
    membership: Membership,
    committer: Arc<Committer>,
    listener: Option<Arc<dyn RebalanceListener>>,
    starts: Starts,
    reader: Reader,
    owned: OwnedPartitions,
    /// The membership's state when it was last looked at.
    view: MembershipView,
    /// Set when something happened that [`Self::advance`] may have to act on.
    needs_advance: bool,
    /// The losses and epoch of the assignment that was acknowledged.
    acknowledged: Option<(u64, u64)>,
    /// Partitions that were lost and that the listener has not been told of, with the membership under which they were
    /// owned.
    lost: Option<(GroupHandle, Vec<PartitionPosition>)>,
    /// The call of the listener that is under way; at most one.
    work: Option<BoxFuture<'static, FinishedStep>>,
    lookups: FuturesUnordered<BoxFuture<'static, LookupResult>>,
    /// The time at which partitions whose start could not be found are tried again.
    retry_at: Option<Instant>,
    /// The position behind the records handed out last: finished when the next ones are asked for.
    handed: Option<(Finished, Position)>,
    /// The commit that must succeed before the next records are handed out.
    pending_commit: Option<BoxFuture<'static, PendingCommit>>,
    _commits: Option<EndedOnDrop>,
}

/// The outcome of a commit before a hand-over, with the fetch session and the partition.
type PendingCommit = (FetchSession, TopicPartition, Result<(), ClientError>);

struct EndedOnDrop(JoinHandle<()>);

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl GroupConsumer {
    pub(crate) fn start(
        cluster: Arc<Cluster>,
        config: GroupConfig,
        listener: Option<Arc<dyn RebalanceListener>>,
    ) -> Result<Self, ClientError> {
        config.check()?;
        let group: Arc<str> = config.group.as_str().into();
        let reader = Reader::new(cluster.clone(), config.reading(), Some(group.clone()))?;
        let config = Arc::new(config);
        let coordinator = Arc::new(Coordinator::new(cluster.clone(), group));
        let member_id: Arc<str> = cluster.env.random.new_id().to_string().into();
        let membership = Membership::start(&cluster, coordinator.clone(), config.clone(), member_id.clone());
        let committer = Arc::new(Committer::new(
            coordinator.clone(),
            member_id,
            membership.view.clone(),
            membership.now().clone(),
        ));
        let commits = match config.commit {
            CommitMode::After { interval } => Some(EndedOnDrop(tokio::spawn(committer.clone().run(interval)))),
            CommitMode::Before | CommitMode::Manual => None,
        };
        Ok(Self {
            starts: Starts {
                cluster: cluster.clone(),
                coordinator,
                offset_reset: config.offset_reset,
                isolation: config.isolation,
            },
            cluster,
            config,
            membership,
            committer,
            listener,
            reader,
            owned: OwnedPartitions::default(),
            view: MembershipView::default(),
            needs_advance: true,
            acknowledged: None,
            lost: None,
            work: None,
            lookups: FuturesUnordered::new(),
            retry_at: None,
            handed: None,
            pending_commit: None,
            _commits: commits,
        })
    }

    /// The next record; waits for one. The one before counts as finished. A call that is dropped loses nothing.
    ///
    /// # Errors
    /// The error that a partition runs into: the others go on, and so does this one if the error is
    /// [retryable](ClientError::is_retryable); otherwise it waits for a [`seek`](Self::seek). [`ClientError::Refused`]
    /// when the group does not take the member, or took another one in its place: then every call returns it.
    pub async fn next(&mut self) -> Result<ConsumedRecord, ClientError> {
        self.ready(usize::MAX).await?;
        let (session, record) = self.reader.pop().expect("ready");
        self.hand_over(session, record.leader_epoch);
        Ok(record)
    }

    /// The next records of some partition, at least one and at most `max`; waits for them. The records before count as
    /// finished. A call that is dropped loses nothing.
    ///
    /// # Errors
    /// The errors of [`next`](Self::next).
    pub async fn next_batch(&mut self, max: usize) -> Result<Vec<ConsumedRecord>, ClientError> {
        let max = max.max(1);
        self.ready(max).await?;
        let (session, records) = self.reader.pop_all(max).expect("ready");
        self.hand_over(session, records.last().and_then(|record| record.leader_epoch));
        Ok(records)
    }

    /// The records as a stream without end: [`next`](Self::next) again and again.
    pub fn records(&mut self) -> impl Stream<Item = Result<ConsumedRecord, ClientError>> + '_ {
        futures::stream::unfold(self, |consumer| async {
            let next = consumer.next().await;
            Some((next, consumer))
        })
    }

    /// Commits all that was handed out: the caller has finished with it.
    ///
    /// # Errors
    /// [`ClientError::MembershipLost`]; [`ClientError::Unavailable`] and [`ClientError::OutcomeUnknown`] after trying for as long as
    /// `retry_timeout`.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        self.finish();
        self.committer.commit_finished(None).await
    }

    /// Commits these offsets, all or none, of partitions that the member owns.
    ///
    /// # Errors
    /// Those of [`commit`](Self::commit); [`ClientError::Refused`] with `PARTITION_NOT_OWNED` when an offset is of
    /// another partition.
    pub async fn commit_offsets(&mut self, offsets: &[OffsetCommit]) -> Result<(), ClientError> {
        self.committer.commit_offsets(offsets.to_vec()).await
    }

    /// Continues one of the member's partitions at another position. The next commit has the new position, unless
    /// commits are manual.
    ///
    /// # Errors
    /// [`ClientError::Config`] for a partition that the member does not own; or when its leader does not answer within
    /// `retry_timeout`.
    pub async fn seek(&mut self, topic: &str, partition: u32, at: StartAt) -> Result<(), ClientError> {
        let found = self.owned_partition(topic, partition)?;
        let metadata = self.cluster.topic(&found.topic).await?;
        let offset = start_offset(&self.cluster, &metadata, partition, (at, self.config.isolation)).await?;
        let owned = self.owned.get(&found).expect("just found");
        if self
            .handed
            .as_ref()
            .is_some_and(|(finished, _)| finished.is(&owned.finished))
        {
            self.handed = None;
        }
        if self.config.commit != CommitMode::Manual {
            owned.finished.set(Position::start(offset));
        }
        self.committer.moved(&found);
        self.stop(std::slice::from_ref(&found));
        let state = State::At {
            topic: metadata,
            offset,
            session: None,
        };
        self.owned.set(&found, state);
        self.read(&[found]);
        Ok(())
    }

    /// Hands out nothing more of a partition until [`resume`](Self::resume), or until another member has it. What was fetched ahead
    /// is kept, and no more is fetched than that takes room for.
    ///
    /// # Errors
    /// [`ClientError::Config`] for a partition that the member does not own.
    pub fn pause(&mut self, topic: &str, partition: u32) -> Result<(), ClientError> {
        let found = self.owned_partition(topic, partition)?;
        let owned = self.owned.get_mut(&found).expect("just found");
        owned.is_paused = true;
        if let State::At {
            session: Some(session), ..
        } = owned.state
        {
            self.reader.pause(session);
        }
        Ok(())
    }

    /// Hands out records of a partition again after [`pause`](Self::pause).
    ///
    /// # Errors
    /// [`ClientError::Config`] for a partition that the member does not own.
    pub fn resume(&mut self, topic: &str, partition: u32) -> Result<(), ClientError> {
        let found = self.owned_partition(topic, partition)?;
        let owned = self.owned.get_mut(&found).expect("just found");
        owned.is_paused = false;
        match owned.state {
            State::At {
                session: Some(session), ..
            } => self.reader.resume(session),
            _ => self.read(&[found]),
        }
        Ok(())
    }

    /// The next offset of a partition that will be handed out. `None`: it is not owned, or its start is not known yet.
    pub fn position(&self, topic: &str, partition: u32) -> Option<i64> {
        let found = self.owned_partition(topic, partition).ok()?;
        match self.owned.get(&found)?.state {
            State::At {
                session: Some(session), ..
            } => Some(self.reader.position(session)),
            State::At { offset, .. } => Some(offset),
            _ => None,
        }
    }

    /// The partitions that the member owns.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.owned.partitions().cloned().collect()
    }

    /// The member's id, another one for each consumer.
    pub fn member_id(&self) -> &str {
        self.committer.member_id()
    }

    /// The member's epoch as of the last call that handed out records or waited for them, so the epoch under which the last record
    /// was handed out; 0 before the member was taken. It does not move while the caller handles a record, whatever happens to the
    /// membership meanwhile, so that a store that refuses older epochs refuses those of a member that was thrown out.
    pub fn member_epoch(&self) -> i64 {
        self.view.epoch
    }

    /// The member, for a transaction that commits the offsets of what was handed out: under the membership under which it was.
    pub fn metadata(&self) -> GroupMetadata {
        let names = (Arc::from(self.committer.group()), Arc::from(self.committer.member_id()));
        GroupMetadata::of_consumer(
            names,
            &self.view,
            self.membership.view.clone(),
            self.membership.now().clone(),
        )
    }

    /// Names the ownership of a partition: it is another one as soon as the partition has been given up, also when it came back. None
    /// if it is not owned.
    pub(crate) fn ownership(&self, partition: &TopicPartition) -> Option<Finished> {
        self.owned.get(partition).map(|owned| owned.finished.clone())
    }

    /// The partition with this name, if it is owned.
    pub(crate) fn owned_as(&self, topic: &str, partition: u32) -> Option<TopicPartition> {
        self.owned_partition(topic, partition).ok()
    }

    /// Whether offsets are committed only by the caller.
    pub(crate) fn commits_by_hand(&self) -> bool {
        self.config.commit == CommitMode::Manual
    }

    /// Ends reading, commits all that was handed out (unless commits are manual), and leaves the group, or, with an instance id,
    /// leaves it for a while. Call it when the caller has finished with what it was handed; [`abandon`](Self::abandon) otherwise.
    ///
    /// # Errors
    /// Those of [`commit`](Self::commit); the group is left all the same.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.finish();
        self.end(true).await
    }

    /// Leaves the group and commits nothing more: records since the last commit will be handed out again elsewhere.
    pub async fn abandon(self) {
        let _ = self.end(false).await;
    }

    async fn end(mut self, commit: bool) -> Result<(), ClientError> {
        self.pending_commit = None;
        if let Some(work) = self.work.take() {
            work.await;
        }
        self.poll_view();
        let all: BTreeSet<_> = self.owned.partitions().cloned().collect();
        let mut ended = Ok(());
        if !all.is_empty()
            && self.view.fatal.is_none()
            && let FinishedStep::GaveUp { committed } = self.give_up(all, commit).await
        {
            ended = committed;
        }
        if let Some(listener) = &self.listener
            && let Some((group, lost)) = &self.lost
        {
            listener.on_lost(group, lost).await;
        }
        self.membership.leave().await;
        ended
    }

    fn owned_partition(&self, topic: &str, partition: u32) -> Result<TopicPartition, ClientError> {
        let mut partitions = self.owned.partitions();
        partitions
            .find(|owned| owned.partition == partition && *owned.topic == *topic)
            .cloned()
            .ok_or_else(|| ClientError::Config(format!("{topic}[{partition}] is not assigned to this member")))
    }

    /// Counts the last hand-over as finished.
    fn finish(&mut self) {
        if let Some((finished, position)) = self.handed.take() {
            finished.set(position);
        }
    }

    /// Counts a skipped batch as finished, also when nothing comes after it, and likewise the records before a position
    /// that was reset: otherwise both would be skipped again and again.
    fn finish_passed(&mut self) {
        if let Some(session) = self.reader.take_passed()
            && let Some((partition, owned)) = self.owned.by_fetch_session(session)
        {
            owned.finished.set(Position::start(self.reader.position(session)));
            // The position may have gone back, as after a seek.
            self.committer.moved(partition);
        }
    }

    /// How much was skipped so far, with [`OnBadBatch::Skip`](crate::OnBadBatch::Skip).
    pub fn skipped(&self) -> Skipped {
        self.reader.skipped()
    }

    fn hand_over(&mut self, session: FetchSession, leader_epoch: Option<u32>) {
        if let Some(finished) = self.owned.finished(session) {
            let position = Position {
                offset: self.reader.position(session),
                leader_epoch,
            };
            self.handed = Some((finished.clone(), position));
        }
    }

    /// Takes the results of background work that are there already, without waiting. Each call does that once, so that
    /// a handler that always has records at hand does not hold up a rebalance.
    fn poll_work(&mut self) -> Result<(), ClientError> {
        if let Some(done) = some(&mut self.work).now_or_never() {
            self.work = None;
            self.take_done(done)?;
        }
        while let Some(Some(found)) = self.lookups.next().now_or_never() {
            self.take_found(found)?;
        }
        if self.retry_at.is_some_and(|at| at <= Instant::now()) {
            self.retry_at = None;
            self.needs_advance = true;
        }
        Ok(())
    }

    /// Waits until there are records that may be handed out.
    async fn ready(&mut self, max: usize) -> Result<(), ClientError> {
        self.finish();
        self.poll_work()?;
        loop {
            self.advance()?;
            let next = self.reader.peek_batch(max);
            let may_hand_out = self.view.is_within_session();
            if may_hand_out
                && let Some(next) = next
                && self.is_committed_before(next)
            {
                return Ok(());
            }
            let retry_at = self.retry_at.unwrap_or_else(Instant::now);
            tokio::select! {
                biased;
                changed = self.membership.view.changed() => {
                    self.take_view();
                    if changed.is_err() && self.view.fatal.is_none() {
                        return Err(ClientError::Closed);
                    }
                }
                done = some(&mut self.work) => {
                    self.work = None;
                    self.take_done(done)?;
                }
                Some(found) = self.lookups.next() => self.take_found(found)?,
                (session, partition, committed) = some(&mut self.pending_commit) => {
                    self.pending_commit = None;
                    if self.owned.by_fetch_session(session).is_none() {
                        // The partition was given up, or its position moved: the outcome of the commit means nothing
                        // any more.
                        self.committer.moved(&partition);
                        continue;
                    }
                    match committed {
                        Ok(()) => {}
                        // Nothing was handed out. The answer to the next heartbeat says what is still owned.
                        Err(ClientError::MembershipLost(_)) => {
                            let _ = self.membership.view.changed().await;
                            self.take_view();
                        }
                        Err(error) => return Err(error),
                    }
                }
                () = sleep_until(retry_at), if self.retry_at.is_some() => {
                    self.retry_at = None;
                    self.needs_advance = true;
                }
                result = self.reader.fill(), if next.is_none() => {
                    if let Err((session, error)) = result {
                        self.take_failed(session, error)?;
                    }
                    self.finish_passed();
                }
            }
        }
    }

    /// Whether the offsets of `next` are committed already, where [`CommitMode::Before`] asks for that. If not, begins
    /// the commit.
    fn is_committed_before(&mut self, next: NextBatch) -> bool {
        if self.config.commit != CommitMode::Before {
            return true;
        }
        let NextBatch {
            session,
            end,
            leader_epoch,
        } = next;
        let Some((partition, owned)) = self
            .owned
            .by_fetch_session(session)
            .filter(|_| self.pending_commit.is_none())
        else {
            return false;
        };
        if self.committer.has_committed(partition, end) {
            return true;
        }
        if owned.finished.get().is_none() {
            // The commit can be taken back when the partition is given up before these records were handed out.
            owned.finished.set(Position::start(self.reader.position(session)));
        }
        let partition = partition.clone();
        let position = Position {
            offset: end,
            leader_epoch,
        };
        let commit = position.commit(partition.clone());
        let committer = self.committer.clone();
        self.pending_commit = Some(Box::pin(async move {
            let committed = committer.commit_offsets(vec![commit]).await;
            (session, partition, committed)
        }));
        false
    }
}

/// Waits for the future if there is one, otherwise forever. The future stays in place when this is dropped.
async fn some<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
