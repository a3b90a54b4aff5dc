//! What holds a shard's state: folds commands into the groups, and tells the leader's side of it what was applied.

use std::sync::Arc;

use bytes::Bytes;
use jangada_coordinator::{Command, Event, Image, Leader, Reply, TopicTable};
use jangada_machine::{Effects, Machine, Retention};
use jangada_replication::Publisher;
use jangada_types::LogPosition;
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
pub(crate) struct CoordinatorPublisher {
    state: Arc<Mutex<State>>,
    shared: Arc<Shared>,
}

impl CoordinatorPublisher {
    /// The publisher, and the state that it keeps.
    pub fn new(shared: Arc<Shared>) -> (Self, Arc<Mutex<State>>) {
        let state = Arc::new(Mutex::new(State::default()));
        let publisher = Self {
            state: state.clone(),
            shared,
        };
        (publisher, state)
    }
}

impl Publisher for CoordinatorPublisher {
    type Machine = Image;

    fn apply(&mut self, at: LogPosition, command: Command, effects: &mut Effects) -> Reply {
        let now = self.shared.clock.now();
        let mut state = self.state.lock();
        let State { image, led, .. } = &mut *state;
        let events = led.as_ref().map(|_| Event::of(image, &command));
        let reply = Machine::apply(image, at, &command, effects);
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
        reply
    }

    fn snapshot(&self) -> Bytes {
        // The clone shares the groups, and no command is applied until it is gone: nothing is copied.
        let image = self.state.lock().image.clone();
        image.snapshot()
    }

    fn replace(&mut self, image: Image) {
        *self.state.lock() = State {
            image,
            ..State::default()
        };
    }

    fn retention(&self) -> Retention {
        Retention::Compacted
    }
}
