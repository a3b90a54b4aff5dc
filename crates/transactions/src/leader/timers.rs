//! The timers of transactional ids: transactions that are open for too long, ids that are not used, and transactions of which all markers
//! are written.
//!
//! One entry of the queue per id says when it is due. What comes later than that entry is found out when it is due.

use std::cmp::Reverse;
use std::sync::Arc;

use jangada_machine::Now;

use super::Leader;
use crate::command::Command;
use crate::image::{Image, TransactionState, TransactionalId};
use crate::limits::SEEN_IDLE_MS;
use crate::outcome::Outcome;

/// Most ids of one [`Leader::tick`]; the rest is due again at once.
const IDS_PER_TICK_MAX: usize = 256;

/// Delay before a command that was proposed and is not applied yet is proposed again, milliseconds.
const PROPOSE_AGAIN_MS: u64 = 2_000;

/// So long the next transaction of an id may begin by the command that completes the last one, before that is completed by itself. A client
/// that writes one transaction after the other begins the next one within a round or two.
const COMPLETE_AFTER_MS: u64 = 5;

/// The timer of one id.
#[derive(Debug, Default)]
pub(super) struct Timer {
    /// The open transaction, and the time until which it may be open.
    open: Option<(u64, u64)>,
    /// The time at which that one began, as it is counted among the open ones.
    started_ms: Option<u64>,
    /// The stamp of the id's last change, and the time since which this leader has seen it unused.
    idle: Option<(u64, u64)>,
    /// Time before which nothing is proposed again.
    quiet_until: u64,
    /// The time of the id's earliest entry in the queue.
    queued: Option<u64>,
}

