//! Participants that are added to a transaction before they ask: those that the producer used in each of its last transactions.
//!
//! A producer that reads, processes and writes uses the same partitions and groups again and again, and each of them asks for itself, a
//! command each. So the first one that asks takes the others along, and they find themselves in the row, or wait for that command.
//!
//! It is a guess, and needs to be no more: who was added and writes nothing gets a marker that ends nothing. It is not replicated; a new
//! leader guesses nothing until it has seen some transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jangada_types::GroupId;

use super::outbox::Target;
use super::request::{JoinKind, JoinRequest};
use crate::image::TransactionalId;

/// In so many transactions in a row a participant must have asked before it is added to the next one. More than a few, since producers that
/// choose partitions at random would get markers for nothing.
const IN_A_ROW: u32 = 3;
/// The most participants of an id that are remembered. A transaction with more takes long enough.
const PARTICIPANTS_MAX: usize = 64;
/// The most ids of which participants are remembered.
const IDS_MAX: usize = 1_024;

/// What is remembered of the ids of a shard.
#[derive(Debug, Default)]
pub(super) struct Habits {
    by_id: BTreeMap<Arc<str>, Habit>,
}

#[derive(Debug, Default)]
struct Habit {
    /// The last transaction in which somebody asked.
    seq: u64,
    /// The participants that asked in this transaction or the one before, with the last one in which they did, and in how many in a row.
    asked: BTreeMap<Target, (u64, u32)>,
    /// The newest version of the metadata by which one of them was added.
    metadata_version: u64,
    /// What is being added to the transaction.
    under_way: BTreeSet<Target>,
}

/// Participants to be added beside those that ask.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Guess {
    pub partitions: Vec<GroupId>,
    pub groups: Vec<Arc<str>>,
    pub metadata_version: u64,
}

impl Habits {
    /// Takes note that these are being added to a transaction, which the first of them begins, and guesses who is going to follow.
    pub fn ask(&mut self, request: &JoinRequest, seq: u64) -> Guess {
        if !self.by_id.contains_key(&request.id) && self.by_id.len() >= IDS_MAX {
            self.by_id.clear();
        }
        let habit = self.by_id.entry(Arc::clone(&request.id)).or_default();
        let guess = if habit.seq == seq {
            Guess::default()
        } else {
            habit.begin(seq)
        };
        habit.note(request, seq);
        let guessed = guess.partitions.iter().copied().map(Target::Partition);
        let guessed = guessed.chain(guess.groups.iter().cloned().map(Target::Group));
        habit.under_way.extend(targets(request).chain(guessed));
        guess
    }

    /// Takes note that these asked, and were in the transaction already.
    pub fn asked(&mut self, request: &JoinRequest, seq: u64) {
        if let Some(habit) = self.by_id.get_mut(&request.id).filter(|habit| habit.seq == seq) {
            habit.note(request, seq);
        }
    }

    /// Whether all that ask and are not in the row yet are being added by a command that is under way.
    pub fn are_under_way(&self, row: &TransactionalId, request: &JoinRequest) -> bool {
        let Some(habit) = self.by_id.get(&request.id).filter(|habit| !habit.under_way.is_empty()) else {
            return false;
        };
        let is_open = row.seq == habit.seq;
        let is_there = |target: &Target| match target {
            _ if !is_open => false,
            Target::Partition(group) => row.partitions.contains(group),
            Target::Group(name) => row.groups.contains(name),
        };
        request.kind == JoinKind::Implicit
            && (is_open || row.seq.checked_add(1) == Some(habit.seq))
            && row.producer == request.producer
            && targets(request).all(|target| is_there(&target) || habit.under_way.contains(&target))
    }

    /// Additions to the id were applied, or refused.
    pub fn settled(&mut self, id: &str) {
        if let Some(habit) = self.by_id.get_mut(id) {
            habit.under_way.clear();
        }
    }

    /// Forgets the id.
    pub fn remove(&mut self, id: &str) {
        self.by_id.remove(id);
    }
}

impl Habit {
    fn begin(&mut self, seq: u64) -> Guess {
        let before = std::mem::replace(&mut self.seq, seq);
        self.under_way.clear();
        self.asked
            .retain(|_, (last, _)| *last == before && before.checked_add(1) == Some(seq));
        let mut guess = Guess {
            metadata_version: self.metadata_version,
            ..Guess::default()
        };
        for (target, _) in self.asked.iter().filter(|(_, (_, times))| *times >= IN_A_ROW) {
            match target {
                Target::Partition(group) => guess.partitions.push(*group),
                Target::Group(name) => guess.groups.push(Arc::clone(name)),
            }
        }
        guess
    }

