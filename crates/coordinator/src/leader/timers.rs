//! What is timed: sessions, giving up partitions, gathering changes, groups that expire.
//!
//! One entry of the queue per group says when to look at it. A heartbeat only puts a deadline off, and the look finds
//! that out: so a heartbeat costs no work in the queue.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Leader, Now};
use crate::command::{Command, RemovalCause};
use crate::image::{Group, Image, Member};
use crate::limits::{CLOCK_STEP_MS, EMPTY_GROUP_MS, SEEN_EMPTY_MS};

/// Commands of one [`Leader::tick`] at most; what is left is due again at once.
const COMMANDS_PER_TICK_MAX: usize = 256;

/// When to propose again what was proposed and is not applied yet, milliseconds.
const PROPOSE_AGAIN_MS: u64 = 2_000;

/// For how long a static member's place is kept for the process that asked for it last, milliseconds. Clients ask each
/// second.
const CLAIM_MS: u64 = 3_000;

/// The time beyond one and a half intervals after which a heartbeat is overdue, milliseconds.
const OVERDUE_SLACK_MS: u64 = 250;

/// Of one group.
#[derive(Debug, Default)]
pub(super) struct GroupTimers {
    members: BTreeMap<Arc<str>, MemberTimer>,
    /// When the next target is to be computed.
    target_due: Option<u64>,
    /// For how long changes were gathered last, and when the target came of it.
    window_ms: u64,
    last_target: Option<u64>,
    /// The topics are no longer those of the target.
    pub(super) topics_differ: bool,
    /// There are offsets of topics that are gone.
    pub(super) has_gone_topics: bool,
    /// No deletion is proposed again before this.
    quiet_until: u64,
    /// Since when this leader has seen the group without members and without commits.
    empty_since: Option<u64>,
    /// The earliest entry of the queue for this group; none if there is none.
    queued: Option<u64>,
}

/// Members with the version at which they were seen.
type Versioned = Vec<(Arc<str>, u64)>;

#[derive(Debug)]
struct MemberTimer {
    last_heard: u64,
    /// The interval that it was told.
    interval_ms: u64,
    session_ends: u64,
    /// The version of the member whose end was proposed when its session was over. What it says from then on comes
    /// behind that in the log.
    ending: Option<u64>,
    /// Nobody proposes its removal before this.
    kept_until: u64,
    /// When another process asked for its instance id last.
    claimed_at: Option<u64>,
    /// The version under which the member is to give up partitions, and until when it has to.
    revoking: Option<(u64, u64)>,
}

