//! A handle to one group's local replica: propose, read linearizably, watch the leader, change the members.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jangada_machine::Machine;
use jangada_types::planted::{self, Bug};
use jangada_types::{GroupId, LogPosition, ReplicaId};
use openraft::error::{ClientWriteError, Fatal, InitializeError, RaftError};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use openraft::{ChangeMembers, Instant as _, ReadPolicy};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::host::{Host, HostSignals, Timings};
use crate::log_store::LogStore;
use crate::pace::{Pace, Paced};
use crate::raft_types::TypeConfig;
use crate::snapshot::chunks::ChunkStore;
use crate::state_machine::{Check, MachineType};
use crate::transport::plausible::Horizon;

pub(crate) type Raft = openraft::Raft<TypeConfig, Host>;

/// Why a command was not applied, and whether it may yet be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not appended: this replica does not lead. Send it to the leader.
    #[error("this replica does not lead the group")]
    NotLeader(Option<ReplicaId>),
    /// Appended, but leadership was lost before it was committed: it may be applied or not.
    #[error("leadership was lost before the command was committed; its outcome is unknown")]
    Discarded,
    /// No quorum within the time given: it may be applied or not.
    #[error("no quorum within the time given; the command's outcome is unknown")]
    Timeout,
    /// Not appended: the members cannot be changed in this way, or not now.
    #[error("the change of members was refused: {0}")]
    Refused(String),
    /// The replica has stopped: it may be applied or not.
    #[error("the replica has stopped: {0}")]
    Stopped(String),
    /// Not appended: it is no command of the group's machine, which is a mistake of the program.
    #[error("the group runs {machine}, and a command of {proposed} was proposed to it")]
    OtherMachine {
        /// The type of the group's machine.
        machine: &'static str,
        /// The type that the proposer named.
        proposed: &'static str,
    },
}

impl ProposeError {
    /// The command had no effect and never will.
    pub fn is_definite(&self) -> bool {
        matches!(self, Self::NotLeader(_) | Self::Refused(_) | Self::OtherMachine { .. })
    }
}

/// A command that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied<R> {
    /// Where it stands in the group's log.
    pub position: LogPosition,
    /// What the state machine replied.
    pub reply: R,
}

/// A command that was handed to Raft and is not answered yet; the reply will be an `R`.
pub struct Proposal<R> {
    completed: openraft::alias::OneshotReceiverOf<TypeConfig, ClientWriteResult<TypeConfig>>,
    began: Instant,
    timings: Arc<Timings>,
    reply: PhantomData<fn() -> R>,
}

impl<R: 'static> Proposal<R> {
    /// Waits until it is applied here. Raft alone would wait for ever on a leader that lost its quorum, so there is a
    /// time-out; after that, and only then, it can be waited for again.
    pub async fn applied(&mut self, timeout: Duration) -> Result<Applied<R>, ProposeError> {
        match tokio::time::timeout(timeout, &mut self.completed).await {
            Err(_) => Err(ProposeError::Timeout),
            Ok(Err(_)) => Err(ProposeError::Stopped("it was dropped".into())),
            Ok(Ok(Ok(response))) => {
                self.timings.commits.record(self.began.elapsed());
                Ok(Applied {
                    position: LogPosition {
                        term: response.log_id.leader_id.term,
                        index: response.log_id.index,
                    },
                    reply: response.data.into_typed(),
                })
            }
            Ok(Ok(Err(ClientWriteError::ForwardToLeader(forward)))) => Err(ProposeError::NotLeader(forward.leader_id)),
            Ok(Ok(Err(ClientWriteError::LogEntryDiscarded(_)))) => Err(ProposeError::Discarded),
            Ok(Ok(Err(error))) => Err(ProposeError::Refused(error.to_string())),
        }
    }
}

/// What a replica knows of its group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// The current term.
    pub term: u64,
    /// The leader of the term, if there is one.
    pub leader: Option<ReplicaId>,
    /// This replica leads, and has applied an entry of its own term: it knows everything that was committed before.
    pub ready: bool,
    /// This replica leads.
    pub leading: bool,
    /// The replica has stopped for good.
    pub stopped: bool,
}

/// The members of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupMembers {
    /// Replicas that vote; in a change, those of the old and the new set.
    pub voters: BTreeSet<ReplicaId>,
    /// Replicas that only follow.
    pub learners: BTreeSet<ReplicaId>,
    /// A change is under way.
    pub changing: bool,
}

/// How far a replica is, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaProgress {
    /// The replica that this is about.
    pub replica: ReplicaId,
    /// The last index that it has durably, plus one.
    pub matched_next: u64,
    /// Since it last answered; `None`: never in this term.
    pub silent_for: Option<Duration>,
}

