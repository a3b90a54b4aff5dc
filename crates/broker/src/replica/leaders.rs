//! Who leads a group, as this broker knows it, and waiting until a replica here does.

use std::fmt::Display;
use std::time::Duration;

use jangada_replication::Group;
use jangada_types::{BrokerId, GroupId};

use super::leadership::{led_by, no_leader_known};
use super::replicas::Replicas;
use crate::error::RequestError;

/// How long a request waits for a leader that is being elected or for a replica that is being opened, before it is
/// sent away.
const LEADER_TIMEOUT: Duration = Duration::from_millis(1500);

impl Replicas {
    fn here(&self) -> BrokerId {
        self.registry.identity().broker
    }

    /// What `find` finds as soon as it finds something: a replica that leads and is ready. Waits a moment for an election or
    /// an opening that is under way here; `title` says in errors what is looked for.
    pub async fn when_ready<T>(
        &self,
        group: GroupId,
        title: &(dyn Display + Sync),
        find: impl Fn() -> Option<T>,
    ) -> Result<T, RequestError> {
        let mut leaders = self.registry.leaders().watch();
        let deadline = tokio::time::sleep(LEADER_TIMEOUT);
        tokio::pin!(deadline);
        loop {
            leaders.borrow_and_update();
            if let Some(found) = find() {
                return Ok(found);
            }
            // Elsewhere: sent there at once. Unknown: worth a moment.
            if self.led_elsewhere(group).is_some() {
                return Err(self.not_here(group, title));
            }
            tokio::select! {
                changed = leaders.changed() => if changed.is_err() { return Err(self.not_here(group, title)) },
                () = &mut deadline => return Err(self.not_here(group, title)),
            }
        }
    }

    /// Why no replica here answers for a group.
    pub fn not_here(&self, group: GroupId, title: &dyn Display) -> RequestError {
        if let Some(leader) = self.led_elsewhere(group) {
            return led_by(&title.to_string(), leader, self.here());
        }
        match self.get(group).filter(|replica| replica.group.status().leading) {
            Some(replica) => replica.not_leader(),
            None => no_leader_known(&title.to_string()),
        }
    }

    /// The live broker that leads a group, and its term, if it is not this one.
    pub fn led_elsewhere(&self, group: GroupId) -> Option<(BrokerId, u64)> {
        let leader = self.live_leader_of(group);
        leader.filter(|(broker, _)| *broker != self.here())
    }

    /// Who leads a group, and in which term. Not this broker when no quorum answers it.
    pub fn leader_of(&self, group: GroupId) -> Option<(BrokerId, u64)> {
        let leader = self.registry.leaders().get(group)?;
        let broker = leader.broker?;
        let is_lost = broker == self.here() && self.has_lost_quorum(group);
        (!is_lost).then_some((broker, leader.term))
    }

    /// Like [`Replicas::leader_of`], but not a broker that this one has not heard of lately.
    pub fn live_leader_of(&self, group: GroupId) -> Option<(BrokerId, u64)> {
        let leader = self.leader_of(group);
        leader.filter(|(broker, _)| self.registry.is_alive(*broker))
    }

    /// Whether a replica here knows who leads it, and that one is there: another broker that is alive, or this one with a
    /// quorum. Raft alone would name the last leader until there is another one.
    pub fn knows_leader(&self, group: &Group) -> bool {
        group
            .status()
            .leader
            .is_some_and(|leader| match leader.broker == self.here() {
                true => !self.has_lost_quorum(group.id()),
                false => self.registry.is_alive(leader.broker),
            })
    }

    /// Whether this broker leads a group as far as it knows, and no quorum answers it.
    pub fn has_lost_quorum(&self, group: GroupId) -> bool {
        self.get(group).is_some_and(|replica| replica.has_lost_quorum())
    }
}