impl Leader {
    /// When [`Leader::tick`] has something to do next, on the monotonic clock. May be too early, never too late.
    pub fn next_deadline(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// What is to be proposed now. Nobody waits for these commands; one that gets lost comes again.
    pub fn tick(&mut self, image: &Image, now: Now) -> Vec<Command> {
        self.watch_the_clock(now);
        let mut commands = Vec::new();
        while commands.len() < COMMANDS_PER_TICK_MAX && self.next_deadline().is_some_and(|due| due <= now.monotonic_ms)
        {
            let Some(Reverse((deadline, name))) = self.queue.pop() else {
                break;
            };
            let Some(timers) = self
                .groups
                .get_mut(&name)
                .filter(|timers| timers.queued == Some(deadline))
            else {
                continue;
            };
            timers.queued = None;
            self.look_at(image, &name, now);
            self.collect(image, &name, now, &mut commands);
            self.enqueue(image, &name, now);
        }
        commands
    }

    fn watch_the_clock(&mut self, now: Now) {
        let passed = now.monotonic_ms.saturating_sub(self.last_tick.monotonic_ms);
        let expected = self.last_tick.wall_ms.saturating_add(passed);
        if now.wall_ms.abs_diff(expected) > CLOCK_STEP_MS {
            self.steady_since = now.monotonic_ms;
        }
        self.last_tick = now;
    }

    /// Brings the timers of a group in line with its state.
    pub(super) fn look_at(&mut self, image: &Image, name: &Arc<str>, now: Now) {
        let Some(group) = image.group(name) else {
            self.groups.remove(name);
            return;
        };
        let config = &self.config;
        let timers = self.groups.entry(Arc::clone(name)).or_default();
        timers.members.retain(|id, _| group.members.contains_key(id));
        let is_empty = group.members.is_empty();
        timers.empty_since = is_empty.then(|| timers.empty_since.unwrap_or(now.monotonic_ms));
        for (id, member) in &group.members {
            timers.look_at(id, member, config, now);
        }
        let wants_target = !group.members.is_empty() && (group.is_assigning() || timers.topics_differ);
        match timers.target_due {
            None if wants_target => timers.gather(config, now),
            Some(_) if !wants_target => timers.target_due = None,
            _ => {}
        }
        self.enqueue(image, name, now);
    }

    /// The same after a change of one member that changes neither the members nor the target: a whole group takes as
    /// many steps as it has members.
    pub(super) fn look_at_member(&mut self, image: &Image, name: &Arc<str>, id: &Arc<str>, now: Now) {
        let member = image.group(name).and_then(|group| group.members.get(id));
        let (Some(member), Some(timers)) = (member, self.groups.get_mut(name)) else {
            return self.look_at(image, name, now);
        };
        let next = timers.look_at(id, member, &self.config, now);
        if timers.queued.is_none_or(|queued| next < queued) {
            timers.queued = Some(next);
            self.queue.push(Reverse((next, Arc::clone(name))));
        }
    }

    /// What is due for one group.
    fn collect(&mut self, image: &Image, name: &Arc<str>, now: Now, commands: &mut Vec<Command>) {
        let (Some(group), Some(timers)) = (image.group(name), self.groups.get_mut(name)) else {
            return;
        };
        for (cause, members) in timers.overdue(group, now) {
            commands.push(Command::RemoveMembers {
                group: Arc::clone(name),
                members,
                cause,
                at_ms: now.wall_ms,
            });
        }
        let is_target_due = timers.target_due.is_some_and(|due| due <= now.monotonic_ms);
        let is_quiet = timers.quiet_until > now.monotonic_ms;
        let has_gone_topics = timers.has_gone_topics;
        if is_target_due {
            timers.target_due = Some(now.monotonic_ms + PROPOSE_AGAIN_MS);
        }
        let expires_at = self.expires_at(group, self.groups.get(name), now);
        let is_expired = expires_at.is_some_and(|at| at <= now.monotonic_ms);
        if !is_quiet && (has_gone_topics || is_expired) {
            self.groups.entry(Arc::clone(name)).or_default().quiet_until = now.monotonic_ms + PROPOSE_AGAIN_MS;
            match group.empty_since_ms {
                Some(empty_since_ms) if is_expired => commands.push(Command::ExpireGroup {
                    group: Arc::clone(name),
                    empty_since_ms,
                }),
                _ => commands.extend(self.forget(image, name)),
            }
        }
        if is_target_due {
            commands.extend(self.compute_target(image, name));
        }
    }

    /// When a group without members is deleted, on the monotonic clock, if the wall clock does not step.
    ///
    /// The stamp outlives leaders, and any of their clocks may be wrong. So the wall clock alone deletes nothing: this
    /// leader has seen the group empty for a while, without a step of its clock. And where it has seen that for the
    /// whole retention, the stamp does not matter.
    fn expires_at(&self, group: &Group, timers: Option<&GroupTimers>, now: Now) -> Option<u64> {
        let (stamp, seen) = (group.empty_since_ms?, timers?.empty_since?);
        let retention = self.config.offsets_retention_ms;
        let kept = if group.offsets.is_empty() {
            retention.min(EMPTY_GROUP_MS)
        } else {
            retention
        };
        let by_stamp = now
            .monotonic_ms
            .saturating_add(stamp.saturating_add(kept).saturating_sub(now.wall_ms));
        let at_least = seen.max(self.steady_since) + kept.min(SEEN_EMPTY_MS);
        Some(by_stamp.max(at_least).min(seen + kept))
    }

    /// Somebody committed for a group without members.
    pub(super) fn written_from_outside(&mut self, name: &str, now: Now) {
        if let Some(timers) = self.groups.get_mut(name) {
            timers.empty_since = Some(now.monotonic_ms);
        }
    }

    fn enqueue(&mut self, image: &Image, name: &Arc<str>, now: Now) {
        let Some(group) = image.group(name) else {
            return;
        };
        // Not so far that a step of the wall clock goes unnoticed.
        let expiry = self
            .expires_at(group, self.groups.get(name), now)
            .map(|at| at.min(now.monotonic_ms + SEEN_EMPTY_MS));
        let Some(timers) = self.groups.get_mut(name) else {
            return;
        };
        let members = timers.members.values().map(MemberTimer::next);
        let gone = timers.has_gone_topics.then_some(now.monotonic_ms);
        let deletion = expiry.into_iter().chain(gone).map(|at| at.max(timers.quiet_until));
        let next = members.chain(timers.target_due).chain(deletion).min();
        if let Some(next) = next
            && timers.queued.is_none_or(|queued| next < queued)
        {
            timers.queued = Some(next);
            self.queue.push(Reverse((next, Arc::clone(name))));
        }
    }

    /// A target was applied or refused.
    pub(super) fn target_applied(&mut self, name: &Arc<str>, now: Now) {
        if let Some(timers) = self.groups.get_mut(name) {
            timers.target_due = None;
            timers.last_target = Some(now.monotonic_ms);
        }
    }

    /// A member sent a heartbeat. False if its end is under way in the log: then its session goes on only by a command
    /// that changes its version. If that comes first, the end has no effect; if it comes second, the member is gone. So
    /// nobody is removed after it was answered.
    #[must_use]
    pub(super) fn heard_of(&mut self, name: &str, id: &str, member: &Member, now: Now) -> bool {
        let Some(timer) = self.timer(name, id) else {
            return true;
        };
        if timer.ending == Some(member.version) {
            return false;
        }
        timer.last_heard = now.monotonic_ms;
        timer.session_ends = now.monotonic_ms + u64::from(member.spec.session_timeout_ms);
        true
    }

    /// Another process asks for the place of a static member. True if it may take it: the member left for a while, or
    /// its session is over. Otherwise the place is kept for a moment when the session ends, so that the process that
    /// waits for it goes on without a rebalance.
    pub(super) fn claim(&mut self, name: &str, id: &str, member: &Member, now: Now) -> bool {
        let Some(timer) = self.timer(name, id) else {
            return member.is_away;
        };
        let is_over = timer.session_ends <= now.monotonic_ms;
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

    /// A member was told when to send the next.
    pub(super) fn told(&mut self, name: &str, id: &str, interval_ms: u32) {
        if let Some(timer) = self.timer(name, id) {
            timer.interval_ms = interval_ms.into();
        }
    }

    /// When the member is to send its next heartbeat.
    ///
    /// The others hear of a dead member's partitions soon after its session ends, for they are asked more often while
    /// it is overdue.
    pub(super) fn interval(&self, name: &str, group: &Group, member: &Member, now: Now) -> u32 {
        let timers = self.groups.get(name);
        let is_busy = !group.is_settled(member)
            || group.is_assigning()
            || timers.is_some_and(|timers| {
                timers.target_due.is_some() || timers.members.values().any(|timer| timer.is_overdue(now))
            });
        let interval = if is_busy {
            self.config.busy_heartbeat_interval_ms
        } else {
            self.config.heartbeat_interval_ms
        };
        interval.min(member.spec.session_timeout_ms / 3).max(1)
    }
}

impl GroupTimers {
    /// Brings the timer of a member in line with its state. When to look at it next.
    fn look_at(&mut self, id: &Arc<str>, member: &Member, config: &super::Config, now: Now) -> u64 {
        let session = u64::from(member.spec.session_timeout_ms);
        let timer = self.members.entry(Arc::clone(id)).or_insert_with(|| MemberTimer {
            last_heard: now.monotonic_ms,
            interval_ms: config.heartbeat_interval_ms.into(),
            session_ends: now.monotonic_ms + session,
            ending: None,
            kept_until: 0,
            claimed_at: None,
            revoking: None,
        });
        if timer.ending.is_some_and(|version| version != member.version) {
            // It was heard before its end was applied, which then had no effect.
            timer.ending = None;
            timer.last_heard = now.monotonic_ms;
            timer.session_ends = now.monotonic_ms + session;
        }
        let version = member.is_revoking().then_some(member.version);
        if version != timer.revoking.map(|(version, _)| version) {
            let ends = now.monotonic_ms + u64::from(member.spec.rebalance_timeout_ms);
            timer.revoking = version.map(|version| (version, ends));
        }
        timer.next()
    }

    /// A change waits for the next target from now on.
    fn gather(&mut self, config: &super::Config, now: Now) {
        let (least, most) = (u64::from(config.batch_window_ms), u64::from(config.batch_window_ms_max));
        let is_soon_after = self.last_target.is_some_and(|last| now.monotonic_ms < last + 2 * most);
        self.window_ms = if is_soon_after {
            (2 * self.window_ms).clamp(least, most.max(least))
        } else {
            least
        };
        self.target_due = Some(now.monotonic_ms + self.window_ms);
    }

    /// Members whose time is up, by cause. They are named again only after a while.
    fn overdue(&mut self, group: &Group, now: Now) -> Vec<(RemovalCause, Versioned)> {
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

impl MemberTimer {
    /// When to look at the member next.
    fn next(&self) -> u64 {
        let revoked = self.revoking.map(|(_, ends)| ends);
        revoked.map_or(self.removable_at(), |ends| ends.min(self.removable_at()))
    }

    fn removable_at(&self) -> u64 {
        let claimed_until = self.claimed_at.map_or(0, |claimed_at| claimed_at + CLAIM_MS);
        self.session_ends.max(self.kept_until).max(claimed_until)
    }

    /// Whether the member should have sent a heartbeat by now. It may be dead, and its session end soon.
    fn is_overdue(&self, now: Now) -> bool {
        let silent = now.monotonic_ms.saturating_sub(self.last_heard);
        silent > self.interval_ms + self.interval_ms / 2 + OVERDUE_SLACK_MS
    }
}
