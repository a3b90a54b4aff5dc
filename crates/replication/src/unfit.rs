//! Replicas that are damaged and lead nothing if others can: this broker's own, and those that the other brokers told of.
//!
//! Whoever is about to hand a leadership over asks here first: a leader that began to hand over takes no writes until the
//! other one was elected, and openraft has no way back. Each announcement carries all of the sender's, which are nearly
//! always none, so that what was missed or taken back is mended with the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jangada_types::{BrokerId, GroupId};
use parking_lot::RwLock;
use tokio::time::Instant;

/// A replica that was asked to lead stands for elections for so long, which is more than an election takes.
const LEADS_WHEN_ASKED: Duration = Duration::from_secs(10);

/// The replicas of this broker that are damaged, and lead only if no other can.
#[derive(Default)]
pub(crate) struct Unfit {
    /// With the time when its leader asked it last to take over all the same.
    own: RwLock<BTreeMap<GroupId, Option<Instant>>>,
    others: RwLock<BTreeMap<BrokerId, BTreeSet<GroupId>>>,
}

impl Unfit {
    /// This broker's replica is damaged. True: that is news.
    pub fn add(&self, group: GroupId) -> bool {
        let mut own = self.own.write();
        let is_news = !own.contains_key(&group);
        own.entry(group).or_default();
        is_news
    }

    /// It is closed, or opened anew.
    pub fn remove(&self, group: GroupId) {
        // Nearly always empty, and done for each replica.
        if !self.own.read().is_empty() {
            self.own.write().remove(&group);
        }
    }

    /// Whether this broker's replica is damaged.
    pub fn is_own(&self, group: GroupId) -> bool {
        self.own.read().contains_key(&group)
    }

    /// Its leader asks it to take over. False: it is sound.
    pub fn asked(&self, group: GroupId) -> bool {
        // For each hand-over, and nearly always empty.
        if self.own.read().is_empty() {
            return false;
        }
        match self.own.write().get_mut(&group) {
            Some(asked) => {
                *asked = Some(Instant::now());
                true
            }
            None => false,
        }
    }

    /// Whether it was asked so lately that the leader which asked may still wait for it.
    pub fn is_asked(&self, group: GroupId) -> bool {
        let asked = self.own.read().get(&group).copied().flatten();
        asked.is_some_and(|at| at.elapsed() < LEADS_WHEN_ASKED)
    }

    /// What the others are told.
    pub fn own(&self) -> Vec<u64> {
        self.own.read().keys().map(|group| group.get()).collect()
    }

    /// All that another broker tells.
    pub fn told(&self, broker: BrokerId, groups: BTreeSet<GroupId>) {
        if self
            .others
            .read()
            .get(&broker)
            .map_or(groups.is_empty(), |known| *known == groups)
        {
            return;
        }
        self.others.write().insert(broker, groups);
    }

    /// Whether a broker said that its replica of a group leads only if nobody else does.
    pub fn is(&self, broker: BrokerId, group: GroupId) -> bool {
        self.others
            .read()
            .get(&broker)
            .is_some_and(|groups| groups.contains(&group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_tells_replaces_what_it_told_before() {
        let unfit = Unfit::default();
        let (peer, group) = (BrokerId(2), GroupId(7));
        assert!(!unfit.is(peer, group));
        unfit.told(peer, [group, GroupId(8)].into());
        assert!(unfit.is(peer, group) && !unfit.is(BrokerId(3), group));
        unfit.told(peer, [GroupId(8)].into());
        assert!(!unfit.is(peer, group) && unfit.is(peer, GroupId(8)));
        unfit.told(peer, BTreeSet::new());
        assert!(!unfit.is(peer, GroupId(8)));
    }

    #[test]
    fn a_replica_that_was_asked_may_lead_for_a_while_and_goes_on_being_told() {
        let unfit = Unfit::default();
        assert!(!unfit.asked(GroupId(7)));
        assert!(unfit.add(GroupId(7)) && !unfit.add(GroupId(7)) && unfit.add(GroupId(3)));
        assert!(!unfit.is_asked(GroupId(7)) && unfit.asked(GroupId(7)) && unfit.is_asked(GroupId(7)));
        // What the repair says meanwhile does not take it back.
        assert!(!unfit.add(GroupId(7)) && unfit.is_asked(GroupId(7)));
        assert_eq!(unfit.own(), [3, 7]);
        let long_ago = Instant::now() - LEADS_WHEN_ASKED;
        unfit.own.write().insert(GroupId(7), Some(long_ago));
        assert!(!unfit.is_asked(GroupId(7)));
        unfit.remove(GroupId(7));
        assert_eq!(unfit.own(), [3]);
    }
}
