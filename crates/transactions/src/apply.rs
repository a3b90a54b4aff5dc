//! The fold: one command, one state, one reply. Total and deterministic: the same commands at the same indexes give the same state on every
//! replica, and no command that can be decoded makes it panic. The leader's decisions are judged again, since other commands may have come
//! in between, and whether there is room is judged here, in the order of the log.
//!
//! Each command is judged first and changes the state after, so a rejected one changes nothing but the version.

use std::sync::Arc;

use jangada_types::planted::{self, Bug};
use jangada_types::{GroupId, Reason, Rejection};

use crate::command::Command;
use crate::image::{Ended, Image, TransactionState, TransactionalId};
use crate::outcome::Outcome;
use crate::producer::Producer;
use crate::reply::Reply;
use crate::rules;
use crate::size;

impl Image {
    /// Applies the command at `index` of the shard's log. `index` is above that of every command before; it becomes the version.
    pub fn apply(&mut self, index: u64, command: &Command) -> Reply {
        match self.try_apply(index, command) {
            Ok(count) => Reply::Applied { count },
            Err(rejection) => Reply::Rejected(rejection),
        }
    }

    fn try_apply(&mut self, index: u64, command: &Command) -> Result<u32, Rejection> {
        if index <= self.version {
            let what = format!(
                "log index {index} came to transactional ids that are at {} already",
                self.version
            );
            return Err(Rejection::new(Reason::Internal, what));
        }
        self.version = index;
        match command {
            Command::Init {
                id,
                from: None,
                next,
                timeout_ms,
                at_ms,
                ..
            } => self.create(id, *next, *timeout_ms, *at_ms),
            Command::Init {
                id,
                from: Some(from),
                next,
                is_by_holder,
                timeout_ms,
                at_ms,
            } => self.change(id, |row| {
                ensure(row.producer == *from && row.state.is_idle() && next.follows(*from), id)?;
                row.take_over(*next, *is_by_holder, *timeout_ms, *at_ms);
                Ok(1)
            }),
            Command::Add {
                id,
                producer,
                seq,
                partitions,
                groups,
                metadata_version,
                at_ms,
            } => {
                self.judge_add(id, *producer, *seq, partitions, groups)?;
                self.change(id, |row| {
                    row.begin(*seq, *at_ms);
                    row.add(partitions, groups, *metadata_version);
                    Ok(1)
                })
            }
            Command::Begin {
                id,
                producer,
                seq,
                partitions,
                groups,
                metadata_version,
                at_ms,
            } => {
                self.judge_begin(id, *producer, *seq, partitions, groups)?;
                self.change(id, |row| {
                    row.complete(id, row.seq, *at_ms)?;
                    row.begin(*seq, *at_ms);
                    row.add(partitions, groups, *metadata_version);
                    Ok(1)
                })
            }
            Command::End {
                id,
                producer,
                seq,
                outcome,
                next,
                at_ms,
            } => self.change(id, |row| {
                ensure(row.producer == *producer && row.seq == *seq, id)?;
                row.end(*outcome, *next, *at_ms).ok_or_else(|| rules::changed(id))
            }),
            Command::Complete { ended, at_ms } => {
                let complete = |(id, seq): &(Arc<str>, u64)| self.change(id, |row| row.complete(id, *seq, *at_ms));
                Ok(ended.iter().map(complete).map(Result::unwrap_or_default).sum())
            }
            Command::Expire { id, touched_ms } => {
                let row = self.id(id).ok_or_else(|| rules::changed(id))?;
                ensure(row.state.is_idle() && row.touched_ms == *touched_ms, id)?;
                self.bytes -= self.bytes_of(id);
                self.ids.remove(id);
                Ok(1)
            }
        }
    }

    fn create(&mut self, id: &Arc<str>, producer: Producer, timeout_ms: u32, at_ms: u64) -> Result<u32, Rejection> {
        ensure(
            self.id(id).is_none() && producer == Producer::first(producer.id) && producer.is_usable(),
            id,
        )?;
        rules::room_for_id(self, id)?;
        let row = TransactionalId::new(producer, timeout_ms, at_ms);
        self.ids.insert(Arc::clone(id), Arc::new(row));
        self.bytes += self.bytes_of(id);
        Ok(1)
    }

    fn judge_add(
        &self,
        id: &str,
        producer: Producer,
        seq: u64,
        partitions: &[GroupId],
        groups: &[Arc<str>],
    ) -> Result<(), Rejection> {
        let row = self.id(id).ok_or_else(|| rules::changed(id))?;
        ensure(
            row.producer == producer && producer.is_usable() && row.open_or_next() == Some(seq),
            id,
        )?;
        rules::room_for_participants(self, row, partitions, groups)
    }

