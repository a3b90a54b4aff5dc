//! Raft's clocks, and how openraft is set up with them.

use openraft::{Config, SnapshotPolicy};

use crate::open_error::OpenError;
use crate::transport::handshake::Identity;

/// How often leaders send heartbeats, and when followers stand for election.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two heartbeats of a leader, milliseconds.
    pub heartbeat_ms: u64,
    /// A follower stands for election after the leader's lease (the maximum below) and a random time between these
    /// two, milliseconds.
    pub election_timeout_min_ms: u64,
    /// The longest time of an election time-out, and the time of a leader's lease, milliseconds.
    pub election_timeout_max_ms: u64,
}

/// What all groups of a broker have in common.
pub(crate) fn raft_config(identity: &Identity, timing: Timing) -> Result<Config, OpenError> {
    let config = Config {
        cluster_name: identity.cluster_id.clone(),
        heartbeat_interval: timing.heartbeat_ms,
        election_timeout_min: timing.election_timeout_min_ms,
        election_timeout_max: timing.election_timeout_max_ms,
        // Reads are capped in bytes; this only bounds messages of tiny entries.
        max_payload_entries: 1024,
        // Snapshots are asked for by the host; a follower gets one only when the log that it needs is gone.
        snapshot_policy: SnapshotPolicy::Never,
        replication_lag_threshold: u64::MAX / 2,
        max_in_snapshot_log_to_keep: 0,
        purge_batch_size: 1,
        install_snapshot_timeout: 30_000,
        enable_pre_vote: Some(true),
        // A restarted leader must be elected anew: going on in its old term it could write other entries under log ids
        // that followers have already acknowledged, because they may have synced what it lost.
        enable_leader_restore: Some(false),
        // A leader that only some can reach must not block elections (openraft issue 2080). At least lease plus
        // election time-out.
        quorum_loss_probe_interval: Some(timing.election_timeout_max_ms * 2 + timing.heartbeat_ms),
        // A follower that has less than it acknowledged is filled up again instead of being left behind until the next
        // election. That is one whose operator accepted a lost tail (the store notices it and refuses to start), or one
        // whose disk lied about its last commit. What was counted as committed is not taken back.
        allow_log_reversion: Some(true),
        // Of statistics that are not compiled in; it allocates for them all the same.
        log_stage_capacity: Some(1),
        ..Config::default()
    };
    config.validate().map_err(|error| OpenError::Timing(error.to_string()))
}
