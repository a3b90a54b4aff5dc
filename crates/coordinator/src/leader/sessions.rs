//! The members' timers: when their sessions end, and when they must have given up partitions.

use std::sync::Arc;

use jangada_machine::Now;

use super::Leader;
use super::config::Config;
use super::member_timer::MemberTimer;
use super::timers::{GroupTimers, PROPOSE_AGAIN_MS};
use crate::image::{Group, Member};
use crate::removal::RemovalCause;

/// Member ids, with the version that the removal was decided from.
type MemberVersions = Vec<(Arc<str>, u64)>;

impl Leader {
    /// Records a heartbeat of a member. Returns false if its removal is under way in the log: then its session goes on
    /// only by a command that changes its version. If that comes first, the removal has no effect; if it comes second,
    /// the member is gone. So no member is removed after its heartbeat was answered.
    #[must_use]
    pub(super) fn touch(&mut self, name: &str, id: &str, member: &Member, now: Now) -> bool {
        let Some(timer) = self.timer(name, id) else {
            return true;
        };
        if timer.ending == Some(member.version) {
            return false;
        }
        timer.last_heard = now.monotonic_ms;
        true
    }

    /// Another process asks for the place of a static member. Returns whether it may take it: the member left for a
    /// while, or its session is over. Otherwise the place is kept for a moment when the session ends, so that the
    /// process that waits for it goes on without a rebalance.
    pub(super) fn claim(&mut self, name: &str, id: &str, member: &Member, now: Now) -> bool {
        let Some(timer) = self.timer(name, id) else {
            return member.is_away;
        };
        let is_over = timer.session_ends() <= now.monotonic_ms;
        if is_over {
            timer.ending = Some(member.version);
            timer.kept_until = now.monotonic_ms + PROPOSE_AGAIN_MS;
        } else {
            timer.claimed_at = Some(now.monotonic_ms);
        }
        is_over || member.is_away
    }

    fn timer(&mut self, name: &str, id: &str) -> Option<&mut MemberTimer> {
        self.groups.get_mut(name)?.members.get_mut(id)
    }

    /// Records the heartbeat interval that a member was told.
    pub(super) fn set_interval(&mut self, name: &str, id: &str, interval_ms: u32) {
        if let Some(timer) = self.timer(name, id) {
            timer.interval_ms = interval_ms.into();
        }
    }
}

impl GroupTimers {
    /// Updates the timer of a member from its state. Returns when the member is due.
    pub(super) fn refresh_member(&mut self, id: &Arc<str>, member: &Member, config: &Config, now: Now) -> u64 {
        let session = u64::from(member.spec.session_timeout_ms);
        let timer = self.members.entry(Arc::clone(id)).or_insert_with(|| MemberTimer {
            last_heard: now.monotonic_ms,
            interval_ms: config.heartbeat_interval_ms.into(),
            session_ms: session,
            ending: None,
            kept_until: 0,
            claimed_at: None,
            revoking: None,
        });
        timer.session_ms = session;
        if timer.ending.is_some_and(|version| version != member.version) {
            // The member was heard before its removal was applied, which then had no effect.
            timer.ending = None;
            timer.last_heard = now.monotonic_ms;
        }
        let version = member.is_revoking().then_some(member.version);
        if version != timer.revoking.map(|(version, _)| version) {
            let ends = now.monotonic_ms + u64::from(member.spec.rebalance_timeout_ms);
            timer.revoking = version.map(|version| (version, ends));
        }
        timer.next()
    }

    /// Members whose time is up, by cause. They are returned again only after a while.
    pub(super) fn overdue(&mut self, group: &Group, now: Now) -> Vec<(RemovalCause, MemberVersions)> {
        let again = now.monotonic_ms + PROPOSE_AGAIN_MS;
        let (mut silent, mut slow) = (Vec::new(), Vec::new());
        for (id, timer) in &mut self.members {
            let Some(member) = group.members.get(id) else {
                continue;
            };
            let entry = (Arc::clone(id), member.version);
            if timer.removable_at() <= now.monotonic_ms {
                timer.ending = Some(member.version);
                timer.kept_until = again;
                silent.push(entry);
            } else if let Some((_, ends)) = &mut timer.revoking
                && *ends <= now.monotonic_ms
            {
                *ends = again;
                slow.push(entry);
            }
        }
        let all = [
            (RemovalCause::SessionExpired, silent),
            (RemovalCause::RebalanceTimedOut, slow),
        ];
        all.into_iter().filter(|(_, members)| !members.is_empty()).collect()
    }
}