    fn judge_begin(
        &self,
        id: &str,
        producer: Producer,
        seq: u64,
        partitions: &[GroupId],
        groups: &[Arc<str>],
    ) -> Result<(), Rejection> {
        let row = self.id(id).ok_or_else(|| rules::changed(id))?;
        let is_next = row.state.is_prepare() && row.seq.checked_add(1) == Some(seq);
        ensure(is_next && row.producer == producer && producer.is_usable(), id)?;
        rules::room_for_next(self, partitions, groups)
    }

    /// Changes a row, and counts its size anew. A change that is refused changes nothing.
    fn change(
        &mut self,
        id: &Arc<str>,
        change: impl FnOnce(&mut TransactionalId) -> Result<u32, Rejection>,
    ) -> Result<u32, Rejection> {
        let row = self.ids.get_mut(id).ok_or_else(|| rules::changed(id))?;
        let before = size::row(id, row);
        let outcome = change(Arc::make_mut(row));
        self.bytes = self.bytes - before + size::row(id, row);
        outcome
    }
}

impl TransactionalId {
    /// The number of the transaction that something can be added to: the open one, or the next. None: the last one is being ended.
    pub(crate) fn open_or_next(&self) -> Option<u64> {
        match self.state {
            TransactionState::Ongoing => Some(self.seq),
            state => state.is_idle().then(|| self.seq.saturating_add(1)),
        }
    }

    /// Gives the id to a process.
    fn take_over(&mut self, next: Producer, is_by_holder: bool, timeout_ms: u32, at_ms: u64) {
        self.previous = match self.producer.is_usable() {
            _ if !is_by_holder => None,
            true => Some(self.producer),
            // Nobody has that one: it is its holder before who asks.
            false => self.previous,
        };
        assert!(next.follows(self.producer), "{next} takes over from {}", self.producer);
        self.producer = next;
        self.timeout_ms = timeout_ms;
        self.state = TransactionState::Empty;
        self.touch(at_ms);
    }

    /// Begins the transaction `seq`, unless it is open.
    fn begin(&mut self, seq: u64, at_ms: u64) {
        if self.state == TransactionState::Ongoing {
            return;
        }
        assert!(
            self.state.is_idle() && seq >= self.seq,
            "{seq} begins after {}",
            self.seq
        );
        self.state = TransactionState::Ongoing;
        self.seq = seq;
        self.started_ms = at_ms;
        self.metadata_version = 0;
    }

    fn add(&mut self, partitions: &[GroupId], groups: &[Arc<str>], metadata_version: u64) {
        self.partitions.extend(partitions);
        if !planted::is(Bug::GroupNotAdded) {
            self.groups.extend(groups.iter().cloned());
        }
        self.metadata_version = self.metadata_version.max(metadata_version);
    }

    /// Decides how the transaction ends. None: it cannot end like this.
    fn end(&mut self, outcome: Outcome, next: Producer, at_ms: u64) -> Option<u32> {
        let is_bumped = next != self.producer;
        if (is_bumped && !next.follows(self.producer)) || (!is_bumped && !outcome.is_by_producer()) {
            return None;
        }
        let commit = outcome.is_commit();
        self.state = match self.state {
            TransactionState::Ongoing => TransactionState::prepare(commit),
            // Nothing was added: only the epoch changes.
            state if state.is_idle() && is_bumped && outcome.is_by_producer() => TransactionState::complete(commit),
            _ => return None,
        };
        self.last = Some(Ended {
            producer: self.producer,
            seq: self.seq,
            outcome,
        });
        if is_bumped {
            self.previous = (outcome != Outcome::Fenced).then_some(self.producer);
            self.producer = next;
        }
        self.touch(at_ms);
        Some(1)
    }

    /// Notes that all markers of the transaction are written.
    fn complete(&mut self, id: &str, seq: u64, at_ms: u64) -> Result<u32, Rejection> {
        ensure(self.state.is_prepare() && self.seq == seq, id)?;
        self.state = TransactionState::complete(self.state == TransactionState::PrepareCommit);
        self.partitions.clear();
        self.groups.clear();
        self.touch(at_ms);
        Ok(1)
    }
}

fn ensure(is_unchanged: bool, id: &str) -> Result<(), Rejection> {
    match is_unchanged {
        true => Ok(()),
        false => Err(rules::changed(id)),
    }
}
