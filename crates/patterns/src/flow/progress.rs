//! How far each partition is finished when its records end in any order: what may be committed.

use std::collections::{BTreeMap, BTreeSet};

use jangada_client::{OffsetCommit, TopicPartition};

/// Records of partitions that are taken, and finished in any order. Pure.
///
/// ```text
/// offsets   0  1  2  3  4  5          open: 2, 4          finished below 2: that is what is committed
///           ✓  ✓  ·  ✓  ·  ✓  next = 6
/// ```
#[derive(Debug, Default)]
pub(crate) struct Progress {
    parts: BTreeMap<TopicPartition, Part>,
    /// The generation of the next partition that comes.
    next_generation: u64,
}

/// A partition that is owned.
#[derive(Debug)]
struct Part {
    /// Another one each time that the partition comes.
    generation: u64,
    /// Offsets that are taken and not finished.
    open: BTreeSet<i64>,
    /// The offset behind the last one that was taken; none before the first.
    next: Option<i64>,
    /// What is committed, as far as this member knows.
    committed: Option<i64>,
    /// It is being given up: nothing more of it begins.
    is_leaving: bool,
}

impl Part {
    fn finished_below(&self) -> Option<i64> {
        let first_open = self.open.first().copied();
        match (first_open, self.next) {
            (Some(open), Some(next)) => Some(open.min(next)),
            (open, next) => open.or(next),
        }
    }
}

/// A record that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub partition: TopicPartition,
    pub offset: i64,
    generation: u64,
}

impl Progress {
    /// The partition came: what was taken of it before does not count any more.
    pub fn came(&mut self, partition: &TopicPartition) {
        let part = Part {
            generation: self.next_generation,
            open: BTreeSet::new(),
            next: None,
            committed: None,
            is_leaving: false,
        };
        self.next_generation += 1;
        self.parts.insert(partition.clone(), part);
    }

    /// Takes a record of a partition that is owned. None: it is not.
    pub fn take(&mut self, (topic, partition): (&str, u32), offset: i64) -> Option<Ticket> {
        let mut parts = self.parts.iter_mut();
        let (found, part) = parts.find(|(found, _)| found.partition == partition && *found.topic == *topic)?;
        if part.is_leaving {
            return None;
        }
        part.open.insert(offset);
        part.next = part.next.max(Some(offset + 1));
        Some(Ticket {
            partition: found.clone(),
            offset,
            generation: part.generation,
        })
    }

    /// Whether a record that was taken is still this member's to work on.
    pub fn is_current(&self, ticket: &Ticket) -> bool {
        let part = self.parts.get(&ticket.partition);
        part.is_some_and(|part| part.generation == ticket.generation && !part.is_leaving)
    }

    /// A record is finished. Those of a partition that has gone meanwhile change nothing.
    pub fn finish(&mut self, ticket: &Ticket) {
        if let Some(part) = self.parts.get_mut(&ticket.partition)
            && part.generation == ticket.generation
        {
            part.open.remove(&ticket.offset);
        }
    }

    /// These partitions are being given up: nothing more of them begins. `keep` says which of their records have begun; the others are
    /// not taken any more.
    pub fn leave(&mut self, partitions: &[TopicPartition], keep: impl Fn(&TopicPartition, i64) -> bool) {
        for partition in partitions {
            let Some(part) = self.parts.get_mut(partition) else {
                continue;
            };
            part.is_leaving = true;
            let untouched = part.open.iter().copied().find(|offset| !keep(partition, *offset));
            part.open.retain(|offset| keep(partition, *offset));
            // Nothing from the first one on that has not begun may count as finished.
            if let Some(untouched) = untouched {
                part.next = part.next.min(Some(untouched));
            }
        }
    }

