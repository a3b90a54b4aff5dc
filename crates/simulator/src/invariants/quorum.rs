//! What is committed lies on the disks of a majority.

use std::collections::{BTreeMap, BTreeSet};

use jangada_types::{BrokerId, GroupId, ReplicaId};

use super::Watched;
use super::group::Group;
use super::rows::Place;
use crate::roles::team::Finding;

/// The last committed entry of a group is durable on a majority of the replicas that vote.
///
/// A majority of those that voted at it is enough, or of those of any later membership: a leader commits by the newest that it has.
pub(super) fn check(id: GroupId, group: &Group, disks: &BTreeMap<BrokerId, Watched>) -> Result<(), Finding> {
    let Some(place) = group.entries.committed().filter(|_| !group.is_deleted) else {
        return Ok(());
    };
    let mut memberships = group.entries.memberships_from(place).peekable();
    if memberships.peek().is_none() {
        return Ok(());
    }
    let holders: BTreeSet<BrokerId> = disks
        .iter()
        .filter(|(_, watched)| watched.holds(id, place))
        .map(|(broker, _)| *broker)
        .collect();
    let is_majority = |config: &BTreeSet<ReplicaId>| {
        let held = config.iter().filter(|replica| holders.contains(&replica.broker));
        2 * held.count() > config.len()
    };
    if memberships.any(|configs| configs.iter().all(is_majority)) {
        return Ok(());
    }
    let voters = group.entries.memberships_from(place).next();
    Err(format!(
        "entry {place} is committed and lies on the disks of {holders:?} only; the voters are {voters:?}"
    ))
}

impl Watched {
    /// Whether an entry is durable here, or this disk is forgiven that it is not.
    fn holds(&self, id: GroupId, place: Place) -> bool {
        let is_forgiven = self.forgiven.get(&id).is_some_and(|upto| place.index <= *upto);
        is_forgiven
            || self.disk.look(|durable| {
                let Some(view) = durable.group(id) else { return false };
                let is_purged = view.bounds().purged.is_some_and(|purged| purged.index >= place.index);
                is_purged || view.term_at(place.index) == Some(place.term)
            })
    }
}
