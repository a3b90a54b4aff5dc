//! The partitions that a member owns, and how far each is on its way to being read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::committer::Finished;
use super::listener::{PartitionPosition, TopicPartition};
use crate::consumer::{Life, StartAt};
use crate::metadata::TopicMetadata;

/// An owned partition.
pub(crate) struct Owned {
    pub state: State,
    pub is_paused: bool,
    pub finished: Finished,
    /// Counts what was asked about its start: an older answer does not count.
    turn: u64,
}

/// How far it is.
pub(crate) enum State {
    /// The listener does not know it.
    New,
    /// It does; perhaps it said where to begin.
    Announced(Option<StartAt>),
    /// Where it begins is being found out.
    LookedUp(Option<StartAt>),
    /// It is read, or could be.
    At {
        topic: Arc<TopicMetadata>,
        /// Where reading begins, or stopped.
        offset: i64,
        /// It is read.
        life: Option<Life>,
    },
    /// Waits for a seek.
    Stuck,
}

#[derive(Default)]
pub(crate) struct OwnedPartitions {
    by_partition: BTreeMap<TopicPartition, Owned>,
    by_life: HashMap<Life, TopicPartition>,
    turns: u64,
    /// Partitions were given up, and the coordinator has not been told.
    pub gave_up: bool,
}

impl OwnedPartitions {
    pub fn partitions(&self) -> impl Iterator<Item = &TopicPartition> {
        self.by_partition.keys()
    }

    pub fn contains(&self, partition: &TopicPartition) -> bool {
        self.by_partition.contains_key(partition)
    }

    pub fn get(&self, partition: &TopicPartition) -> Option<&Owned> {
        self.by_partition.get(partition)
    }

    pub fn get_mut(&mut self, partition: &TopicPartition) -> Option<&mut Owned> {
        self.by_partition.get_mut(partition)
    }

    pub fn by_life(&self, life: Life) -> Option<(&TopicPartition, &Owned)> {
        let partition = self.by_life.get(&life)?;
        Some((partition, &self.by_partition[partition]))
    }

    pub fn finished(&self, life: Life) -> Option<&Finished> {
        self.by_life(life).map(|(_, owned)| &owned.finished)
    }

    pub fn insert(&mut self, partition: TopicPartition, finished: Finished) {
        let owned = Owned {
            state: State::New,
            is_paused: false,
            finished,
            turn: 0,
        };
        self.by_partition.insert(partition, owned);
    }

    /// Sets the state of a partition that is not read and still owned; what was asked about its start no longer counts.
    pub fn set(&mut self, partition: &TopicPartition, state: State) {
        if let Some(owned) = self.by_partition.get_mut(partition) {
            owned.state = state;
            owned.turn = 0;
        }
    }

    pub fn in_state(&self, is_it: impl Fn(&State) -> bool) -> Vec<TopicPartition> {
        let matching = self.by_partition.iter().filter(|(_, owned)| is_it(&owned.state));
        matching.map(|(partition, _)| partition.clone()).collect()
    }

    /// # Panics
    /// For a partition that is not announced.
    pub fn begin_lookup(&mut self, partition: &TopicPartition) -> (u64, Option<StartAt>) {
        self.turns += 1;
        let owned = self.by_partition.get_mut(partition).expect("it is owned");
        let State::Announced(given) = owned.state else {
            panic!("only what is announced is looked up")
        };
        owned.state = State::LookedUp(given);
        owned.turn = self.turns;
        (owned.turn, given)
    }

    /// Whether an answer about its start still counts.
    pub fn is_looked_up(&self, partition: &TopicPartition, turn: u64) -> bool {
        self.get(partition)
            .is_some_and(|owned| owned.turn == turn && matches!(owned.state, State::LookedUp(_)))
    }

    pub fn end_lookup(&mut self, partition: &TopicPartition, again: bool) {
        if let Some(owned) = self.by_partition.get_mut(partition)
            && let State::LookedUp(given) = owned.state
        {
            owned.state = if again { State::Announced(given) } else { State::Stuck };
        }
    }

    pub fn started(&mut self, partition: &TopicPartition, begun: Life) {
        if let Some(Owned {
            state: State::At { life, .. },
            ..
        }) = self.by_partition.get_mut(partition)
        {
            *life = Some(begun);
            self.by_life.insert(begun, partition.clone());
        }
    }

    /// Marks partitions as not read any more; which lives that ends.
    pub fn stop(&mut self, partitions: &[TopicPartition], position: impl Fn(Life) -> i64) -> Vec<Life> {
        let mut ended = Vec::new();
        for partition in partitions {
            if let Some(Owned {
                state: State::At { offset, life, .. },
                ..
            }) = self.by_partition.get_mut(partition)
                && let Some(life) = life.take()
            {
                *offset = position(life);
                self.by_life.remove(&life);
                ended.push(life);
            }
        }
        ended
    }

    /// Takes partitions out that are not read any more.
    pub fn remove(&mut self, partitions: &BTreeSet<TopicPartition>) -> Vec<PartitionPosition> {
        self.gave_up = true;
        let removed = partitions.iter().filter_map(|partition| {
            let owned = self.by_partition.remove(partition)?;
            Some(PartitionPosition {
                partition: partition.clone(),
                position: owned.finished.get().map(|position| position.offset),
            })
        });
        removed.collect()
    }

    /// Takes out all that the listener knows of.
    pub fn take_all(&mut self) -> Vec<PartitionPosition> {
        self.by_life.clear();
        let all = std::mem::take(&mut self.by_partition).into_iter();
        all.map(|(partition, owned)| PartitionPosition {
            partition,
            position: owned.finished.get().map(|position| position.offset),
        })
        .collect()
    }
}
