//! What a saga consists of: stages of steps, each a command to a queue and, if it can be undone, another one that undoes it.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest time-out and the longest wait of a step, a year: a queue keeps a delayed message for ten years at most.
pub const STEP_TIME_MAX_MS: u64 = 365 * 86_400_000;
/// Bytes of a saga's id and a step's name together. A command's message has the id `SAGA/STEP/WAY/ATTEMPT`, and a queue takes 256 bytes.
const NAMES_BYTES_MAX: usize = 256 - "//undo/".len() - "4294967295".len();

/// How often and when a command is sent again: after `first`, then twice as long each time, at most `most`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// The wait after the first attempt, in milliseconds.
    pub first_ms: u64,
    /// The longest wait, in milliseconds.
    pub most_ms: u64,
}

impl Retry {
    /// So many attempts with waits from 200 ms up to 10 s between them.
    pub const fn attempts(attempts: u32) -> Self {
        Self {
            attempts,
            first_ms: 200,
            most_ms: 10_000,
        }
    }

    /// The wait after an attempt, counted from 1, in milliseconds.
    pub fn wait_ms(&self, attempt: u32) -> u64 {
        let doubled = 1_u64.checked_shl(attempt.saturating_sub(1)).unwrap_or(u64::MAX);
        self.first_ms.saturating_mul(doubled).min(self.most_ms)
    }
}

/// What becomes of a saga one of whose steps has used up its attempts without being refused for good.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exhausted {
    /// It turns back, and undoes what it has begun.
    #[default]
    TurnBack,
    /// It is stuck until somebody retries or aborts it: for a step behind which there is no way back.
    Stick,
}

/// One step: a command to a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The name of the step, unique in its saga.
    pub name: String,
    /// The queue that its commands go to.
    pub queue: String,
    /// Whether there is a command that undoes it. A step without one is left as it is when the saga turns back.
    pub undoable: bool,
    /// How long an attempt may take until it counts as lost, in milliseconds: from when the command is sent, so with the time that it waits
    /// in the queue. It goes for undoing, too.
    pub timeout_ms: u64,
    /// How often it is tried.
    pub retry: Retry,
    /// How often it is tried to undo it. After that the saga is stuck.
    pub undo_retry: Retry,
    /// What becomes of the saga when the attempts are used up.
    pub exhausted: Exhausted,
}

impl Step {
    /// An undoable step with 5 attempts of 10 s and waits as [`Retry::attempts`] has them, and 20 to undo it. The queue is its workers' to
    /// create; until then its commands are tried to be sent. What has no method here is set in the fields.
    pub fn new(name: impl Into<String>, queue: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            queue: queue.into(),
            undoable: true,
            timeout_ms: 10_000,
            retry: Retry::attempts(5),
            undo_retry: Retry::attempts(20),
            exhausted: Exhausted::default(),
        }
    }

    /// Sets how long an attempt may take.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        self
    }

    /// Sets how often the step is tried. How often undoing it is, `undo_retry` says.
    #[must_use]
    pub fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Says that nothing undoes the step.
    #[must_use]
    pub fn without_undo(mut self) -> Self {
        self.undoable = false;
        self
    }

    /// Says that the saga is stuck when the attempts are used up, instead of turning back.
    #[must_use]
    pub fn sticks(mut self) -> Self {
        self.exhausted = Exhausted::Stick;
        self
    }
}

/// The steps of a saga in their order. A saga goes on by the definition that it was started with, whatever a newer program says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The name of this kind of saga.
    pub name: String,
    /// All steps in the order in which they begin.
    pub steps: Vec<Step>,
    /// Of each stage the number of its steps, which are out at the same time. A stage begins when all of the one before are done.
    stages: Vec<usize>,
}

