//! What a replicated state machine is, as traits: no I/O, no clock, no threads. The crates of the machines implement them,
//! `replication` runs what implements them, and neither knows the other.
//!
//! ```text
//!   Command -> encode -> the group's log -> decode -> Machine::apply -> Reply, to the proposer
//!                                                          |
//!                                                          +-> Effects: rows for the store
//! ```
//!
//! - [`Machine`]: a deterministic fold of a group's committed commands into a state.
//! - [`Leader`]: what the replica that leads decides beside that: requests, resumed when their commands are applied or their rows
//!   are read, and timers.
//! - [`EncodedCommand`]: a command as it is in the log: a small head, and a body that is shared and never copied.
//! - [`Effects`]: the rows that applying a command changes in the store. [`Retention`]: how the log is kept small.

mod command;
mod leader;
mod machine;

pub use command::EncodedCommand;
pub use leader::{CommandOf, Due, DueOf, Leader, Now, ReplyOf, Row, RowRange, Step, StepOf};
pub use machine::{Effects, Machine, RestoreError, Retention};
