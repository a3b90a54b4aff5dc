//! Consumer groups as far as transactions go: committed offsets, and those that are staged.

use std::collections::BTreeMap;

use jangada_types::ProducerId;

use super::Bug;

#[derive(Clone, Debug)]
struct Pending {
    seq: u64,
    offsets: BTreeMap<u32, u64>,
    /// When it was staged, for the bug that goes by it.
    order: u64,
}

#[derive(Debug, Default)]
struct Group {
    /// Offset, and when it was staged.
    offsets: BTreeMap<u32, (u64, u64)>,
    pending: BTreeMap<ProducerId, Pending>,
    ended: BTreeMap<ProducerId, u64>,
}

#[derive(Debug, Default)]
pub struct Groups {
    groups: BTreeMap<&'static str, Group>,
    order: u64,
    pub bug: Option<Bug>,
}

impl Groups {
    /// Stages an offset; false: the transaction has ended here.
    pub fn stage(&mut self, group: &'static str, producer: ProducerId, seq: u64, (key, offset): (u32, u64)) -> bool {
        self.order += 1;
        let order = self.order;
        let remembers = self.bug != Some(Bug::LateStaging);
        let group = self.groups.entry(group).or_default();
        if remembers && group.ended.get(&producer).is_some_and(|ended| seq <= *ended) {
            return false;
        }
        let pending = group.pending.entry(producer).or_insert(Pending {
            seq,
            offsets: BTreeMap::new(),
            order,
        });
        if pending.seq != seq {
            return false;
        }
        pending.offsets.insert(key, offset);
        true
    }

    pub fn end(&mut self, group: &str, producer: ProducerId, seq: u64, commit: bool) {
        let by_staging = self.bug == Some(Bug::PendingOrderedByStaging);
        let Some(group) = self.groups.get_mut(group) else {
            return;
        };
        if group.pending.get(&producer).is_some_and(|pending| pending.seq == seq) {
            let pending = group.pending.remove(&producer).expect("it is there");
            for (key, offset) in pending.offsets.into_iter().filter(|_| commit) {
                let is_older = |(_, order): &(u64, u64)| by_staging && pending.order < *order;
                if !group.offsets.get(&key).is_some_and(is_older) {
                    group.offsets.insert(key, (offset, pending.order));
                }
            }
        }
        let ended = group.ended.entry(producer).or_default();
        *ended = seq.max(*ended);
    }

    /// Makes the group known before anything is staged in it, as its first member does.
    pub fn know(&mut self, group: &'static str) {
        self.groups.entry(group).or_default();
    }

    /// The committed offset; none: a transaction that is open has one.
    pub fn fetch(&self, group: &str, key: u32) -> Option<u64> {
        let group = self.groups.get(group)?;
        let is_pending = group.pending.values().any(|pending| pending.offsets.contains_key(&key));
        (!is_pending).then(|| group.offsets.get(&key).map_or(0, |(offset, _)| *offset))
    }

    pub fn has_pending(&self) -> bool {
        self.groups.values().any(|group| !group.pending.is_empty())
    }
}
