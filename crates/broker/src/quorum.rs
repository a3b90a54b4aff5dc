//! Whether a quorum still answers a leader.
//!
//! A leader that is cut off never learns of the next one, and Raft lets it believe for as long as nobody tells it. It
//! can do no harm to what is written, but who waits there waits for nothing. So each leader looks now and then, and
//! says when nobody answered it for longer than the others need to elect another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jangada_replication::{Group, GroupStatus};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::node::Node;
use crate::settings::BrokerSettings;

/// How often what is led here is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A leader that no quorum answered for so long may have a successor.
pub(crate) fn within(settings: &BrokerSettings) -> Duration {
    Duration::from_millis(2 * settings.raft.election_timeout_max_ms + settings.raft.heartbeat_ms)
}

/// See the module text. One for each replica.
pub(crate) struct Quorum {
    within: Duration,
    seen: Mutex<Seen>,
    is_lost: watch::Sender<bool>,
    /// Raft refused a command of this leader, and no quorum has answered since. It does as soon as its lease is over, which is
    /// earlier than `is_lost`.
    is_refusing: AtomicBool,
}

/// What the last look saw.
struct Seen {
    term: u64,
    committed_next: u64,
    /// When a quorum was known to answer.
    heard_at: Instant,
    /// When Raft last refused a command.
    refused_at: Option<Instant>,
}

/// What a look sees.
struct Look {
    status: GroupStatus,
    committed_next: u64,
    silent_for: Duration,
    now: Instant,
}

impl Quorum {
    pub fn new(within: Duration) -> Self {
        let seen = Seen {
            term: 0,
            committed_next: 0,
            heard_at: Instant::now(),
            refused_at: None,
        };
        Self {
            within,
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

    /// This replica leads by its term, and no quorum answers it, as of the last look.
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

    /// Looks. To be called often as long as this replica leads, and when it ceases to. `Some`: whether it is lost has
    /// changed.
    pub fn look(&self, group: &Group) -> Option<bool> {
        let status = group.status();
        let look = Look {
            status,
            committed_next: group.committed_next(),
            silent_for: match status.leading {
                true => group.quorum_silent_for().unwrap_or_default(),
                false => Duration::ZERO,
            },
            now: Instant::now(),
        };
        let is_lost = self.judge(&look);
        let changed = self
            .is_lost
            .send_if_modified(|known| std::mem::replace(known, is_lost) != is_lost);
        changed.then_some(is_lost)
    }

    fn judge(&self, look: &Look) -> bool {
        let mut seen = self.seen.lock();
        // What is committed was answered by a quorum, too, and heartbeats may be late behind it. A new leader has heard
        // of nobody yet.
        let is_heard =
            !look.status.leading || look.status.term != seen.term || look.committed_next > seen.committed_next;
        let heartbeat_at = look.now.checked_sub(look.silent_for).unwrap_or(seen.heard_at);
        *seen = Seen {
            term: look.status.term,
            committed_next: look.committed_next,
            heard_at: if is_heard {
                look.now
            } else {
                seen.heard_at.max(heartbeat_at)
            },
            refused_at: seen.refused_at,
        };
        if seen.refused_at.is_some_and(|at| at < seen.heard_at) {
            seen.refused_at = None;
            self.is_refusing.store(false, Ordering::Relaxed);
        }
        look.now - seen.heard_at > self.within
    }
}

/// Looks at the metadata group and at all partitions, for ever; shards of the coordinator look by themselves. Wakes who
/// watches the leaders when this broker ceases to be one, or is one again.
pub(crate) async fn watch(node: Arc<Node>) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        node.metrics.refusals.look();
        let looked = node.metadata_quorum.look(&node.metadata.group);
        if looked == Some(true) {
            tracing::warn!("no quorum of the metadata group answers: nothing can be created or changed until one does");
        }
        let mut has_changed = looked.is_some();
        for partition in node.partitions.all() {
            // Of thousands most are led elsewhere.
            if !partition.group.status().leading && !partition.quorum.is_lost() {
                continue;
            }
            let looked = partition.quorum.look(&partition.group);
            if looked == Some(true) {
                tracing::info!(partition = %partition.name, "no quorum answers: readers are sent away until one does");
            }
            has_changed |= looked.is_some();
        }
        if has_changed {
            node.registry().leaders().changed();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WITHIN: Duration = Duration::from_secs(2);

    fn look(now: Instant, silent_for: Duration) -> Look {
        let status = GroupStatus {
            term: 3,
            ready: true,
            leading: true,
            ..GroupStatus::default()
        };
        Look {
            status,
            committed_next: 7,
            silent_for,
            now,
        }
    }

    #[tokio::test]
    async fn a_leader_is_lost_when_nobody_answers_for_long_and_found_again_by_an_answer() {
        let quorum = Quorum::new(WITHIN);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        // It was elected just now, and has heard of nobody.
        assert!(!quorum.judge(&look(at(0), Duration::MAX)));
        assert!(!quorum.judge(&look(at(2_000), Duration::MAX)));
        assert!(quorum.judge(&look(at(2_001), Duration::MAX)));
        assert!(!quorum.judge(&look(at(2_500), Duration::from_millis(100))));
        assert!(!quorum.is_in_doubt());
        // Heartbeats are late, and something was committed.
        let mut committed = look(at(4_400), Duration::from_secs(9));
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
        let quorum = Quorum::new(WITHIN);
        quorum.judge(&look(Instant::now(), Duration::ZERO));
        quorum.refused();
        assert!(quorum.is_in_doubt() && !quorum.is_lost());
        let refused = Instant::now();
        let at = |ms| refused + Duration::from_millis(ms);
        // The last answer was before that.
        quorum.judge(&look(at(500), Duration::from_secs(1)));
        assert!(quorum.is_in_doubt());
        quorum.judge(&look(at(1_000), Duration::from_millis(100)));
        assert!(!quorum.is_in_doubt());
    }
}
