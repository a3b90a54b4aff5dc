//! Commits of a member: one at a time, so that an older offset never overtakes a newer one.
//!
//! The ledger says how far each partition is finished. The consumer moves that forward as it hands out; a task commits it by the
//! interval, whatever the consumer's caller does meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jangada_proto::v1;
use jangada_types::Reason;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout_at};

use super::coordinator::Coordinator;
use super::listener::{OffsetCommit, TopicPartition};
use super::membership::View;
use crate::error::ClientError;
use crate::wire_error::Failure;

/// How many offsets a request may have.
const OFFSETS_MAX: usize = 10_000;

/// No record is finished yet.
const NONE: i64 = -1;

/// How far a partition is finished: the offset after the last record. Shared with the consumer, which moves it.
#[derive(Clone, Debug)]
pub(crate) struct Finished(Arc<AtomicI64>);

impl Finished {
    fn new() -> Self {
        Self(Arc::new(AtomicI64::new(NONE)))
    }

    pub fn set(&self, offset: i64) {
        self.0.store(offset, Ordering::Relaxed);
    }

    pub fn get(&self) -> Option<i64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|offset| *offset != NONE)
    }

    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

struct Entry {
    finished: Finished,
    /// By the last answer.
    committed: Option<i64>,
}

/// How far the partitions are.
#[derive(Default)]
struct Ledger {
    /// The membership that they were owned under, as [`View::losses`] counts. Under another one nothing of them is committed: the
    /// partition may have come back from a member that is further.
    losses: u64,
    entries: BTreeMap<TopicPartition, Entry>,
}

pub(crate) struct Committer {
    coordinator: Arc<Coordinator>,
    member_id: Arc<str>,
    view: watch::Receiver<View>,
    /// Asks for a heartbeat at once.
    heartbeat: Arc<Notify>,
    /// Who commits holds it.
    lane: tokio::sync::Mutex<()>,
    ledger: Mutex<Ledger>,
}

impl Committer {
    pub fn new(
        coordinator: Arc<Coordinator>,
        member_id: Arc<str>,
        view: watch::Receiver<View>,
        heartbeat: Arc<Notify>,
    ) -> Self {
        Self {
            coordinator,
            member_id,
            view,
            heartbeat,
            lane: tokio::sync::Mutex::default(),
            ledger: Mutex::default(),
        }
    }

    pub fn group(&self) -> &str {
        self.coordinator.group()
    }

    pub fn member_id(&self) -> &str {
        &self.member_id
    }

    pub fn epoch(&self) -> i64 {
        self.view.borrow().epoch
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The member got a partition.
    pub fn add(&self, partition: TopicPartition) -> Finished {
        let finished = Finished::new();
        let entry = Entry {
            finished: finished.clone(),
            committed: None,
        };
        self.ledger().entries.insert(partition, entry);
        finished
    }

    /// The membership is lost; the next one begins with nothing.
    pub fn begin(&self, losses: u64) {
        *self.ledger() = Ledger {
            losses,
            entries: BTreeMap::new(),
        };
    }

    /// The partitions are given up, after what may still be under way for them.
    pub async fn forget(&self, partitions: &BTreeSet<TopicPartition>) {
        let _alone = self.lane.lock().await;
        self.ledger()
            .entries
            .retain(|partition, _| !partitions.contains(partition));
    }

    /// The partition is where the group has it.
    pub fn is_committed(&self, partition: &TopicPartition, offset: i64) {
        if let Some(entry) = self.ledger().entries.get_mut(partition) {
            entry.committed = Some(offset);
        }
    }

    /// Commits every interval what is finished, for ever.
    pub async fn run(self: Arc<Self>, interval: Duration) {
        loop {
            sleep(interval).await;
            if let Err(error) = self.commit_finished(None).await {
                tracing::warn!(group = self.group(), member = self.member_id(), %error, "offsets were not committed");
            }
        }
    }

    /// Commits what is finished and not committed yet, of all partitions or of these.
    pub async fn commit_finished(&self, only: Option<&BTreeSet<TopicPartition>>) -> Result<(), ClientError> {
        let deadline = self.coordinator.deadline();
        let _alone = self.lane.lock().await;
        let (losses, due) = self.due(only);
        self.send(losses, &due, deadline).await
    }

    /// What is finished and not committed, and under which membership.
    fn due(&self, only: Option<&BTreeSet<TopicPartition>>) -> (u64, Vec<OffsetCommit>) {
        let ledger = self.ledger();
        let wanted = ledger
            .entries
            .iter()
            .filter(|(partition, _)| only.is_none_or(|only| only.contains(partition)));
        let due = wanted.filter_map(|(partition, entry)| {
            let offset = entry.finished.get()?;
            (entry.committed != Some(offset)).then(|| OffsetCommit::new(partition.clone(), offset))
        });
        (ledger.losses, due.collect())
    }

    /// Commits these.
    pub async fn commit_offsets(&self, offsets: &[OffsetCommit]) -> Result<(), ClientError> {
        if let Some(bad) = offsets.iter().find(|commit| commit.offset < 0) {
            return Err(ClientError::Config(format!(
                "offset {} of {}: offsets begin at 0",
                bad.offset, bad.partition
            )));
        }
        let deadline = self.coordinator.deadline();
        let losses = self.ledger().losses;
        let _alone = self.lane.lock().await;
        self.send(losses, offsets, deadline).await
    }

    async fn send(&self, losses: u64, offsets: &[OffsetCommit], deadline: Instant) -> Result<(), ClientError> {
        for offsets in offsets.chunks(OFFSETS_MAX) {
            self.send_one(losses, offsets, deadline).await?;
            let mut ledger = self.ledger();
            for commit in offsets {
                if let Some(entry) = ledger.entries.get_mut(&commit.partition) {
                    entry.committed = Some(commit.offset);
                }
            }
        }
        Ok(())
    }

    /// One request, until it succeeds, is refused, or the time is up.
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
                // A heartbeat's answer with the newer epoch is on its way, or was lost.
                Some(Reason::StaleMemberEpoch) => {
                    self.heartbeat.notify_one();
                    let newer = view.wait_for(|view| view.epoch != seen.epoch || view.losses != losses);
                    if timeout_at(deadline, newer).await.is_ok_and(|newer| newer.is_ok()) {
                        continue;
                    }
                    return Err(failed.into_error(&context()));
                }
                Some(
                    Reason::UnknownMember
                    | Reason::UnknownGroup
                    | Reason::FencedMemberEpoch
                    | Reason::FencedInstanceId
                    | Reason::PartitionNotOwned,
                ) => {
                    // The heartbeat hears the same, and then the consumer.
                    self.heartbeat.notify_one();
                    return Err(ClientError::MembershipLost(failed.failure.rejection(&context())));
                }
                _ => return Err(failed.into_error(&context())),
            }
        }
    }
}
