//! Who leads which group, as far as this broker knows: from its own replicas, and from what the other brokers
//! announce.
//!
//! A leader announces itself to every broker when it is elected and ready, and takes it back when it is not any more;
//! on each new connection it announces everything it leads. Nothing is asked for, so nothing is polled. A higher term
//! always wins.

use std::collections::{BTreeMap, BTreeSet};

use jangada_proto::internal::{GroupLeader, LeaderAnnouncement};
use jangada_types::{BrokerId, GroupId};
use parking_lot::RwLock;
use tokio::sync::watch;

/// A group's leader in a term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The Raft term.
    pub term: u64,
    /// `None`: the leader of this term is gone, the next one is not known yet.
    pub broker: Option<BrokerId>,
}

/// The leaders of all groups of the cluster, as far as this broker has heard of them.
pub struct Leaders {
    known: RwLock<BTreeMap<GroupId, Leader>>,
    version: watch::Sender<u64>,
}

impl Default for Leaders {
    fn default() -> Self {
        Self {
            known: RwLock::default(),
            version: watch::Sender::new(0),
        }
    }
}

impl Leaders {
    /// The group's leader.
    pub fn get(&self, group: GroupId) -> Option<Leader> {
        self.known.read().get(&group).copied()
    }

    /// Changes whenever anything here does, or what a replica of this broker sees, which of them can be found, whether a
    /// quorum answers them, or which brokers are alive.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Forgets the groups that are none any more, also those that this broker had no replica of.
    pub fn retain(&self, mut exists: impl FnMut(GroupId) -> bool) {
        // Nobody looks for the leader of a group that is gone, so nobody is told.
        self.known.write().retain(|group, _| exists(*group));
    }

    /// Wakes those who watch, for a change that is not in this table: they look again at what they wait for.
    pub fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// What the local replica sees.
    pub(crate) fn observed(&self, group: GroupId, term: u64, broker: Option<BrokerId>) {
        if learn(&mut self.known.write(), group, term, broker) {
            self.changed();
        }
    }

    /// A broker that led in this term leads no more.
    pub(crate) fn left(&self, group: GroupId, term: u64, broker: BrokerId) {
        if forget(&mut self.known.write(), group, term, broker) {
            self.changed();
        }
    }

    /// What `peer` says of itself.
    pub(crate) fn announced(&self, peer: BrokerId, announcement: LeaderAnnouncement) {
        let mut known = self.known.write();
        let mut changed = false;
        let mut leads = BTreeSet::new();
        for GroupLeader {
            group_id,
            term,
            leading,
        } in announcement.leaders
        {
            let group = GroupId::from(group_id);
            if leading {
                leads.insert(group);
                changed |= learn(&mut known, group, term, Some(peer));
            } else {
                changed |= forget(&mut known, group, term, peer);
            }
        }
        if announcement.complete {
            for (group, leader) in known.iter_mut() {
                if leader.broker == Some(peer) && !leads.contains(group) {
                    leader.broker = None;
                    changed = true;
                }
            }
        }
        drop(known);
        if changed {
            self.changed();
        }
    }
}

fn learn(known: &mut BTreeMap<GroupId, Leader>, group: GroupId, term: u64, broker: Option<BrokerId>) -> bool {
    let leader = known.entry(group).or_insert(Leader { term: 0, broker: None });
    let news = term > leader.term || (term == leader.term && leader.broker.is_none() && broker.is_some());
    if news {
        *leader = Leader { term, broker };
    }
    news
}

fn forget(known: &mut BTreeMap<GroupId, Leader>, group: GroupId, term: u64, peer: BrokerId) -> bool {
    match known.get_mut(&group) {
        Some(leader) if leader.term == term && leader.broker == Some(peer) => {
            leader.broker = None;
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(id: u32) -> BrokerId {
        BrokerId::from(id)
    }

    fn announcement(leaders: &[(u64, u64, bool)], complete: bool) -> LeaderAnnouncement {
        let leaders = leaders
            .iter()
            .map(|&(group_id, term, leading)| GroupLeader {
                group_id,
                term,
                leading,
            })
            .collect();
        LeaderAnnouncement {
            leaders,
            complete,
            ..LeaderAnnouncement::default()
        }
    }

    #[test]
    fn a_higher_term_wins_and_an_old_leader_cannot_take_it_back() {
        let leaders = Leaders::default();
        let group = GroupId::from(7);
        leaders.announced(broker(1), announcement(&[(7, 3, true)], false));
        leaders.announced(broker(2), announcement(&[(7, 4, true)], false));
        leaders.announced(broker(1), announcement(&[(7, 3, true)], false));
        leaders.announced(broker(1), announcement(&[(7, 3, false)], false));
        assert_eq!(
            leaders.get(group),
            Some(Leader {
                term: 4,
                broker: Some(broker(2))
            })
        );
        leaders.announced(broker(2), announcement(&[(7, 4, false)], false));
        assert_eq!(leaders.get(group), Some(Leader { term: 4, broker: None }));
    }

    #[test]
    fn groups_that_are_gone_are_forgotten() {
        let leaders = Leaders::default();
        leaders.announced(broker(1), announcement(&[(7, 3, true), (8, 3, true)], false));
        leaders.retain(|group| group == GroupId::from(8));
        assert_eq!(leaders.get(GroupId::from(7)), None);
        assert_eq!(leaders.get(GroupId::from(8)).unwrap().broker, Some(broker(1)));
    }

    #[test]
    fn a_complete_announcement_takes_back_what_it_leaves_out() {
        let leaders = Leaders::default();
        leaders.announced(broker(1), announcement(&[(7, 3, true), (8, 3, true)], false));
        let before = *leaders.watch().borrow();
        leaders.announced(broker(1), announcement(&[(8, 3, true)], true));
        assert_eq!(leaders.get(GroupId::from(7)).unwrap().broker, None);
        assert_eq!(leaders.get(GroupId::from(8)).unwrap().broker, Some(broker(1)));
        assert!(*leaders.watch().borrow() > before);
    }
}
