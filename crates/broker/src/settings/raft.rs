//! Timing of replication.

use std::time::Duration;

use super::Problem;

settings! {
    /// Timing of replication. All brokers of a cluster must have the same timing: a follower waits for the longest election
    /// timeout after the last heartbeat before it stands for election.
    RaftSettings {
        keys {
            /// Interval of the leaders' heartbeats, milliseconds. A shorter one costs more idle CPU per partition.
            heartbeat_ms: u64 = 200, range(100, 10_000);
            /// The shortest election timeout, milliseconds: the time without a heartbeat after which a follower may stand for
            /// election. At least twice `heartbeat_ms`.
            election_timeout_min_ms: u64 = 400, range(50, 60_000);
            /// The longest election timeout, milliseconds; also the leader's lease. Above `election_timeout_min_ms`, so that
            /// followers rarely stand at the same time, which splits the vote and costs another timeout.
            election_timeout_max_ms: u64 = 900, range(60, 120_000);
        }
        sections {}
    }
}

impl RaftSettings {
    /// The time without an answer from a quorum after which a leader may have been replaced.
    pub(crate) fn quorum_timeout(&self) -> Duration {
        Duration::from_millis(2 * self.election_timeout_max_ms + self.heartbeat_ms)
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        if self.election_timeout_min_ms < self.heartbeat_ms.saturating_mul(2) {
            let message = format!(
                "is {}, must be at least twice raft.heartbeat_ms ({}), or one late heartbeat starts an election",
                self.election_timeout_min_ms, self.heartbeat_ms
            );
            problems.push(Problem::new("raft.election_timeout_min_ms", message));
        }
        if self.election_timeout_max_ms <= self.election_timeout_min_ms {
            let message = format!(
                "is {}, must be above raft.election_timeout_min_ms ({}), or followers stand for election at the same moment",
                self.election_timeout_max_ms, self.election_timeout_min_ms
            );
            problems.push(Problem::new("raft.election_timeout_max_ms", message));
        }
    }
}
