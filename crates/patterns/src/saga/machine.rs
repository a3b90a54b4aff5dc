//! What a saga does next: from its state, an input and a time come events, and from these commands and timers. Pure.
//!
//! ```text
//! Forward ── all steps done ──► Completed
//!    │ refused for good, attempts used up, aborted
//!    ▼
//! Backward ── the last step that was begun and is not undone, one at a time ── none left ──► Compensated
//! ```
//!
//! What holds whatever comes twice, late or in another order, and wherever a process dies:
//!
//! - a saga ends completed with all its steps done, or compensated with all undone that it ever sent and that can be undone;
//! - it undoes in the reverse order in which steps stand in the definition, one after the other;
//! - all attempts of a step have one idempotence key, so a worker with a [`Ledger`](super::Ledger) makes at most one effect for it;
//! - **what was ever sent is undone, also when it failed**: a queue may hand the command out again after its worker said that it failed,
//!   and the undoing bars the key.

use serde_json::Value;
use thiserror::Error;

use super::definition::{Definition, Exhausted, Retry};
use super::message::{Outcome, Reply, StepCommand, Way};
use super::state::{Event, Phase, Place, Saga};
use crate::eventsource::Aggregate;

/// What comes to a saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// It begins, if it has not.
    Start {
        /// The steps that it has.
        definition: Definition,
        /// What every step gets.
        input: Value,
    },
    /// A worker has answered.
    Reply(Reply),
    /// Time has passed.
    Tick,
    /// The queue has kept a [`Timer`](Output::Timer) to its end, milliseconds since the Unix epoch. If something of the saga ends at that
    /// time, it is that late, by the clock of the queue's leader, whatever the one here says; else it is like a [`Tick`](Self::Tick).
    Due(u64),
    /// Somebody wants what is stuck, or waits, to be tried now.
    Retry,
    /// Somebody wants it to turn back, for this reason.
    Abort(String),
}

/// An input and the time at which it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// Milliseconds since the Unix epoch.
    pub now_ms: u64,
    /// What came at that time.
    pub input: Input,
}

/// What is to be done when the events are in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A command to the worker of a step.
    Command {
        /// The index of the step, whose definition has the queue.
        step: usize,
        /// The direction of the command.
        way: Way,
        /// Which attempt it is.
        attempt: u32,
    },
    /// The saga wants a [`Tick`](Input::Tick) then, milliseconds since the Unix epoch.
    Timer(u64),
}

/// Why an input of a person or program is refused. Replies and ticks never are: those that come late change nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The steps cannot be carried out.
    #[error("{0}")]
    Definition(#[from] super::definition::BadDefinition),
    /// No saga has the id.
    #[error("there is no such saga")]
    Unknown,
    /// It has ended.
    #[error("it is over: {}", .0.as_str())]
    Over(Phase),
    /// It is on its way back.
    #[error("it has turned back already; retry it if it is stuck")]
    TurnedBack,
    /// No command of it has failed or waits.
    #[error("none of its commands has failed or waits: those that are out are with their workers")]
    NothingToRetry,
}

impl Aggregate for Saga {
    type Command = At;
    type Event = Event;
    type Refusal = Refusal;

    fn handle(&self, at: &At) -> Result<Vec<Event>, Refusal> {
        let mut draft = Draft {
            saga: self.clone(),
            events: Vec::new(),
            now_ms: at.now_ms,
        };
        match &at.input {
            Input::Start { definition, input } => draft.start(definition, input)?,
            Input::Reply(reply) => draft.reply(reply),
            Input::Tick => draft.tick(),
            Input::Due(at_ms) => {
                if self.has_due_at(*at_ms) {
                    draft.now_ms = draft.now_ms.max(*at_ms);
                }
                draft.tick();
            }
            Input::Retry => draft.retry()?,
            Input::Abort(reason) => draft.abort(reason)?,
        }
        // Nothing new comes of what is late.
        if !draft.events.is_empty() {
            draft.advance();
        }
        Ok(draft.events)
    }

    fn apply(&mut self, event: &Event) {
        self.take(event);
    }
}

