//! The leader's side of a partition's queues: who waits for messages, which message is next, what is due, and what to propose.
//!
//! ```text
//!   Input  --->  Engine::step  --->  Output::Propose   a QueueOps for the partition's log
//!                  |    ^            Output::Read      rows to look up
//!                  |    |            Output::Deliver   messages, whose grant is applied
//!                  v    |            Output::Answer    what a request came to
//!                the slots           Output::Carry     messages to append again
//!                                    Output::Forward   dead letters for another topic
//! ```
//!
//! It is made when the replica has applied an entry of its own term, and dropped when it no longer leads: nothing of it is
//! replicated. All time comes in as [`Now`](jangada_machine::Now), and all rows by [`Input::Rows`]. Nothing here changes the slots:
//! what is to change goes through the log, and comes back by [`Input::Applied`].
//!
//! - [`Policy`]: the settings of a queue. [`Input`], [`Output`]: what comes in and what goes out.
//! - `step`: the engine, and what each input does. `noted`: what it is told where it is applied.
//! - `pump`: what is due, and the next command. `part`: what one is about. `applied`: what became of one.
//! - `receive`: who asks once, or again. `settle`: what consumers say of messages. `rows`: what was looked up, and what was carried.
//! - `carry`: what is appended again, so that a log can be cut. `counts`: limits, and what is shown. `lifetime`: what has an end
//!   besides its settlement. `cut`: what retention took. `forward`: dead letters on their way to another topic. `fire`: schedules.
//! - `transactions`: what is acknowledged in transactions. `routed`: what is for other slots.
//! - `desk`: what the leader knows of one slot. `walk`: the next message of it. `lanes`, `timers`, `keys`, `consumers`: its parts, with
//!   `ahead`, `breaker`, `carrier`, `depth`, `elsewhere`, `expiries`, `firing`, `forwarder`.
//! - `outs`: the messages that are leased. `tally`: what has come of messages, for people. `in_flight`: how many may be with consumers.
//! - `acts`: changes of single messages that wait for the next command.

mod acts;
mod ahead;
mod applied;
mod breaker;
mod carrier;
mod carry;
mod consumers;
mod counts;
mod cut;
mod depth;
mod desk;
mod elsewhere;
mod expiries;
mod fire;
mod firing;
mod forward;
mod forwarder;
mod in_flight;
mod io;
mod keys;
mod lanes;
mod lifetime;
mod noted;
mod outs;
mod part;
mod policy;
mod pump;
mod receive;
mod routed;
mod rows;
mod settle;
mod step;
mod tally;
mod timers;
mod transactions;
mod walk;

pub use breaker::{TripCause, Tripped};
pub use carrier::CarryBounds;
pub use consumers::Waiter;
pub use depth::{Full, Limit, Oldest, Room, SlotCounts};
pub use io::{
    Answer, ConsumerId, DeadLetter, Delivered, ForwardOutcome, Input, LogPart, Output, ReadId, RequestId, Rows,
    RowsWanted, SettleItem, Settled, Settlement, Ticket,
};
pub use policy::{Attempts, Expired, OnDead, Order, Overflow, Policy};
pub use step::Engine;
pub use tally::Tally;
