//! One noun for a Raft group that has a replica on this broker: a partition, a coordinator's shard, the metadata.
//!
//! - [`Hosted`]: what all kinds have; [`Kind`]: what differs between them in words and numbers; [`Front`]: what the rest of
//!   the broker calls to use a replica of some kind.
//! - [`Replicas`]: all of them, in the order of their ids. It opens and closes them, and checks their quorums.
//! - [`leaders`]: who leads a group, and waiting until a replica here does.
//! - [`leadership`]: why a replica does not answer, and what became of a proposal or of a read, for all kinds.
//! - [`Driver`]: runs the leader's side of a machine: requests that are resumed when their commands are applied or their rows are
//!   read, and timers. [`Driven`]: the state that it decides by. [`Timers`]: the one task for all timers.
//! - [`InflightProposal`]: what a command holds until Raft lets go of it.
//! - [`check_quorum`]: whether a quorum answers a leader.
//!
//! A kind is a state machine, a front, and a [`Kind`]. Which one a group is of is asked where it is opened (the
//! reconciler; the metadata opens when the broker starts), and nowhere else.

mod check_quorum;
mod driven;
mod driver;
#[cfg(test)]
mod driver_tests;
mod hosted;
mod inflight_proposal;
mod leaders;
mod leadership;
mod replicas;
#[cfg(test)]
mod tests;
mod timers;

pub(crate) use self::driven::{Driven, DrivenPublisher, DriverShared, Observer, SurroundingsCell};
pub(crate) use self::driver::Driver;
pub(crate) use self::hosted::{Front, Hosted, Kind, ReplicaName};
pub(crate) use self::inflight_proposal::{InflightProposal, UNTIL_ANSWERED};
pub(crate) use self::leadership::LEADER_RETRY;
pub(crate) use self::replicas::Replicas;
pub(crate) use self::timers::Timers;
