//! Transactional ids as a pure state machine: no clock, no I/O, no randomness, no threads.
//!
//! A shard of the coordinator holds many transactional ids. Its replicas fold [`Command`]s into the same [`Image`]; its leader also
//! has a [`Leader`], which answers producers, ends what is open for too long, and says which markers are still to be sent.
//!
//! ```text
//!   Init, Join, End, tick -> Leader -> Command -> the shard's log
//!                              ^                       |
//!                              +-- resume <- Reply <- Image::apply (judges again)
//!                              |
//!   Leader::take_outgoing -> markers to partitions, ends of staged offsets to groups -> Leader::acknowledge -> Complete
//! ```
//!
//! The protocol is Kafka's (KIP-98) as KIP-890 mended it: each transaction has an epoch of its own, and the partition's leader adds
//! the partition before the first batch is written. (producer id, epoch, seq) names one transaction in every message between brokers.
//!
//! ```text
//!         Init            Join               End(commit)         all markers acknowledged
//!  none --------> Empty --------> Ongoing --------> PrepareCommit --------> CompleteCommit --> (Join) Ongoing
//!                   ^                | End(abort), timeout, Init of another process
//!                   +---- Init ----  +------------> PrepareAbort ---------> CompleteAbort
//! ```
//!
//! What makes it safe:
//! - Only what was applied as `Prepare*` is sent, so every leader, also a deposed one, sends the same decision. Nothing changes a
//!   decision.
//! - A partition is in the id's row before the first batch is proposed to it. So its marker comes, whatever happens to producer and
//!   leader; and a batch that comes after the marker has an older epoch, or the `seq` of a transaction that has ended there.
//! - The next transaction begins only when all markers of the last are acknowledged.
//!
//! Map of the crate:
//! - [`image`]: the replicated state. [`producer`]: producer ids with their epochs. [`outcome`]: how transactions end.
//! - [`command`]: the input of the fold, with its encoding. [`reply`]: its output. `wire`: the messages that these and the image are
//!   made of.
//! - `apply`: the fold. `rules`: the checks that leader and apply share, and the texts of refusals.
//! - [`snapshot`]: the state as bytes. `machine`: the state as `replication` runs it.
//! - `event`: events that people may ask about later.
//! - [`leader`]: the answers to producers, the timers, and the outbox of markers.
//! - [`limits`]: every bound. `size`: the size of the state.

mod apply;
pub mod command;
mod error;
mod event;
pub mod image;
pub mod leader;
pub mod limits;
mod machine;
pub mod outcome;
pub mod producer;
pub mod reply;
mod rules;
mod size;
pub mod snapshot;
mod wire;

pub use command::{Command, CommandKind};
pub use error::RestoreError;
pub use event::Event;
pub use image::{Ended, Image, TransactionState, TransactionalId};
pub use jangada_types::{CodecError, Rejection};
pub use leader::{
    Acknowledgment, Answer, Config, Delivery, EndRequest, InitRequest, JoinKind, JoinRequest, Leader, Now, Outgoing,
    Pending, Step, Target,
};
pub use outcome::Outcome;
pub use producer::Producer;
pub use reply::Reply;
pub use rules::judge_id;
