//! The partitions that a member owns, and how far each is on its way to being read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::committer::Finished;
use super::position::{PartitionPosition, TopicPartition};
use crate::consumer::{FetchSession, StartAt};
use crate::metadata::TopicMetadata;

/// A partition that the member owns.
pub(crate) struct Owned {
    pub state: State,
    pub is_paused: bool,
    pub finished: Finished,
    /// Counts the lookups of its start: the answer to an older one does not count.
    turn: u64,
}

/// How far the partition is on its way to being read.
pub(crate) enum State {
    /// The listener has not been told of it.
    New,
    /// The listener was told; perhaps it said where to begin.
    Announced(Option<StartAt>),
    /// The offset where it begins is being looked up.
    LookedUp(Option<StartAt>),
    /// Its position is known: it is being read, or paused.
    At {
        topic: Arc<TopicMetadata>,
        /// The offset where reading begins, or where it stopped.
        offset: i64,
        /// The fetch session, while it is read.
        session: Option<FetchSession>,
    },
    /// Reading waits for a seek.
    Stuck,
}

#[derive(Default)]
pub(crate) struct OwnedPartitions {
    by_partition: BTreeMap<TopicPartition, Owned>,
    by_fetch_session: HashMap<FetchSession, TopicPartition>,
    turns: u64,
    /// Whether partitions were given up since the coordinator was last told.
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

    pub fn by_fetch_session(&self, session: FetchSession) -> Option<(&TopicPartition, &Owned)> {
        let partition = self.by_fetch_session.get(&session)?;
        Some((partition, &self.by_partition[partition]))
    }

    pub fn finished(&self, session: FetchSession) -> Option<&Finished> {
        self.by_fetch_session(session).map(|(_, owned)| &owned.finished)
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

    /// Sets the state of a partition that is not read and still owned; lookups of its start that are under way no
    /// longer count.
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

    /// Whether the answer to this lookup of its start still counts.
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

    pub fn started(&mut self, partition: &TopicPartition, begun: FetchSession) {
        if let Some(Owned {
            state: State::At { session, .. },
            ..
        }) = self.by_partition.get_mut(partition)
        {
            *session = Some(begun);
            self.by_fetch_session.insert(begun, partition.clone());
        }
    }

    /// Marks partitions as not read any more; returns the fetch sessions that this ends.
    pub fn stop(&mut self, partitions: &[TopicPartition], position: impl Fn(FetchSession) -> i64) -> Vec<FetchSession> {
        let mut ended = Vec::new();
        for partition in partitions {
            if let Some(Owned {
                state: State::At { offset, session, .. },
                ..
            }) = self.by_partition.get_mut(partition)
                && let Some(session) = session.take()
            {
                *offset = position(session);
                self.by_fetch_session.remove(&session);
                ended.push(session);
            }
        }
        ended
    }

    /// Removes partitions that are not read any more, and returns how far each is finished.
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

    /// Removes all partitions, and returns how far each is finished.
    pub fn take_all(&mut self) -> Vec<PartitionPosition> {
        self.by_fetch_session.clear();
        let all = std::mem::take(&mut self.by_partition).into_iter();
        all.map(|(partition, owned)| PartitionPosition {
            partition,
            position: owned.finished.get().map(|position| position.offset),
        })
        .collect()
    }
}