    /// These partitions are gone. What was taken of them does not count any more.
    pub fn gone(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.parts.remove(partition);
        }
    }

    /// What is finished and not committed as yet, of partitions that are meant.
    pub fn to_commit(&self, is_meant: impl Fn(&TopicPartition) -> bool) -> Vec<OffsetCommit> {
        let parts = self.parts.iter().filter(|(partition, _)| is_meant(partition));
        let commits = parts.filter_map(|(partition, part)| {
            let finished = part
                .finished_below()
                .filter(|finished| Some(*finished) > part.committed)?;
            Some(OffsetCommit::new(partition.clone(), finished))
        });
        commits.collect()
    }

    /// What is finished and not committed as yet, of partitions that stay.
    pub fn to_commit_of_staying(&self) -> Vec<OffsetCommit> {
        self.to_commit(|partition| self.parts.get(partition).is_some_and(|part| !part.is_leaving))
    }

    /// These offsets are committed.
    pub fn committed(&mut self, commits: &[OffsetCommit]) {
        for commit in commits {
            if let Some(part) = self.parts.get_mut(&commit.partition) {
                part.committed = part.committed.max(Some(commit.offset));
            }
        }
    }

    /// Number of records that are taken and not finished.
    pub fn under_way(&self) -> usize {
        self.parts.values().map(|part| part.open.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jangada_client::TopicId;
    use proptest::prelude::*;

    fn partition(partition: u32) -> TopicPartition {
        TopicPartition {
            topic: "t".into(),
            topic_id: TopicId([1; 16]),
            partition,
        }
    }

    fn offsets(progress: &Progress) -> Vec<i64> {
        progress
            .to_commit(|_| true)
            .iter()
            .map(|commit| commit.offset)
            .collect()
    }

    #[test]
    fn nothing_behind_an_open_record_is_committed() {
        let mut progress = Progress::default();
        progress.came(&partition(0));
        let tickets: Vec<Ticket> = (5..9)
            .map(|offset| progress.take(("t", 0), offset).expect("owned"))
            .collect();
        for ticket in [&tickets[1], &tickets[3]] {
            progress.finish(ticket);
        }
        assert_eq!(offsets(&progress), [5]);
        progress.finish(&tickets[0]);
        assert_eq!(offsets(&progress), [7]);
        progress.committed(&progress.to_commit(|_| true));
        assert_eq!(offsets(&progress), [] as [i64; 0]);
        progress.finish(&tickets[2]);
        assert_eq!(offsets(&progress), [9]);
        assert_eq!(progress.under_way(), 0);
    }

    #[test]
    fn what_was_taken_before_a_partition_came_back_changes_nothing() {
        let mut progress = Progress::default();
        progress.came(&partition(0));
        let before = progress.take(("t", 0), 5).expect("owned");
        progress.gone(&[partition(0)]);
        assert_eq!(progress.take(("t", 0), 6), None, "it is not owned");
        progress.came(&partition(0));
        let now = progress.take(("t", 0), 5).expect("owned again");
        progress.finish(&before);
        assert!(!progress.is_current(&before) && progress.is_current(&now));
        assert_eq!(offsets(&progress), [5]);
    }

    #[test]
    fn a_partition_that_leaves_commits_up_to_the_first_record_that_has_not_begun() {
        let mut progress = Progress::default();
        progress.came(&partition(0));
        let tickets: Vec<Ticket> = (0..5)
            .map(|offset| progress.take(("t", 0), offset).expect("owned"))
            .collect();
        // 0 and 3 are in work, 1 is finished, 2 and 4 wait.
        progress.finish(&tickets[1]);
        progress.leave(&[partition(0)], |_, offset| offset == 0 || offset == 3);
        progress.finish(&tickets[3]);
        assert_eq!(offsets(&progress), [0], "0 is in work still");
        progress.finish(&tickets[0]);
        assert_eq!(offsets(&progress), [2]);
        assert_eq!(progress.under_way(), 0);
        assert_eq!(progress.take(("t", 0), 5), None, "nothing more of it begins");
    }

    /// What happens to one partition.
    #[derive(Clone, Debug)]
    enum Happens {
        Take,
        Finish(usize),
        Commit,
        /// It is given up: what has begun, every third record, ends in time or not.
        Revoked(bool),
        /// It is lost without a word, and comes back.
        Lost,
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            6 => Just(Happens::Take),
            5 => (0_usize..8).prop_map(Happens::Finish),
            2 => Just(Happens::Commit),
            1 => any::<bool>().prop_map(Happens::Revoked),
            1 => Just(Happens::Lost),
        ]
    }

    proptest! {
        /// However often a partition goes and comes back, and whatever ends late: what is committed is handled, all of it.
        #[test]
        fn what_is_committed_was_handled_over_any_change_of_owners(all in proptest::collection::vec(happens(), 1..200)) {
            let mut progress = Progress::default();
            progress.came(&partition(0));
            // The group's offset, the next offset that is read, and the tickets of this and of earlier times.
            let (mut group, mut next, mut tickets) = (0_i64, 0_i64, Vec::<Ticket>::new());
            let mut handled = BTreeSet::new();
            for one in all {
                match one {
                    Happens::Take => {
                        tickets.push(progress.take(("t", 0), next).expect("it is owned"));
                        next += 1;
                    }
                    Happens::Finish(at) if !tickets.is_empty() => {
                        let ticket = tickets.remove(at % tickets.len());
                        // One of an earlier time was not handled: its handler was told to leave it.
                        if progress.is_current(&ticket) {
                            handled.insert(ticket.offset);
                        }
                        progress.finish(&ticket);
                    }
                    Happens::Finish(_) => {}
                    Happens::Commit => {
                        let commits = progress.to_commit_of_staying();
                        group = commits.first().map_or(group, |commit| commit.offset);
                        progress.committed(&commits);
                        prop_assert_eq!(progress.to_commit_of_staying(), vec![]);
                    }
                    Happens::Revoked(ends) => {
                        progress.leave(&[partition(0)], |_, offset| offset % 3 == 0);
                        let begun = tickets.iter().filter(|ticket| ticket.offset % 3 == 0);
                        for ticket in begun.filter(|ticket| ends && progress.parts[&partition(0)].generation == ticket.generation) {
                            handled.insert(ticket.offset);
                        }
                        for ticket in tickets.clone().iter().filter(|ticket| ends && ticket.offset % 3 == 0) {
                            progress.finish(ticket);
                        }
                        prop_assert_eq!(progress.to_commit_of_staying(), vec![], "nothing stays");
                        let commits = progress.to_commit(|_| true);
                        group = commits.first().map_or(group, |commit| commit.offset);
                        progress.gone(&[partition(0)]);
                        progress.came(&partition(0));
                        next = group;
                    }
                    Happens::Lost => {
                        progress.gone(&[partition(0)]);
                        prop_assert_eq!(progress.under_way(), 0);
                        progress.came(&partition(0));
                        next = group;
                    }
                }
                let below = (0..).take_while(|offset| handled.contains(offset)).count() as i64;
                prop_assert!(group <= below, "{} is committed, and {} are handled", group, below);
            }
        }

        /// In whatever order records end: never is more committed than is finished from the beginning on.
        #[test]
        fn commits_never_pass_an_open_record(order in Just((0_i64..50).collect::<Vec<_>>()).prop_shuffle()) {
            let mut progress = Progress::default();
            progress.came(&partition(0));
            let tickets: Vec<Ticket> = (0..50).map(|offset| progress.take(("t", 0), offset).expect("owned")).collect();
            let mut finished = BTreeSet::new();
            for offset in order {
                progress.finish(&tickets[offset as usize]);
                finished.insert(offset);
                let contiguous = (0..50).take_while(|offset| finished.contains(offset)).count() as i64;
                prop_assert_eq!(offsets(&progress), vec![contiguous]);
            }
        }
    }
}
