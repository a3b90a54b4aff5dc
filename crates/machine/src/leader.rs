//! The leader's side of a machine: what a replica decides while it leads, beside what is replicated.

use std::sync::Arc;

use bytes::Bytes;
use jangada_types::{Rejection, Table};

use crate::Machine;

/// The time, read by the host once per call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// A clock that never goes back while this process runs, milliseconds.
    pub monotonic_ms: u64,
    /// Milliseconds since the Unix epoch, for stamps that outlive a process.
    pub wall_ms: u64,
    /// The monotonic time since which the wall clock has been steady: it did not step, and other brokers' clocks agree. Later
    /// than `monotonic_ms` while the clock is not steady.
    pub steady_since_ms: u64,
}

impl Now {
    /// The wall time before which what is kept for `kept_ms` is old. `None`: the clock has not been steady for `steady_ms`, or for
    /// as long as it is kept if that is less, so nothing may be deleted or forgotten by it.
    pub fn old_before_ms(&self, kept_ms: u64, steady_ms: u64) -> Option<i64> {
        let steady_for_ms = self.monotonic_ms.checked_sub(self.steady_since_ms)?;
        let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        (steady_for_ms >= kept_ms.min(steady_ms)).then(|| signed(self.wall_ms).saturating_sub(signed(kept_ms)))
    }
}

/// The rows of a table that a leader wants to see before it decides: those with keys in `from..to`, ascending, as of all
/// commands that are applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowRange {
    /// The table, which must be one of the machine's.
    pub table: &'static Table,
    /// The first key.
    pub from: Bytes,
    /// The first key behind the range; `None`: the range ends with the table.
    pub to: Option<Bytes>,
    /// The largest number of rows; the first ones are read.
    pub limit: usize,
}

/// A row that was read: its key and its value.
pub type Row = (Bytes, Bytes);

/// The host's next action for a request of which `P` is the state, `C` a command and `A` the answer.
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
    /// Read the rows, which may wait for the disk, and call [`Leader::resume_with_rows`].
    Read {
        /// The rows to be read.
        rows: RowRange,
        /// The state of the request, to be passed to `resume_with_rows`.
        pending: P,
    },
    /// Fail the request: the rows that were read contradict the state, so this replica is damaged. The text says what is
    /// wrong with them. The host reports the damage, as it does for damage that a read meets itself.
    Damaged(String),
}

impl<C, P, A> Step<C, P, A> {
    /// The same step of a machine that this one is a part of.
    pub fn map<D, Q, B>(
        self,
        command_of: impl FnOnce(C) -> D,
        pending_of: impl FnOnce(P) -> Q,
        answer_of: impl FnOnce(A) -> B,
    ) -> Step<D, Q, B> {
        match self {
            Self::Done(result) => Step::Done(result.map(answer_of)),
            Self::Propose { command, pending } => Step::Propose {
                command: command_of(command),
                pending: pending_of(pending),
            },
            Self::Read { rows, pending } => Step::Read {
                rows,
                pending: pending_of(pending),
            },
            Self::Damaged(what) => Step::Damaged(what),
        }
    }
}

/// The action for something that is due by the clock and that no client waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due<C, P, A> {
    /// Propose the command. Its outcome comes back by [`Leader::applied`] only.
    Propose(C),
    /// Begin with this step, and go on as for a request. The answer is dropped.
    Begin(Step<C, P, A>),
}

/// The command of a leader's machine.
pub type CommandOf<L> = <<L as Leader>::Machine as Machine>::Command;

/// The reply of a leader's machine.
pub type ReplyOf<L> = <<L as Leader>::Machine as Machine>::Reply;

/// A step of a leader.
pub type StepOf<L> = Step<CommandOf<L>, <L as Leader>::Pending, <L as Leader>::Answer>;

/// A due action of a leader.
pub type DueOf<L> = Due<CommandOf<L>, <L as Leader>::Pending, <L as Leader>::Answer>;

/// The volatile side of a group, for one term of the replica that leads it: made when that replica has applied an entry of its
/// own term, dropped when it no longer leads or no quorum answers it. The next one begins anew from the machine's state.
///
/// All time comes in as [`Now`], and all rows as [`Row`]s that the host has read. Nothing here changes the machine: a change goes
/// through the log as a command, and its outcome comes back by [`Leader::applied`] and [`Leader::resume`].
///
/// A request may also end without an answer of the leader: when a command's outcome is not known (the replica stopped leading, or
/// no quorum answered), or when rows cannot be read. Then the host fails the request, and drops its `Pending`.
pub trait Leader: Sized + Send + 'static {
    /// The replicated state.
    type Machine: Machine + Default;
    /// The state of a request that waits for a command or for rows.
    type Pending: Send;
    /// The answer to a request.
    type Answer: Send;
    /// Something that people may ask about later. The host writes it down.
    type Event;
    /// The inputs of the leader that are not replicated in its group: settings, what else there is in the cluster.
    type Surroundings: Send + Sync + 'static;

    /// A leader over the state as it is now.
    fn begin(machine: &Self::Machine, surroundings: &Arc<Self::Surroundings>, now: Now) -> Self;

    /// Takes surroundings that differ from those before.
    fn surroundings_changed(&mut self, machine: &Self::Machine, surroundings: &Arc<Self::Surroundings>, now: Now);

    /// Takes note of a command that was applied, with whatever reply; `machine` has it already. The clock is read when `now` is
    /// called, so that a command which moves no timer does not pay for it.
    fn applied(
        &mut self,
        machine: &Self::Machine,
        command: &CommandOf<Self>,
        reply: &ReplyOf<Self>,
        now: &dyn Fn() -> Now,
    );

    /// Goes on with a request whose command was applied.
    fn resume(
        &mut self,
        machine: &Self::Machine,
        pending: Self::Pending,
        reply: ReplyOf<Self>,
        now: Now,
    ) -> StepOf<Self>;

    /// Goes on with a request whose rows were read. Commands may have been applied since the leader asked for them. A leader
    /// without a [`Step::Read`] needs no such method.
    fn resume_with_rows(
        &mut self,
        machine: &Self::Machine,
        pending: Self::Pending,
        rows: Vec<Row>,
        now: Now,
    ) -> StepOf<Self> {
        let _ = (machine, pending, rows, now);
        unreachable!("this leader asks for no rows")
    }

    /// The actions that are due by now. One that gets lost on its way must be due again at a later tick.
    fn tick(&mut self, machine: &Self::Machine, now: Now) -> Vec<DueOf<Self>>;

    /// The time at which [`Leader::tick`] is to be called at the latest, on the monotonic clock.
    fn next_deadline(&self) -> Option<u64>;

    /// Takes the events since the last call: what could not be done, or is worth telling for another reason.
    fn take_events(&mut self) -> Vec<Self::Event>;

    /// The events of a command once it is applied to this state.
    fn events_of(machine: &Self::Machine, command: &CommandOf<Self>) -> Vec<Self::Event>;

    /// Whether a command with this reply did what [`Leader::events_of`] says.
    fn had_effect(reply: &ReplyOf<Self>) -> bool;
}
