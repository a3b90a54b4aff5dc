//! At which pace new groups are formed.
//!
//! A group is formed by its preferred leader, which then asks the other replicas for their votes. Thousands at once would
//! hold up the heartbeats of the groups that are there, and cost them their leaders. So only a few are on the way to their
//! first leader at a time; the next ones follow as these have one.

use std::collections::BTreeMap;
use std::time::Duration;

use jangada_types::GroupId;
use tokio::time::Instant;

/// Groups that are formed here and have no leader yet.
const CONCURRENT_MAX: usize = 64;
/// A group that has no leader for so long holds up the others no more: too few of its replicas are there.
const LEADER_TIMEOUT: Duration = Duration::from_secs(2);
/// A group whose preferred leader does not form it is formed by another replica after this time ...
const FORM_AFTER: Duration = Duration::from_secs(2);
/// ... and as much longer for each so many groups that wait here: the preferred leader may have as many.
const FORMED_MEANWHILE: usize = 256;

/// The groups of this broker that have no log yet.
#[derive(Default)]
pub(super) struct Forming {
    /// The groups, and since when each has been open here.
    unformed: BTreeMap<GroupId, Instant>,
    /// Groups that were formed here, and when.
    without_leader: BTreeMap<GroupId, Instant>,
}

impl Forming {
    /// A replica was opened that has no log.
    pub fn opened(&mut self, group: GroupId, now: Instant) {
        self.unformed.entry(group).or_insert(now);
    }

    /// Groups without a log.
    pub fn unformed(&self) -> Vec<GroupId> {
        self.unformed.keys().copied().collect()
    }

    /// It has a log, or is none any more.
    pub fn is_done(&mut self, group: GroupId) {
        self.unformed.remove(&group);
    }

    /// Whether a replica that is not its preferred leader may form it.
    pub fn is_overdue(&self, group: GroupId, now: Instant) -> bool {
        let patience =
            FORM_AFTER + FORM_AFTER * u32::try_from(self.unformed.len() / FORMED_MEANWHILE).unwrap_or(u32::MAX);
        self.unformed.get(&group).is_some_and(|since| now - *since > patience)
    }

    /// Forgets the groups that have a leader now, or wait for too long.
    pub fn settle(&mut self, now: Instant, has_leader: impl Fn(GroupId) -> bool) {
        self.without_leader
            .retain(|group, at| now - *at < LEADER_TIMEOUT && !has_leader(*group));
    }

    /// How many more may be formed now.
    pub fn room(&self) -> usize {
        CONCURRENT_MAX.saturating_sub(self.without_leader.len())
    }

    /// It was formed here.
    pub fn formed(&mut self, group: GroupId, now: Instant) {
        self.unformed.remove(&group);
        self.without_leader.insert(group, now);
    }

    /// No group is without a log, or on the way to its first leader.
    pub fn is_settled(&self) -> bool {
        self.unformed.is_empty() && self.without_leader.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_groups_follow_as_have_a_leader_or_will_not_get_one() {
        let start = Instant::now();
        let mut forming = Forming::default();
        for group in 1..=1_000 {
            forming.opened(GroupId(group), start);
        }
        for group in 1..=CONCURRENT_MAX as u64 {
            assert!(forming.room() > 0);
            forming.formed(GroupId(group), start);
        }
        assert_eq!(forming.room(), 0);
        forming.settle(start, |group| group.get() <= 10);
        assert_eq!(forming.room(), 10);
        assert_eq!(forming.unformed().len(), 1_000 - CONCURRENT_MAX);
        forming.settle(start + LEADER_TIMEOUT, |_| false);
        assert_eq!(forming.room(), CONCURRENT_MAX);
    }

    #[test]
    fn the_preferred_leader_has_more_time_when_it_has_more_to_form() {
        let start = Instant::now();
        let mut forming = Forming::default();
        forming.opened(GroupId(1), start);
        let later = start + FORM_AFTER + Duration::from_millis(1);
        assert!(forming.is_overdue(GroupId(1), later));
        for group in 2..=1_000 {
            forming.opened(GroupId(group), start);
        }
        assert!(!forming.is_overdue(GroupId(1), later));
        assert!(!forming.is_overdue(GroupId(7_000), later), "it is not unformed here");
    }
}
