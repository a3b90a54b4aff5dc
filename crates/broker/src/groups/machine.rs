//! A shard's state machine: folds commands into the groups, and tells the leader's side of it what was applied.

use std::sync::Arc;

use bytes::Bytes;
use jangada_coordinator::{Command, Event, Image, Leader, Reply, TopicTable};
use jangada_replication::{self as replication, Check, Effects, RestoreError, Retention, StateMachine};
use jangada_storage::LogPosition;
use jangada_types::GroupId;
use parking_lot::Mutex;

use super::shared::Shared;

/// What one lock guards: the replicated state and, while this replica leads, the leader's side.
#[derive(Default)]
pub(crate) struct State {
    pub image: Image,
    pub led: Option<Led>,
}

/// The leader's side, for one term.
pub(crate) struct Led {
    pub term: u64,
    pub leader: Leader,
    /// The topics that it was given last.
    pub topics: Arc<TopicTable>,
}

/// See the module text.
pub(crate) struct CoordinatorMachine {
    group: GroupId,
    state: Arc<Mutex<State>>,
    shared: Arc<Shared>,
}

impl CoordinatorMachine {
    /// The machine, and the state that it folds into.
    pub fn new(group: GroupId, shared: Arc<Shared>) -> (Self, Arc<Mutex<State>>) {
        let state = Arc::new(Mutex::new(State::default()));
        let machine = Self {
            group,
            state: state.clone(),
            shared,
        };
        (machine, state)
    }
}

impl StateMachine for CoordinatorMachine {
    fn apply(&mut self, at: LogPosition, command: &replication::Command, _effects: &mut Effects) -> Bytes {
        let command = match Command::decode(command.body()) {
            Ok(command) => command,
            // Going on would let this replica part from the others; the shard stops here instead.
            Err(error) => panic!(
                "group {}: coordinator command at index {}: {error}: upgrade this broker",
                self.group, at.index
            ),
        };
        let now = self.shared.clock.now();
        let mut state = self.state.lock();
        let State { image, led, .. } = &mut *state;
        let events = led.as_ref().map(|_| Event::of(image, &command));
        // The log begins at index 0, versions at 1.
        let reply = image.apply(at.index + 1, &command);
        if let Some(led) = led {
            led.leader.applied(image, &command, &reply, now);
            self.shared.alarm.set(led.leader.next_deadline());
        }
        drop(state);
        // Only where it is led, or each replica would tell it.
        if let Some(events) = events.filter(|_| matches!(reply, Reply::Applied { .. })) {
            events.iter().for_each(|event| self.shared.tell(event));
            if matches!(command, Command::CommitOffsets { .. }) {
                self.shared.metrics.commits.inc();
            }
        }
        reply.encode()
    }

    fn publish(&mut self) {}

    fn snapshot(&self) -> Bytes {
        // The clone shares the groups, and no command is applied until it is gone: nothing is copied.
        let image = self.state.lock().image.clone();
        image.snapshot()
    }

    fn restore(&mut self, snapshot: &Bytes) -> Result<(), RestoreError> {
        let image = Image::restore(snapshot).map_err(|error| RestoreError(error.to_string()))?;
        *self.state.lock() = State {
            image,
            ..State::default()
        };
        Ok(())
    }

    fn check(&self) -> Arc<dyn Check> {
        Arc::new(CoordinatorCheck)
    }

    fn retention(&self) -> Retention {
        Retention::Compacted
    }
}

/// Judges commands and images of peers.
struct CoordinatorCheck;

impl Check for CoordinatorCheck {
    fn command(&self, command: &replication::Command) -> Result<(), String> {
        Command::decode(command.body())
            .map(drop)
            .map_err(|error| error.to_string())
    }

    fn snapshot(&self, snapshot: &Bytes) -> Result<(), RestoreError> {
        Image::restore(snapshot)
            .map(drop)
            .map_err(|error| RestoreError(error.to_string()))
    }
}
