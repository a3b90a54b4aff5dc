//! What is decided about each request: from the state it follows what is answered, or which command is proposed.

use std::sync::Arc;

use jangada_machine::Now;
use jangada_types::planted::{self, Bug};
use jangada_types::{GroupId, Reason, Rejection};

use super::request::{Answer, EndRequest, InitRequest, JoinKind, JoinRequest};
use super::timers::end;
use super::{Decision, Leader};
use crate::command::Command;
use crate::image::{Image, TransactionState, TransactionalId};
use crate::limits::PARTICIPANTS_MAX;
use crate::outcome::Outcome;
use crate::rules;

impl Leader {
    /// A process takes the id. An open transaction is aborted first, and while markers are written it must come again: what the process
    /// reads after the answer has all of its predecessor's effects, and gets no more.
    pub(super) fn decide_init(&self, image: &Image, request: &InitRequest, now: Now) -> Result<Decision, Rejection> {
        let InitRequest {
            id,
            timeout_ms,
            holder,
            fresh,
        } = request;
        rules::judge_id(id)?;
        let timeout_ms = self.judge_timeout(*timeout_ms)?;
        let init = |from, next, is_by_holder| {
            let command = Command::Init {
                id: Arc::clone(id),
                from,
                next,
                is_by_holder,
                timeout_ms,
                at_ms: now.wall_ms,
            };
            Decision::Propose(command, Some(Answer::Initialized { producer: next }))
        };
        let Some(row) = image.id(id) else {
            rules::room_for_id(image, id)?;
            let next = fresh.map(crate::producer::Producer::first);
            return Ok(next.map_or(Decision::NEEDS_ID, |next| init(None, next, false)));
        };
        if let Some(holder) = *holder
            && holder != row.producer
        {
            // It is the one who was given the present producer, and has not begun a transaction by it: its answer was lost.
            return match row.state {
                _ if row.previous != Some(holder) => Err(rules::fenced(id, row, holder)),
                state if state.is_prepare() => Err(rules::being_ended(id)),
                state if state.is_idle() && row.producer.is_usable() => {
                    Ok(Decision::Answer(Answer::Initialized { producer: row.producer }))
                }
                // The epochs were used up when its transaction was aborted: nobody was given the present producer.
                state if state.is_idle() => {
                    let next = row.producer.next(*fresh);
                    Ok(next.map_or(Decision::NEEDS_ID, |next| init(Some(row.producer), next, true)))
                }
                _ => Err(rules::fenced(id, row, holder)),
            };
        }
        match row.state {
            TransactionState::Ongoing => {
                let outcome = holder.map_or(Outcome::Fenced, |_| Outcome::Aborted);
                Ok(Decision::Propose(end(id, row, outcome, now), None))
            }
            state if state.is_prepare() => Err(rules::being_ended(id)),
            _ => {
                let next = row.producer.next(*fresh);
                Ok(next.map_or(Decision::NEEDS_ID, |next| {
                    init(Some(row.producer), next, holder.is_some())
                }))
            }
        }
    }

    /// Partitions and groups become part of the transaction, or are found to be.
    pub(super) fn decide_join(
        &mut self,
        image: &Image,
        request: &JoinRequest,
        now: Now,
    ) -> Result<Decision, Rejection> {
        let id = &request.id;
        judge_participants(request)?;
        let row = rules::known(image, id)?;
        rules::is_holder(id, row, request.producer)?;
        let is_behind = request.kind == JoinKind::Implicit && self.begins_at_once(id, row);
        let seq = match is_behind {
            true => row.seq.saturating_add(1),
            false => row.open_or_next().ok_or_else(|| rules::being_ended(id))?,
        };
        // What the row has then belongs to the transaction before.
        let has_all = !is_behind
            && request
                .partitions
                .iter()
                .all(|partition| row.partitions.contains(partition))
            && request.groups.iter().all(|name| row.groups.contains(name));
        // A client that keeps its epoch may mean a later transaction than the one that a deposed leader sees: so its own word goes through
        // the log.
        if has_all && request.kind != JoinKind::Explicit {
            self.habits.asked(request, seq);
            return Ok(Decision::Answer(Answer::Joined { seq }));
        }
        if request.kind == JoinKind::Check {
            return Err(rules::invalid_state(
                id,
                row,
                "add the partition to the transaction first",
            ));
        }
        let room = |partitions: &[GroupId], groups: &[Arc<str>]| match is_behind {
            true => rules::room_for_next(image, partitions, groups),
            false => rules::room_for_participants(image, row, partitions, groups),
        };
        room(&request.partitions, &request.groups)?;
        let (mut partitions, mut groups) = (request.partitions.clone(), request.groups.clone());
        let mut metadata_version = request.metadata_version;
        if request.kind == JoinKind::Implicit {
            let guess = self.habits.ask(request, seq);
            if room(&guess.partitions, &guess.groups).is_ok() {
                partitions.extend(
                    guess
                        .partitions
                        .iter()
                        .filter(|group| !request.partitions.contains(group)),
                );
                groups.extend(guess.groups.into_iter().filter(|name| !request.groups.contains(name)));
                // One that is guessed may be newer than what the broker knows that asks, and must not be taken for deleted by that.
                metadata_version = metadata_version.max(guess.metadata_version);
            }
        }
        let (id, producer, at_ms) = (Arc::clone(id), request.producer, now.wall_ms);
        let command = match is_behind {
            true => Command::Begin {
                id,
                producer,
                seq,
                partitions,
                groups,
                metadata_version,
                at_ms,
            },
            false => Command::Add {
                id,
                producer,
                seq,
                partitions,
                groups,
                metadata_version,
                at_ms,
            },
        };
        Ok(Decision::Propose(command, Some(Answer::Joined { seq })))
    }