impl Saga {
    /// What is to be done after these events, which have made this state.
    pub fn outputs(&self, events: &[Event]) -> Vec<Output> {
        let mut outputs = Vec::new();
        for event in events {
            match *event {
                Event::Sent {
                    step,
                    way,
                    attempt,
                    deadline_ms,
                } => {
                    outputs.push(Output::Command { step, way, attempt });
                    outputs.push(Output::Timer(deadline_ms));
                }
                Event::Postponed { again_ms, .. } => outputs.push(Output::Timer(again_ms)),
                _ => {}
            }
        }
        outputs
    }

    /// What is to be done after an input that has brought about these events, which have made this state. An input that may have been taken
    /// in before has everything done that is outstanding: beside what it brings about now there is what it brought about then, and
    /// nobody knows how far the process came.
    pub fn to_put_out(&self, events: &[Event], may_be_repeated: bool) -> Vec<Output> {
        match may_be_repeated {
            true => self.outstanding(),
            false => self.outputs(events),
        }
    }

    /// All that may not have been done after earlier events, if a process died: doing it again is harmless.
    pub fn outstanding(&self) -> Vec<Output> {
        let mut outputs = Vec::new();
        let Some(way) = self.way() else { return outputs };
        for (step, state) in self.steps.iter().enumerate() {
            let leg = state.leg(way);
            match leg.place {
                Place::Out { deadline_ms } => {
                    let attempt = leg.attempt;
                    outputs.push(Output::Command { step, way, attempt });
                    outputs.push(Output::Timer(deadline_ms));
                }
                Place::Waiting { again_ms } => outputs.push(Output::Timer(again_ms)),
                Place::Idle | Place::Done | Place::Failed => {}
            }
        }
        outputs
    }

    /// The command of an output of the saga with this id, with where its reply is to go.
    pub fn command(&self, saga: &str, (step, way, attempt): (usize, Way, u32), reply_to: &str) -> StepCommand {
        let name = &self.definition.steps[step].name;
        StepCommand {
            saga: saga.to_owned(),
            step: name.clone(),
            way,
            attempt,
            key: format!("{saga}/{name}"),
            input: self.input.clone(),
            results: self.results(),
            reply_to: reply_to.to_owned(),
        }
    }
}

/// The events of one input as they are found, and the state that they make.
struct Draft {
    saga: Saga,
    events: Vec<Event>,
    now_ms: u64,
}

impl Draft {
    fn happens(&mut self, event: Event) {
        self.saga.take(&event);
        self.events.push(event);
    }

    fn start(&mut self, definition: &Definition, input: &Value) -> Result<(), Refusal> {
        if self.saga.phase != Phase::Unknown {
            return Ok(());
        }
        definition.check()?;
        self.happens(Event::Started {
            definition: definition.clone(),
            input: input.clone(),
        });
        Ok(())
    }

    fn reply(&mut self, reply: &Reply) {
        let Some(step) = self.saga.definition.index_of(&reply.step) else {
            return;
        };
        let leg = self.saga.steps[step].leg(reply.way);
        // What comes after the saga has turned is undone, whatever it says.
        if self.saga.way() != Some(reply.way) || leg.place == Place::Done || leg.attempt == 0 {
            return;
        }
        let way = reply.way;
        match &reply.outcome {
            // All attempts have one key: whichever is done, the step is.
            Outcome::Done(result) => {
                let result = result.clone();
                self.happens(Event::Done { step, way, result });
            }
            Outcome::Failed { reason, again } => {
                let is_out = matches!(leg.place, Place::Out { .. }) && leg.attempt == reply.attempt;
                if is_out {
                    self.failed((step, way), reason.clone(), *again);
                }
            }
        }
    }

    fn tick(&mut self) {
        let Some(way) = self.saga.way() else { return };
        for step in 0..self.saga.steps.len() {
            // A command may end the way of those after it.
            if self.saga.way() != Some(way) {
                return;
            }
            let leg = self.saga.steps[step].leg(way);
            match leg.place {
                Place::Out { deadline_ms } if deadline_ms <= self.now_ms => {
                    let reason = format!("attempt {} took too long", leg.attempt);
                    self.failed((step, way), reason, true);
                }
                Place::Waiting { again_ms } if again_ms <= self.now_ms => self.send(step, way),
                _ => {}
            }
        }
    }

