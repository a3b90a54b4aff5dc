//! What retention takes from a queue that reads an ordinary topic, although the queue has not settled it: told in the log, by the queue's
//! name. The slots count it (`DoneCause::CutOff`).

use jangada_log::{PartitionCommand, PartitionReply, PartitionState};
use jangada_queue::{DoneCause, QueueId, SlotId};

use super::desk::Desk;
use super::lost::lost_so_far;

impl Desk {
    /// A command was applied. Called under the lock of the state, in the log's order.
    pub(super) fn cut_off(&self, state: &PartitionState, command: &PartitionCommand, reply: &PartitionReply) {
        let (PartitionCommand::AdvanceLogStart { from, to, .. }, PartitionReply::LogStart(_)) = (command, reply) else {
            return;
        };
        if from == to {
            return;
        }
        let now = lost_so_far(state);
        let before = std::mem::replace(&mut *self.lost.lock(), now.clone());
        for (slot, lost) in now {
            let messages = lost.saturating_sub(before.get(&slot).copied().unwrap_or(0));
            if messages > 0 {
                let (partition, queue) = (&self.hosted.name, self.name_of(slot));
                tracing::warn!(
                    %partition, queue, messages, log_start = %to,
                    "the topic's retention has taken messages that a queue has not settled; queue.hold.bytes keeps some from it"
                );
            }
        }
    }

    /// How many messages of a queue the topic's retention has taken unsettled in this partition, since the queue began there or was set
    /// back.
    pub fn messages_cut_off(&self, queue: QueueId) -> Option<u64> {
        let id = self.slot(queue).ok()?;
        self.with_state(|state| Some(state.slots().slot(id)?.settled(DoneCause::CutOff)))
    }

    /// The name of the queue that has a slot; empty: none has.
    pub(super) fn name_of(&self, slot: SlotId) -> String {
        let slots = self.slots.read();
        let of_slot = slots.values().find(|(id, _)| *id == slot);
        of_slot.map_or_else(String::new, |(_, spec)| spec.name.to_string())
    }
}
