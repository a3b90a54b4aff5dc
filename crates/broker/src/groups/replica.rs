//! One shard's replica on this broker, as the front that the services use: decides what members and tools ask, and reads.

use std::sync::Arc;
use std::time::Duration;

use jangada_coordinator::{Answer, Image, Leader, Now, Step, TopicPartition};
use jangada_replication::GroupStatus;
use jangada_types::{Offset, Reason, Rejection};
use parking_lot::Mutex;

use super::COORDINATOR_REPLICAS;
use super::machine::{Led, State};
use super::shared::Shared;
use crate::admission::Holding;
use crate::error::RequestError;
use crate::proposed::Proposed;
use crate::replica::{Front, Hosted, Kind};

/// How long one command may wait for its quorum. Then its outcome is unknown.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a linearizable read waits for its quorum.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// After this time a client should ask a group again that has just changed.
const GROUP_RETRY: Duration = Duration::from_millis(50);
/// After this time the member that has an instance id may have left.
const INSTANCE_RETRY: Duration = Duration::from_secs(1);

/// Shards of the coordinator, among the kinds of hosted groups.
pub(crate) const KIND: Kind = Kind {
    noun: "shard",
    not_ready: Reason::NotReady,
    replicas_min: COORDINATOR_REPLICAS,
    without_quorum: "members are sent away",
    is_vital: false,
};

/// A group's name, and its committed offsets.
pub(super) type GroupOffsets = (Arc<str>, Vec<(TopicPartition, Offset)>);

/// See the module text.
pub(crate) struct CoordinatorReplica {
    pub hosted: Arc<Hosted>,
    state: Arc<Mutex<State>>,
    shared: Arc<Shared>,
}

impl CoordinatorReplica {
    pub fn new(hosted: Arc<Hosted>, state: Arc<Mutex<State>>, shared: Arc<Shared>) -> Self {
        Self { hosted, state, shared }
    }

    /// Decides a request, and proposes what it takes, until there is an answer. Many may be under way at once, as far as
    /// there is room.
    pub async fn decide(
        &self,
        room: Option<Holding>,
        first: impl FnOnce(&mut Leader, &Image, Now) -> Step,
    ) -> Result<Answer, RequestError> {
        let room = room.map(Arc::new);
        let mut step = self.lead(first)?;
        loop {
            let (command, pending) = match step {
                Step::Done(result) => return result.map_err(refused),
                Step::Propose { command, pending } => (command, pending),
            };
            let proposed = Proposed::submit::<Image>(&self.hosted.group, command, room.clone()).await;
            let applied = match proposed {
                Ok(proposed) => proposed.applied(PROPOSE_TIMEOUT).await,
                Err(error) => Err(error),
            };
            let applied = applied.map_err(|error| self.hosted.propose_error(&error))?;
            step = self
                .lead(|leader, image, now| leader.resume(image, pending, applied.reply, now))
                .map_err(RequestError::unknown)?;
        }
    }

    /// Reads what is at least as new as everything that was answered before the call. Calls that wait at the same time
    /// share one round.
    pub async fn read<T>(&self, read: impl FnOnce(&Image) -> T) -> Result<T, RequestError> {
        self.hosted.leader_epoch()?;
        let confirmed = self.hosted.confirm_lead(READ_TIMEOUT).await;
        confirmed.map_err(|error| self.hosted.read_error(&error))?;
        Ok(read(&self.state.lock().image))
    }

    /// Groups and members.
    pub fn count(&self) -> (u64, u64) {
        let state = self.state.lock();
        let members = state.image.groups().map(|(_, group)| group.members.len() as u64);
        (state.image.groups().len() as u64, members.sum())
    }

    /// The committed offsets of all groups, if this replica leads and a quorum answers it. Walks all of them, not under the
    /// lock: a command that comes meanwhile copies the group that it touches.
    pub fn committed(&self) -> Vec<GroupOffsets> {
        if !self.hosted.is_ready() || self.hosted.check_quorum.is_lost() {
            return Vec::new();
        }
        let image = self.state.lock().image.clone();
        let offsets = |group: &jangada_coordinator::Group| {
            let offsets = group.offsets.iter();
            offsets
                .map(|(partition, committed)| (*partition, committed.offset))
                .collect()
        };
        image
            .groups()
            .map(|(name, group)| (name.clone(), offsets(group)))
            .collect()
    }

    /// Proposes what is due now. Nobody waits for it; what gets lost is due again at the next tick.
    pub(super) fn tick(&self) {
        let status = self.hosted.group.status();
        let (commands, events) = {
            let mut state = self.state.lock();
            let now = self.shared.clock.now();
            self.bring_in_line(&mut state, status, now);
            let State { image, led, .. } = &mut *state;
            let Some(led) = led else { return };
            let commands = led.leader.tick(image, now);
            // Not `set`: that would wake the task that is awake, again and again.
            self.shared.alarm.note(led.leader.next_deadline());
            (commands, led.leader.take_events())
        };
        events.iter().for_each(|event| self.shared.tell(event));
        if commands.is_empty() {
            return;
        }
        let group = self.hosted.group.clone();
        tokio::spawn(async move {
            for command in commands {
                if let Err(error) = group.submit::<Image>(command).await {
                    tracing::debug!(group = %group.id(), %error, "what was due could not be proposed");
                    return;
                }
            }
        });
    }

    fn lead<T>(&self, decide: impl FnOnce(&mut Leader, &Image, Now) -> T) -> Result<T, RequestError> {
        let status = self.hosted.group.status();
        let mut state = self.state.lock();
        let now = self.shared.clock.now();
        self.bring_in_line(&mut state, status, now);
        let State { image, led, .. } = &mut *state;
        let Some(led) = led else {
            drop(state);
            return Err(self.hosted.not_leader());
        };
        let decided = decide(&mut led.leader, image, now);
        self.shared.alarm.set(led.leader.next_deadline());
        Ok(decided)
    }

    /// Makes the leader's side when this replica has become ready, drops it when it no longer leads, and gives it the
    /// newest topics.
    fn bring_in_line(&self, state: &mut State, status: GroupStatus, now: Now) {
        // A leader that is cut off would let members go on whose partitions the next leader gives to others.
        if !status.ready || self.hosted.check_quorum.is_lost() {
            state.led = None;
            return;
        }
        let topics = self.shared.topics();
        let State { image, led, .. } = state;
        match led {
            Some(led) if led.term == status.term => {
                if !Arc::ptr_eq(&led.topics, &topics) {
                    led.leader.topics_changed(image, topics.clone(), now);
                    led.topics = topics;
                }
            }
            _ => {
                *led = Some(Led {
                    term: status.term,
                    leader: Leader::new(self.shared.config.clone(), image, topics.clone(), now),
                    topics,
                });
            }
        }
    }
}

impl Front for CoordinatorReplica {}

/// With the time after which a refusal that passes by itself may be gone.
fn refused(rejection: Rejection) -> RequestError {
    let error = RequestError::from(rejection);
    match error.reason {
        Reason::GroupChanged | Reason::NotReady => error.retry_after(GROUP_RETRY),
        Reason::UnreleasedInstanceId => error.retry_after(INSTANCE_RETRY),
        _ => error,
    }
}
