//! Who receives what peers send: the accepting side of the transport hands it over here, and knows nothing of who that is.

use std::sync::Arc;

use jangada_proto::internal::{Commits, Hello, LeaderAnnouncement};
use jangada_types::{BrokerId, GroupId, Incarnation, ReplicaId};
use openraft::async_runtime::watch::WatchReceiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::not_admitted::NotAdmitted;
use super::plausible::{Horizon, Judge, Refusal};
use crate::group::Raft;
use crate::snapshot::chunks::ChunkStore;
use crate::state_machine::Check;

/// The receiver of what peers send. No method waits.
pub(crate) trait Inbox: Send + Sync + 'static {
    /// Lets a caller in by what it said first, or refuses it.
    fn admit(&self, hello: Option<Hello>) -> Result<BrokerId, NotAdmitted>;

    /// What this broker says first to a peer.
    fn hello(&self, to: BrokerId) -> Hello;

    /// How far this broker's commits are, if peers are told.
    fn own_commits(&self) -> Option<Commits>;

    /// Whether the metadata does not have a caller any more that was let in.
    fn is_expelled(&self, peer: BrokerId) -> bool;

    /// A peer has sent something.
    fn note_contact(&self, peer: BrokerId);

    /// A peer says what it leads, and how its disk and its clock are.
    fn announced(&self, peer: BrokerId, announcement: LeaderAnnouncement);

    /// This broker's replica of a group, if it is open under this incarnation.
    fn hosted(&self, group: GroupId, incarnation: Incarnation) -> Result<Hosted, String>;

    /// Groups that are open here.
    fn group_count(&self) -> usize;

    /// Refuses what a peer says of a group that it has no part in.
    fn may_speak(&self, group: GroupId, peer: BrokerId) -> Result<(), Refusal>;

    /// Something of a peer was refused: it is counted and reported.
    fn refused(&self, peer: BrokerId, group: GroupId, refusal: &Refusal);

    /// The leader of a group asks this broker to take its place. True: although its replica is damaged.
    fn asked_to_lead(&self, group: GroupId) -> bool;

    /// Room for what is in memory of a snapshot of so many bytes while it is received; none while others have it.
    fn snapshot_room(&self, bytes: u64) -> Option<OwnedSemaphorePermit>;
}

/// A group's replica as the transport needs it.
#[derive(Clone)]
pub(crate) struct Hosted {
    pub raft: Raft,
    /// A permit for each heartbeat that may wait for its answer.
    pub heartbeats: Arc<Semaphore>,
    /// What peers are believed.
    pub horizon: Arc<Horizon>,
    pub check: Arc<dyn Check>,
    /// The chunks of its states.
    pub chunks: Arc<ChunkStore>,
    pub group: GroupId,
    pub local: ReplicaId,
}

impl Hosted {
    /// What a message of `sender` is judged by now.
    pub fn judge(&self, sender: BrokerId) -> Judge<'_> {
        let metrics = self.raft.metrics();
        let committed = metrics.borrow_watched().local_committed;
        Judge {
            horizon: &self.horizon,
            check: &*self.check,
            sender,
            local: self.local,
            committed,
        }
    }
}
