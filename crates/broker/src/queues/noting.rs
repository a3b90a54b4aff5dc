//! How a desk's engine is told what was applied, and acts.

use jangada_log::{PartitionCommand, PartitionReply, PartitionState};
use jangada_machine::Now;
use jangada_queue::CarryRefused;
use jangada_queue::engine::{Input, Output, RequestId, Ticket};
use jangada_types::{LogPosition, Offset};

use super::desk::Desk;

/// What a step came to.
pub(super) struct Stepped {
    pub outputs: Vec<Output>,
    /// Receives that the engine will not answer any more.
    pub cancelled: Vec<RequestId>,
    /// When the next one is due, on the monotonic clock.
    pub deadline_ms: Option<u64>,
    pub now: Now,
}

impl Desk {
    /// A command was applied. Called under the lock of the state, in the log's order.
    pub(super) fn applied(
        &self,
        at: LogPosition,
        state: &PartitionState,
        command: &PartitionCommand,
        reply: &PartitionReply,
    ) {
        let number = |offset: Offset| offset.get().unsigned_abs();
        let mut inputs = [None, None];
        match (command, reply) {
            (PartitionCommand::QueueOps(ops), PartitionReply::Queue(reply)) if at.term == self.term => {
                inputs[0] = Some(Input::Applied {
                    ticket: Ticket(ops.ticket),
                    reply: reply.clone(),
                });
            }
            (
                PartitionCommand::AppendMarked { marks, .. } | PartitionCommand::TxnAppendMarked { marks, .. },
                PartitionReply::Appended {
                    base_offset,
                    duplicate: false,
                    ..
                },
            ) => {
                let marks = Some((number(*base_offset), marks.clone()));
                inputs[0] = Some(Input::Appended { marks });
            }
            (PartitionCommand::Carry { carry, .. }, PartitionReply::Appended { base_offset, .. }) => {
                let base = number(*base_offset);
                let moves = carry.messages.offsets().zip(base..).collect();
                inputs[0] = Some(Input::Carried { moves });
                let marks = (!carry.marks.is_empty()).then(|| (base, carry.marks.clone()));
                inputs[1] = Some(Input::Appended { marks });
            }
            (PartitionCommand::Carry { .. }, PartitionReply::CarryRefused(refused))
                if *refused != CarryRefused::LeaderChanged =>
            {
                inputs[0] = Some(Input::Carried { moves: Vec::new() });
            }
            (PartitionCommand::Schedule { change, marks, .. }, reply) => {
                let is_of_term = at.term == self.term;
                if matches!(reply, PartitionReply::ScheduleRefused(_)) && !is_of_term {
                    return;
                }
                // What was refused is not the next occurrence any more: the engine looks at it anew.
                inputs[0] = Some(Input::Scheduled {
                    key: change.key().clone(),
                    is_applied: true,
                });
                if let (PartitionReply::Appended { base_offset, .. }, false) = (reply, marks.is_empty()) {
                    let marks = Some((number(*base_offset), marks.clone()));
                    inputs[1] = Some(Input::Appended { marks });
                }
            }
            // What lies behind it may go out, whether or not anything was acknowledged in it.
            (PartitionCommand::Marker { .. }, PartitionReply::Ended { queues, .. }) => {
                inputs[0] = Some(Input::Ended(queues.clone()));
            }
            // Retention, or an administrator, took what a group had not done.
            (PartitionCommand::AdvanceLogStart { .. }, PartitionReply::LogStart(_)) => inputs[0] = Some(Input::CutOff),
            // Of another term, or without effect on the slots.
            (
                PartitionCommand::Append { .. }
                | PartitionCommand::AdvanceLogStart { .. }
                | PartitionCommand::QueueOps(_)
                | PartitionCommand::AppendMarked { .. }
                | PartitionCommand::Carry { .. }
                | PartitionCommand::TxnAppend { .. }
                | PartitionCommand::TxnAppendMarked { .. }
                | PartitionCommand::Marker { .. }
                | PartitionCommand::CompactedAppend { .. }
                | PartitionCommand::EmptiedAppend { .. }
                | PartitionCommand::AdvanceHorizon { .. },
                _,
            ) => return,
        }
        let (end, now) = (number(state.next_offset()), self.timers.now());
        let mut engine = self.engine.lock();
        for input in inputs.into_iter().flatten() {
            engine.note(state.slots(), end, input, now);
        }
    }

    /// Gives the engine what has come since the last step, and lets it act. One lock for all of it.
    pub(super) fn step(&self) -> Stepped {
        let inputs = std::mem::take(&mut *self.inputs.lock());
        let cancelled = inputs.iter().filter_map(|input| match input {
            Input::CancelReceive { request } => Some(*request),
            _ => None,
        });
        let cancelled = cancelled.collect();
        self.with_state(|state| {
            let (end, now) = (state.next_offset().get().unsigned_abs(), self.timers.now());
            let mut engine = self.engine.lock();
            for input in inputs {
                engine.note(state.slots(), end, input, now);
            }
            Stepped {
                outputs: engine.step(state.slots(), end, Input::Tick, now),
                cancelled,
                deadline_ms: engine.next_deadline(),
                now,
            }
        })
    }
}
