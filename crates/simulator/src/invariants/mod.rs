//! What must be true of the disks of a cluster at every moment, whatever has happened: looked at from outside while the brokers run,
//! without a message and without time that passes.
//!
//! | invariant | module |
//! |---|---|
//! | a replica's vote never goes back, and it votes once in a term | `votes` |
//! | a term has one leader | `votes` |
//! | entries of the same index and term are the same on all disks; terms never fall along a log | `entries` |
//! | a log ends in no later term than the replica has voted in | `replica` |
//! | a committed entry never changes and never vanishes | `entries`, `replica` |
//! | what is committed lies on the disks of a majority | `quorum` |
//! | nothing is purged that no snapshot covers; no state lies beyond the log's end | `replica` |
//! | states as of the same entry are the same on all disks | `states` |
//! | log start <= last stable offset <= high watermark; no log start passes what a queue needs | `saved` |
//! | the offset index has no gap and fits the log | `index` |
//!
//! What is looked at is what is durable: the synced layer of each disk. So it holds at every moment, also while a broker is dead. Only what
//! has changed since the last look is read again; votes are all seen, also those between two looks.
//!
//! Entries that compaction has taken records of may differ: each replica compacts its own log. A group that was deleted for good is
//! judged no more.

mod entries;
mod group;
mod index;
mod quorum;
mod replica;
mod rows;
mod saved;
mod states;
#[cfg(test)]
mod tests;
mod votes;

use std::collections::{BTreeMap, BTreeSet};

use jangada_storage::{Changed, MemoryDisk};
use jangada_types::{BrokerId, GroupId};

use self::group::Group;
use self::replica::Replica;
use crate::host::Host;
use crate::roles::team::Finding;

/// Looks at the disks of all brokers.
#[derive(Default)]
pub struct Invariants {
    disks: BTreeMap<BrokerId, Watched>,
    groups: BTreeMap<GroupId, Group>,
}

/// The disk of a broker.
struct Watched {
    name: String,
    disk: MemoryDisk,
    replicas: BTreeMap<GroupId, Replica>,
    /// By group: up to which index it may lack what it once had, since it was put back, emptied or damaged.
    forgiven: BTreeMap<GroupId, u64>,
    /// Some of what lies there is damaged: it is no witness.
    is_rotten: bool,
    /// It was never looked at.
    is_new: bool,
}

impl Watched {
    fn new(name: &str, disk: &MemoryDisk) -> Self {
        Self {
            name: name.to_owned(),
            disk: disk.clone(),
            replicas: BTreeMap::new(),
            forgiven: BTreeMap::new(),
            is_rotten: false,
            is_new: true,
        }
    }
}

impl Invariants {
    /// Looks at the disks of these hosts: the first is that of broker 1, and so on.
    pub fn new(hosts: &[Host]) -> Self {
        let mut invariants = Self::default();
        for (broker, host) in (1..).zip(hosts) {
            invariants.watch(broker, host.name(), host.disk().memory());
        }
        invariants
    }

    /// A broker has this disk.
    fn watch(&mut self, broker: u32, name: &str, disk: &MemoryDisk) {
        self.disks.insert(BrokerId::from(broker), Watched::new(name, disk));
    }

    /// From now on this host's disk is the broker's, or it was put back or emptied: what was known of its past does not count any more, and
    /// it may lack what was committed until now.
    pub fn replaced(&mut self, broker: u32, host: &Host) {
        self.replaced_by(broker, host.name(), host.disk().memory());
    }

    fn replaced_by(&mut self, broker: u32, name: &str, disk: &MemoryDisk) {
        self.watch(broker, name, disk);
        self.forgive(broker);
    }

    /// Something on this broker's disk was damaged: what lies there is not judged any more, and it may lack what was committed until
    /// now.
    pub fn rotten(&mut self, broker: u32) {
        self.forgive(broker);
        if let Some(watched) = self.disks.get_mut(&BrokerId::from(broker)) {
            watched.is_rotten = true;
        }
    }

    fn forgive(&mut self, broker: u32) {
        let committed = self.groups.iter();
        let committed = committed.filter_map(|(group, known)| Some((*group, known.entries.committed()?.index)));
        let committed = committed.collect();
        if let Some(watched) = self.disks.get_mut(&BrokerId::from(broker)) {
            watched.forgiven = committed;
        }
    }

    /// Looks at what has changed on the disks since the last look.
    ///
    /// # Errors
    /// Says which invariant does not hold, where, and what contradicts it.
    pub fn look(&mut self) -> Result<(), Finding> {
        let mut touched = BTreeSet::new();
        for watched in self.disks.values_mut() {
            touched.extend(watched.look(&mut self.groups)?);
        }
        for id in touched {
            let group = &self.groups[&id];
            quorum::check(id, group, &self.disks).map_err(|finding| format!("group {id}: {finding}"))?;
        }
        Ok(())
    }

    /// Groups that were seen.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// Entries of which it was seen that they are committed, over all groups.
    pub fn committed(&self) -> u64 {
        self.groups.values().map(|group| group.entries.committed_count()).sum()
    }
}

impl Watched {
    /// Looks at what has changed here, and says of which groups.
    fn look(&mut self, groups: &mut BTreeMap<GroupId, Group>) -> Result<BTreeSet<GroupId>, Finding> {
        let mut changes = self.disk.take_changes();
        changes.everything |= std::mem::take(&mut self.is_new);
        let Self {
            name,
            disk,
            replicas,
            is_rotten,
            ..
        } = self;
        disk.look(|durable| {
            let mut touched: BTreeSet<GroupId> = changes.groups.keys().copied().collect();
            if changes.everything {
                touched.extend(durable.groups());
            }
            touched.remove(&GroupId::NODE);
            for id in &touched {
                let group = groups.entry(*id).or_default();
                let Some(view) = durable.group(*id).filter(|_| !*is_rotten) else {
                    continue;
                };
                let mut changed = changes.groups.get(id).cloned().unwrap_or_default();
                if changes.everything {
                    changed = whole(changed);
                }
                let replica = replicas.entry(*id).or_default();
                let judged = replica.look(name, group, &view, &changed);
                judged.map_err(|finding| format!("{name}, group {id}: {finding}"))?;
            }
            Ok(touched)
        })
    }
}

/// Anything may have changed.
fn whole(changed: Changed) -> Changed {
    Changed {
        log_from: Some(0),
        rows: true,
        ..changed
    }
}