/// Why a linearizable read was refused. Nothing was read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This replica does not lead, or could not confirm with a quorum that it still does.
    #[error("this replica could not confirm that it leads the group")]
    NotLeader(Option<ReplicaId>),
    /// No quorum answered within the time given.
    #[error("no quorum confirmed the read within the time given")]
    Timeout,
}

/// A voter that lacks the leader's last entry is asked again after this time.
const TRANSFER_AGAIN: Duration = Duration::from_millis(75);
/// A change of members that finds no quorum is given up after this time; whether it happens is unknown.
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(10);

/// Heartbeats of a group that wait for their answer at once; more are refused. Each waits until what was accepted
/// before it is synced, and its sender has given it up long before, but it put off this replica's election. So a disk
/// that stalls for 6 s still makes no follower stand for election, and one that hangs fills no memory.
pub(crate) const HEARTBEATS_MAX: usize = 32;

type ReadRound = watch::Receiver<Option<Result<(), ReadError>>>;

/// A cheap handle; clones share the replica.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    replica: ReplicaId,
    raft: Raft,
    chunks: Arc<ChunkStore>,
    signals: Arc<HostSignals>,
    status: watch::Receiver<GroupStatus>,
    /// The round of quorum confirmation that has not begun yet, for all who ask meanwhile.
    next_read: Mutex<Option<ReadRound>>,
    reading: tokio::sync::Mutex<()>,
    heartbeats: Arc<Semaphore>,
    horizon: Arc<Horizon>,
    check: Arc<dyn Check>,
    may_lead: AtomicBool,
    timings: Arc<Timings>,
    _paced: Paced,
}

