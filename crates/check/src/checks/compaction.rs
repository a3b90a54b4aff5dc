//! Compaction: a tombstone never goes before the value that it deletes. That the last value of each key stays is judged with what is
//! lost, that readers see deletions with what they read.

use std::collections::HashMap;

use crate::names::{NameId, PartitionId};
use crate::verdict::{Findings, Kind};

use super::facts::Facts;

/// Judges every compacted partition.
pub fn check(facts: &Facts<'_>, findings: &mut Findings) {
    for id in facts.history.partition_ids() {
        if facts.history.partition_settings(id).is_some_and(|it| it.compacted) {
            deleted_values(facts, id, findings);
        }
    }
}

fn deleted_values(facts: &Facts<'_>, id: PartitionId, findings: &mut Findings) {
    let known = &facts.partitions[id.at()];
    // The tombstones that end their keys.
    let mut tombstones: HashMap<NameId, usize> = HashMap::new();
    for (at, entry) in known.entries.iter().enumerate() {
        if let Some((_, send)) = facts.sent(entry)
            && send.tombstone
            && facts.must_be_seen(entry)
            && let Some(key) = send.key
            && known.last_of_key.get(&key) == Some(&entry.offset)
        {
            tombstones.insert(key, at);
        }
    }
    if tombstones.is_empty() {
        return;
    }
    for (place, read) in facts.history.finals().iter().enumerate() {
        if read.partition != id || !read.complete {
            continue;
        }
        let mut there = vec![false; known.entries.len()];
        for run in read.runs.iter().filter(|run| run.agrees()) {
            there[known.at(run.first)..][..run.count as usize].fill(true);
        }
        for (entry, _) in known.entries.iter().zip(&there).filter(|(_, is_there)| **is_there) {
            let Some((_, send)) = facts.sent(entry) else { continue };
            let Some(at) = send.key.and_then(|key| tombstones.get(&key)) else {
                continue;
            };
            let tombstone = &known.entries[*at];
            if there[*at] || tombstone.offset <= entry.offset || tombstone.offset >= read.end {
                continue;
            }
            findings.add(
                Kind::DeletedValueBack,
                || {
                    let (name, value) = (facts.history.partition_name(id), facts.history.value(send.value));
                    let (offset, deleted) = (entry.offset, tombstone.offset);
                    format!("{value:?} of {name}:{offset} is there, and its deletion at {deleted} is not")
                },
                || {
                    let writers = entry.writer.into_iter().chain(tombstone.writer);
                    let mut who: Vec<_> = writers.map(|id| facts.shown(id)).collect();
                    who.push((read.index, facts.history.describe_final(place)));
                    who
                },
            );
        }
    }
}
