//! The state of a saga, folded from the events of its stream. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::definition::Definition;
use super::message::Way;

/// What has happened to a saga. Steps are named by their index in the definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// It has begun.
    Started {
        /// Its steps, by which it goes on to its end.
        definition: Definition,
        /// What every step gets.
        input: Value,
    },
    /// A command is sent, or about to be: the event is in the log first.
    Sent {
        /// The index of the step.
        step: usize,
        /// The direction of the command.
        way: Way,
        /// Which attempt it is, from 1 on.
        attempt: u32,
        /// When the attempt counts as lost, milliseconds since the Unix epoch.
        deadline_ms: u64,
    },
    /// A command is done.
    Done {
        /// The index of the step.
        step: usize,
        /// The direction of the command.
        way: Way,
        /// What the worker gave.
        #[serde(default)]
        result: Value,
    },
    /// An attempt failed or was lost, and the next one comes.
    Postponed {
        /// The index of the step.
        step: usize,
        /// The direction of the command.
        way: Way,
        /// Why the attempt failed.
        reason: String,
        /// When the next one is sent, milliseconds since the Unix epoch.
        again_ms: u64,
    },
    /// No further attempt is made.
    Failed {
        /// The index of the step.
        step: usize,
        /// The direction of the command.
        way: Way,
        /// Why the last attempt failed.
        reason: String,
    },
    /// It goes back from here, and undoes what it has begun.
    TurnedBack {
        /// Why it does.
        reason: String,
    },
    /// It goes neither on nor back until somebody retries or aborts it.
    Stuck {
        /// The index of the step at which it is.
        step: usize,
    },
    /// Somebody wants the failed commands to be tried anew, with all their attempts.
    Retried,
    /// All steps are done.
    Completed,
    /// All that was begun and can be undone is undone.
    Compensated,
}

/// Where a saga is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It has not begun.
    #[default]
    Unknown,
    /// It goes on, step by step.
    Forward,
    /// It goes back, and undoes what it has begun.
    Backward,
    /// All steps are done: the end.
    Completed,
    /// What was begun is undone: the end.
    Compensated,
}

impl Phase {
    /// Its name on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Forward => "forward",
            Self::Backward => "backward",
            Self::Completed => "completed",
            Self::Compensated => "compensated",
        }
    }

    /// Whether nothing changes any more.
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Completed | Self::Compensated)
    }
}

/// Where a command is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// It was never sent.
    #[default]
    Idle,
    /// It is with a worker, until it counts as lost.
    Out {
        /// When that is, milliseconds since the Unix epoch.
        deadline_ms: u64,
    },
    /// It waits for its next attempt.
    Waiting {
        /// When that is, milliseconds since the Unix epoch.
        again_ms: u64,
    },
    /// It is done.
    Done,
    /// It failed, and no further attempt is made.
    Failed,
}

/// A command of a step in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Where it is.
    pub place: Place,
    /// The number of the last attempt; 0: none was made.
    pub attempt: u32,
    /// The number of attempts made before somebody wanted it to be tried anew: they do not count.
    forgiven: u32,
    /// Why the last attempt failed. Empty: none did.
    #[serde(default)]
    pub reason: String,
}

impl Leg {
    /// Number of attempts that count.
    pub fn attempts(&self) -> u32 {
        self.attempt.saturating_sub(self.forgiven)
    }
}

/// A step of a saga.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepState {
    /// The command that makes its effect.
    pub doing: Leg,
    /// The command that undoes it.
    pub undoing: Leg,
    /// What its worker gave.
    pub result: Value,
}

impl StepState {
    /// The command in one direction.
    pub fn leg(&self, way: Way) -> &Leg {
        match way {
            Way::Do => &self.doing,
            Way::Undo => &self.undoing,
        }
    }

    fn leg_mut(&mut self, way: Way) -> &mut Leg {
        match way {
            Way::Do => &mut self.doing,
            Way::Undo => &mut self.undoing,
        }
    }
}

/// A saga, as its events have made it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saga {
    /// Its steps and their rules.
    pub definition: Definition,
    /// What it was started with.
    pub input: Value,
    /// Where it is.
    pub phase: Phase,
    /// The index of the step at which it is stuck. `None`: it goes its way.
    pub stuck: Option<usize>,
    /// Why it turned back. `None`: it did not.
    pub turned_back: Option<String>,
    /// The steps by their index in the definition.
    pub steps: Vec<StepState>,
}