impl Group {
    pub(crate) fn new(
        replica: ReplicaId,
        raft: Raft,
        chunks: Arc<ChunkStore>,
        signals: Arc<HostSignals>,
        status: watch::Receiver<GroupStatus>,
        (horizon, check): (Arc<Horizon>, Arc<dyn Check>),
        (timings, pace): (Arc<Timings>, Arc<Pace>),
    ) -> Self {
        let inner = Inner {
            replica,
            raft,
            chunks,
            signals,
            status,
            next_read: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            heartbeats: Arc::new(Semaphore::new(HEARTBEATS_MAX)),
            horizon,
            check,
            may_lead: AtomicBool::new(true),
            timings,
            _paced: Paced::begin(pace),
        };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn raft(&self) -> &Raft {
        &self.inner.raft
    }

    /// What writes for this replica.
    pub(crate) fn log(&self) -> &LogStore {
        self.inner.chunks.log()
    }

    pub(crate) fn heartbeats(&self) -> &Arc<Semaphore> {
        &self.inner.heartbeats
    }

    /// The terms that peers are believed.
    pub(crate) fn horizon(&self) -> &Arc<Horizon> {
        &self.inner.horizon
    }

    /// The chunks of its states.
    pub(crate) fn chunks(&self) -> &Arc<ChunkStore> {
        &self.inner.chunks
    }

    /// The commands and snapshots that can be applied.
    pub(crate) fn check(&self) -> &Arc<dyn Check> {
        &self.inner.check
    }

    /// Nothing of this replica is written any more.
    pub(crate) fn retire(&self) {
        self.inner.chunks.log().retire();
    }

    /// From now on this replica stands for no election. It goes on following, and leading if it does, and takes a leadership
    /// that it is offered.
    pub(crate) fn refuse_to_lead(&self) {
        if self.inner.may_lead.swap(false, Ordering::Relaxed) {
            self.inner.raft.runtime_config().elect(false);
        }
    }

    #[cfg(test)]
    pub(crate) fn stands_for_elections(&self) -> bool {
        self.inner.may_lead.load(Ordering::Relaxed)
    }

    /// Takes back [`Group::refuse_to_lead`].
    pub(crate) fn lead_again(&self) {
        if !self.inner.may_lead.swap(true, Ordering::Relaxed) {
            self.inner.raft.runtime_config().elect(true);
        }
    }

    /// For so long this replica stands for no election: others may have what it lacks. It votes, and takes a leadership that
    /// it is offered.
    pub(crate) fn yield_for(&self, time: Duration) {
        self.inner.raft.runtime_config().elect(false);
        let group = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if group.inner.may_lead.load(Ordering::Relaxed) {
                group.inner.raft.runtime_config().elect(true);
            }
        });
    }

    /// The group's id.
    pub fn id(&self) -> GroupId {
        self.inner.chunks.log().group()
    }

    /// The id of this broker's replica.
    pub fn replica(&self) -> ReplicaId {
        self.inner.replica
    }

    /// The status as it is now.
    pub fn status(&self) -> GroupStatus {
        *self.inner.status.borrow()
    }

    /// The status as it changes.
    pub fn watch(&self) -> watch::Receiver<GroupStatus> {
        self.inner.status.clone()
    }

    /// Index of the last applied entry plus one.
    pub fn applied_next(&self) -> u64 {
        self.inner
            .signals
            .applied_next
            .load(std::sync::atomic::Ordering::Acquire)
    }

    /// Hands a command to Raft. Commands of one caller are appended in the order of its calls. `M` must be
    /// the group's machine; a command of another one is refused.
    pub async fn submit<M: Machine>(&self, command: M::Command) -> Result<Proposal<M::Reply>, ProposeError> {
        let (machine, proposed) = (self.inner.check.machine(), MachineType::of::<M>());
        if machine != proposed {
            return Err(ProposeError::OtherMachine {
                machine: machine.name,
                proposed: proposed.name,
            });
        }
        let (responder, completed) = ProgressResponder::complete_only();
        let began = Instant::now();
        match self
            .inner
            .raft
            .client_write_ff(M::encode(command), Some(responder))
            .await
        {
            Ok(()) => Ok(Proposal {
                completed,
                began,
                timings: self.inner.timings.clone(),
                reply: PhantomData,
            }),
            Err(fatal) => Err(stopped(fatal)),
        }
    }

    /// [`Group::submit`], then [`Proposal::applied`].
    pub async fn propose<M: Machine>(
        &self,
        command: M::Command,
        timeout: Duration,
    ) -> Result<Applied<M::Reply>, ProposeError> {
        self.submit::<M>(command).await?.applied(timeout).await
    }

    /// Returns when this replica has applied everything that was committed, anywhere, before the call (ReadIndex,
    /// Raft thesis section 6.4). All callers that wait at the same time share one round of confirmation; the round's time-out
    /// is that of its first caller.
    pub async fn confirm_read(&self, timeout: Duration) -> Result<(), ReadError> {
        if planted::is(Bug::ReadWithoutQuorum) && self.status().leading {
            return Ok(());
        }
        let mut round = {
            let mut next = self.inner.next_read.lock();
            match &*next {
                Some(round) => round.clone(),
                None => {
                    let (done, round) = watch::channel(None);
                    *next = Some(round.clone());
                    let group = self.clone();
                    tokio::spawn(async move {
                        let _one_at_a_time = group.inner.reading.lock().await;
                        // Whoever asks from here on belongs to the next round.
                        group.inner.next_read.lock().take();
                        let result = group.confirm_once(timeout).await;
                        done.send_replace(Some(result));
                    });
                    round
                }
            }
        };
        match tokio::time::timeout(timeout, round.wait_for(Option::is_some)).await {
            Ok(Ok(result)) => result.clone().unwrap_or(Err(ReadError::Timeout)),
            Ok(Err(_)) | Err(_) => Err(ReadError::Timeout),
        }
    }

    async fn confirm_once(&self, timeout: Duration) -> Result<(), ReadError> {
        match tokio::time::timeout(timeout, self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex)).await {
            Err(_) => Err(ReadError::Timeout),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ReadError::NotLeader(self.status().leader)),
        }
    }

    /// Forms the group with these voters. Any of them may call it, also several at once: the same set gives the same
    /// first entry. A group that has a log already stays as it is.
    pub async fn initialize(&self, voters: &BTreeSet<ReplicaId>) -> Result<(), ProposeError> {
        let members: BTreeMap<ReplicaId, ()> = voters.iter().map(|id| (*id, ())).collect();
        match self.inner.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(error)) => Err(ProposeError::Refused(error.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(stopped(fatal)),
        }
    }

    /// The group has a log: it was formed, here or elsewhere.
    pub async fn is_initialized(&self) -> bool {
        self.inner.raft.is_initialized().await.unwrap_or(false)
    }

    /// The members, as this replica knows them.
    pub fn members(&self) -> GroupMembers {
        let metrics = openraft::async_runtime::watch::WatchReceiver::borrow_watched(&self.inner.raft.metrics()).clone();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<ReplicaId> = membership.voter_ids().collect();
        let learners = membership.learner_ids().collect();
        GroupMembers {
            voters,
            learners,
            changing: membership.get_joint_config().len() > 1,
        }
    }

    /// Adds a replica that follows without a vote. Returns when that is committed, not when it has caught up.
    pub async fn add_learner(&self, replica: ReplicaId) -> Result<(), ProposeError> {
        self.member_change(self.inner.raft.add_learner(replica, (), false))
            .await
    }

    /// Makes these the voters; learners that are not among them stay learners, voters that are not leave the group.
    /// Returns when both steps of the joint change are committed.
    pub async fn set_voters(&self, voters: BTreeSet<ReplicaId>) -> Result<(), ProposeError> {
        self.member_change(
            self.inner
                .raft
                .change_membership(ChangeMembers::ReplaceAllVoters(voters), false),
        )
        .await
    }

    /// Lets learners go.
    pub async fn remove_learners(&self, learners: BTreeSet<ReplicaId>) -> Result<(), ProposeError> {
        self.member_change(
            self.inner
                .raft
                .change_membership(ChangeMembers::RemoveNodes(learners), false),
        )
        .await
    }

    async fn member_change<T>(
        &self,
        change: impl Future<Output = Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>>,
    ) -> Result<(), ProposeError> {
        match tokio::time::timeout(MEMBERS_TIMEOUT, change).await {
            Ok(changed) => changed.map(drop).map_err(write_error),
            Err(_) => Err(ProposeError::Timeout),
        }
    }

    /// Hands leadership to another voter; returns when this replica knows of a new leader, which may be yet another
    /// one.
    ///
    /// From the first try on this replica takes no commands. The voter declines as long as it lacks the last entry,
    /// so it is asked again; when it never takes over, the group elects a leader after the usual time.
    pub async fn transfer_leader(&self, to: ReplicaId, timeout: Duration) -> Result<GroupStatus, ProposeError> {
        let mut status = self.watch();
        let gone =
            |status: &GroupStatus| status.stopped || status.leader.is_some_and(|leader| leader != self.replica());
        let asking = async {
            loop {
                self.inner.raft.trigger().transfer_leader(to).await.map_err(stopped)?;
                if let Ok(changed) = tokio::time::timeout(TRANSFER_AGAIN, status.wait_for(gone)).await {
                    return changed
                        .map(|status| *status)
                        .map_err(|_| ProposeError::Stopped("it was closed".into()));
                }
            }
        };
        tokio::time::timeout(timeout, asking)
            .await
            .unwrap_or(Err(ProposeError::Timeout))
    }

    /// Index that is known to be committed, plus one.
    pub fn committed_next(&self) -> u64 {
        let metrics = self.inner.raft.metrics();
        let metrics = openraft::async_runtime::watch::WatchReceiver::borrow_watched(&metrics);
        metrics.cluster_committed.map_or(0, |id| id.index + 1)
    }

    /// How long it is that a majority of the voters answered this leader; `MAX`: never in this term. `None`: this replica
    /// does not lead.
    pub fn quorum_silent_for(&self) -> Option<Duration> {
        let metrics = self.inner.raft.metrics();
        let metrics = openraft::async_runtime::watch::WatchReceiver::borrow_watched(&metrics);
        let heartbeat = metrics.heartbeat.as_ref()?;
        let silent_for = |replica: &ReplicaId| match *replica == self.inner.replica {
            true => Duration::ZERO,
            false => {
                let heard = heartbeat.get(replica).and_then(|at| at.as_ref());
                heard.map_or(Duration::MAX, |at| at.elapsed())
            }
        };
        let configs = metrics.membership_config.membership().get_joint_config().iter();
        let majorities = configs.map(|voters| {
            let mut silent: Vec<Duration> = voters.iter().map(silent_for).collect();
            silent.sort_unstable();
            silent.get(silent.len() / 2).copied().unwrap_or_default()
        });
        majorities.max()
    }

    /// How far each replica is; only the leader knows.
    pub fn progress(&self) -> Option<Vec<ReplicaProgress>> {
        let metrics = self.inner.raft.metrics();
        let metrics = openraft::async_runtime::watch::WatchReceiver::borrow_watched(&metrics);
        let replication = metrics.replication.as_ref()?;
        let heartbeat = metrics.heartbeat.as_ref();
        let of = |(replica, matched): (&ReplicaId, &Option<crate::raft_types::LogId>)| ReplicaProgress {
            replica: *replica,
            matched_next: matched.map_or(0, |id| id.index + 1),
            silent_for: if *replica == self.inner.replica {
                Some(Duration::ZERO)
            } else {
                heartbeat
                    .and_then(|h| h.get(replica))
                    .and_then(|at| at.as_ref())
                    .map(|at| at.elapsed())
            },
        };
        Some(replication.iter().map(of).collect())
    }
}

fn stopped(fatal: Fatal<TypeConfig>) -> ProposeError {
    ProposeError::Stopped(fatal.to_string())
}

fn write_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
    match error {
        RaftError::Fatal(fatal) => stopped(fatal),
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => ProposeError::NotLeader(forward.leader_id),
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => ProposeError::Discarded,
        RaftError::APIError(error) => ProposeError::Refused(error.to_string()),
    }
}
