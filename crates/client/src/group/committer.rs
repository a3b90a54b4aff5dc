//! Commits a member's offsets: one commit at a time, so that an older offset never overtakes a newer one.
//!
//! The ledger says how far each partition is finished. The consumer moves that forward as it hands out; a task commits it by the
//! interval, whatever the consumer's caller does meanwhile. A commit whose caller no longer waits goes on, and the next one waits
//! for it: given up, it might arrive after a newer one.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use jangada_proto::v1;
use jangada_types::Reason;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::coordinator::Coordinator;
use super::membership::MembershipView;
use super::position::{OffsetCommit, TopicPartition};
use crate::error::ClientError;
use crate::notice::Notice;
use crate::wire_error::Failure;

/// How many offsets a request may have.
const OFFSETS_MAX: usize = 10_000;

/// A position in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    /// The offset of the next record.
    pub offset: i64,
    /// The leader epoch of the last record.
    pub leader_epoch: Option<u32>,
}

impl Position {
    /// A position before any record was read.
    pub fn start(offset: i64) -> Self {
        Self {
            offset,
            leader_epoch: None,
        }
    }

    pub fn commit(self, partition: TopicPartition) -> OffsetCommit {
        OffsetCommit {
            leader_epoch: self.leader_epoch,
            ..OffsetCommit::new(partition, self.offset)
        }
    }
}

/// How far a partition is finished; `None` inside before its first record. Shared with the consumer, which moves it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Finished(Arc<Mutex<Option<Position>>>);

impl Finished {
    fn lock(&self) -> MutexGuard<'_, Option<Position>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set(&self, position: Position) {
        *self.lock() = Some(position);
    }

    pub fn get(&self) -> Option<Position> {
        *self.lock()
    }

    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// The work of one commit.
enum CommitWork {
    /// Commit the offsets that are finished and not committed when the turn comes, of all partitions or of these.
    Finished(Option<BTreeSet<TopicPartition>>),
    /// Commit these offsets, under the membership with this number.
    These(u64, Vec<OffsetCommit>),
    /// Forget these partitions: nothing more is committed for them.
    Forgotten(BTreeSet<TopicPartition>),
}

struct Entry {
    finished: Finished,
    /// The committed offset by the last answer; `None` while a commit is under way, and after one without an answer.
    committed: Option<i64>,
}

/// How far each partition is finished.
#[derive(Default)]
struct Ledger {
    /// The membership that the partitions were owned under, as [`MembershipView::losses`] counts. Nothing is committed
    /// under another one: the partition may have come back from a member that is further.
    losses: u64,
    entries: BTreeMap<TopicPartition, Entry>,
}

pub(crate) struct Committer {
    coordinator: Arc<Coordinator>,
    member_id: Arc<str>,
    view: watch::Receiver<MembershipView>,
    /// Notified to send a heartbeat at once.
    heartbeat: Arc<Notify>,
    /// Held by the commit that is under way; the others get it in the order in which they asked.
    turn: Arc<tokio::sync::Mutex<()>>,
    ledger: Mutex<Ledger>,
}

impl Committer {
    pub fn new(
        coordinator: Arc<Coordinator>,
        member_id: Arc<str>,
        view: watch::Receiver<MembershipView>,
        heartbeat: Arc<Notify>,
    ) -> Self {
        Self {
            coordinator,
            member_id,
            view,
            heartbeat,
            turn: Arc::default(),
            ledger: Mutex::default(),
        }
    }

    pub fn group(&self) -> &str {
        self.coordinator.group()
    }

