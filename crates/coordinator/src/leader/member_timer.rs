//! Until when one member may be silent, and until when it has to give up partitions.

use jangada_machine::Now;

/// How long a static member's place is kept for the process that asked for it last, milliseconds. Clients ask each
/// second.
const CLAIM_MS: u64 = 3_000;

/// The time beyond one and a half intervals after which a heartbeat is overdue, milliseconds.
const OVERDUE_SLACK_MS: u64 = 250;

/// The timer of one member.
#[derive(Debug)]
pub(super) struct MemberTimer {
    pub last_heard: u64,
    /// The heartbeat interval that the member was told, milliseconds.
    pub interval_ms: u64,
    /// The session timeout, milliseconds. Each refresh updates it, so that the queue has the end of a session that
    /// became shorter.
    pub session_ms: u64,
    /// The version of the member whose removal was proposed when its session was over. Its later requests come behind
    /// that in the log.
    pub ending: Option<u64>,
    /// Time before which its removal is not proposed.
    pub kept_until: u64,
    /// Time at which another process last asked for its instance id.
    pub claimed_at: Option<u64>,
    /// The version under which the member is to give up partitions, and the time by which it must have done so.
    pub revoking: Option<(u64, u64)>,
}

impl MemberTimer {
    /// The time at which the member is due.
    pub fn next(&self) -> u64 {
        let revoked = self.revoking.map(|(_, ends)| ends);
        revoked.map_or(self.removable_at(), |ends| ends.min(self.removable_at()))
    }

    /// The time at which its session is over.
    pub fn session_ends(&self) -> u64 {
        self.last_heard + self.session_ms
    }

    /// The time from which on it may be removed.
    pub fn removable_at(&self) -> u64 {
        let claimed_until = self.claimed_at.map_or(0, |claimed_at| claimed_at + CLAIM_MS);
        self.session_ends().max(self.kept_until).max(claimed_until)
    }

    /// Whether the member should have sent a heartbeat by now: it may be dead, or away.
    fn is_overdue(&self, now: Now) -> bool {
        let silent = now.monotonic_ms.saturating_sub(self.last_heard);
        silent > self.interval_ms + self.interval_ms / 2 + OVERDUE_SLACK_MS
    }

    /// Whether the member is silent and may be removed within this time.
    pub fn may_end_within(&self, within_ms: u64, now: Now) -> bool {
        self.removable_at() <= now.monotonic_ms + within_ms && self.is_overdue(now)
    }
}
