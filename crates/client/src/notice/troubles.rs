//! Decides when a failure that lasts is published as a notice.
//!
//! Each thing that is retried has a [`Trouble`]: a handle that costs nothing until an attempt fails. Troubles of the
//! same thing (all partitions of a topic that a producer writes to) are published together: first after
//! [`NOTICE_DELAY`], or at once when the cause will not pass by itself; then every [`NOTICE_INTERVAL`]; and when all of
//! them are over.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jangada_types::Reason;
use tokio::time::{Instant, sleep_until};

use super::{NOTICE_TARGET, Notice, OnNotice, Retrying};
use crate::wire_error::Failure;

/// A failure that ends before this is not published: an orderly change of leader takes less.
const NOTICE_DELAY: Duration = Duration::from_secs(1);

/// Interval between two notices of the same trouble.
const NOTICE_INTERVAL: Duration = Duration::from_secs(10);

/// Most lines that single events may write to the log within [`NOTICE_INTERVAL`]; the callback gets all.
const LOGGED_MAX: u32 = 100;

/// The publisher of a client's notices, shared by all that the client makes.
pub(crate) struct Notices {
    observer: OnNotice,
    open: Mutex<BTreeMap<Arc<str>, Open>>,
    next_id: AtomicU64,
    log: Mutex<Log>,
}

/// The open troubles of one thing, such as a topic.
#[derive(Default)]
struct Open {
    /// The troubles that fail now, by their handles' ids.
    failing: BTreeMap<u64, Failing>,
    /// The time of the last notice, and the reason of the failure then.
    published: Option<(Instant, Option<Reason>)>,
    /// The time of the first failure that was published.
    since: Option<Instant>,
}

struct Failing {
    partition: Option<u32>,
    since: Instant,
    attempts: u64,
}

/// The number of lines that the log got since a time.
struct Log {
    since: Instant,
    lines: u32,
}

/// A handle on something that is tried until it succeeds. When it is dropped the trouble ends without a notice.
pub(crate) struct Trouble {
    notices: Arc<Notices>,
    what: Arc<str>,
    partition: Option<u32>,
    id: u64,
    is_open: bool,
}

/// What follows a failed attempt.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Next {
    pub next_try: Duration,
    pub gives_up_in: Option<Duration>,
    /// Publish at once, whatever the cause.
    pub at_once: bool,
}

impl Next {
    /// Another attempt after `next_try`, and none after the deadline.
    pub fn until(deadline: Instant, next_try: Duration) -> Self {
        Self {
            next_try,
            gives_up_in: Some(deadline.saturating_duration_since(Instant::now())),
            at_once: false,
        }
    }
}

impl Notices {
    pub fn new(observer: OnNotice) -> Self {
        Self {
            observer,
            open: Mutex::default(),
            next_id: AtomicU64::new(0),
            log: Mutex::new(Log {
                since: Instant::now(),
                lines: 0,
            }),
        }
    }

    /// A handle for something that may fail and is retried: `produce to orders`, and which partition.
    pub fn trouble(self: &Arc<Self>, what: Arc<str>, partition: Option<u32>) -> Trouble {
        Trouble {
            notices: self.clone(),
            what,
            partition,
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            is_open: false,
        }
    }

    /// Publishes a notice at once.
    pub fn publish(&self, notice: &Notice) {
        if self.may_log() {
            if notice.is_info() {
                tracing::info!(target: NOTICE_TARGET, "{notice}");
            } else {
                tracing::warn!(target: NOTICE_TARGET, "{notice}");
            }
        }
        self.observer.call(notice);
    }

    /// Awaits a future that is quick as a rule, and publishes a notice when it is not; `what` is a sentence. The end of
    /// the wait is published if `is_over` takes the output.
    pub async fn waiting<T>(
        self: &Arc<Self>,
        what: impl Fn() -> String,
        is_over: impl Fn(&T) -> bool,
        future: impl Future<Output = T>,
    ) -> T {
        self.waiting_at((NOTICE_DELAY, NOTICE_INTERVAL), what, is_over, future)
            .await
    }

