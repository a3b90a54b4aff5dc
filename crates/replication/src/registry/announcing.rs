//! Who leads what: what this broker tells the others of its groups, and what it believes of theirs.

use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jangada_proto::internal::message::Body;
use jangada_proto::internal::{GroupLeader, LeaderAnnouncement, Message};
use jangada_storage::StoreCondition;
use jangada_types::{BrokerId, GroupId};
use tokio::sync::Notify;

use super::Registry;
use crate::group::GroupStatus;
use crate::transport::plausible::{Cause, Horizon, Refusal};

/// A leader may be announced of a group that the metadata here does not know yet: so many were created meanwhile at most.
const UNKNOWN_GROUPS_MAX: u64 = 100_000;
/// What is known of peers' commits is saved each so many signs of life.
const SAVE_EVERY_SIGNS: u32 = 4;
/// How often brokers let each other know that they are there, when they have nothing else to say.
const SIGN_OF_LIFE_EVERY: Duration = Duration::from_millis(500);
/// After an announcement, before the next one: elections come in bursts, and so leave in few messages.
const GATHER_FOR: Duration = Duration::from_millis(20);

impl Registry {
    /// What a peer says that it leads, and what it does not want to.
    pub(crate) fn announced(&self, peer: BrokerId, mut announcement: LeaderAnnouncement) {
        let unfit = std::mem::take(&mut announcement.unfit_group_ids).into_iter();
        let unfit = unfit.map(GroupId::from).filter(|group| self.has_part(*group, peer));
        self.unfit.told(peer, unfit.collect());
        let mut refusal = None;
        announcement.leaders.retain(|leader| {
            let group = GroupId::from(leader.group_id);
            let judged = self
                .may_speak(group, peer)
                .and_then(|()| self.believes(group, leader.term));
            judged
                .inspect_err(|error| refusal = Some((leader.group_id, error.clone())))
                .is_ok()
        });
        if let Some((group, refusal)) = refusal {
            self.refused(peer, group, &refusal);
        }
        self.leaders.announced(peer, announcement);
    }

    /// The term of a leader that is announced.
    fn believes(&self, group: GroupId, term: u64) -> Result<(), Refusal> {
        if let Some(here) = self.group(group) {
            return Ok(here.horizon().term(term)?);
        }
        let is_unknown = self
            .roster
            .get()
            .is_some_and(|roster| group.get() > roster.newest_group().get().saturating_add(UNKNOWN_GROUPS_MAX));
        if is_unknown {
            return Err(Refusal::of(Cause::Malformed, format!("there is no group {group}")));
        }
        let max = Horizon::of_others(self.leaders.get(group).map(|leader| leader.term));
        match term <= max {
            true => Ok(()),
            false => Err(Refusal::of(
                Cause::Term,
                format!("a leader of term {term}; up to {max} is believed"),
            )),
        }
    }

    /// Everything that this broker leads, as an announcement.
    pub(super) fn all_led(&self) -> Message {
        let groups = self.groups.read();
        let led = groups.values().filter_map(|group| {
            let status = group.status();
            status.ready.then(|| GroupLeader {
                group_id: group.id().get(),
                term: status.term,
                leading: true,
            })
        });
        self.announcement(led.collect(), true)
    }

    async fn announce(&self, leaders: Vec<GroupLeader>) {
        for peer in self.transport().all() {
            peer.control.send(self.announcement(leaders.clone(), false)).await;
        }
    }

    /// Tells all brokers, in a moment, when this one leads a group now, or does not any more.
    pub(super) fn announce_change(&self, id: GroupId, before: GroupStatus, seen: GroupStatus) {
        if before.ready == seen.ready && (!seen.ready || before.term == seen.term) {
            return;
        }
        let term = if seen.ready { seen.term } else { before.term };
        if seen.ready {
            tracing::info!(group = %id, term, "leading");
        } else {
            tracing::info!(group = %id, term, "not leading any more");
        }
        let change = GroupLeader {
            group_id: id.get(),
            term,
            leading: seen.ready,
        };
        self.unannounced.lock().insert(id, change);
        self.announce_soon.notify_one();
    }

    pub(crate) fn announcement(&self, leaders: Vec<GroupLeader>, complete: bool) -> Message {
        let disk_low = matches!(self.store.condition(), StoreCondition::DiskLow { .. });
        Message {
            body: Some(Body::Leaders(LeaderAnnouncement {
                leaders,
                complete,
                disk_low,
                unfit_group_ids: self.unfit.own(),
                wall_ms: self.clocks.own_ms(),
            })),
            ..Message::default()
        }
    }
}

/// Tells all peers what became of leaderships here, and now and then that this broker is there; and who watches the leaders
/// when a peer came or went.
pub(super) async fn announcements(registry: Weak<Registry>, soon: Arc<Notify>) {
    let mut alive_before = BTreeSet::new();
    let mut tick = tokio::time::interval(SIGN_OF_LIFE_EVERY);
    let mut signs = 0u32;
    loop {
        tokio::select! {
            _ = tick.tick() => {
                let Some(registry) = registry.upgrade() else { return };
                signs = signs.wrapping_add(1);
                if signs.is_multiple_of(SAVE_EVERY_SIGNS) {
                    registry.peers.save();
                }
                registry.announce(Vec::new()).await;
                let alive = registry.heard_lately();
                if alive != alive_before {
                    registry.leaders.changed();
                }
                alive_before = alive;
            }
            () = soon.notified() => {
                let Some(registry) = registry.upgrade() else { return };
                let changes = std::mem::take(&mut *registry.unannounced.lock());
                registry.announce(changes.into_values().collect()).await;
                drop(registry);
                tokio::time::sleep(GATHER_FOR).await;
            }
        }
    }
}
