//! The steps of a rebalance in a member: the listener is told of lost partitions, others are given up, new ones are
//! taken up.
//!
//! One step is under way at a time; each begins in [`GroupConsumer::advance`] and ends in `take_done` or `take_found`.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;

use super::GroupConsumer;
use super::committer::Position;
use super::config::CommitMode;
use super::handle::GroupHandle;
use super::listener::{ListenerError, StartPositions};
use super::membership::Ack;
use super::owned::{Owned, State};
use super::position::TopicPartition;
use super::starts::{LookupResult, StoredStart};
use crate::consumer::FetchSession;
use crate::error::ClientError;
use crate::notice::Notice;

/// Delay before partitions whose start could not be found are tried again.
const START_RETRY: Duration = Duration::from_millis(500);

/// The outcome of a step that had to be waited for.
pub(super) enum FinishedStep {
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
    /// Takes the newest state of the membership, if it has changed.
    pub(super) fn poll_view(&mut self) {
        if self.membership.view.has_changed().unwrap_or(true) {
            self.take_view();
        }
    }

    pub(super) fn take_view(&mut self) {
        let view = self.membership.view.borrow_and_update().clone();
        self.needs_advance = true;
        if view.losses != self.view.losses {
            self.reader.clear();
            self.handed = None;
            self.pending_commit = None;
            self.lookups.clear();
            self.acknowledged = None;
            // No partition is taken up before the listener was told of this loss, so one loss never replaces another.
            let lost = self.owned.take_all();
            if !lost.is_empty() {
                self.lost = Some((self.handle(), lost));
            }
            self.committer.begin(view.losses);
        }
        self.view = view;
    }

    /// Begins the next step that the assignment asks for.
    pub(super) fn advance(&mut self) -> Result<(), ClientError> {
        self.poll_view();
        if !self.needs_advance || self.work.is_some() {
            return Ok(());
        }
        self.needs_advance = false;
        if let Some((group, lost)) = self.lost.take() {
            tracing::warn!(
                group = self.config.group, member = self.member_id(), lost = %list(lost.iter().map(|l| &l.partition)), "partitions lost"
            );
            if let Some(listener) = self.listener.clone() {
                self.work = Some(Box::pin(async move {
                    listener.on_lost(&group, &lost).await;
                    FinishedStep::ToldLost
                }));
                return Ok(());
            }
        }
        if let Some(error) = &self.view.fatal {
            self.needs_advance = true;
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

    /// Tells the coordinator that all partitions that had to be given up are given up.
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
        // Heartbeat at once only after a revocation: another member may be waiting for the partitions.
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
            FinishedStep::Announced {
                losses,
                partitions: new,
                starts,
            }
        }));
    }

    /// Looks up where partitions begin.
    fn look_up(&mut self) {
        let mut unknown = Vec::new();
        for partition in self.owned.in_state(|state| matches!(state, State::Announced(_))) {
            let (turn, given) = self.owned.begin_lookup(&partition);
            match given {
                Some(_) => self
                    .lookups
                    .push(self.starts.start(partition, turn, given, StoredStart::Nothing)),
                None => unknown.push((partition, turn)),
            }
        }
        if !unknown.is_empty() {
            self.lookups.push(self.starts.committed(unknown));
        }
    }

    /// Stops reading partitions, calls the listener, commits, in this order. The coordinator is told after that.
    pub(super) fn give_up(
        &mut self,
        partitions: BTreeSet<TopicPartition>,
        commit: bool,
    ) -> BoxFuture<'static, FinishedStep> {
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
            FinishedStep::GaveUp { committed }
        })
    }

    /// Ends reading of partitions, and keeps their positions.
    pub(super) fn stop(&mut self, partitions: &[TopicPartition]) {
        let reader = &self.reader;
        let sessions = self.owned.stop(partitions, |session| reader.position(session));
        self.reader.remove(&sessions);
    }

    /// Begins to read partitions at their positions, unless they are paused.
    pub(super) fn read(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            let Some(Owned {
                state:
                    State::At {
                        topic,
                        offset,
                        session: None,
                    },
                is_paused: false,
                ..
            }) = self.owned.get(partition)
            else {
                continue;
            };
            let sessions = self.reader.add([(topic.clone(), partition.partition, *offset)]);
            self.owned.started(partition, sessions[0]);
        }
    }

    pub(super) fn take_done(&mut self, done: FinishedStep) -> Result<(), ClientError> {
        self.needs_advance = true;
        match done {
            FinishedStep::ToldLost => {}
            FinishedStep::GaveUp { committed } => {
                if let Err(error) = committed {
                    self.cluster.notices.publish(&Notice::NotCommitted {
                        group: self.config.group.as_str().into(),
                        error,
                    });
                }
            }
            FinishedStep::Announced { losses, .. } if losses != self.view.losses => {}
            FinishedStep::Announced { partitions, starts, .. } => {
                let starts = starts.map_err(|error| ClientError::Listener(error.into()))?;
                for partition in &partitions {
                    let given = starts.iter().find(|(start, _)| start == partition).map(|(_, at)| *at);
                    // A seek may have come first.
                    if matches!(self.owned.get(partition), Some(Owned { state: State::New, .. })) {
                        self.owned.set(partition, State::Announced(given));
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn take_found(&mut self, found: LookupResult) -> Result<(), ClientError> {
        match found {
            LookupResult::Committed(partitions, Ok(offsets)) => {
                for ((partition, turn), known) in partitions.into_iter().zip(offsets) {
                    if self.owned.is_looked_up(&partition, turn) {
                        self.lookups.push(self.starts.start(partition, turn, None, known));
                    }
                }
                Ok(())
            }
            LookupResult::Committed(partitions, Err(error)) => {
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
            LookupResult::Start(partition, turn, Ok(start)) => {
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
                    self.cluster.notices.publish(&Notice::PartitionsAdded {
                        topic: partition.topic.clone(),
                        partitions: vec![partition.partition],
                    });
                }
                // The position is committed with the next commit, so that the next owner begins there and not at an end
                // that has moved on meanwhile.
                if self.config.commit != CommitMode::Manual {
                    owned.finished.set(Position::start(start.offset));
                }
                let state = State::At {
                    topic: start.topic,
                    offset: start.offset,
                    session: None,
                };
                self.owned.set(&partition, state);
                self.read(&[partition]);
                Ok(())
            }
            LookupResult::Start(partition, turn, Err(error)) => {
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

    /// Schedules another attempt, or none if that would be of no use.
    fn failed_lookup(&mut self, partition: &TopicPartition, turn: u64, error: &ClientError) {
        if !self.owned.is_looked_up(partition, turn) {
            return;
        }
        // A topic that is gone is soon revoked; one that was just created may not be known everywhere.
        let again = error.is_retryable() || matches!(error, ClientError::UnknownTopic { .. });
        tracing::warn!(group = self.config.group, %partition, %error, again, "where to begin could not be found out");
        self.owned.end_lookup(partition, again);
        if again {
            self.retry_at.get_or_insert_with(|| Instant::now() + START_RETRY);
        }
    }

    pub(super) fn take_failed(&mut self, session: FetchSession, error: ClientError) -> Result<(), ClientError> {
        if !matches!(error, ClientError::UnknownTopic { .. }) {
            return Err(error);
        }
        // The coordinator soon revokes it.
        if let Some((partition, _)) = self.owned.by_fetch_session(session) {
            self.cluster.notices.publish(&Notice::PartitionGone {
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