/// Why a definition cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BadDefinition {
    /// A saga without a step is nothing.
    #[error("saga {0:?} has no steps; add one with `then`")]
    NoSteps(String),
    /// Two steps have one name.
    #[error("saga {saga:?} has two steps named {step:?}; give one another name")]
    NamedTwice {
        /// The kind of the saga.
        saga: String,
        /// The name of both.
        step: String,
    },
    /// The commands of a step could not be sent, as their message ids would be too long.
    #[error(
        "step {step:?} and saga {saga:?} have more than {} bytes together; shorten one",
        NAMES_BYTES_MAX
    )]
    NameTooLong {
        /// The id of the saga.
        saga: String,
        /// The name of the step.
        step: String,
    },
    /// A step is never tried.
    #[error("step {step:?} of saga {saga:?} has no attempts or no time; both are at least 1")]
    NeverTried {
        /// The kind of the saga.
        saga: String,
        /// The name of the step.
        step: String,
    },
    /// A time is so long that no queue keeps the message that ends it.
    #[error(
        "step {step:?} of saga {saga:?} has a time-out or a wait of more than {} days; make it shorter",
        STEP_TIME_MAX_MS / 86_400_000
    )]
    TooLong {
        /// The kind of the saga.
        saga: String,
        /// The name of the step.
        step: String,
    },
    /// The key of a step is `SAGA/STEP`: with a slash in the step's name two sagas may have the same one.
    #[error(
        "step {step:?} of saga {saga:?} has a slash in its name, which parts saga and step in keys; give it another name"
    )]
    Slash {
        /// The kind of the saga.
        saga: String,
        /// The name of the step.
        step: String,
    },
    /// The stages are not those of the steps: something else than [`Definition::then`] made it.
    #[error(
        "the stages of saga {0:?} are not its steps: of each stage they say how many steps it has, at least 1, and in all {1}"
    )]
    Stages(String, usize),
}

impl Definition {
    /// A definition without steps.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Adds a step, which begins when all before it are done.
    #[must_use]
    pub fn then(self, step: Step) -> Self {
        self.then_all([step])
    }

    /// Adds steps that are out at the same time, and begin when all before them are done.
    #[must_use]
    pub fn then_all(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        let before = self.steps.len();
        self.steps.extend(steps);
        if self.steps.len() > before {
            self.stages.push(self.steps.len() - before);
        }
        self
    }

    /// The indexes of the steps of each stage.
    pub fn stages(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.stages.iter().scan(0, |first, steps| {
            let stage = *first..*first + steps;
            *first = stage.end;
            Some(stage)
        })
    }

    /// The index of a step.
    pub fn index_of(&self, step: &str) -> Option<usize> {
        self.steps.iter().position(|known| known.name == step)
    }

    /// Checks that a saga with this id can be carried out by it.
    ///
    /// # Errors
    /// What is wrong with it first.
    pub fn check_for(&self, saga: &str) -> Result<(), BadDefinition> {
        self.check()?;
        let is_long = |step: &&Step| saga.len() + step.name.len() > NAMES_BYTES_MAX;
        match self.steps.iter().find(is_long) {
            Some(step) => Err(BadDefinition::NameTooLong {
                saga: saga.to_owned(),
                step: step.name.clone(),
            }),
            None => Ok(()),
        }
    }

    /// Checks that it can be carried out.
    ///
    /// # Errors
    /// What is wrong with it first.
    pub fn check(&self) -> Result<(), BadDefinition> {
        if self.steps.is_empty() {
            return Err(BadDefinition::NoSteps(self.name.clone()));
        }
        // It comes in messages, which anybody may write.
        let staged = self
            .stages
            .iter()
            .try_fold(0_usize, |sum, steps| sum.checked_add(*steps));
        if staged != Some(self.steps.len()) || self.stages.contains(&0) {
            return Err(BadDefinition::Stages(self.name.clone(), self.steps.len()));
        }
        self.steps
            .iter()
            .enumerate()
            .try_for_each(|(index, step)| self.check_step(index, step))
    }

