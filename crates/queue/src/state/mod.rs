//! The replicated state: the slots of a partition.

mod aliases;
pub(crate) mod blocks;
mod check;
mod codec;
mod done;
mod held;
mod schedules;
mod slot;
mod slots;
mod transactions;

pub use held::{DeadReason, DoneCause, Held, HeldState, KeepsOrder, Lease, Origin, SlotKind};
pub use schedules::{Schedule, ScheduleKey};
pub(crate) use schedules::{get_bytes, get_string, put_bytes};
pub use slot::{Counts, Forwarding, MessageState, Settled, Slot};
pub use slots::{Context, Slots};
pub use transactions::{
    EndTransaction, EndedMessage, EndedTransaction, OpenTransaction, Transactions, UndecidedTransaction,
};
pub(crate) use transactions::{Undecided, UndecidedSet};
