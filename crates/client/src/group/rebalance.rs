//! What a member does when its partitions change, step by step: lost ones are told, others given up, new ones taken up.
//!
//! One step is under way at a time; each begins in [`GroupConsumer::advance`] and ends in `take_done` or `take_found`.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::GroupConsumer;
use super::committer::Position;
use super::config::CommitMode;
use super::listener::{GroupHandle, ListenerError, StartPositions, TopicPartition};
use super::membership::Ack;
use super::owned::{Owned, State};
use super::starts::{Found, Known};
use crate::consumer::Life;
use crate::error::ClientError;
use crate::notice::Notice;

/// Before partitions whose start could not be found out are tried again.
const START_RETRY: Duration = Duration::from_millis(500);

/// What a piece of work came to.
pub(super) enum Done {
    Announced {
        losses: u64,
        partitions: Vec<TopicPartition>,
        starts: Result<StartPositions, ListenerError>,
    },
    GaveUp {
        committed: Result<(), ClientError>,
    },
    ToldLost,
}

impl GroupConsumer {
    /// Takes what the membership has heard.
    pub(super) fn look(&mut self) {
        if self.membership.view.has_changed().unwrap_or(true) {
            self.take_view();
        }
    }

    pub(super) fn take_view(&mut self) {
        let view = self.membership.view.borrow_and_update().clone();
        self.is_stirred = true;
        if view.losses != self.view.losses {
            self.reader.clear();
            self.handed = None;
            self.guard = None;
            self.lookups.clear();
            self.acknowledged = None;
            // Nothing is taken up before the listener was told of what is lost: no loss puts out another.
            let lost = self.owned.take_all();
            if !lost.is_empty() {
                self.lost = Some((self.handle(), lost));
            }
            self.committer.begin(view.losses);
        }
        self.view = view;
    }

    /// Begins with the next thing that is to be done about the assignment.
    pub(super) fn advance(&mut self) -> Result<(), ClientError> {
        self.look();
        if !self.is_stirred || self.work.is_some() {
            return Ok(());
        }
        self.is_stirred = false;
        if let Some((group, lost)) = self.lost.take() {
            tracing::warn!(
                group = self.config.group, member = self.member_id(), lost = %list(lost.iter().map(|l| &l.partition)), "partitions lost"
            );
            if let Some(listener) = self.listener.clone() {
                self.work = Some(Box::pin(async move {
                    listener.on_lost(&group, &lost).await;
                    Done::ToldLost
                }));
                return Ok(());
            }
        }
        if let Some(error) = &self.view.fatal {
            self.is_stirred = true;
            return Err(error.clone());
        }
        let excess: BTreeSet<_> = self
            .owned
            .partitions()
            .filter(|partition| !self.view.assignment.contains(partition))
            .cloned()
            .collect();
        if !excess.is_empty() {
            self.log(&[], &excess);
            self.work = Some(self.give_up(excess, true));
            return Ok(());
        }
        let assignment = self.view.assignment.clone();
        let new: Vec<_> = assignment.iter().filter(|p| !self.owned.contains(p)).cloned().collect();
        for partition in &new {
            let finished = self.committer.add(partition.clone());
            self.owned.insert(partition.clone(), finished);
        }
        if !new.is_empty() {
            self.log(&new, &BTreeSet::new());
        }
        self.acknowledge();
        self.announce();
        if self.work.is_none() && self.retry_at.is_none() {
            self.look_up();
        }
        Ok(())
    }

    pub(super) fn handle(&self) -> GroupHandle {
        GroupHandle {
            committer: self.committer.clone(),
            epoch: self.view.epoch,
        }
    }

    /// Says to the coordinator that all that had to be given up is given up.
    fn acknowledge(&mut self) {
        let version = (self.view.losses, self.view.assignment_version);
        if self.view.epoch == 0 || self.acknowledged == Some(version) {
            return;
        }
        let ack = Ack {
            losses: version.0,
            assignment_version: version.1,
            owned: self.view.assignment.clone(),
        };
        // Someone may wait for what was given up; nobody for what was taken up.
        let at_once = std::mem::take(&mut self.owned.gave_up);
        self.membership.acknowledge(ack, at_once);
        self.acknowledged = Some(version);
    }

    /// Tells the listener of new partitions.
    fn announce(&mut self) {
        let new = self.owned.in_state(|state| matches!(state, State::New));
        if new.is_empty() {
            return;
        }
        let Some(listener) = self.listener.clone() else {
            for partition in &new {
                self.owned.set(partition, State::Announced(None));
            }
            return;
        };
        let group = self.handle();
        let losses = self.view.losses;
        self.work = Some(Box::pin(async move {
            let starts = listener.on_assigned(&group, &new).await;
            Done::Announced {
                losses,
                partitions: new,
                starts,
            }
        }));
    }

    /// Finds out where partitions begin.
    fn look_up(&mut self) {
        let mut unknown = Vec::new();
        for partition in self.owned.in_state(|state| matches!(state, State::Announced(_))) {
            let (turn, given) = self.owned.begin_lookup(&partition);
            match given {
                Some(_) => self
                    .lookups
                    .push(self.starts.start(partition, turn, given, Known::Nothing)),
                None => unknown.push((partition, turn)),
            }
        }
        if !unknown.is_empty() {
            self.lookups.push(self.starts.committed(unknown));
        }
    }