    async fn waiting_at<T>(
        self: &Arc<Self>,
        (after, every): (Duration, Duration),
        what: impl Fn() -> String,
        is_over: impl Fn(&T) -> bool,
        future: impl Future<Output = T>,
    ) -> T {
        let since = Instant::now();
        let mut tell_at = since + after;
        let mut trouble: Option<Trouble> = None;
        tokio::pin!(future);
        loop {
            tokio::select! {
                biased;
                output = &mut future => {
                    if let Some(mut trouble) = trouble.filter(|_| is_over(&output)) {
                        trouble.works();
                    }
                    return output;
                }
                () = sleep_until(tell_at) => {
                    tell_at = Instant::now() + every;
                    let trouble = trouble.get_or_insert_with(|| self.trouble(what().into(), None));
                    trouble.waits(since, every);
                }
            }
        }
    }

    fn may_log(&self) -> bool {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if log.since.elapsed() >= NOTICE_INTERVAL {
            if log.lines > LOGGED_MAX {
                tracing::warn!(target: NOTICE_TARGET, "{} more notices were not logged", log.lines - LOGGED_MAX);
            }
            *log = Log {
                since: Instant::now(),
                lines: 0,
            };
        }
        log.lines += 1;
        log.lines <= LOGGED_MAX
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn is_due(&self, failing_for: Duration, cause: &Failure, next: Next, now: Instant) -> bool {
        let is_urgent = next.at_once || cause.reason.is_some_and(stays);
        match self.published {
            None => is_urgent || failing_for >= NOTICE_DELAY,
            Some((at, reason)) => {
                let is_news = is_urgent && reason != cause.reason && now >= at + NOTICE_DELAY;
                is_news || now >= at + NOTICE_INTERVAL
            }
        }
    }
}

/// Whether a cause will not pass by itself in a moment.
fn stays(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::DiskFull | Reason::StoreFenced | Reason::TooManyStreams | Reason::UnreleasedInstanceId
    )
}

impl Trouble {
    /// Records a failed attempt that will be followed by another one.
    pub fn failed(&mut self, cause: &Failure, next: Next) {
        self.failed_at(Instant::now(), cause, next);
    }

    /// Records that an attempt has no answer yet.
    pub fn silent(&mut self, cause: &Failure, next: Next) {
        self.publish_if_due(Instant::now(), cause, next, 0);
    }

    fn failed_at(&mut self, now: Instant, cause: &Failure, next: Next) {
        self.publish_if_due(now, cause, next, 1);
    }

    /// Records that it has been waiting since then. Others that wait for the same thing share its notice.
    fn waits(&mut self, since: Instant, every: Duration) {
        let now = Instant::now();
        self.is_open = true;
        {
            let mut all = self.notices.open();
            let open = all.entry(self.what.clone()).or_default();
            let failing = Failing {
                partition: None,
                since,
                attempts: 0,
            };
            open.failing.insert(self.id, failing);
            if open.published.is_some_and(|(at, _)| now < at + every) {
                return;
            }
            open.published = Some((now, None));
            open.since.get_or_insert(since);
        }
        self.notices.publish(&Notice::Waiting {
            what: self.what.clone(),
            elapsed: now - since,
        });
    }

    fn publish_if_due(&mut self, now: Instant, cause: &Failure, next: Next, attempts: u64) {
        self.is_open = true;
        let notice = {
            let mut all = self.notices.open();
            let open = all.entry(self.what.clone()).or_default();
            let failing = open.failing.entry(self.id).or_insert(Failing {
                partition: self.partition,
                since: now,
                attempts: 0,
            });
            failing.attempts += attempts;
            let (since, attempts) = (failing.since, failing.attempts);
            if !open.is_due(now - since, cause, next, now) {
                return;
            }
            open.published = Some((now, cause.reason));
            open.since.get_or_insert(since);
            let first = self.partition;
            let others = open.failing.values().filter_map(|failing| failing.partition);
            let others = others.filter(|partition| Some(*partition) != first);
            Notice::Retrying(Retrying {
                what: self.what.clone(),
                partitions: first.into_iter().chain(others).collect(),
                cause: cause.rejection(&self.what),
                elapsed: now - since,
                attempts,
                next_try: next.next_try,
                gives_up_in: next.gives_up_in,
            })
        };
        self.notices.publish(&notice);
    }

    /// Records that an attempt succeeded.
    pub fn works(&mut self) {
        self.works_at(Instant::now());
    }

    fn works_at(&mut self, now: Instant) {
        if let Some(since) = self.close() {
            let what = self.what.clone();
            self.notices.publish(&Notice::Recovered {
                what,
                elapsed: now - since,
            });
        }
    }

