//! Settings of a shard's leader, and their defaults.

use crate::limits::OFFSETS_RETENTION_MS_DEFAULT;

/// Settings of a shard's leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Heartbeat interval of the members of a group at rest, milliseconds; at most a third of a member's session.
    pub heartbeat_interval_ms: u32,
    /// Heartbeat interval while the member or its group is on the way to a target, or the session of a silent member is
    /// about to end, milliseconds.
    pub busy_heartbeat_interval_ms: u32,
    /// How long changes of a group are gathered into one target, milliseconds. Doubles with each target that soon
    /// follows another.
    pub batch_window_ms: u32,
    /// The longest that changes are gathered, milliseconds.
    pub batch_window_ms_max: u32,
    /// How long offsets of a group without members are kept, milliseconds.
    pub offsets_retention_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            heartbeat_interval_ms: 3_000,
            busy_heartbeat_interval_ms: 300,
            batch_window_ms: 100,
            batch_window_ms_max: 2_000,
            offsets_retention_ms: OFFSETS_RETENTION_MS_DEFAULT,
        }
    }
}
