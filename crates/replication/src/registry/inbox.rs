//! The registry as the transport's accepting side sees it.

use jangada_proto::internal::{Commits, Hello, LeaderAnnouncement};
use jangada_types::{BrokerId, GroupId, Incarnation};
use tokio::sync::OwnedSemaphorePermit;

use super::Registry;
use crate::transport::inbox::{Hosted, Inbox};
use crate::transport::not_admitted::NotAdmitted;
use crate::transport::plausible::Refusal;

impl Inbox for Registry {
    fn admit(&self, hello: Option<Hello>) -> Result<BrokerId, NotAdmitted> {
        Self::admit(self, hello)
    }

    fn hello(&self, to: BrokerId) -> Hello {
        Self::hello(self, to)
    }

    fn own_commits(&self) -> Option<Commits> {
        self.peers().own_commits()
    }

    fn is_expelled(&self, peer: BrokerId) -> bool {
        Self::is_expelled(self, peer)
    }

    fn note_contact(&self, peer: BrokerId) {
        Self::note_contact(self, peer);
    }

    fn announced(&self, peer: BrokerId, announcement: LeaderAnnouncement) {
        self.disk_of(peer, announcement.disk_low);
        self.clocks().heard(peer, announcement.wall_ms);
        Self::announced(self, peer, announcement);
    }

    fn hosted(&self, group: GroupId, incarnation: Incarnation) -> Result<Hosted, String> {
        Self::hosted(self, group, incarnation)
    }

    fn group_count(&self) -> usize {
        Self::group_count(self)
    }

    fn may_speak(&self, group: GroupId, peer: BrokerId) -> Result<(), Refusal> {
        Self::may_speak(self, group, peer)
    }

    fn refused(&self, peer: BrokerId, group: GroupId, refusal: &Refusal) {
        Self::refused(self, peer, group.get(), refusal);
    }

    fn asked_to_lead(&self, group: GroupId) -> bool {
        Self::asked_to_lead(self, group)
    }

    fn snapshot_room(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        Self::snapshot_room(self, bytes)
    }
}
