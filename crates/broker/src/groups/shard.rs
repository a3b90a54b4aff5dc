//! One shard's replica on this broker: decides what members and tools ask, and reads.
//!
//! Only the leader answers, and only once it is ready: it has applied an entry of its own term, so it knows everything
//! that was committed before.

use std::sync::Arc;
use std::time::Duration;

use jangada_coordinator::{Answer, Command, Image, Leader, Now, Reply, Step, TopicPartition};
use jangada_replication::{self as replication, Group, GroupStatus, ProposeError, ReadError};
use jangada_types::{Offset, Reason, Rejection};
use parking_lot::Mutex;

use super::machine::{Led, State};
use super::shards::Shared;
use crate::admission::Holding;
use crate::error::RequestError;
use crate::partition::PartitionName;
use crate::proposed::Proposed;
use crate::quorum::Quorum;

/// How long one command may wait for its quorum. Then its outcome is unknown.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a linearizable read waits for its quorum.
const READ_TIMEOUT: Duration = Duration::from_secs(3);
/// After this time a client should look for the leader again, or ask a group that has just changed.
const LEADER_RETRY: Duration = Duration::from_millis(50);
/// After this time the member that has an instance id may have left.
const INSTANCE_RETRY: Duration = Duration::from_secs(1);
/// The head of each command: its version.
const HEAD: [u8; 1] = [1];

/// A group's name, and its committed offsets.
pub(super) type GroupOffsets = (Arc<str>, Vec<(TopicPartition, Offset)>);

/// See the module text.
pub(crate) struct Shard {
    pub name: PartitionName,
    pub group: Group,
    /// Whether a quorum answers this leader.
    pub quorum: Quorum,
    state: Arc<Mutex<State>>,
    shared: Arc<Shared>,
}

impl Shard {
    pub fn new(name: PartitionName, group: Group, state: Arc<Mutex<State>>, shared: Arc<Shared>) -> Self {
        Self {
            name,
            group,
            quorum: Quorum::new(shared.quorum_within),
            state,
            shared,
        }
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
            let proposed = Proposed::submit(&self.group, encoded(&command), room.clone()).await;
            let applied = match proposed {
                Ok(proposed) => proposed.applied(PROPOSE_TIMEOUT).await,
                Err(error) => Err(error),
            };
            let applied = applied.map_err(|error| self.propose_error(&error))?;
            let reply = Reply::decode(&applied.reply)
                .map_err(|error| RequestError::new(Reason::Internal, error.to_string()))?;
            step = self
                .lead(|leader, image, now| leader.resume(image, pending, reply, now))
                .map_err(RequestError::unknown)?;
        }
    }

    /// Reads what is at least as new as everything that was answered before the call. Calls that wait at the same time
    /// share one round.
    pub async fn read<T>(&self, read: impl FnOnce(&Image) -> T) -> Result<T, RequestError> {
        if !self.group.status().ready {
            return Err(self.not_leading());
        }
        let confirmed = tokio::select! {
            confirmed = self.group.confirm_read(READ_TIMEOUT) => confirmed,
            () = self.quorum.lost() => Err(ReadError::NotLeader(None)),
        };
        match confirmed {
            Ok(()) => Ok(read(&self.state.lock().image)),
            Err(ReadError::NotLeader(_)) => Err(self.not_leading()),
            Err(ReadError::Timeout) => Err(RequestError::new(
                Reason::QuorumTimeout,
                format!("shard {}: no quorum confirmed the read", self.name),
            )
            .retry_after(LEADER_RETRY)),
        }
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
        if !self.group.status().ready || self.quorum.is_lost() {
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

    /// Whether a quorum answers. True: that has changed.
    pub(super) fn look(&self) -> bool {
        let looked = self.quorum.look(&self.group);
        if looked == Some(true) {
            tracing::info!(shard = %self.name, "no quorum answers: members are sent away until one does");
        }
        looked.is_some()
    }

    /// What is due now. Nobody waits for it; what gets lost comes again.
    pub(super) fn tick(&self) {
        let status = self.group.status();
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
        let group = self.group.clone();
        tokio::spawn(async move {
            for command in commands {
                if let Err(error) = group.submit(encoded(&command)).await {
                    tracing::debug!(group = %group.id(), %error, "what was due could not be proposed");
                    return;
                }
            }
        });
    }

    /// Whether this replica leads as far as it knows.
    pub(super) fn is_led(&self) -> bool {
        self.group.status().leading
    }

    fn lead<T>(&self, decide: impl FnOnce(&mut Leader, &Image, Now) -> T) -> Result<T, RequestError> {
        let status = self.group.status();
        let mut state = self.state.lock();
        let now = self.shared.clock.now();
        self.bring_in_line(&mut state, status, now);
        let State { image, led, .. } = &mut *state;
        let Some(led) = led else {
            drop(state);
            return Err(self.not_leading());
        };
        let decided = decide(&mut led.leader, image, now);
        self.shared.alarm.set(led.leader.next_deadline());
        Ok(decided)
    }

    /// Makes the leader's side when this replica has become ready, drops it when it no longer leads, and gives it the
    /// newest topics.
    fn bring_in_line(&self, state: &mut State, status: GroupStatus, now: Now) {
        // A leader that is cut off would let members go on whose partitions the next leader gives to others.
        if !status.ready || self.quorum.is_lost() {
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

    /// Why this replica does not answer now.
    pub fn not_leading(&self) -> RequestError {
        let status = self.group.status();
        let name = &self.name;
        let error = if status.leading && (status.ready || self.quorum.is_lost()) {
            let message = format!("shard {name}: no quorum answers this broker; another one may lead it by now");
            RequestError::new(Reason::LeaderNotAvailable, message)
        } else if status.leading {
            let message = format!("shard {name}: this broker leads it and is not ready yet: try again after a moment");
            RequestError::new(Reason::NotReady, message)
        } else {
            match status.leader.filter(|leader| *leader != self.group.replica()) {
                Some(leader) => RequestError::new(
                    Reason::NotLeader,
                    format!("shard {name}: broker {} leads it", leader.broker),
                )
                .with("leader_id", leader.broker)
                .with("leader_epoch", status.term),
                None => RequestError::new(
                    Reason::LeaderNotAvailable,
                    format!("shard {name}: no leader is known; an election may be under way"),
                ),
            }
        };
        error.retry_after(LEADER_RETRY)
    }

    fn propose_error(&self, error: &ProposeError) -> RequestError {
        match error {
            ProposeError::NotLeader(_) => self.not_leading(),
            ProposeError::Timeout => RequestError::new(
                Reason::QuorumTimeout,
                format!(
                    "shard {}: no quorum answered within {PROPOSE_TIMEOUT:?}; the outcome is unknown, send it again",
                    self.name
                ),
            )
            .unknown(),
            ProposeError::Discarded | ProposeError::Refused(_) | ProposeError::Stopped(_) => {
                RequestError::new(Reason::LeaderNotAvailable, format!("shard {}: {error}", self.name))
                    .unknown()
                    .retry_after(LEADER_RETRY)
            }
        }
    }
}

/// With the time after which a refusal that passes by itself may be gone.
fn refused(rejection: Rejection) -> RequestError {
    let error = RequestError::from(rejection);
    match error.reason {
        Reason::GroupChanged | Reason::NotReady => error.retry_after(LEADER_RETRY),
        Reason::UnreleasedInstanceId => error.retry_after(INSTANCE_RETRY),
        _ => error,
    }
}

fn encoded(command: &Command) -> replication::Command {
    replication::Command::new(&HEAD, command.encode())
}
