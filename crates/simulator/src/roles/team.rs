//! What a team of clients is, and a kind of team.

use futures::future::LocalBoxFuture;
use jangada_env::Random;

use crate::play::stage::Stage;

/// What is wrong, in a sentence for people.
pub type Finding = String;

/// Clients that work together on topics and queues of their own.
///
/// All of it runs in the runtime of the play. What tasks share stands in the team (`Rc`, `RefCell`); a borrow is never held over an
/// await.
pub trait Team {
    /// Makes topics, queues and groups, and notes their settings for the checker. All brokers run and there are no faults yet.
    ///
    /// # Errors
    /// Says what could not be made.
    fn prepare<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>>;

    /// The clients: each works until [`Stage::is_over`], under faults. Errors of calls are expected there; what must never be, the task
    /// tells by [`Stage::report`]. A task that has not ended soon after the stage is over is a finding of the runner.
    fn tasks(&self, stage: &Stage) -> Vec<LocalBoxFuture<'static, ()>>;

    /// All faults are over, all brokers run and all tasks have ended: drains what is left, reads everything to the end with new clients,
    /// and from each replica where that can be, and notes it for the checker. Calls that fail are tried again; the runner bounds the
    /// whole.
    ///
    /// # Errors
    /// Says what does not come to rest: what is not drained, what cannot be read.
    fn finish<'a>(&'a self, stage: &'a Stage) -> LocalBoxFuture<'a, Result<(), Finding>>;
}

/// A kind of team that a scenario may have.
#[derive(Clone, Copy)]
pub struct TeamKind {
    name: &'static str,
    build: fn(&Random) -> Box<dyn Team>,
}

impl TeamKind {
    /// A kind of this name (lower case and `-`), of which `build` makes a team from chance alone.
    pub const fn new(name: &'static str, build: fn(&Random) -> Box<dyn Team>) -> Self {
        Self { name, build }
    }

    /// Its name in the text of a scenario.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// A team of this kind, whose sizes and habits are drawn from `random`.
    pub fn build(&self, random: &Random) -> Box<dyn Team> {
        (self.build)(random)
    }
}