impl Saga {
    /// The direction in which it goes. `None`: it goes nowhere.
    pub fn way(&self) -> Option<Way> {
        match self.phase {
            Phase::Forward => Some(Way::Do),
            Phase::Backward => Some(Way::Undo),
            Phase::Unknown | Phase::Completed | Phase::Compensated => None,
        }
    }

    /// The results of the steps that are done, by their names.
    pub fn results(&self) -> BTreeMap<String, Value> {
        let steps = self.definition.steps.iter().zip(&self.steps);
        let done = steps.filter(|(_, step)| step.doing.place == Place::Done);
        done.map(|(known, step)| (known.name.clone(), step.result.clone()))
            .collect()
    }

    /// When its next command counts as lost or is sent again, milliseconds since the Unix epoch. `None`: nothing is out.
    pub fn next_due_ms(&self) -> Option<u64> {
        let way = self.way()?;
        let due = |step: &StepState| match step.leg(way).place {
            Place::Out { deadline_ms: at } | Place::Waiting { again_ms: at } => Some(at),
            Place::Idle | Place::Done | Place::Failed => None,
        };
        self.steps.iter().filter_map(due).min()
    }

    /// Whether a command of it counts as lost, or is sent again, at just this time, milliseconds since the Unix epoch.
    pub(super) fn has_due_at(&self, at_ms: u64) -> bool {
        let ends = |step: &StepState| {
            [Way::Do, Way::Undo].into_iter().any(|way| match step.leg(way).place {
                Place::Out { deadline_ms: at } | Place::Waiting { again_ms: at } => at == at_ms,
                Place::Idle | Place::Done | Place::Failed => false,
            })
        };
        self.steps.iter().any(ends)
    }

    /// The command of a step, if the saga has it. An event may be of a program that knows the saga otherwise.
    fn leg_of(&mut self, step: usize, way: Way) -> Option<&mut Leg> {
        self.steps.get_mut(step).map(|step| step.leg_mut(way))
    }

    /// A step whose command has failed on the way that the saga goes.
    fn failed_step(&self) -> Option<usize> {
        let way = self.way()?;
        self.steps.iter().position(|step| step.leg(way).place == Place::Failed)
    }

    /// Makes what has happened part of the state. What has happened to a step that the saga has not changes nothing: anybody may write to
    /// the topic, and all sagas of it are read together.
    pub(super) fn take(&mut self, event: &Event) {
        match event {
            Event::Started { definition, input } => {
                self.steps = vec![StepState::default(); definition.steps.len()];
                self.definition = definition.clone();
                self.input = input.clone();
                self.phase = Phase::Forward;
            }
            Event::Sent {
                step,
                way,
                attempt,
                deadline_ms,
            } => {
                let Some(leg) = self.leg_of(*step, *way) else { return };
                leg.attempt = *attempt;
                leg.place = Place::Out {
                    deadline_ms: *deadline_ms,
                };
            }
            Event::Done { step, way, result } => {
                let Some(state) = self.steps.get_mut(*step) else { return };
                state.leg_mut(*way).place = Place::Done;
                if *way == Way::Do {
                    state.result = result.clone();
                }
                if self.stuck == Some(*step) {
                    self.stuck = self.failed_step();
                }
            }
            Event::Postponed {
                step,
                way,
                reason,
                again_ms,
            } => {
                let Some(leg) = self.leg_of(*step, *way) else { return };
                leg.reason.clone_from(reason);
                leg.place = Place::Waiting { again_ms: *again_ms };
            }
            Event::Failed { step, way, reason } => {
                let Some(leg) = self.leg_of(*step, *way) else { return };
                leg.reason.clone_from(reason);
                leg.place = Place::Failed;
            }
            Event::TurnedBack { reason } => {
                self.phase = Phase::Backward;
                self.turned_back = Some(reason.clone());
                self.stuck = None;
            }
            Event::Stuck { step } if *step < self.steps.len() => self.stuck = Some(*step),
            Event::Stuck { .. } => {}
            Event::Retried => {
                self.stuck = None;
                let way = self.way();
                for step in &mut self.steps {
                    let Some(leg) = way.map(|way| step.leg_mut(way)) else {
                        break;
                    };
                    if leg.place == Place::Failed {
                        leg.forgiven = leg.attempt;
                        leg.place = Place::Waiting { again_ms: 0 };
                    }
                }
            }
            Event::Completed => self.phase = Phase::Completed,
            Event::Compensated => self.phase = Phase::Compensated,
        }
    }
}
