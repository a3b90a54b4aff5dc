//! The leader's side of a machine: what a replica decides while it leads, beside what is replicated.

use std::sync::Arc;

use jangada_types::Rejection;

use crate::Machine;

/// The time, read by the host once per call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// A clock that never goes back while this process runs, milliseconds.
    pub monotonic_ms: u64,
    /// Milliseconds since the Unix epoch, for stamps that outlive a process.
    pub wall_ms: u64,
    /// The monotonic time since which the wall clock has been steady: it did not step, and other brokers' clocks agree.
    pub steady_since_ms: u64,
}

/// What the host does next for a request: answers it (`A`), or proposes a command (`C`) and keeps the request (`P`) until that
/// is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<C, P, A> {
    /// Answer the request. An error is definite: the request has had no effect that its sender need care for.
    Done(Result<A, Rejection>),
    /// Propose the command, wait until it is applied, and call [`Leader::resume`].
    Propose {
        /// The command for the group's log.
        command: C,
        /// The state of the request, to be passed to `resume`.
        pending: P,
    },
}

/// The command of a leader's machine.
pub type CommandOf<L> = <<L as Leader>::Machine as Machine>::Command;

/// The reply of a leader's machine.
pub type ReplyOf<L> = <<L as Leader>::Machine as Machine>::Reply;

/// A step of a leader.
pub type StepOf<L> = Step<CommandOf<L>, <L as Leader>::Pending, <L as Leader>::Answer>;

/// The volatile side of a group, for one term of the replica that leads it: made when that replica has applied an entry of its
/// own term, dropped when it no longer leads or no quorum answers it. The next one begins anew from the machine's state.
///
/// All time comes in as [`Now`]. Nothing here changes the machine: what is to change goes through the log as a command, and
/// what became of it comes back by [`Leader::applied`] and [`Leader::resume`].
pub trait Leader: Sized + Send + 'static {
    /// The replicated state. It is cloned under a lock for each snapshot, so a clone shares what is large.
    type Machine: Machine + Clone + Default;
    /// A request whose command is under way.
    type Pending: Send;
    /// What a request comes to.
    type Answer;
    /// What people may ask about later. The host writes it down.
    type Event;
    /// What the leader goes by that is not replicated in its group: settings, what else there is in the cluster.
    type Surroundings: Send + Sync + 'static;

    /// A leader over the state as it is now.
    fn begin(machine: &Self::Machine, surroundings: &Arc<Self::Surroundings>, now: Now) -> Self;

    /// The surroundings are other ones.
    fn surroundings_changed(&mut self, machine: &Self::Machine, surroundings: &Arc<Self::Surroundings>, now: Now);

    /// A command was applied, with whatever reply; `machine` has it already.
    fn applied(&mut self, machine: &Self::Machine, command: &CommandOf<Self>, reply: &ReplyOf<Self>, now: Now);

    /// Goes on with a request whose command was applied. A command whose outcome is not known (the replica stopped leading,
    /// or no quorum answered) has no reply: the host fails the request, and the client sends it again.
    fn resume(
        &mut self,
        machine: &Self::Machine,
        pending: Self::Pending,
        reply: ReplyOf<Self>,
        now: Now,
    ) -> StepOf<Self>;

    /// The commands that are due by now. One that gets lost on its way must be due again at a later tick.
    fn tick(&mut self, machine: &Self::Machine, now: Now) -> Vec<CommandOf<Self>>;

    /// When [`Leader::tick`] is to be called at the latest, on the monotonic clock.
    fn next_deadline(&self) -> Option<u64>;

    /// What could not be done since the last call, or is worth telling for another reason.
    fn take_events(&mut self) -> Vec<Self::Event>;

    /// What the command will have done once it is applied to this state.
    fn events_of(machine: &Self::Machine, command: &CommandOf<Self>) -> Vec<Self::Event>;

    /// Whether a command with this reply did what [`Leader::events_of`] says.
    fn had_effect(reply: &ReplyOf<Self>) -> bool;
}
