//! Whether a quorum still answers a leader (Raft's CheckQuorum).
//!
//! A leader that is cut off never learns of the next one. It is harmless to the log, because it commits nothing, but it must
//! stop answering readers and members: they would wait for what is decided elsewhere. So each leader checks now and then,
//! and counts as lost when no quorum answered it for longer than the others need to elect another one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jangada_replication::{Group, GroupStatus};
use jangada_types::planted::{self, Bug};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// Knows whether a quorum answers a replica that leads. There is one for each replica.
pub(crate) struct CheckQuorum {
    timeout: Duration,
    seen: Mutex<Seen>,
    is_lost: watch::Sender<bool>,
    /// Raft refused a command of this leader, and no quorum has answered since. Raft refuses commands as soon as its lease is
    /// over, which is earlier than `is_lost`.
    is_refusing: AtomicBool,
}

/// What the last check saw.
struct Seen {
    term: u64,
    committed_next: u64,
    /// When a quorum was known to answer.
    heard_at: Instant,
    /// When Raft last refused a command.
    refused_at: Option<Instant>,
}

/// What one check sees.
struct QuorumSample {
    status: GroupStatus,
    committed_next: u64,
    silent_for: Duration,
    now: Instant,
}

impl CheckQuorum {
    pub fn new(timeout: Duration) -> Self {
        let seen = Seen {
            term: 0,
            committed_next: 0,
            heard_at: Instant::now(),
            refused_at: None,
        };
        Self {
            timeout,
            seen: Mutex::new(seen),
            is_lost: watch::Sender::new(false),
            is_refusing: AtomicBool::new(false),
        }
    }

    /// Raft refused a command although this replica leads as far as it knows.
    pub fn refused(&self) {
        let mut seen = self.seen.lock();
        seen.refused_at = Some(Instant::now());
        self.is_refusing.store(true, Ordering::Relaxed);
    }

    /// What is proposed now is likely thrown away.
    pub fn is_in_doubt(&self) -> bool {
        self.is_refusing.load(Ordering::Relaxed) || self.is_lost()
    }

    /// This replica leads by its term, and no quorum answers it, as of the last check.
    pub fn is_lost(&self) -> bool {
        *self.is_lost.borrow()
    }

    /// Returns when that is so.
    pub async fn lost(&self) {
        let mut is_lost = self.is_lost.subscribe();
        if is_lost.wait_for(|lost| *lost).await.is_err() {
            std::future::pending().await
        }
    }

    /// To be called often as long as this replica leads, and when it ceases to. `Some`: whether it is lost has
    /// changed.
    pub fn check(&self, group: &Group) -> Option<bool> {
        let status = group.status();
        let sample = QuorumSample {
            status,
            committed_next: group.committed_next(),
            silent_for: match status.leading {
                true => group.quorum_silent_for().unwrap_or_default(),
                false => Duration::ZERO,
            },
            now: Instant::now(),
        };
        let is_lost = self.judge(&sample);
        let changed = self
            .is_lost
            .send_if_modified(|known| std::mem::replace(known, is_lost) != is_lost);
        changed.then_some(is_lost)
    }

    fn judge(&self, sample: &QuorumSample) -> bool {
        let mut seen = self.seen.lock();
        // What is committed was answered by a quorum, too, and heartbeats may be late behind it. A new leader has heard
        // of nobody yet.
        let is_heard =
            !sample.status.leading || sample.status.term != seen.term || sample.committed_next > seen.committed_next;
        let heartbeat_at = sample.now.checked_sub(sample.silent_for).unwrap_or(seen.heard_at);
        *seen = Seen {
            term: sample.status.term,
            committed_next: sample.committed_next,
            heard_at: if is_heard {
                sample.now
            } else {
                seen.heard_at.max(heartbeat_at)
            },
            refused_at: seen.refused_at,
        };
        if seen.refused_at.is_some_and(|at| at < seen.heard_at) {
            seen.refused_at = None;
            self.is_refusing.store(false, Ordering::Relaxed);
        }
        sample.now - seen.heard_at > self.timeout && !planted::is(Bug::CutOffLeaderAnswers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    fn sample(now: Instant, silent_for: Duration) -> QuorumSample {
        let status = GroupStatus {
            term: 3,
            ready: true,
            leading: true,
            ..GroupStatus::default()
        };
        QuorumSample {
            status,
            committed_next: 7,
            silent_for,
            now,
        }
    }

    #[tokio::test]
    async fn a_leader_is_lost_when_nobody_answers_for_long_and_found_again_by_an_answer() {
        let quorum = CheckQuorum::new(TIMEOUT);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        // It was elected just now, and has heard of nobody.
        assert!(!quorum.judge(&sample(at(0), Duration::MAX)));
        assert!(!quorum.judge(&sample(at(2_000), Duration::MAX)));
        assert!(quorum.judge(&sample(at(2_001), Duration::MAX)));
        assert!(!quorum.judge(&sample(at(2_500), Duration::from_millis(100))));
        assert!(!quorum.is_in_doubt());
        // Heartbeats are late, and something was committed.
        let mut committed = sample(at(4_400), Duration::from_secs(9));
        committed.committed_next += 1;
        assert!(!quorum.judge(&committed));
        committed.now = at(6_300);
        assert!(!quorum.judge(&committed));
        committed.now = at(6_500);
        assert!(quorum.judge(&committed));
        // It does not lead any more.
        committed.status.leading = false;
        assert!(!quorum.judge(&committed));
    }

    #[tokio::test]
    async fn a_refusal_counts_until_a_quorum_answers_again() {
        let quorum = CheckQuorum::new(TIMEOUT);
        quorum.judge(&sample(Instant::now(), Duration::ZERO));
        quorum.refused();
        assert!(quorum.is_in_doubt() && !quorum.is_lost());
        let refused = Instant::now();
        let at = |ms| refused + Duration::from_millis(ms);
        // The last answer was before that.
        quorum.judge(&sample(at(500), Duration::from_secs(1)));
        assert!(quorum.is_in_doubt());
        quorum.judge(&sample(at(1_000), Duration::from_millis(100)));
        assert!(!quorum.is_in_doubt());
    }
}
