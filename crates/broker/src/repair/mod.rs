//! Damaged replicas: from the moment that damage is met until the replica is filled again from the others.
//!
//! ```text
//!   damage is met (opening, fetch, apply, replication, scrub) -> storage::Damage -> Repairs: found; the other brokers are told
//!      leads?        the leadership goes to another replica that is in sync; this one leads no more
//!      may it go?    the leader, which is not damaged itself, says that a majority of all replicas, without this one, has what is
//!                    committed, or that this one has no vote
//!                    no: `held`, with the reason; tried again
//!      it stops      so that nothing more is committed that counts on it; the leader is asked once more
//!      given up      RenewReplica through group 0: its place gets a new id
//!   reconciler:      deletes the data, reports it, opens the new id, whose leader fills it and gives it a vote
//! ```
//!
//! - [`Repairs`]: what is known of this broker's damaged replicas; anybody may ask.
//! - [`worker`]: the task that takes them through the steps.
//! - [`evidence`]: whether the others can do without a replica.
//! - [`scrub`]: reads what is at rest, so that damage is met before it is needed.
//!
//! The replica of the metadata group is not repaired: it has the broker's own id, and the broker cannot run without it. It
//! hands its leadership over, is held with what to do, and an operator replaces the broker.

mod evidence;
pub(crate) mod scrub;
pub(crate) mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jangada_types::{BrokerId, GroupId, PartitionIndex, ReplicaId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::api::call::cluster::DamagedReplica;

/// Where the repair of a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing was done yet.
    Found,
    /// It stays as it is for now, for this reason.
    Held(String),
    /// Its place was given to this replica, which is being filled.
    GivenUp(ReplicaId),
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found => f.write_str("damaged"),
            Self::Held(why) => write!(f, "damaged, not repaired: {why}"),
            Self::GivenUp(replica) => write!(f, "given up, being filled again as {replica}"),
        }
    }
}

/// A damaged replica.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// The topic and partition, or what else the group is.
    pub name: String,
    pub topic: String,
    pub partition: u32,
    /// What is damaged.
    pub what: Arc<str>,
    pub stage: Stage,
    /// The replica is closed and must not be opened: from before its leader is asked for the last time until its data is gone, or
    /// the renewal came to nothing.
    pub is_closed: bool,
    /// After it was stopped, its leader said that the others have everything: its data may go.
    pub may_delete: bool,
    /// Since when no leader is seen.
    pub leaderless: Option<Instant>,
    /// More damage was met after it was given up: in what was filled again, or where that was to be opened.
    pub again: Option<Arc<str>>,
    /// How often what came in its place was damaged as well.
    pub refills: u32,
    /// The data here is that of the replica which was given up, for certain: this process closed it.
    pub is_old: bool,
    /// It was given up, and its data cannot be deleted, for this reason.
    pub stuck: Option<String>,
    /// When a replica that stopped is started again, and the pause after that.
    restart: Option<(Instant, Duration)>,
}

/// After so long without a leader a damaged replica stands for election again.
const LEADERLESS_FOR: Duration = Duration::from_secs(5);

/// Between two starts of a replica that stops again and again, at first and at most.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);

/// The damaged replicas of this broker.
#[derive(Default)]
pub(crate) struct Repairs {
    cases: Mutex<BTreeMap<GroupId, Case>>,
    /// Replicas that are being opened now. Locked after `cases`.
    opening: Mutex<BTreeSet<GroupId>>,
    /// Something was found.
    news: Notify,
}

impl Repairs {
    /// Damage was met. Short, as it is called by whoever met it.
    pub fn found(&self, group: GroupId, what: &str) {
        let what: Arc<str> = what.into();
        let mut cases = self.cases.lock();
        match cases.get_mut(&group) {
            Some(case) if matches!(case.stage, Stage::GivenUp(_)) => case.again = Some(what),
            Some(_) => {}
            None => {
                cases.insert(group, Case::new(what));
            }
        }
        drop(cases);
        self.news.notify_one();
    }

