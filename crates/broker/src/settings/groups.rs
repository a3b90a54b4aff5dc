//! Consumer groups.

use super::Problem;

settings! {
    /// Consumer groups. All brokers of a cluster should have the same.
    GroupSettings {
        keys {
            /// Shards of the coordinator, each a Raft group; groups are spread over them by their names. Read when the first
            /// group of the cluster is asked for, and fixed from then on.
            shards: u32 = 16, range(1, 1_000);
            /// How often a member of a group at rest sends a heartbeat, milliseconds; at most a third of its session.
            heartbeat_interval_ms: u32 = 3_000, range(100, 60_000);
            /// How often while the member or its group is on the way to a new assignment, or the session of a silent
            /// member is about to end, milliseconds. At most `heartbeat_interval_ms`.
            busy_heartbeat_interval_ms: u32 = 300, range(50, 60_000);
            /// How long changes of a group are gathered into one assignment, milliseconds. Doubles with each assignment
            /// that soon follows another.
            batch_window_ms: u32 = 100, range(0, 60_000);
            /// The longest that changes are gathered, milliseconds. At least `batch_window_ms`.
            batch_window_ms_max: u32 = 2_000, range(0, 60_000);
            /// How long offsets of a group without members are kept, milliseconds (7 days).
            offsets_retention_ms: u64 = 604_800_000, range(1_000, 31_536_000_000);
        }
        sections {}
    }
}

impl GroupSettings {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        if self.busy_heartbeat_interval_ms > self.heartbeat_interval_ms {
            let message = format!(
                "is {}, must be at most groups.heartbeat_interval_ms ({})",
                self.busy_heartbeat_interval_ms, self.heartbeat_interval_ms
            );
            problems.push(Problem::new("groups.busy_heartbeat_interval_ms", message));
        }
        if self.batch_window_ms_max < self.batch_window_ms {
            let message = format!(
                "is {}, must be at least groups.batch_window_ms ({})",
                self.batch_window_ms_max, self.batch_window_ms
            );
            problems.push(Problem::new("groups.batch_window_ms_max", message));
        }
    }
}
