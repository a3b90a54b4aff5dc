//! Settings of consumer groups.

use super::Problem;

settings! {
    /// Consumer groups. All brokers of a cluster should have the same settings.
    GroupSettings {
        keys {
            /// Shards of the coordinator, each a Raft group; consumer groups are spread over them by the hash of their names. Read
            /// when the first consumer group of the cluster is used, and fixed from then on.
            shards: u32 = 16, range(1, 1_000);
            /// Interval of members' heartbeats while their group is stable, milliseconds; at most a third of the session timeout.
            heartbeat_interval_ms: u32 = 3_000, range(100, 60_000);
            /// Interval of heartbeats while the member or its group is moving to a new assignment, or the session of a silent
            /// member is about to end, milliseconds. At most `heartbeat_interval_ms`.
            busy_heartbeat_interval_ms: u32 = 300, range(50, 60_000);
            /// How long changes of a group are collected before a new assignment is computed, milliseconds. It doubles with each
            /// assignment that soon follows another.
            batch_window_ms: u32 = 100, range(0, 60_000);
            /// The longest time that changes are collected, milliseconds. At least `batch_window_ms`.
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