    /// Begins to open a replica, which is done when the answer is dropped. None: it is closed, and must not be opened.
    ///
    /// What is being opened cannot be [closed](Self::keep_closed), and the other way round. Otherwise a replica that was being
    /// opened while it was closed would vote under its old id after that was given up.
    pub fn begin_opening(&self, group: GroupId) -> Option<BeingOpened<'_>> {
        let cases = self.cases.lock();
        if cases.get(&group).is_some_and(|case| case.is_closed) {
            return None;
        }
        self.opening.lock().insert(group);
        Some(BeingOpened { repairs: self, group })
    }

    /// From now on a damaged replica must not be opened; then it can be closed. An error: it is being opened right now.
    fn keep_closed(&self, group: GroupId) -> Result<(), String> {
        self.close_within(group, u64::MAX)
    }

    /// Whether a replica must not be opened, because it is about to be given up.
    pub fn is_closed(&self, group: GroupId) -> bool {
        self.cases.lock().get(&group).is_some_and(|case| case.is_closed)
    }

    /// Whether the data of a replica that was given up may be deleted.
    pub fn may_delete(&self, group: GroupId) -> bool {
        self.cases.lock().get(&group).is_some_and(|case| case.may_delete)
    }

    /// Whether the data that is here is for certain that of the replica which `next` comes after, so that it need not be asked
    /// whose it is.
    pub fn is_surely_old(&self, group: GroupId, next: ReplicaId) -> bool {
        let cases = self.cases.lock();
        let case = cases.get(&group);
        case.is_some_and(|case| case.is_old && case.may_delete && case.stage == Stage::GivenUp(next))
    }

    /// The data of a replica that was given up cannot be deleted; `None`: it can, or it is gone. Told when it is news.
    pub fn stuck(&self, group: GroupId, why: Option<String>) {
        self.change(group, |case| {
            if case.stuck == why {
                return;
            }
            if let Some(why) = &why {
                tracing::error!(%group, partition = case.name, "the data of a replica that was given up stays: {why}");
            }
            case.stuck = why;
        });
    }

    /// The data of a replica that was given up is gone.
    pub fn deleted(&self, group: GroupId) {
        self.change(group, |case| (case.is_old, case.is_closed) = (false, false));
        self.stuck(group, None);
    }

    /// All of them, by group.
    pub fn all(&self) -> Vec<(GroupId, Case)> {
        self.cases
            .lock()
            .iter()
            .map(|(group, case)| (*group, case.clone()))
            .collect()
    }

    /// One of them.
    pub fn case(&self, group: GroupId) -> Option<Case> {
        self.cases.lock().get(&group).cloned()
    }

    /// How many are damaged and as they were, and how many are being filled again.
    pub fn count(&self) -> (u64, u64) {
        let cases = self.cases.lock();
        let given_up = cases
            .values()
            .filter(|case| matches!(case.stage, Stage::GivenUp(_)) && case.stuck.is_none());
        let given_up = given_up.count() as u64;
        (cases.len() as u64 - given_up, given_up)
    }

    /// The place of a replica that is closed was given to the next one: its data may go. `is_old`: this process has just closed it.
    fn given_up(&self, group: GroupId, new: ReplicaId, is_old: bool) {
        self.change(group, |case| {
            case.stage = Stage::GivenUp(new);
            // It stays closed until the data is gone: with an image from before it could be opened again.
            (case.may_delete, case.is_old, case.again) = (true, is_old, None);
        });
    }

    /// A replica is about to be given up, if no more than `limit` are being filled or about to: it is not opened from now on. What
    /// was counted before is counted again, as others are judged at the same time. The error says why it stays.
    fn close_within(&self, group: GroupId, limit: u64) -> Result<(), String> {
        let mut cases = self.cases.lock();
        let is_on_its_way = |case: &Case| match case.stage {
            Stage::GivenUp(_) => case.stuck.is_none(),
            _ => case.is_closed,
        };
        let others = cases
            .iter()
            .filter(|(other, case)| **other != group && is_on_its_way(case));
        if others.count() as u64 >= limit {
            return Err(waits_for_room(limit));
        }
        if self.opening.lock().contains(&group) {
            return Err(IS_OPENING.to_owned());
        }
        if let Some(case) = cases.get_mut(&group) {
            case.is_closed = true;
        }
        Ok(())
    }

    /// A renewal came to nothing, or nobody knows what came of it: what was closed for it is opened again, under its old id. If
    /// it went through after all the metadata says so, and what was opened meanwhile is closed before it is deleted.
    fn reopen(&self, group: GroupId) {
        self.change(group, |case| case.is_closed = false);
    }

    fn change(&self, group: GroupId, change: impl FnOnce(&mut Case)) {
        if let Some(case) = self.cases.lock().get_mut(&group) {
            change(case);
        }
    }

    fn remove(&self, group: GroupId) {
        self.cases.lock().remove(&group);
    }
}

