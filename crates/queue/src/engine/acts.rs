//! Changes of single messages that wait for the next command, and the sections that they become.

use std::collections::BTreeMap;

use crate::command::Section;
use crate::engine::desk::Ready;
use crate::engine::io::RequestId;
use crate::ids::{SlotId, TransactionId};
use crate::limits::OPS_BYTES;
use crate::runs::Runs;
use crate::state::{DeadReason, DoneCause};

/// What becomes of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    Done(DoneCause),
    Retry { failed: bool },
    Release { unseen: bool },
    Extend { duration_ms: u64 },
    Dead { reason: DeadReason, failed: bool },
    Stage(TransactionId),
}

/// A change of one message, and who waits for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Act {
    pub slot: SlotId,
    /// The message, as it goes out again.
    pub ready: Ready,
    pub change: Change,
    /// How long a message that is retried waits.
    pub delay_ms: u64,
    /// The request, and the place of the message in it.
    pub waits: Option<(RequestId, usize)>,
}

/// What one act takes in a command, bytes, at most.
pub(super) const ACT_BYTES: usize = 16;

/// Beyond so many acts that wait the engine looks for no more messages that expire, or go for another reason of its own: millions may do so
/// at once.
pub(super) const ACTS_MAX: usize = 4 * OPS_BYTES / ACT_BYTES;

/// Acts of one slot with one change, by offset: they are one section.
pub(super) struct Group {
    pub slot: SlotId,
    pub change: Change,
    pub acts: Vec<Act>,
}

/// The acts in groups.
pub(super) fn grouped(acts: Vec<Act>) -> Vec<Group> {
    let mut groups: BTreeMap<(SlotId, Change), Vec<Act>> = BTreeMap::new();
    for act in acts {
        groups.entry((act.slot, act.change)).or_default().push(act);
    }
    let of_group = |((slot, change), mut acts): ((SlotId, Change), Vec<Act>)| {
        acts.sort_unstable_by_key(|act| act.ready.offset);
        Group { slot, change, acts }
    };
    groups.into_iter().map(of_group).collect()
}

impl Group {
    pub(super) fn section(&self) -> Section {
        let slot = self.slot;
        let messages: Runs = self.acts.iter().map(|act| act.ready.offset).collect();
        match self.change {
            Change::Done(cause) => Section::Done { slot, cause, messages },
            Change::Retry { failed } => Section::Retry {
                slot,
                messages,
                delays_ms: self.acts.iter().map(|act| act.delay_ms).collect(),
                failed: u32::from(failed),
            },
            Change::Release { unseen } => Section::Release {
                slot,
                messages,
                unseen: u32::from(unseen),
            },
            Change::Extend { duration_ms } => Section::Extend {
                slot,
                messages,
                duration_ms,
            },
            Change::Stage(TransactionId { producer, epoch, seq }) => Section::Stage {
                slot,
                producer,
                epoch,
                seq,
                messages,
            },
            // One that nobody had yet is dead with its key and lane, or it would come back without them.
            Change::Dead { reason, failed } => Section::Dead {
                slot,
                reason,
                messages,
                failed: u32::from(failed),
                keys: unless_all_are(0, self.acts.iter().map(|act| act.ready.key)),
                lanes: unless_all_are(0, self.acts.iter().map(|act| u32::from(act.ready.lane))),
            },
        }
    }
}

/// The values, or none of them if all are the same that stands for none.
pub(super) fn unless_all_are<T: PartialEq>(none: T, values: impl Iterator<Item = T>) -> Vec<T> {
    let values: Vec<T> = values.collect();
    match values.iter().all(|value| *value == none) {
        true => Vec::new(),
        false => values,
    }
}
