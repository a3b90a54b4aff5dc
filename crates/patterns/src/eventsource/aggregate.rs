//! What an aggregate is, and what becomes of its stream of events. Pure: no clock, no network.

use std::collections::VecDeque;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Something with a state of its own that only its own events change: an account, an order, a saga. Both functions are pure, so the same
/// events make the same state on every machine and at every rebuild.
///
/// The serialized state goes into snapshots, the events into the log for as long as the topic keeps them: a new version of either must read
/// what an older one has written (`#[serde(default)]` for new fields).
pub trait Aggregate: Default + Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What one asks of it.
    type Command: Send + Sync + 'static;
    /// What has happened to it.
    type Event: Clone + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// Why it refuses a command. A refusal changes nothing and is not kept: the same command that comes again is judged again. Who wants
    /// it kept makes it an event.
    type Refusal: std::error::Error + Send + Sync + 'static;

    /// Judges a command by the state, and says what happens: no events when there is nothing to do.
    ///
    /// # Errors
    /// The refusal, in the words of the aggregate.
    fn handle(&self, command: &Self::Command) -> Result<Vec<Self::Event>, Self::Refusal>;

    /// Makes what has happened part of the state. It cannot fail: what is in the log has happened.
    fn apply(&mut self, event: &Self::Event);
}

/// The events of one command, which are in the log together: one record, whose key is the key of the stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit<E> {
    /// The id of the command, by which it is known when it comes again. Empty: it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// What happened, in this order.
    pub events: Vec<E>,
}

/// What is to be done about a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<E> {
    /// The stream has a commit with the id of the command: it is done.
    Known,
    /// There is nothing to do.
    Nothing,
    /// The commit is to be appended, if the last record of the key is still at this offset. `None`: if the key has no record yet.
    Append(Option<i64>, Commit<E>),
}

/// A stream of one key as it was read: the state that its events have made, and where it ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stream<A> {
    /// The state after the last commit.
    pub state: A,
    /// The offset of the last commit in its partition. `None`: the stream has none.
    pub last: Option<i64>,
    /// Number of commits so far.
    pub version: u64,
    /// The ids of the newest commits that have one, oldest first.
    remembered: VecDeque<String>,
}

impl<A: Default> Default for Stream<A> {
    fn default() -> Self {
        Self {
            state: A::default(),
            last: None,
            version: 0,
            remembered: VecDeque::new(),
        }
    }
}

impl<A: Aggregate> Stream<A> {
    /// Decides on a command with this id by what was read so far. That may be old: the offset in [`Decision::Append`] is what keeps a
    /// decision on an old state out of the log.
    ///
    /// # Errors
    /// The refusal of the aggregate.
    pub fn decide(&self, id: &str, command: &A::Command) -> Result<Decision<A::Event>, A::Refusal> {
        if self.knows(id) {
            return Ok(Decision::Known);
        }
        let events = self.state.handle(command)?;
        if events.is_empty() {
            return Ok(Decision::Nothing);
        }
        let id = id.to_owned();
        Ok(Decision::Append(self.last, Commit { id, events }))
    }

    /// Takes in a commit of the log, once: one at or below the last offset was taken in before, and says false. Of the ids of commits the
    /// newest `remember` are kept.
    pub fn apply(&mut self, offset: i64, commit: &Commit<A::Event>, remember: usize) -> bool {
        if self.last.is_some_and(|last| offset <= last) {
            return false;
        }
        for event in &commit.events {
            self.state.apply(event);
        }
        self.last = Some(offset);
        self.version += 1;
        if !commit.id.is_empty() {
            self.remembered.push_back(commit.id.clone());
        }
        while self.remembered.len() > remember {
            self.remembered.pop_front();
        }
        true
    }

    /// Whether one of the commits that are remembered has this id.
    pub fn knows(&self, id: &str) -> bool {
        // The newest are the likeliest to come again.
        !id.is_empty() && self.remembered.iter().rev().any(|known| known == id)
    }
}