    fn check_step(&self, index: usize, step: &Step) -> Result<(), BadDefinition> {
        let (saga, name) = (self.name.clone(), step.name.clone());
        if self.index_of(&step.name) != Some(index) {
            return Err(BadDefinition::NamedTwice { saga, step: name });
        }
        if step.name.contains('/') {
            return Err(BadDefinition::Slash { saga, step: name });
        }
        if step.retry.attempts == 0 || step.undo_retry.attempts == 0 || step.timeout_ms == 0 {
            return Err(BadDefinition::NeverTried { saga, step: name });
        }
        let longest = [step.timeout_ms, step.retry.most_ms, step.undo_retry.most_ms];
        if longest.into_iter().any(|ms| ms > STEP_TIME_MAX_MS) {
            return Err(BadDefinition::TooLong { saga, step: name });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let retry = Retry {
            attempts: 9,
            first_ms: 100,
            most_ms: 1_000,
        };
        let waits: Vec<u64> = (1..=6).map(|attempt| retry.wait_ms(attempt)).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1_000, 1_000]);
        assert_eq!(retry.wait_ms(u32::MAX), 1_000);
    }

    #[test]
    fn stages_have_the_indexes_of_their_steps() {
        let step = |name: &str| Step::new(name, "queue");
        let definition = Definition::new("trip")
            .then(step("a"))
            .then_all([step("b"), step("c")])
            .then_all([]);
        assert_eq!(definition.stages().collect::<Vec<_>>(), [0..1, 1..3]);
        assert_eq!((definition.index_of("c"), definition.index_of("d")), (Some(2), None));
        definition.check().expect("it can be carried out");
        let room = NAMES_BYTES_MAX - 1;
        definition.check_for(&"x".repeat(room)).expect("its commands have ids");
        let refused = definition
            .check_for(&"x".repeat(room + 1))
            .expect_err("they are too long");
        assert!(matches!(refused, BadDefinition::NameTooLong { .. }), "{refused}");
        let never = step("e").with_timeout(Duration::ZERO);
        let refused = definition.then(never).check().expect_err("it has no time");
        assert!(refused.to_string().contains("\"e\""), "{refused}");
    }

    /// What is wrong with a definition of these steps.
    fn refusal_of(steps: impl IntoIterator<Item = Step>) -> String {
        let refused = Definition::new("trip").then_all(steps).check();
        refused.expect_err("it is refused").to_string()
    }

    #[test]
    fn a_time_that_no_queue_keeps_is_refused_and_no_orchestrator_stops_over_it() {
        let step = || Step::new("a", "queue");
        let ever = step().with_timeout(Duration::MAX);
        assert!(refusal_of([ever]).contains("more than 365 days"));
        let year = Duration::from_millis(STEP_TIME_MAX_MS);
        let definition = Definition::new("trip").then(step().with_timeout(year));
        definition.check().expect("a year is no longer than a queue keeps it");
        let mut retry = Retry::attempts(2);
        retry.most_ms = STEP_TIME_MAX_MS + 1;
        assert!(refusal_of([step().with_retry(retry)]).contains("more than 365 days"));
        let mut undone = step();
        undone.undo_retry = retry;
        assert!(refusal_of([undone]).contains("more than 365 days"));
    }

    #[test]
    fn two_sagas_with_slashes_do_not_come_to_one_key() {
        assert!(refusal_of([Step::new("a/b", "queue")]).contains("slash"));
    }

    #[test]
    fn a_message_whose_stages_are_not_its_steps_is_refused_and_stops_no_orchestrator() {
        let steps = [Step::new("a", "queue"), Step::new("b", "queue")];
        let whole = Definition::new("trip").then_all(steps);
        let text = serde_json::to_value(&whole).expect("it is JSON");
        for stages in [&[][..], &[1], &[3], &[2, 1], &[0, 2], &[usize::MAX, 3]] {
            let mut sent = text.clone();
            sent["stages"] = serde_json::json!(stages);
            let read: Definition = serde_json::from_value(sent).expect("it is read");
            let refused = read.check().expect_err("it is refused");
            assert_eq!(refused, BadDefinition::Stages("trip".to_owned(), 2), "{stages:?}");
        }
    }
}