    fn retry(&mut self) -> Result<(), Refusal> {
        let Some(way) = self.saga.way() else {
            return Err(self.over());
        };
        if self.saga.stuck.is_some() {
            self.happens(Event::Retried);
        }
        let waiting = |saga: &Saga, step: usize| matches!(saga.steps[step].leg(way).place, Place::Waiting { .. });
        for step in 0..self.saga.steps.len() {
            if waiting(&self.saga, step) {
                self.send(step, way);
            }
        }
        if self.events.is_empty() {
            return Err(Refusal::NothingToRetry);
        }
        Ok(())
    }

    fn abort(&mut self, reason: &str) -> Result<(), Refusal> {
        match self.saga.phase {
            Phase::Forward => {
                let reason = format!("aborted: {reason}");
                self.happens(Event::TurnedBack { reason });
                Ok(())
            }
            Phase::Backward => Err(Refusal::TurnedBack),
            Phase::Unknown | Phase::Completed | Phase::Compensated => Err(self.over()),
        }
    }

    fn over(&self) -> Refusal {
        match self.saga.phase {
            Phase::Unknown => Refusal::Unknown,
            phase => Refusal::Over(phase),
        }
    }

    /// Sends the next attempt of a command.
    fn send(&mut self, step: usize, way: Way) {
        let attempt = self.saga.steps[step].leg(way).attempt.saturating_add(1);
        let deadline_ms = self.now_ms.saturating_add(self.saga.definition.steps[step].timeout_ms);
        self.happens(Event::Sent {
            step,
            way,
            attempt,
            deadline_ms,
        });
    }

    /// The last attempt of a command failed: the next one, or the end of the way.
    fn failed(&mut self, (step, way): (usize, Way), reason: String, again: bool) {
        let known = &self.saga.definition.steps[step];
        let (name, exhausted) = (known.name.clone(), known.exhausted);
        let retry: Retry = match way {
            Way::Do => known.retry,
            Way::Undo => known.undo_retry,
        };
        let attempts = self.saga.steps[step].leg(way).attempts();
        if again && attempts < retry.attempts {
            let again_ms = self.now_ms.saturating_add(retry.wait_ms(attempts));
            self.happens(Event::Postponed {
                step,
                way,
                reason,
                again_ms,
            });
            return;
        }
        let why = format!("{name}: {reason}");
        self.happens(Event::Failed { step, way, reason });
        match way {
            Way::Do if !again || exhausted == Exhausted::TurnBack => self.happens(Event::TurnedBack { reason: why }),
            Way::Do | Way::Undo => self.happens(Event::Stuck { step }),
        }
    }

    /// Begins what comes next on the way.
    fn advance(&mut self) {
        match self.saga.phase {
            Phase::Forward => self.go_on(),
            Phase::Backward => self.go_back(),
            Phase::Unknown | Phase::Completed | Phase::Compensated => {}
        }
    }

    fn go_on(&mut self) {
        let is_done = |saga: &Saga, step: usize| saga.steps[step].doing.place == Place::Done;
        let mut stages = self.saga.definition.stages();
        let current = stages.find(|stage| !stage.clone().all(|step| is_done(&self.saga, step)));
        drop(stages);
        let Some(stage) = current else {
            return self.happens(Event::Completed);
        };
        for step in stage {
            if self.saga.steps[step].doing.place == Place::Idle {
                self.send(step, Way::Do);
            }
        }
    }

    fn go_back(&mut self) {
        let known = self.saga.definition.steps.iter().zip(&self.saga.steps).enumerate();
        let mut left = known.filter(|(_, (known, state))| {
            known.undoable && state.doing.attempt > 0 && state.undoing.place != Place::Done
        });
        match left.next_back().map(|(step, (_, state))| (step, state.undoing.attempt)) {
            None => self.happens(Event::Compensated),
            Some((step, 0)) => self.send(step, Way::Undo),
            Some(_) => {}
        }
    }
}
