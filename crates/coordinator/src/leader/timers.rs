//! A group's timers: gathering changes, and its expiry. The timers of members are in `sessions`.
//!
//! One entry of the queue per group says when the group is due. A heartbeat only puts a deadline off, and that is found
//! out when the group is due: so a heartbeat costs no work in the queue.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jangada_machine::Now;

use super::Leader;
use super::config::Config;
use super::member_timer::MemberTimer;
use crate::command::Command;
use crate::event::Event;
use crate::image::{Group, Image, Member};
use crate::limits::{EMPTY_GROUP_MS, SEEN_EMPTY_MS};

/// Most commands of one [`Leader::tick`]; the rest is due again at once.
const COMMANDS_PER_TICK_MAX: usize = 256;

/// Delay before a command that was proposed and is not applied yet is proposed again, milliseconds.
pub(super) const PROPOSE_AGAIN_MS: u64 = 2_000;

/// The timers of one group.
#[derive(Debug, Default)]
pub(super) struct GroupTimers {
    pub(super) members: BTreeMap<Arc<str>, MemberTimer>,
    /// The time at which the next target is computed.
    target_due: Option<u64>,
    /// How long changes were gathered for the last target, milliseconds; `last_target` is the time of that target.
    window_ms: u64,
    last_target: Option<u64>,
    /// Whether the topics are no longer those of the target.
    pub(super) topics_differ: bool,
    /// Whether there are offsets of topics that are gone.
    pub(super) has_gone_topics: bool,
    /// Whether the event was emitted that there is no room for the target; `left_out` are the topics of the last such
    /// event.
    pub(super) is_short_of_room: bool,
    pub(super) left_out: Arc<[Arc<str>]>,
    /// Time before which no deletion is proposed again.
    quiet_until: u64,
    /// Time since which this leader has seen the group without members and without commits.
    empty_since: Option<u64>,
    /// The time of the group's earliest entry in the queue; none if it has no entry.
    queued: Option<u64>,
}

impl Leader {
    /// The time at which [`Leader::tick`] has something to do next, on the monotonic clock. May be too early, never too
    /// late.
    pub fn next_deadline(&self) -> Option<u64> {
        self.queue.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Takes the events since the last call.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// Runs the timers that are due, and returns the commands to propose. Best effort: a command that gets lost is
    /// proposed again.
    pub fn tick(&mut self, image: &Image, now: Now) -> Vec<Command> {
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
            self.refresh_group(image, &name, now);
            self.collect(image, &name, now, &mut commands);
            self.enqueue(image, &name, now);
        }
        commands
    }

    /// Updates the timers of a group from its state.
    pub(super) fn refresh_group(&mut self, image: &Image, name: &Arc<str>, now: Now) {
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
            timers.refresh_member(id, member, config, now);
        }
        let wants_target = !group.members.is_empty() && (group.is_assigning() || timers.topics_differ);
        match timers.target_due {
            None if wants_target => timers.gather(config, now),
            Some(_) if !wants_target => timers.target_due = None,
            _ => {}
        }
        self.enqueue(image, name, now);
    }

    /// Updates the timers after a change of one member that changes neither the members nor the target. It is cheaper
    /// than refreshing the group, which has as many of these steps as members.
    pub(super) fn refresh_after_step(&mut self, image: &Image, name: &Arc<str>, id: &Arc<str>, now: Now) {
        let member = image.group(name).and_then(|group| group.members.get(id));
        let (Some(member), Some(timers)) = (member, self.groups.get_mut(name)) else {
            return self.refresh_group(image, name, now);
        };
        let next = timers.refresh_member(id, member, &self.config, now);
        if timers.queued.is_none_or(|queued| next < queued) {
            timers.queued = Some(next);
            self.queue.push(Reverse((next, Arc::clone(name))));
        }
    }

    /// Adds the commands that are due for one group.
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

    /// The time at which a group without members is deleted, on the monotonic clock, if the wall clock does not step.
    ///
    /// The stamp outlives leaders, and any of their clocks may be wrong. So the wall clock alone deletes nothing: this
    /// leader has seen the group empty for a while, without a step of its clock. And where it has seen that for the
    /// whole retention, the stamp does not matter.
    fn expires_at(&self, group: &Group, timers: Option<&GroupTimers>, now: Now) -> Option<u64> {
        // An open transaction may yet commit offsets.
        if !group.pending.is_empty() {
            return None;
        }
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
        let at_least = seen.max(now.steady_since_ms) + kept.min(SEEN_EMPTY_MS);
        Some(by_stamp.max(at_least).min(seen + kept))
    }

    /// Records a commit from outside for a group without members.
    pub(super) fn committed_from_outside(&mut self, name: &str, now: Now) {
        if let Some(timers) = self.groups.get_mut(name) {
            timers.empty_since = Some(now.monotonic_ms);
        }
    }

    fn enqueue(&mut self, image: &Image, name: &Arc<str>, now: Now) {
        let Some(group) = image.group(name) else {
            return;
        };
        // Capped, so that a step of the wall clock is noticed in time.
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

    /// Records that a target was applied or refused.
    pub(super) fn target_applied(&mut self, name: &Arc<str>, now: Now) {
        if let Some(timers) = self.groups.get_mut(name) {
            timers.target_due = None;
            timers.last_target = Some(now.monotonic_ms);
        }
    }

    /// The interval to a member's next heartbeat, milliseconds.
    ///
    /// The other members should hear of a dead member's partitions soon after its session ends. So a member whose next
    /// heartbeat would come only after that end is asked to come more often, from one interval before it. It is not
    /// asked earlier, or one member that died, or is away on purpose, would make its whole group send many times as
    /// much for its whole session.
    pub(super) fn interval(&self, name: &str, group: &Group, member: &Member, now: Now) -> u32 {
        let timers = self.groups.get(name);
        let is_busy = !group.is_settled(member)
            || group.is_assigning()
            || timers.is_some_and(|timers| {
                timers.target_due.is_some() || timers.is_an_end_near(self.config.heartbeat_interval_ms, now)
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
    /// Whether a silent member may be removed before those at rest send their next heartbeats.
    fn is_an_end_near(&self, interval_ms: u32, now: Now) -> bool {
        let within_ms = u64::from(interval_ms);
        // No member is removed before the group is due, so for most heartbeats no member is checked.
        let is_look_near = self.queued.is_some_and(|look| look <= now.monotonic_ms + within_ms);
        let mut members = self.members.values();
        is_look_near && members.any(|timer| timer.may_end_within(within_ms, now))
    }

    /// Starts to gather changes for the next target, which is due when the window ends.
    fn gather(&mut self, config: &Config, now: Now) {
        let (least, most) = (u64::from(config.batch_window_ms), u64::from(config.batch_window_ms_max));
        let is_soon_after = self.last_target.is_some_and(|last| now.monotonic_ms < last + 2 * most);
        self.window_ms = if is_soon_after {
            (2 * self.window_ms).clamp(least, most.max(least))
        } else {
            least
        };
        self.target_due = Some(now.monotonic_ms + self.window_ms);
    }
}