/// See [`Repairs::begin_opening`].
pub(crate) struct BeingOpened<'a> {
    repairs: &'a Repairs,
    group: GroupId,
}

impl Drop for BeingOpened<'_> {
    fn drop(&mut self) {
        self.repairs.opening.lock().remove(&self.group);
    }
}

const IS_OPENING: &str = "it is being opened";

fn waits_for_room(limit: u64) -> String {
    format!("{limit} replicas of this broker are being filled again (repair.replicas_max); it waits for its turn")
}

impl Case {
    /// Whether a replica that stopped is to be started again now. The next time is put off further, unless it lasted.
    fn should_restart(&mut self, now: Instant) -> bool {
        let pause = match self.restart {
            Some((at, _)) if now < at => return false,
            Some((at, pause)) if now - at < RESTART_PAUSE_MAX => (pause * 2).min(RESTART_PAUSE_MAX),
            _ => RESTART_PAUSE,
        };
        self.restart = Some((now + pause, pause));
        true
    }

    /// Whether the replica should stand for election again, as nobody led for a while.
    fn should_lead(&mut self, is_led: bool, now: Instant) -> bool {
        if is_led {
            self.leaderless = None;
            return false;
        }
        let since = *self.leaderless.get_or_insert(now);
        now.duration_since(since) >= LEADERLESS_FOR
    }

    fn new(what: Arc<str>) -> Self {
        Self {
            name: String::new(),
            topic: String::new(),
            partition: 0,
            what,
            stage: Stage::Found,
            is_closed: false,
            may_delete: false,
            leaderless: None,
            again: None,
            refills: 0,
            is_old: false,
            stuck: None,
            restart: None,
        }
    }

    /// As `cluster health` shows it.
    pub fn shown(&self, broker: BrokerId) -> DamagedReplica {
        DamagedReplica {
            topic: self.topic.clone(),
            partition: PartitionIndex(self.partition),
            broker,
            damage: self.what.to_string(),
            state: match (&self.stage, &self.stuck) {
                (Stage::Found, _) => "damaged",
                (Stage::Held(_), _) | (Stage::GivenUp(_), Some(_)) => "held",
                (Stage::GivenUp(_), None) => "refilling",
            }
            .to_owned(),
            detail: match &self.stuck {
                None => self.stage.to_string(),
                Some(why) => format!("{}: {why}", self.stage),
            },
        }
    }
}

/// What [`kind_of`] gives.
pub(crate) const DAMAGE_KINDS: [&str; 3] = ["checksum", "missing", "unreadable"];

/// For the metric: what kind of damage the words tell of.
pub(crate) fn kind_of(what: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| what.contains(word));
    let [checksum, missing, unreadable] = DAMAGE_KINDS;
    if has(&["checksum", "CRC", "crc"]) {
        checksum
    } else if has(&["missing", "belongs", "gap", "goes on with"]) {
        missing
    } else {
        unreadable
    }
}

#[cfg(test)]
mod tests {
    use jangada_types::Incarnation;

    use super::*;

    const GROUP: GroupId = GroupId(3);

    #[test]
    fn damage_is_one_case_until_what_was_filled_again_is_damaged_too() {
        let repairs = Repairs::default();
        repairs.found(GROUP, "first");
        repairs.found(GROUP, "second");
        assert_eq!(repairs.count(), (1, 0));
        assert_eq!(&*repairs.all()[0].1.what, "first");
        let new = ReplicaId::new(BrokerId(1), Incarnation(2));
        repairs.change(GROUP, |case| case.stage = Stage::GivenUp(new));
        assert_eq!(repairs.count(), (0, 1));
        repairs.found(GROUP, "third");
        assert_eq!(repairs.all()[0].1.again.as_deref(), Some("third"));
        repairs.remove(GROUP);
        assert_eq!(repairs.count(), (0, 0));
    }

    #[test]
    fn a_replica_that_nobody_leads_stands_for_election_again_after_a_while_and_not_before() {
        let mut case = Case::new("x".into());
        let begin = Instant::now();
        let mut at = |ms: u64, is_led| case.should_lead(is_led, begin + Duration::from_millis(ms));
        // Each change of the metadata is a round: it is time that counts.
        assert!((0..10).all(|round| !at(round * 10, false)));
        assert!(!at(4_999, false) && at(5_000, false) && at(5_001, false));
        assert!(!at(5_500, true) && !at(6_000, false) && !at(10_999, false) && at(11_000, false));
    }