    /// Stops with partitions, calls the listener, commits, in this order. The coordinator is told when that is done.
    pub(super) fn give_up(&mut self, partitions: BTreeSet<TopicPartition>, commit: bool) -> BoxFuture<'static, Done> {
        let list: Vec<_> = partitions.iter().cloned().collect();
        self.stop(&list);
        let given_up = self.owned.remove(&partitions);
        let listener = self.listener.clone();
        let group = self.handle();
        let committer = self.committer.clone();
        let commits = commit && self.config.commit != CommitMode::Manual;
        Box::pin(async move {
            if let Some(listener) = listener {
                listener.on_revoked(&group, &given_up).await;
            }
            let committed = match commits {
                true => committer.commit_finished(Some(partitions.clone())).await,
                false => Ok(()),
            };
            committer.forget(partitions).await;
            Done::GaveUp { committed }
        })
    }

    /// Ends reading of partitions, and remembers where.
    pub(super) fn stop(&mut self, partitions: &[TopicPartition]) {
        let reader = &self.reader;
        let lives = self.owned.stop(partitions, |life| reader.position(life));
        self.reader.remove(&lives);
    }

    /// Begins to read partitions where they are, unless they are paused.
    pub(super) fn read(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            let Some(Owned {
                state:
                    State::At {
                        topic,
                        offset,
                        life: None,
                    },
                is_paused: false,
                ..
            }) = self.owned.get(partition)
            else {
                continue;
            };
            let lives = self.reader.add([(topic.clone(), partition.partition, *offset)]);
            self.owned.started(partition, lives[0]);
        }
    }

    pub(super) fn take_done(&mut self, done: Done) -> Result<(), ClientError> {
        self.is_stirred = true;
        match done {
            Done::ToldLost => {}
            Done::GaveUp { committed } => {
                if let Err(error) = committed {
                    self.cluster.notices.tell(&Notice::NotCommitted {
                        group: self.config.group.as_str().into(),
                        error,
                    });
                }
            }
            Done::Announced { losses, .. } if losses != self.view.losses => {}
            Done::Announced { partitions, starts, .. } => {
                let starts = starts.map_err(|error| ClientError::Listener(error.into()))?;
                for partition in &partitions {
                    let given = starts.iter().find(|(start, _)| start == partition).map(|(_, at)| *at);
                    // Unless a seek came first.
                    if matches!(self.owned.get(partition), Some(Owned { state: State::New, .. })) {
                        self.owned.set(partition, State::Announced(given));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn take_found(&mut self, found: Found) -> Result<(), ClientError> {
        match found {
            Found::Committed(partitions, Ok(offsets)) => {
                for ((partition, turn), known) in partitions.into_iter().zip(offsets) {
                    if self.owned.is_looked_up(&partition, turn) {
                        self.lookups.push(self.starts.start(partition, turn, None, known));
                    }
                }
                Ok(())
            }
            Found::Committed(partitions, Err(error)) => {
                let is_wanted = partitions.iter().any(|(p, turn)| self.owned.is_looked_up(p, *turn));
                for (partition, turn) in partitions {
                    self.failed_lookup(&partition, turn, &error);
                }
                if is_wanted && !error.is_retryable() {
                    Err(error)
                } else {
                    Ok(())
                }
            }
            Found::Start(partition, turn, Ok(start)) => {
                let Some(owned) = self
                    .owned
                    .get(&partition)
                    .filter(|_| self.owned.is_looked_up(&partition, turn))
                else {
                    return Ok(());
                };
                if start.is_committed {
                    self.committer.is_committed(&partition, start.offset);
                }
                if start.is_added {
                    self.cluster.notices.tell(&Notice::PartitionsAdded {
                        topic: partition.topic.clone(),
                        partitions: vec![partition.partition],
                    });
                }
                // The member's position counts from here on, so that the next owner begins there and not at an end that has
                // moved on meanwhile.
                if self.config.commit != CommitMode::Manual {
                    owned.finished.set(Position::start(start.offset));
                }
                let state = State::At {
                    topic: start.topic,
                    offset: start.offset,
                    life: None,
                };
                self.owned.set(&partition, state);
                self.read(&[partition]);
                Ok(())
            }
            Found::Start(partition, turn, Err(error)) => {
                if !self.owned.is_looked_up(&partition, turn) {
                    return Ok(());
                }
                self.failed_lookup(&partition, turn, &error);
                match error.is_retryable() || matches!(error, ClientError::UnknownTopic { .. }) {
                    true => Ok(()),
                    false => Err(error),
                }
            }
        }
    }

    /// Again later, or never if that is of no use.
    fn failed_lookup(&mut self, partition: &TopicPartition, turn: u64, error: &ClientError) {
        if !self.owned.is_looked_up(partition, turn) {
            return;
        }
        // A topic that is gone is taken from the member soon; one just created may not be known everywhere.
        let again = error.is_retryable() || matches!(error, ClientError::UnknownTopic { .. });
        tracing::warn!(group = self.config.group, %partition, %error, again, "where to begin could not be found out");
        self.owned.end_lookup(partition, again);
        if again {
            self.retry_at.get_or_insert_with(|| Instant::now() + START_RETRY);
        }
    }

    pub(super) fn take_failed(&mut self, life: Life, error: ClientError) -> Result<(), ClientError> {
        if !matches!(error, ClientError::UnknownTopic { .. }) {
            return Err(error);
        }
        // The coordinator takes it from the member soon.
        if let Some((partition, _)) = self.owned.by_life(life) {
            self.cluster.notices.tell(&Notice::PartitionGone {
                topic: partition.topic.clone(),
                partition: partition.partition,
            });
        }
        Ok(())
    }

    fn log(&self, assigned: &[TopicPartition], revoked: &BTreeSet<TopicPartition>) {
        tracing::info!(
            group = self.config.group,
            member = self.member_id(),
            epoch = self.view.epoch,
            assigned = %list(assigned),
            revoked = %list(revoked),
            owned = %list(&*self.view.assignment),
            "the assignment changes"
        );
    }
}

fn list<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> String {
    let texts: Vec<_> = partitions.into_iter().map(TopicPartition::to_string).collect();
    texts.join(" ")
}
