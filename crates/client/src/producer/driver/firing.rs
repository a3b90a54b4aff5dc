//! What the driver does when a timer fires: the next attempt, giving up, asking others about a leader that is silent.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::super::lane::End;
use super::super::stream::LinkId;
use super::refresh::Refresh;
use super::timers::Timer;
use super::{Driver, SILENCE_GRACE, STALL_RETRY_INTERVAL, STALL_TIMEOUT};
use crate::error::ClientError;
use crate::notice::Notice;
use crate::wire_error::{Disposition, Failure};

impl Driver {
    pub(super) fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(lane) = self.timers.lingered(now) {
            self.pump(lane);
        }
        while let Some(timer) = self.timers.fired(now) {
            match timer {
                Timer::Retry(lane) => self.pump(lane),
                Timer::Deadline(lane) => self.on_deadline(lane, now),
                Timer::Silence(link) => self.on_silence(link, now),
                Timer::Refresh => {
                    let is_due = match self.refresh {
                        Refresh::Idle { since } => now >= since + self.shared.cluster.config.metadata_max_age,
                        Refresh::Scheduled => true,
                        Refresh::Running => false,
                    };
                    if is_due {
                        self.start_refresh();
                    }
                }
            }
        }
    }

    /// Gives up the batches whose delivery timeout has passed.
    fn on_deadline(&mut self, id: u64, now: Instant) {
        let allowed = self.shared.config.delivery_timeout;
        let Some(state) = self.lanes.get_mut(&id) else { return };
        let is_over = |opened: Instant| opened + allowed <= now;
        let mut over = state.lane.expire(|batch| is_over(batch.opened));
        if state.lane.is_empty() {
            // Batches that were never sent are younger than those that were.
            let queued = state.queue.lock().expire(|batch| is_over(batch.opened));
            over.extend(queued.into_iter().map(|batch| (batch, End::Absent)));
        }
        let oldest = state.lane.batches().map(|batch| batch.opened).next();
        let oldest = oldest.or_else(|| state.queue.lock().batches().map(|batch| batch.opened).next());
        state.deadline_armed = oldest.is_some();
        if let Some(opened) = oldest {
            self.timers.set(
                (opened + allowed).max(now + Duration::from_millis(1)),
                Timer::Deadline(id),
            );
        }
        if over.is_empty() {
            return;
        }
        let cause = match state.last_failure.clone() {
            Some(failure) if self.brokers_answer => failure.of_last_leader(),
            Some(failure) => failure,
            None => Failure::local(tonic::Code::DeadlineExceeded, "no answer from the leader", false),
        };
        let context = format!("{} (given up after {} s)", state.queue.context(), allowed.as_secs_f32());
        state.queue.struggling.store(true, Ordering::Relaxed);
        if state.lane.is_empty() {
            state.trouble.ends();
        }
        let mut given_up = None;
        for (batch, end) in over {
            let rejection = cause.rejection(&context);
            let error = match end {
                End::InDoubt => ClientError::OutcomeUnknown(rejection),
                _ if cause.disposition() == Disposition::Refuse => ClientError::Refused(rejection),
                _ => ClientError::Unavailable(rejection),
            };
            let (records, _) = given_up.get_or_insert_with(|| (0, error.clone()));
            *records += batch.records as u32;
            self.report(batch, Err(error));
        }
        if let Some((records, error)) = given_up {
            self.shared.cluster.notices.publish(&Notice::GivenUp {
                records,
                error: error.clone(),
            });
            self.fail_transaction(&error);
        }
        self.pump(id);
    }

    /// Publishes which partitions wait for a leader that does not answer.
    fn notify_silence(&mut self, id: LinkId, oldest: Instant, now: Instant) {
        let Some(link) = self.links.get(&id.broker) else { return };
        let waited = (now - oldest).as_secs_f32();
        let message = format!("the leader, broker {}, has not answered for {waited:.1} s", id.broker);
        let cause = Failure::local(tonic::Code::DeadlineExceeded, message, false);
        let lanes: BTreeSet<u64> = link.outstanding.values().map(|outstanding| outstanding.lane).collect();
        for lane in lanes {
            if let Some(state) = self.lanes.get_mut(&lane) {
                let next = state.next(self.shared.config.delivery_timeout, STALL_RETRY_INTERVAL, now);
                state.trouble.silent(&cause, next);
            }
        }
    }

    /// Handles attempts without an answer.
    fn on_silence(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id.broker).filter(|link| link.id == id) else {
            return;
        };
        let Some(oldest) = link.oldest() else {
            link.watched = false;
            return;
        };
        let silence_timeout = self.shared.config.request_timeout + SILENCE_GRACE;
        if oldest + silence_timeout <= now {
            let failure = Failure::timeout(silence_timeout);
            self.lose_link(id.broker, &failure);
        } else if oldest + STALL_TIMEOUT <= now {
            tracing::debug!(broker = %id.broker, "the leader does not answer; asking others");
            self.notify_silence(id, oldest, now);
            self.want_refresh();
            // Its lanes may have been known to have moved before they stalled.
            self.on_image();
            self.timers.set(now + STALL_RETRY_INTERVAL, Timer::Silence(id));
        } else {
            self.timers.set(oldest + STALL_TIMEOUT, Timer::Silence(id));
        }
    }
}
