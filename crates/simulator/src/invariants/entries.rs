//! The entries of a group's log, as all disks have them, and which of them are committed.

use std::collections::BTreeMap;

use jangada_log::compaction::rewritten::compacted_form;
use jangada_storage::LogEntry;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::rows::{Configs, Place, membership_of};
use crate::roles::team::Finding;

/// What the head of an entry begins with that has a command.
const COMMAND_HEAD: [u8; 2] = [1, 1];

/// An entry as it was seen first.
struct Seen {
    hash: u64,
    /// Compaction has taken records of it: another disk may have it as it was.
    is_compacted: bool,
    /// On whose disk it was seen.
    on: String,
}

/// What was seen of a group's log.
#[derive(Default)]
pub(super) struct Entries {
    /// By index and term.
    seen: BTreeMap<(u64, u64), Seen>,
    /// Terms of the committed entries, by index.
    committed: BTreeMap<u64, u64>,
    /// The last place that any disk says is committed.
    last: Option<Place>,
    /// Memberships by index and term.
    memberships: BTreeMap<(u64, u64), Configs>,
}

fn is_compacted(entry: &LogEntry) -> bool {
    entry.head.starts_with(&COMMAND_HEAD) && compacted_form(&entry.head[COMMAND_HEAD.len()..]).is_some()
}

impl Entries {
    /// An entry lies on the disk of `name`.
    pub fn note(&mut self, name: &str, entry: &LogEntry) -> Result<(), Finding> {
        let key = (entry.index, entry.term);
        let (hash, is_compacted) = (
            xxh3_64_with_seed(&entry.body, xxh3_64(&entry.head)),
            is_compacted(entry),
        );
        if let Some(seen) = self.seen.get_mut(&key) {
            if seen.hash == hash || is_compacted {
                return Ok(());
            }
            if !seen.is_compacted {
                return Err(format!(
                    "entry {} of term {} is another one than on the disk of {}",
                    entry.index, entry.term, seen.on
                ));
            }
            (seen.hash, seen.is_compacted) = (hash, false);
            name.clone_into(&mut seen.on);
            return Ok(());
        }
        if let Some(configs) = membership_of(&entry.head, &entry.body) {
            self.memberships.insert(key, configs?);
        }
        let seen = Seen {
            hash,
            is_compacted,
            on: name.to_owned(),
        };
        self.seen.insert(key, seen);
        Ok(())
    }

    /// A membership that a state has.
    pub fn note_membership(&mut self, at: Place, configs: &Configs) {
        let known = self.memberships.entry((at.index, at.term));
        known.or_insert_with(|| configs.clone());
    }

    /// Somebody's disk says that the entry at this place is committed.
    pub fn commit(&mut self, place: Place) -> Result<(), Finding> {
        let term = *self.committed.entry(place.index).or_insert(place.term);
        if term != place.term {
            return Err(format!(
                "the committed entry {} was of term {term}, and is of term {}",
                place.index, place.term
            ));
        }
        if self.last.is_none_or(|last| last.index < place.index) {
            self.last = Some(place);
        }
        Ok(())
    }

    /// The term of a committed entry, if it is known.
    pub fn committed_term(&self, index: u64) -> Option<u64> {
        self.committed.get(&index).copied()
    }

    /// The last entry that is known to be committed.
    pub fn committed(&self) -> Option<Place> {
        self.last
    }

    /// How many entries are known to be committed.
    pub fn committed_count(&self) -> u64 {
        self.committed.len() as u64
    }

    /// The memberships by which an entry may have been committed: the one in force at it, and those that came behind it.
    pub fn memberships_from(&self, place: Place) -> impl Iterator<Item = &Configs> {
        let is_real = |(index, term): &(u64, u64)| self.committed_term(*index).is_none_or(|real| real == *term);
        let behind = (place.index + 1, 0);
        let mut before = self.memberships.range(..behind).rev();
        let in_force = before.find(|(at, _)| is_real(at));
        let later = self.memberships.range(behind..);
        let later = later.filter(move |(at, _)| is_real(at));
        in_force.into_iter().chain(later).map(|(_, configs)| configs)
    }
}