    /// Whether an attempt failed since it last worked.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Records that it is given up, or no longer wanted.
    pub fn ends(&mut self) {
        let _ = self.close();
    }

    /// Ends it. Returns the first failure, when this was the last trouble of its thing and a notice was published.
    fn close(&mut self) -> Option<Instant> {
        if !std::mem::take(&mut self.is_open) {
            return None;
        }
        let mut all = self.notices.open();
        let open = all.get_mut(&self.what)?;
        open.failing.remove(&self.id);
        if !open.failing.is_empty() {
            return None;
        }
        all.remove(&self.what).and_then(|open| open.since)
    }
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.ends();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Notices, and the texts that they were published with.
    fn observed() -> (Arc<Notices>, Arc<Mutex<Vec<String>>>) {
        let texts: Arc<Mutex<Vec<String>>> = Arc::default();
        let sink = texts.clone();
        let observer = OnNotice::new(move |notice| sink.lock().expect("no panic").push(notice.to_string()));
        (Arc::new(Notices::new(observer)), texts)
    }

    fn count(texts: &Mutex<Vec<String>>) -> usize {
        texts.lock().expect("no panic").len()
    }

    fn failure(reason: Reason) -> Failure {
        Failure::from_brokers(reason, "words")
    }

    const STEP: Duration = Duration::from_millis(100);

    #[test]
    fn a_failure_is_told_after_a_second_then_every_ten() {
        let (notices, texts) = observed();
        let mut trouble = notices.trouble("produce to t".into(), Some(3));
        let mut told_at = Vec::new();
        let begin = Instant::now();
        for step in 0..250 {
            trouble.failed_at(begin + step * STEP, &failure(Reason::NotReady), Next::default());
            if count(&texts) > told_at.len() {
                told_at.push(step);
            }
        }
        assert_eq!(told_at, [10, 110, 210]);
        trouble.works_at(begin + 250 * STEP);
        let texts = texts.lock().expect("no panic");
        let first = "produce to t[3]: words (NOT_READY); 11 attempts in 1.0 s";
        assert!(texts[0].starts_with(first), "{texts:?}");
        assert!(texts[3].contains("goes on after 25.0 s"), "{texts:?}");
    }

    #[test]
    fn what_passes_within_a_second_is_not_told_and_a_full_disk_at_once() {
        let (notices, texts) = observed();
        let mut trouble = notices.trouble("produce to t".into(), Some(0));
        let begin = Instant::now();
        trouble.failed_at(begin, &failure(Reason::NotLeader), Next::default());
        trouble.works_at(begin + 9 * STEP);
        assert_eq!(count(&texts), 0);
        trouble.failed_at(begin + 9 * STEP, &failure(Reason::DiskFull), Next::default());
        assert_eq!(count(&texts), 1);
    }

    #[test]
    fn partitions_that_fail_together_are_told_together() {
        let (notices, texts) = observed();
        let mut troubles: Vec<_> = (0..100)
            .map(|p| notices.trouble("produce to t".into(), Some(p)))
            .collect();
        let begin = Instant::now();
        for round in 0..3 {
            for trouble in &mut troubles {
                let now = begin + round * NOTICE_INTERVAL;
                trouble.failed_at(now, &failure(Reason::DiskFull), Next::default());
            }
        }
        assert_eq!(count(&texts), 3);
        assert!(texts.lock().expect("no panic")[2].contains("and 99 more partitions"));
        for trouble in &mut troubles {
            trouble.works();
        }
        assert_eq!(count(&texts), 4, "that it works again is published once");
    }

    #[tokio::test]
    async fn what_takes_long_is_told() {
        let (notices, texts) = observed();
        let what = || "reading waits".to_owned();
        notices.waiting(what, |()| true, std::future::ready(())).await;
        assert_eq!(count(&texts), 0);
        let published = texts.clone();
        let until_told_twice = async move {
            while count(&published) < 2 {
                tokio::task::yield_now().await;
            }
        };
        let at = (Duration::from_millis(5), Duration::from_millis(10));
        notices.waiting_at(at, what, |()| true, until_told_twice).await;
        assert!(texts.lock().expect("no panic")[2].contains("goes on"), "{texts:?}");
    }
}
