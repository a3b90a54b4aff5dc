//! Tries a record until it is handled, is a dead letter, or is somebody else's.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jangada_client::{ConsumedRecord, Env};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::breaker::{Admission, Breaker};
use super::config::{Failure, FlowConfig};
use super::members::{Lane, Members, Taken};
use crate::dead_letters::{Cause, DeadLetters};
use crate::error::PatternError;

/// How often a wait between attempts looks whether the record is still wanted.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// How the work on a record ended.
pub(super) enum Ended {
    Handled,
    Dead,
    /// Its partition is somebody else's, or the flow ends: it comes again.
    Left,
    Failed(PatternError),
}

/// What the attempts at all records share.
pub(super) struct Attempts<'f> {
    pub config: &'f FlowConfig,
    pub members: &'f Members,
    env: &'f Env,
    breaker: Option<Mutex<Breaker>>,
    failed: AtomicU64,
    stopping: watch::Sender<bool>,
}

impl<'f> Attempts<'f> {
    pub fn new(config: &'f FlowConfig, members: &'f Members, env: &'f Env) -> Self {
        Self {
            config,
            members,
            env,
            breaker: config.breaker.map(|config| Mutex::new(Breaker::new(config))),
            failed: AtomicU64::new(0),
            stopping: watch::Sender::new(false),
        }
    }

    /// Nothing is tried again from now on.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Number of attempts that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Whether the breaker is open.
    pub fn is_broken(&self) -> bool {
        self.breaker().is_some_and(|breaker| breaker.is_open())
    }

    fn breaker(&self) -> Option<MutexGuard<'_, Breaker>> {
        let breaker = self.breaker.as_ref()?;
        Some(breaker.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Works on a record, and lets the next one of its lane begin.
    pub async fn work<H, F>(&self, lane: Lane, taken: Taken, handler: &H) -> Ended
    where
        H: Fn(Arc<ConsumedRecord>) -> F,
        F: Future<Output = Result<(), Failure>>,
    {
        let ended = self.handle(&taken, handler).await;
        let is_finished = matches!(ended, Ended::Handled | Ended::Dead);
        self.members.end(&lane, &taken.ticket, is_finished);
        ended
    }

    async fn handle<H, F>(&self, taken: &Taken, handler: &H) -> Ended
    where
        H: Fn(Arc<ConsumedRecord>) -> F,
        F: Future<Output = Result<(), Failure>>,
    {
        let (mut attempts, mut counted) = (0_u32, 0_u32);
        while self.is_wanted(taken) {
            let admission = self
                .breaker()
                .map_or(Admission::Go, |mut breaker| breaker.admit(Instant::now()));
            if let Admission::Wait(wait) = admission {
                self.wait(taken, wait).await;
                continue;
            }
            let is_probe = self.is_broken();
            let outcome = handler(taken.record.clone()).await;
            // A record that is itself at fault says nothing against what the handler calls.
            let is_answer = outcome.as_ref().err().is_none_or(|failure| failure.is_final);
            if let Some(mut breaker) = self.breaker() {
                breaker.record(Instant::now(), is_answer);
            }
            let Err(failure) = outcome else { return Ended::Handled };
            self.failed.fetch_add(1, Ordering::Relaxed);
            attempts += 1;
            // What fails as everything fails is not the record's fault.
            counted += u32::from(!is_probe);
            let is_over = self.config.attempts_max > 0 && counted >= self.config.attempts_max;
            if failure.is_final || is_over {
                return self.give_up(taken, attempts, failure).await;
            }
            tracing::warn!(error = %failure.error, attempts, at = %place(&taken.record), "a record is tried again");
            self.wait(taken, self.config.backoff.delay(attempts - 1, self.env))
                .await;
        }
        Ended::Left
    }

    async fn give_up(&self, taken: &Taken, attempts: u32, failure: Failure) -> Ended {
        let Some(letters) = &self.config.dead_letters else {
            return Ended::Failed(PatternError::Handler {
                what: place(&taken.record),
                attempts,
                source: failure.error,
            });
        };
        let cause = Cause::new(attempts, &failure.error);
        tracing::warn!(error = %failure.error, attempts, at = %place(&taken.record), "a record is a dead letter");
        self.put(letters, taken, &cause).await
    }

    async fn put(&self, letters: &DeadLetters, taken: &Taken, cause: &Cause) -> Ended {
        let mut failures = 0;
        while self.is_wanted(taken) {
            match letters.put(&taken.record, cause).await {
                Ok(()) => return Ended::Dead,
                Err(error) if error.is_retryable() => {
                    tracing::warn!(%error, topic = letters.topic(), "a dead letter is put away later");
                    self.wait(taken, self.config.backoff.delay(failures, self.env)).await;
                    failures += 1;
                }
                Err(error) => return Ended::Failed(error),
            }
        }
        Ended::Left
    }

    /// Whether the record is still this member's, and the flow goes on.
    fn is_wanted(&self, taken: &Taken) -> bool {
        !*self.stopping.borrow() && self.members.work().progress.is_current(&taken.ticket)
    }

    /// Waits so long, or until the record is not wanted any more.
    async fn wait(&self, taken: &Taken, wait: Duration) {
        let until = Instant::now() + wait;
        let mut stopping = self.stopping.subscribe();
        while self.is_wanted(taken) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = sleep(left.min(LOOK_INTERVAL)) => {}
                // Its sender is this one's.
                _ = stopping.changed() => {}
            }
        }
    }
}

/// Where a record is, for people.
fn place(record: &ConsumedRecord) -> String {
    format!("{}[{}] at offset {}", record.topic, record.partition, record.offset)
}

#[cfg(test)]
mod tests;
