//! What goes through a partition's log for its queues. The crate of the partition's log embeds these in its own commands.

mod carry;
mod marks;
mod ops;
mod schedule;
mod section;
mod slot_set;

pub use carry::{Carry, CarryRefused};
pub use marks::{IdWindow, Mark, Marks, PackedMarks};
pub use ops::QueueOps;
pub use schedule::{Fire, PutSchedule, ScheduleCommand, ScheduleRefused};
pub use section::{Section, SectionKind};
pub use slot_set::SlotSet;