    fn note(&mut self, request: &JoinRequest, seq: u64) {
        self.metadata_version = self.metadata_version.max(request.metadata_version);
        for target in targets(request) {
            let has_room = self.asked.len() < PARTICIPANTS_MAX;
            match self.asked.get_mut(&target) {
                Some((last, times)) if *last != seq => (*last, *times) = (seq, times.saturating_add(1)),
                Some(_) => {}
                None if has_room => drop(self.asked.insert(target, (seq, 1))),
                None => {}
            }
        }
    }
}

fn targets(request: &JoinRequest) -> impl Iterator<Item = Target> {
    let partitions = request.partitions.iter().copied().map(Target::Partition);
    partitions.chain(request.groups.iter().cloned().map(Target::Group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::producer::Producer;
    use jangada_types::ProducerId;

    fn request(partitions: &[u64], metadata_version: u64) -> JoinRequest {
        JoinRequest {
            id: "transfers".into(),
            producer: Producer::first(ProducerId(7)),
            partitions: partitions.iter().copied().map(GroupId).collect(),
            groups: Vec::new(),
            kind: JoinKind::Implicit,
            metadata_version,
        }
    }

    fn row(habits: &Habits) -> TransactionalId {
        let mut row = TransactionalId::new(request(&[], 1).producer, 1_000, 0);
        row.seq = habits.by_id["transfers"].seq - 1;
        row
    }

    /// A transaction in which the first partition asks alone and then each of the others. Gives what was guessed at its begin.
    fn transaction(habits: &mut Habits, seq: u64, partitions: &[u64]) -> Vec<u64> {
        let mut guessed = Vec::new();
        for (nth, partition) in partitions.iter().enumerate() {
            let asks = request(&[*partition], 5);
            if nth > 0 && habits.are_under_way(&row(habits), &asks) {
                habits.asked(&asks, seq);
                continue;
            }
            let guess = habits.ask(&asks, seq);
            guessed.extend(guess.partitions.iter().map(|group| group.get()));
        }
        habits.settled("transfers");
        guessed
    }

    #[test]
    fn who_asked_in_each_of_the_last_transactions_is_taken_along_and_who_stays_away_is_not_any_more() {
        let mut habits = Habits::default();
        for seq in 1..=3 {
            assert_eq!(transaction(&mut habits, seq, &[1, 2, 3]), [0; 0], "{seq}");
        }
        assert_eq!(transaction(&mut habits, 4, &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(transaction(&mut habits, 5, &[2, 1]), [1, 2, 3]);
        assert_eq!(
            transaction(&mut habits, 6, &[1, 2, 3]),
            [1, 2],
            "the third stayed away once"
        );
        assert_eq!(
            transaction(&mut habits, 8, &[1, 2]),
            [0; 0],
            "there was one that nobody of them was in"
        );
    }

    #[test]
    fn who_asks_waits_for_a_command_that_has_him_until_that_is_settled() {
        let mut habits = Habits::default();
        for seq in 1..=3 {
            transaction(&mut habits, seq, &[1, 2]);
        }
        habits.ask(&request(&[1], 5), 4);
        let row = row(&habits);
        assert!(habits.are_under_way(&row, &request(&[2], 5)));
        assert!(
            !habits.are_under_way(&row, &request(&[2, 3], 5)),
            "nobody adds the third"
        );
        let mut other = request(&[2], 5);
        other.producer = other.producer.bumped();
        assert!(!habits.are_under_way(&row, &other));
        habits.settled("transfers");
        assert!(!habits.are_under_way(&row, &request(&[2], 5)));
    }

    #[test]
    fn a_guess_has_the_newest_version_by_which_somebody_was_added() {
        let mut habits = Habits::default();
        for seq in 1..=3 {
            habits.ask(&request(&[1], 9), seq);
            habits.ask(&request(&[2], 4), seq);
        }
        assert_eq!(habits.ask(&request(&[2], 4), 4).metadata_version, 9);
    }

    #[test]
    fn what_is_remembered_has_bounds() {
        let mut habits = Habits::default();
        let many: Vec<u64> = (0..200).collect();
        for seq in 1..=4 {
            transaction(&mut habits, seq, &many);
        }
        assert_eq!(habits.by_id["transfers"].asked.len(), PARTICIPANTS_MAX);
        for other in 0..2 * IDS_MAX {
            let mut asks = request(&[1], 5);
            asks.id = format!("other-{other}").into();
            habits.ask(&asks, 1);
        }
        assert!(habits.by_id.len() <= IDS_MAX);
    }
}