    pub fn member_id(&self) -> &str {
        &self.member_id
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a partition that the member was assigned.
    pub fn add(&self, partition: TopicPartition) -> Finished {
        let finished = Finished::default();
        let entry = Entry {
            finished: finished.clone(),
            committed: None,
        };
        self.ledger().entries.insert(partition, entry);
        finished
    }

    /// Starts an empty ledger for the membership that follows a lost one.
    pub fn begin(&self, losses: u64) {
        *self.ledger() = Ledger {
            losses,
            entries: BTreeMap::new(),
        };
    }

    /// Forgets partitions that are given up, after the commits that are still under way for them: the coordinator would
    /// refuse a later commit, with all offsets in it.
    pub async fn forget(self: &Arc<Self>, partitions: BTreeSet<TopicPartition>) {
        // Forgetting sends nothing, so it cannot fail.
        let _ = self.commit(CommitWork::Forgotten(partitions)).await;
    }

    /// Records that the group has this offset for the partition.
    pub fn is_committed(&self, partition: &TopicPartition, offset: i64) {
        self.note(partition, Some(offset));
    }

    /// Records that the partition goes on at another offset: what was committed says nothing about that one.
    pub fn moved(&self, partition: &TopicPartition) {
        self.note(partition, None);
    }

    fn note(&self, partition: &TopicPartition, committed: Option<i64>) {
        if let Some(entry) = self.ledger().entries.get_mut(partition) {
            entry.committed = committed;
        }
    }

    /// Whether the group has this offset or a later one, and no commit is under way that could take it back.
    pub fn has_committed(&self, partition: &TopicPartition, offset: i64) -> bool {
        let Ok(_alone) = self.turn.try_lock() else {
            return false;
        };
        let ledger = self.ledger();
        let entry = ledger.entries.get(partition);
        entry.is_some_and(|entry| entry.committed >= Some(offset))
    }

    /// Commits every interval what is finished, forever.
    pub async fn run(self: Arc<Self>, interval: Duration) {
        loop {
            sleep(interval).await;
            if let Err(error) = self.commit_finished(None).await {
                self.coordinator.notices().publish(&Notice::NotCommitted {
                    group: self.coordinator.group().clone(),
                    error,
                });
            }
        }
    }

    /// Commits what is finished and not committed yet, of all partitions or of these.
    pub async fn commit_finished(self: &Arc<Self>, only: Option<BTreeSet<TopicPartition>>) -> Result<(), ClientError> {
        self.commit(CommitWork::Finished(only)).await
    }

    /// Commits these offsets, all or none.
    pub async fn commit_offsets(self: &Arc<Self>, offsets: Vec<OffsetCommit>) -> Result<(), ClientError> {
        if let Some(bad) = offsets.iter().find(|commit| commit.offset < 0) {
            return Err(ClientError::Config(format!(
                "offset {} of {}: offsets begin at 0",
                bad.offset, bad.partition
            )));
        }
        let losses = self.ledger().losses;
        self.commit(CommitWork::These(losses, offsets)).await
    }

    /// Commits when its turn has come. It does so in a task: a caller that was dropped, or is not polled, must not hold
    /// up the others.
    async fn commit(self: &Arc<Self>, what: CommitWork) -> Result<(), ClientError> {
        let deadline = self.coordinator.deadline();
        // The place in the queue is taken here, not when the task happens to run.
        let mut turn = Box::pin(self.turn.clone().lock_owned());
        let first = futures::poll!(&mut turn);
        let committer = self.clone();
        let task = tokio::spawn(async move {
            let _alone = match first {
                Poll::Ready(alone) => alone,
                Poll::Pending => turn.await,
            };
            match what {
                CommitWork::Finished(only) => {
                    let (losses, offsets) = committer.due(only.as_ref());
                    committer.send_finished(losses, &offsets, deadline).await
                }
                CommitWork::These(losses, offsets) => committer.send(losses, &offsets, deadline).await,
                CommitWork::Forgotten(partitions) => {
                    let entries = &mut committer.ledger().entries;
                    entries.retain(|partition, _| !partitions.contains(partition));
                    Ok(())
                }
            }
        });
        match task.await {
            Ok(committed) => committed,
            Err(failed) if failed.is_panic() => resume_unwind(failed.into_panic()),
            // The task is gone because the runtime shuts down.
            Err(_) => Err(ClientError::Closed),
        }
    }

    /// The offsets that are finished and not committed, and the membership that they belong to.
    fn due(&self, only: Option<&BTreeSet<TopicPartition>>) -> (u64, Vec<OffsetCommit>) {
        let ledger = self.ledger();
        let wanted = ledger
            .entries
            .iter()
            .filter(|(partition, _)| only.is_none_or(|only| only.contains(partition)));
        let due = wanted.filter_map(|(partition, entry)| {
            let position = entry.finished.get()?;
            (entry.committed != Some(position.offset)).then(|| position.commit(partition.clone()))
        });
        (ledger.losses, due.collect())
    }

    /// Sends finished offsets, a request for each topic. A request is taken as a whole or not at all, and a topic that
    /// was deleted and not given up yet must not keep the others' offsets from being committed.
    async fn send_finished(&self, losses: u64, offsets: &[OffsetCommit], deadline: Instant) -> Result<(), ClientError> {
        let is_gone = |error: &ClientError| error.reason() == Some(Reason::UnknownTopic);
        let whole = self.send(losses, offsets, deadline).await;
        if !whole.as_ref().is_err_and(is_gone) {
            return whole;
        }
        for offsets in offsets.chunk_by(|a, b| a.partition.topic_id == b.partition.topic_id) {
            let sent = self.send(losses, offsets, deadline).await;
            match sent {
                Err(error) if is_gone(&error) => {
                    tracing::debug!(group = self.group(), %error, "offsets of a deleted topic are left out");
                }
                sent => sent?,
            }
        }
        Ok(())
    }

    async fn send(&self, losses: u64, offsets: &[OffsetCommit], deadline: Instant) -> Result<(), ClientError> {
        for offsets in offsets.chunks(OFFSETS_MAX) {
            self.note_all(losses, offsets, |_| None);
            self.send_one(losses, offsets, deadline).await?;
            self.note_all(losses, offsets, |commit| Some(commit.offset));
        }
        Ok(())
    }

    /// Updates the committed offsets, unless the membership has changed meanwhile.
    fn note_all(&self, losses: u64, offsets: &[OffsetCommit], committed: impl Fn(&OffsetCommit) -> Option<i64>) {
        let mut ledger = self.ledger();
        if ledger.losses != losses {
            return;
        }
        for commit in offsets {
            if let Some(entry) = ledger.entries.get_mut(&commit.partition) {
                entry.committed = committed(commit);
            }
        }
    }

    /// Sends one request, until it succeeds, is refused, or the time is up.
    async fn send_one(&self, losses: u64, offsets: &[OffsetCommit], deadline: Instant) -> Result<(), ClientError> {
        let context = || format!("commit offsets of group {}", self.group());
        let mut view = self.view.clone();
        loop {
            let seen = view.borrow_and_update().clone();
            if seen.losses != losses || seen.epoch == 0 {
                let message = "the member is no longer in the group";
                let failure = Failure::local(tonic::Code::FailedPrecondition, message, true);
                return Err(ClientError::MembershipLost(failure.rejection(&context())));
            }
            let request = v1::CommitOffsetsRequest {
                group: self.group().to_owned(),
                member_id: self.member_id.to_string(),
                member_epoch: seen.epoch,
                offsets: offsets.iter().map(OffsetCommit::wire).collect(),
                ..Default::default()
            };
            let call = self.coordinator.call(deadline, |mut service| {
                let request = request.clone();
                async move { service.commit_offsets(request).await }
            });
            let failed = match call.await {
                Ok(_) => return Ok(()),
                Err(failed) => failed,
            };
            match failed.failure.reason {
                // The heartbeat answer with the newer epoch is on its way, or was lost.
                Some(Reason::StaleMemberEpoch) => {
                    self.heartbeat.notify_one();
                    let newer = view.wait_for(|view| view.epoch != seen.epoch || view.losses != losses);
                    if timeout_at(deadline, newer).await.is_ok_and(|newer| newer.is_ok()) {
                        continue;
                    }
                    return Err(failed.into_error(&context()));
                }
                Some(
                    Reason::UnknownMember | Reason::UnknownGroup | Reason::FencedMemberEpoch | Reason::FencedInstanceId,
                ) => {
                    // The next heartbeat gets the same error and tells the consumer.
                    self.heartbeat.notify_one();
                    return Err(ClientError::MembershipLost(failed.failure.rejection(&context())));
                }
                _ => return Err(failed.into_error(&context())),
            }
        }
    }
}
