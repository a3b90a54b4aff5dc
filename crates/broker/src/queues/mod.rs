//! Work queues on this broker: the leader's engine of a partition's queues (`jangada_queue`), with the task that carries out what it
//! decides.
//!
//! ```text
//!   services --> Desk --inputs--> task: Engine::step, under the partition's lock --> commands, look-ups of rows
//!      ^                            ^                                                       |
//!      |  answers, deliveries       |  noted where it is applied, in the log's order        v
//!      +-------- task <-------------+--------------- PartitionPublisher <---------- the partition's log
//! ```
//!
//! - [`Desk`]: the queues of one partition that is led here, for one term; what the services call. [`Attached`]: a consumer's stream.
//! - [`DeskCell`]: where a partition's desk is, if it has one; a partition without queues pays one load of a flag for each command.
//! - `noting`: what the engine is told where it is applied. `task`: the task of a desk. `slots`: which queues have a slot.
//! - `look_up`: rows of the engine's tables. `carrying`: what is appended again, so that a message that is stuck holds no disk.
//! - `administering`: what administrators do. `sent_ids`: which messages were sent before, with `repetitions` as its memory. `cut_off`:
//!   what retention takes, and `lost` had taken.
//! - `succession`: what a desk leaves to the next one. `following`: how the next one waits for it. [`QueueSpec`]: a queue as the
//!   metadata has it, for one partition.
//! - `ages`: how old messages are. `tallies`: counters of what has come of them, for metrics. `shown`: what is
//!   remembered of both.
//! - `views`: how far queues lag that read an ordinary topic.
//! - `schedules`: putting and listing schedules. `firing`: their messages, when they are due, made of what `template` has, or why
//!   they were refused: `refusals`.
//! - `outgoing`: messages as batches and marks, pure. `room`: the limits of a queue.
//! - `forwarding`: dead letters that move to another topic, with `dead_letters`, their headers, and `ways`, where they went.
//!   [`BeyondDesk`]: what that needs of the broker.
//! - `expiry`: the end of a queue that nobody uses, with `holds`, while its leaders agree on it.
//! - [`QueueSpec`]: a queue as the metadata has it, for one partition.
//!
//! A desk begins when its replica is ready in a term, and ends with the lead, or when the outcome of one of its commands is not known.
//! Whoever waits for it then is told that the partition is not led here.
//!
//! The engine is told of a command under the lock under which it is applied, so it never sees slots with changes that it does not know.
//! The locks are taken in one order: the partition's state, the cell, the engine.

mod administering;
mod ages;
mod attached;
mod beyond;
mod carrying;
mod cell;
mod cut_off;
mod dead_letters;
mod desk;
mod expiry;
#[cfg(test)]
mod expiry_tests;
mod firing;
mod following;
mod forwarding;
#[cfg(test)]
mod forwarding_tests;
mod handed;
mod holds;
mod look_up;
mod lost;
mod noting;
pub(crate) mod outgoing;
mod peek;
mod refusals;
mod repetitions;
mod room;
#[cfg(test)]
mod schedule_tests;
mod schedules;
mod sent_ids;
mod shown;
mod slots;
mod spec;
mod succession;
mod tallies;
mod task;
mod template;
#[cfg(test)]
mod tests;
mod views;
mod ways;

pub(crate) use self::administering::Administer;
pub(crate) use self::attached::{Attached, AttachedEvent};
pub(crate) use self::beyond::{BeyondDesk, DeadLetterTarget, TargetWanted};
pub(crate) use self::cell::DeskCell;
pub(crate) use self::desk::{Desk, ReceiveArgs};
pub(crate) use self::expiry::ExpiryStep;
pub(crate) use self::handed::Handed;
pub(crate) use self::peek::{MessageState, Peeked};
pub(crate) use self::room::Reserved;
pub(crate) use self::schedules::{NewSchedule, Recurrence, ScheduleFound, ScheduleIsPut};
pub(crate) use self::shown::OldestAge;
pub(crate) use self::spec::QueueSpec;
pub(crate) use self::task::DeskTask;