    #[test]
    fn replicas_that_are_judged_at_the_same_time_do_not_share_the_last_room() {
        let repairs = Repairs::default();
        let groups = [GroupId(3), GroupId(4), GroupId(5)];
        for group in groups {
            repairs.found(group, "x");
        }
        let close = |group| repairs.close_within(group, 2).is_ok();
        assert!(close(groups[0]) && close(groups[1]) && !close(groups[2]));
        assert!(!repairs.is_closed(groups[2]));
        let new = ReplicaId::new(BrokerId(1), Incarnation(2));
        repairs.change(groups[0], |case| case.stage = Stage::GivenUp(new));
        assert!(!close(groups[2]));
        repairs.reopen(groups[1]);
        assert!(close(groups[2]));
    }

    #[test]
    fn what_was_closed_for_a_renewal_is_opened_again_when_it_fails() {
        let repairs = Repairs::default();
        repairs.found(GROUP, "x");
        assert!(repairs.keep_closed(GROUP).is_ok() && repairs.is_closed(GROUP));
        repairs.reopen(GROUP);
        assert!(!repairs.is_closed(GROUP) && !repairs.may_delete(GROUP));
    }

    #[test]
    fn a_replica_that_is_given_up_is_not_opened_before_its_data_is_gone() {
        let repairs = Repairs::default();
        repairs.found(GROUP, "x");
        assert!(repairs.keep_closed(GROUP).is_ok());
        assert!(repairs.begin_opening(GROUP).is_none());
        repairs.given_up(GROUP, ReplicaId::new(BrokerId(1), Incarnation(2)), true);
        // With an image from before the renewal somebody may still want the old one.
        assert!(repairs.is_closed(GROUP) && repairs.begin_opening(GROUP).is_none());
        assert!(repairs.may_delete(GROUP));
        repairs.deleted(GROUP);
        assert!(!repairs.is_closed(GROUP) && repairs.begin_opening(GROUP).is_some());
    }

    #[test]
    fn a_replica_is_not_closed_for_a_renewal_while_it_is_being_opened() {
        let repairs = Repairs::default();
        repairs.found(GROUP, "x");
        let opening = repairs.begin_opening(GROUP).expect("nothing forbids it");
        assert!(repairs.keep_closed(GROUP).is_err() && !repairs.is_closed(GROUP));
        assert!(
            repairs.keep_closed(GroupId(4)).is_ok(),
            "another one is none of its business"
        );
        drop(opening);
        assert!(repairs.keep_closed(GROUP).is_ok() && repairs.is_closed(GROUP));
    }

    #[test]
    fn a_replica_that_stops_again_and_again_is_started_less_and_less() {
        let mut case = Case::new("x".into());
        let start = Instant::now();
        let mut starts = |from: u64, to: u64| {
            let seconds = (from..to).map(|at| start + Duration::from_secs(at));
            seconds.filter(|now| case.should_restart(*now)).count()
        };
        assert_eq!(starts(0, 1), 1);
        assert_eq!(starts(1, 60), 5);
        assert_eq!(starts(60, 600), 18);
        // It lasted for an hour.
        assert_eq!(starts(4_200, 4_202), 2);
    }

    #[test]
    fn a_replica_whose_data_cannot_be_deleted_takes_no_room_of_those_that_are_filled_again() {
        let repairs = Repairs::default();
        repairs.found(GROUP, "x");
        let new = ReplicaId::new(BrokerId(1), Incarnation(2));
        repairs.change(GROUP, |case| {
            case.stage = Stage::GivenUp(new);
            (case.may_delete, case.is_old) = (true, true);
        });
        assert!(repairs.is_surely_old(GROUP, new));
        assert!(!repairs.is_surely_old(GROUP, ReplicaId::new(BrokerId(1), Incarnation(3))));
        repairs.stuck(GROUP, Some("a block is damaged".to_owned()));
        assert_eq!(repairs.count(), (1, 0));
        let shown = repairs.all()[0].1.shown(BrokerId(1));
        assert_eq!(shown.state, "held");
        assert!(shown.detail.contains("a block is damaged"), "{}", shown.detail);
        repairs.deleted(GROUP);
        assert_eq!(repairs.count(), (0, 1));
        assert!(!repairs.is_surely_old(GROUP, new));
    }

    #[test]
    fn damage_is_counted_by_kind() {
        assert_eq!(kind_of("Corruption: block checksum mismatch in 000012.sst"), "checksum");
        assert_eq!(kind_of("log entry 7 is missing on disk"), "missing");
        assert_eq!(kind_of("a state record is damaged"), "unreadable");
    }
}