    /// Whether the next transaction may begin though the last one is not complete: all its markers are written, and the command by which
    /// the next begins completes it.
    pub(super) fn begins_at_once(&self, id: &str, row: &TransactionalId) -> bool {
        let is_written = self.outbox.is_written(id, row.seq) || planted::is(Bug::BeginBeforeWritten);
        self.config.begins_at_once && row.state.is_prepare() && is_written
    }

    /// The transaction is ended, or was by an earlier copy of the request. `decided_for` is the transaction that the request was decided
    /// for first; none: it was not decided yet.
    ///
    /// What this replica knows of an ended transaction stays true, so it is answered at once. Only a producer that keeps its epoch may mean
    /// another transaction than the one that a deposed leader sees: then a command goes through the log first, which changes nothing.
    pub(super) fn decide_end(
        &self,
        image: &Image,
        request: &EndRequest,
        decided_for: &mut Option<u64>,
        now: Now,
    ) -> Result<Decision, Rejection> {
        let EndRequest {
            id,
            producer,
            commit,
            bumps,
            fresh,
        } = request;
        let row = rules::known(image, id)?;
        if let Some(outcome) = rules::ended_by(row, *producer) {
            return answer_again(id, row, outcome, request);
        }
        rules::is_holder(id, row, *producer)?;
        let is_confirmed = decided_for.is_some();
        if *decided_for.get_or_insert(row.seq) != row.seq {
            return Err(rules::invalid_state(id, row, "the next transaction has begun"));
        }
        let outcome = if *commit { Outcome::Committed } else { Outcome::Aborted };
        let has_begun = row.state == TransactionState::Ongoing;
        if !has_begun && !bumps && is_confirmed {
            // Without a new epoch, what ended under this one is the transaction that is meant.
            return match row.last.filter(|last| last.producer == *producer) {
                Some(last) => answer_again(id, row, last.outcome, request),
                None => Err(rules::invalid_state(id, row, "there is no transaction to end")),
            };
        }
        if row.state.is_prepare() && *bumps {
            return Err(rules::being_ended(id));
        }
        let next = if *bumps { producer.next(*fresh) } else { Some(*producer) };
        let Some(next) = next else {
            return Ok(Decision::NEEDS_ID);
        };
        let command = Command::End {
            id: Arc::clone(id),
            producer: *producer,
            seq: row.seq,
            outcome,
            next,
            at_ms: now.wall_ms,
        };
        let answer = Answer::Ended {
            next,
            seq: row.seq,
            is_complete: !has_begun,
        };
        Ok(Decision::Propose(command, Some(answer)))
    }

    /// An operator aborts the open transaction. Its producer may go on with the next.
    pub(super) fn decide_abort(&self, image: &Image, id: &Arc<str>, now: Now) -> Result<Decision, Rejection> {
        let row = rules::known(image, id)?;
        if row.state != TransactionState::Ongoing {
            return Err(rules::invalid_state(id, row, "no transaction is open"));
        }
        let answer = Answer::Ended {
            next: row.producer.bumped(),
            seq: row.seq,
            is_complete: false,
        };
        Ok(Decision::Propose(
            end(id, row, Outcome::AbortedByOperator, now),
            Some(answer),
        ))
    }

    fn judge_timeout(&self, timeout_ms: u32) -> Result<u32, Rejection> {
        let max = self.config.timeout_ms_max;
        if timeout_ms > max {
            let what = format!(
                "a transaction may be open for {max} ms, not {timeout_ms}: end it earlier, or raise the setting"
            );
            return Err(Rejection::new(Reason::InvalidTransactionTimeout, what)
                .with("limit", max)
                .with("actual", timeout_ms));
        }
        Ok(match timeout_ms {
            0 => self.config.timeout_ms_default.min(max),
            asked => asked,
        })
    }
}

/// The answer to a request for a transaction that has ended under the same producer, as it was: the same direction has the same answer.
fn answer_again(
    id: &str,
    row: &TransactionalId,
    outcome: Outcome,
    request: &EndRequest,
) -> Result<Decision, Rejection> {
    if outcome.is_commit() != request.commit && !(request.commit && planted::is(Bug::AbortTakenForCommit)) {
        return Err(match outcome.is_by_producer() {
            true => rules::invalid_state(id, row, "the transaction has ended in the other direction"),
            false => rules::timed_out(id, outcome),
        });
    }
    if !row.producer.is_usable() {
        return Err(rules::fenced(id, row, request.producer));
    }
    let seq = row.last.map_or(row.seq, |last| last.seq);
    Ok(Decision::Answer(Answer::Ended {
        next: row.producer,
        seq,
        is_complete: row.is_complete(seq),
    }))
}

fn judge_participants(request: &JoinRequest) -> Result<(), Rejection> {
    let count = request.partitions.len() + request.groups.len();
    if count == 0 || count > PARTICIPANTS_MAX {
        let what = format!("a request that adds {count} partitions and groups: give 1 to {PARTICIPANTS_MAX}");
        return Err(Rejection::new(Reason::InvalidRequest, what)
            .with("limit", PARTICIPANTS_MAX)
            .with("actual", count));
    }
    Ok(())
}