impl Leader {
    /// The time at which [`Leader::tick`] has something to do next, on the monotonic clock. May be too early, never too late.
    pub fn next_deadline(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Runs the timers that are due, and returns the commands to propose. Best effort: a command that gets lost is proposed again.
    pub fn tick(&mut self, image: &Image, now: Now) -> Vec<Command> {
        let mut commands = Vec::new();
        let mut written = Vec::new();
        for _ in 0..IDS_PER_TICK_MAX {
            if self.next_deadline().is_none_or(|due| due > now.monotonic_ms) {
                break;
            }
            let Some(Reverse((deadline, id))) = self.queue.pop() else {
                break;
            };
            let is_queued = |timer: &&mut Timer| timer.queued == Some(deadline);
            let Some(timer) = self.timers.get_mut(&id).filter(is_queued) else {
                continue;
            };
            timer.queued = None;
            self.refresh(image, &id, now);
            if let Some(row) = image.id(&id)
                && self.due_at(&id, row, now).is_some_and(|at| at <= now.monotonic_ms)
            {
                match row.state {
                    TransactionState::Ongoing => commands.push(end(&id, row, Outcome::TimedOut, now)),
                    state if state.is_prepare() => written.push((Arc::clone(&id), row.seq)),
                    // Unless it is only the look at the clock.
                    _ if self.is_expired(&id, row, now) => commands.push(Command::Expire {
                        id: Arc::clone(&id),
                        touched_ms: row.touched_ms,
                    }),
                    _ => {}
                }
                self.hush(&id, now);
            }
            self.enqueue(image, &id, now);
        }
        if !written.is_empty() {
            commands.push(Command::Complete {
                ended: written,
                at_ms: now.wall_ms,
            });
        }
        commands
    }

    /// A command for the id is under way: none is proposed again before it can have been applied.
    pub(super) fn hush(&mut self, id: &str, now: Now) {
        if let Some(timer) = self.timers.get_mut(id) {
            timer.quiet_until = now.monotonic_ms + PROPOSE_AGAIN_MS;
        }
    }

    /// All markers of the id's transaction are written: it is completed after a moment, if the next one has not begun by then.
    pub(super) fn complete_later(&mut self, image: &Image, id: &Arc<str>, now: Now) {
        if let Some(timer) = self.timers.get_mut(id) {
            timer.quiet_until = now.monotonic_ms + COMPLETE_AFTER_MS;
        }
        self.enqueue(image, id, now);
    }

    /// Updates timer and outbox of an id from its row.
    pub(super) fn refresh(&mut self, image: &Image, id: &Arc<str>, now: Now) {
        let Some(row) = image.id(id) else {
            let timer = self.timers.remove(id);
            self.count_open(id, timer.and_then(|timer| timer.started_ms), None);
            self.outbox.remove(id);
            self.habits.remove(id);
            return;
        };
        match row.state.is_prepare() {
            true => self.outbox.put(id, row, now.monotonic_ms),
            false => self.outbox.remove(id),
        }
        let timer = self.timers.entry(Arc::clone(id)).or_default();
        let is_open = row.state == TransactionState::Ongoing;
        let open = is_open.then(|| match timer.open {
            Some((seq, until)) if seq == row.seq => (seq, until),
            _ => (row.seq, now.monotonic_ms.saturating_add(left_ms(row, now))),
        });
        let idle = row.state.is_idle().then_some(match timer.idle {
            Some((touched, since)) if touched == row.touched_ms => (touched, since),
            _ => (row.touched_ms, now.monotonic_ms),
        });
        if (open, idle) != (timer.open, timer.idle) {
            timer.quiet_until = 0;
        }
        (timer.open, timer.idle) = (open, idle);
        let started_ms = is_open.then_some(row.started_ms);
        let counted = std::mem::replace(&mut timer.started_ms, started_ms);
        self.count_open(id, counted, started_ms);
        self.enqueue(image, id, now);
    }

    /// Counts the open transaction of an id by when it began, instead of the one that was counted.
    fn count_open(&mut self, id: &Arc<str>, before: Option<u64>, now: Option<u64>) {
        if before == now {
            return;
        }
        if let Some(before) = before {
            self.open.remove(&(before, Arc::clone(id)));
        }
        self.open.extend(now.map(|now| (now, Arc::clone(id))));
    }

    /// The time at which something is to be done about the id.
    fn due_at(&self, id: &str, row: &TransactionalId, now: Now) -> Option<u64> {
        let timer = self.timers.get(id)?;
        let due = if row.state.is_prepare() {
            self.outbox.is_written(id, row.seq).then_some(now.monotonic_ms)
        } else if let Some((_, until)) = timer.open {
            Some(until)
        } else {
            // Capped, so that a step of the wall clock is noticed in time.
            let expiry = self.expires_at(id, row, now);
            expiry.map(|at| at.min(now.monotonic_ms + SEEN_IDLE_MS))
        };
        due.map(|at| at.max(timer.quiet_until))
    }

    fn is_expired(&self, id: &str, row: &TransactionalId, now: Now) -> bool {
        self.expires_at(id, row, now).is_some_and(|at| at <= now.monotonic_ms)
    }

    /// The time at which an unused id is forgotten, on the monotonic clock, if the wall clock does not step.
    ///
    /// The stamp outlives leaders, and any of their clocks may be wrong. So the wall clock alone forgets nothing: this leader has seen the
    /// id unused for a while, without a step of its clock. And where it has seen that for the whole time, the stamp does not matter.
    fn expires_at(&self, id: &str, row: &TransactionalId, now: Now) -> Option<u64> {
        let (_, seen) = self.timers.get(id)?.idle?;
        let kept = self.config.expiration_ms;
        let by_stamp = now
            .monotonic_ms
            .saturating_add(row.touched_ms.saturating_add(kept).saturating_sub(now.wall_ms));
        let at_least = seen.max(now.steady_since_ms).saturating_add(kept.min(SEEN_IDLE_MS));
        Some(by_stamp.max(at_least).min(seen.saturating_add(kept)))
    }

    pub(super) fn enqueue(&mut self, image: &Image, id: &Arc<str>, now: Now) {
        if let Some(next) = image.id(id).and_then(|row| self.due_at(id, row, now)) {
            self.look_at(id, next);
        }
    }

    /// Sees to it that the id is looked at then, or before.
    pub(super) fn look_at(&mut self, id: &Arc<str>, next: u64) {
        let Some(timer) = self.timers.get_mut(id) else { return };
        if timer.queued.is_none_or(|queued| next < queued) {
            timer.queued = Some(next);
            self.queue.push(Reverse((next, Arc::clone(id))));
        }
    }
}

/// The time that an open transaction has left. A leader that comes later goes by the stamp of the one before, but never gives more than the
/// whole timeout, however wrong the clocks are.
fn left_ms(row: &TransactionalId, now: Now) -> u64 {
    let timeout = u64::from(row.timeout_ms);
    let ends_ms = row.started_ms.saturating_add(timeout);
    ends_ms.saturating_sub(now.wall_ms).min(timeout)
}

/// Aborts an open transaction for another reason than its producer's word. Its producer is fenced, or may ask for the next epoch.
pub(super) fn end(id: &Arc<str>, row: &TransactionalId, outcome: Outcome, now: Now) -> Command {
    Command::End {
        id: Arc::clone(id),
        producer: row.producer,
        seq: row.seq,
        outcome,
        next: row.producer.bumped(),
        at_ms: now.wall_ms,
    }
}
