//! What goes between an orchestrator and the workers of its steps: bodies of queue messages, as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::definition::Definition;

/// The direction of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// It makes the effect of the step.
    Do,
    /// It undoes the effect, or bars it from ever being made (compensation).
    Undo,
}

impl Way {
    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Do => "do",
            Self::Undo => "undo",
        }
    }
}

/// A command to the worker of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepCommand {
    /// The id of the saga.
    pub saga: String,
    /// The name of the step.
    pub step: String,
    /// What is to be done about it.
    pub way: Way,
    /// Which attempt it is, from 1 on.
    pub attempt: u32,
    /// The idempotence key, `SAGA/STEP`: the same for all attempts in both ways. At most one effect may be made under it. What knows such
    /// keys itself (a payment service) is given it as it is.
    pub key: String,
    /// What the saga was started with.
    pub input: Value,
    /// The results of the steps that are done, by their names. Those of the stages before are there; one of the same stage is if it was
    /// done when this was sent, and that of the step itself if it is to be undone and its "done" came.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub results: BTreeMap<String, Value>,
    /// The queue that the reply goes to.
    pub reply_to: String,
}

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is done, with this result, which later steps get; that of an undoing is not kept. A command that comes again is answered with
    /// the result that it was answered with before.
    Done(Value),
    /// It is not done, and nothing was changed. An undoing that is [refused](Self::refused) leaves the saga stuck at once.
    Failed {
        /// Why, in words for people.
        reason: String,
        /// Whether the next attempt may succeed.
        again: bool,
    },
}

impl Outcome {
    /// A failure that no further attempt mends.
    pub fn refused(reason: impl Into<String>) -> Self {
        let (reason, again) = (reason.into(), false);
        Self::Failed { reason, again }
    }

    /// A failure that a later attempt may mend.
    pub fn failed(reason: impl Into<String>) -> Self {
        let (reason, again) = (reason.into(), true);
        Self::Failed { reason, again }
    }
}

/// The reply to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The id of the saga.
    pub saga: String,
    /// The name of the step.
    pub step: String,
    /// What was to be done about it.
    pub way: Way,
    /// Which attempt is answered.
    pub attempt: u32,
    /// What came of it.
    pub outcome: Outcome,
}

/// A message in the queue of the orchestrators.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToSaga {
    /// Starts a saga. One that was started before goes on as it is.
    Start {
        /// The id of the saga.
        saga: String,
        /// The steps that it has.
        definition: Definition,
        /// What every step gets.
        input: Value,
    },
    /// The reply of a worker.
    Reply(Reply),
    /// Something of the saga is due: a time-out, or the next attempt.
    Due {
        /// The id of the saga.
        saga: String,
        /// When it was due, milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// Somebody wants a saga that is stuck to be tried again.
    Retry {
        /// The id of the saga.
        saga: String,
    },
    /// Somebody wants a saga to turn back.
    Abort {
        /// The id of the saga.
        saga: String,
        /// Why, in words for people.
        reason: String,
    },
    /// All sagas are to be looked through for what is overdue: sent by a schedule.
    Sweep,
}
